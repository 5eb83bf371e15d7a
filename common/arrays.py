"""The array types of all rooms."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Int32Array = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
# uint8 (H, W, 3), RGB; H and W in pixels.
Image = NDArray[np.uint8]
