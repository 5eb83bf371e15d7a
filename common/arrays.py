"""The array types of all rooms, and the reading of files of arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Int32Array = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
# uint8 (H, W, 3), RGB; H and W in pixels.
Image = NDArray[np.uint8]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of a file of `numpy.savez`.

    Raises:
        Exception: the file cannot be read, or is damaged; one of `sppnet.common.files.NPZ_ERRORS`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "a.npz"), scores=np.zeros(3))
        ...     list(read_arrays(Path(folder, "a.npz")))
        ['scores']
    """
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    for name, array in arrays.items():
        # Of a member that is empty by the directory of the archive, NumPy gives bytes, and no checksum tells.
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: {name} is no array")
    return arrays
