"""Reads and writes the boxes of other programs: the published ``.mat`` files, and ``.npz``."""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.common.outputs import check_output_file
from sppnet.data.images import image_size
from sppnet.proposals.cache import ProposalCache
from sppnet.proposals.fill import ImageFile, annotated_size, image_key
from sppnet.proposals.mat_check import check_mat, most_bytes

_BATCH = 500
# MATLAB's format 5 counts the bytes of a variable in 32 bits. A cell has so many beside its numbers.
_MAT_BYTES = 2**32
_MAT_CELL_BYTES = 56


def read_boxes(path: Path, examples: Sequence[ImageFile]) -> dict[str, FloatArray]:
    """Reads boxes from a file, for the images of a data set.

    Args:
        path: ``.mat`` as published with R-CNN and Fast R-CNN: cells ``images`` (ids) and ``boxes``, each
            (n, 4) ``[y1 x1 y2 x2]``, 1-based and inclusive. Or ``.npz`` as `export_boxes` writes it: an
            array for each image id, (n, 4) ``[x1 y1 x2 y2]``, 0-based, right and bottom exclusive.
        examples: the images; the boxes are checked against the sizes of their files.

    Returns:
        image id to float32 (n, 4) xyxy, 0-based pixel edges, in the file's order. Images of the data set
        that are not in the file are left out, as are images of the file that are not in the data set.

    Raises:
        InputError: the file is neither, has none of the images, or its boxes do not fit them, which in
            most cases means that they are in another format.
    """
    by_id = _read(path)
    listed = {example.image_id: example for example in examples if example.image_id in by_id}
    if not listed:
        first = next(iter(by_id), "none")
        raise InputError(
            f"{path}: has no image of this data set (its first id is {first!r}); choose its split"
        )
    for image_id, example in listed.items():
        size = image_size(example.path, annotated_size(example))
        _check_inside(by_id[image_id], *size, f"{path}: image {image_id}")
    return {image_id: by_id[image_id] for image_id in listed}


def import_boxes(path: Path, examples: Sequence[ImageFile], cache: ProposalCache) -> int:
    """Reads boxes from a file into the cache, for the images of a data set.

    Args:
        path: as for `read_boxes`.
        examples: the images; their files are hashed for the keys of the cache.
        cache: where the boxes go, under the engine that it was opened for.

    Returns:
        the number of images of the data set in the file.

    Raises:
        InputError: as `read_boxes`, a box is not of whole numbers, or the cache has other boxes of an image
            under the same engine; nothing is stored then.
    """
    by_id = read_boxes(path, examples)
    entries = []
    for example in examples:
        if example.image_id in by_id:
            boxes = by_id[example.image_id]
            if (boxes != np.rint(boxes)).any():
                raise InputError(f"{path}: image {example.image_id}: boxes are not whole numbers")
            key = image_key(example)
            before = cache.get(key)
            if before is not None and not np.array_equal(before, boxes):
                # A run that was trained on the old boxes would go on with the new ones unnoticed.
                raise InputError(
                    f"{path}: image {example.image_id}: {cache.path} has other boxes of this name already; "
                    "give these another name"
                )
            entries.append((key, boxes))
    for start in range(0, len(entries), _BATCH):
        cache.put(entries[start : start + _BATCH])
    return len(entries)


def export_boxes(path: Path, examples: Sequence[ImageFile], cache: ProposalCache) -> int:
    """Writes the cached boxes of a data set as ``.mat`` or ``.npz``, in the formats of `read_boxes`.

    Args:
        path: of the file; its ending chooses the format.
        examples: the images; their files are hashed for the keys of the cache.
        cache: opened for the engine whose boxes are written.

    Returns:
        the number of images written: all.

    Raises:
        InputError: another ending, an image that is not in the cache, more boxes than ``.mat`` holds, or a
            file that cannot be written.
    """
    writer = _by_suffix(path, _write_mat, _write_npz)
    check_output_file(path)
    keys = {example.image_id: image_key(example) for example in examples}
    counts = cache.counts()
    for image_id, key in keys.items():
        if key not in counts:
            raise _without_boxes(image_id, cache)
    if writer is _write_mat:
        _check_mat_size(path, [counts[key] for key in keys.values()])
    by_id: dict[str, FloatArray] = {}
    for image_id, key in keys.items():
        boxes = cache.get(key)
        if boxes is None:
            raise _without_boxes(image_id, cache)
        by_id[image_id] = boxes
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            writer(file, by_id)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free some space") from error
    return len(by_id)


def _without_boxes(image_id: str, cache: ProposalCache) -> InputError:
    return InputError(f"image {image_id} has no boxes in {cache.path}; run `make proposals` first")


def _check_mat_size(path: Path, counts: Sequence[int]) -> None:
    size = sum(_MAT_CELL_BYTES + 4 * np.float64().nbytes * count for count in counts)
    if size >= _MAT_BYTES:
        raise InputError(
            f"{path}: {sum(counts):,} boxes take {size / 1e9:.1f} GB, and .mat holds {_MAT_BYTES / 1e9:.1f} "
            "GB; write an .npz, or fewer images with --limit"
        )


def _by_suffix(path: Path, mat: Callable[..., Any], npz: Callable[..., Any]) -> Callable[..., Any]:
    match path.suffix.lower():
        case ".mat":
            return mat
        case ".npz":
            return npz
    raise InputError(f"{path}: name a .mat or an .npz file")


def _read(path: Path) -> dict[str, FloatArray]:
    reader = _by_suffix(path, _read_mat, _read_npz)
    try:
        by_id: dict[str, FloatArray] = reader(path)
    except InputError:
        raise
    # The parsers of both formats raise errors of many types.
    except Exception as error:
        raise InputError(f"{path}: cannot be read as {path.suffix} of boxes ({error})") from error
    return by_id


def _read_mat(path: Path) -> dict[str, FloatArray]:
    # Imported here: it costs more start-up than the rest of this module.
    from scipy.io import loadmat

    data, names = path.read_bytes(), frozenset({"images", "boxes"})
    check_mat(data, names)
    content = loadmat(BytesIO(data), variable_names=list(names))
    if not {"images", "boxes"} <= content.keys():
        raise InputError(f"{path}: has no cells 'images' and 'boxes'; is it a file of published proposals?")
    ids = [str(np.asarray(cell).item()) for cell in content["images"].ravel()]
    cells = content["boxes"].ravel()
    if len(ids) != len(cells):
        raise InputError(f"{path}: {len(ids)} images, but boxes of {len(cells)}")
    result = {}
    for image_id, cell in zip(ids, cells, strict=True):
        boxes = _four_columns(cell, f"{path}: image {image_id}")
        y1, x1, y2, x2 = boxes.T
        result[image_id] = np.stack([x1 - 1, y1 - 1, x2, y2], axis=1)
    return result


def _read_npz(path: Path) -> dict[str, FloatArray]:
    # A pickle or a single array is no archive; `zipfile` says so before anything is read.
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > most_bytes(path.stat().st_size):
        raise InputError(f"{path}: {size / 1e9:.1f} GB when decompressed, from a small file; make it anew")
    with np.load(path, allow_pickle=False) as content:
        return {name: _four_columns(content[name], f"{path}: image {name}") for name in content.files}


def _four_columns(value: NDArray[Any], source: str) -> FloatArray:
    if value.size == 0:
        return np.zeros((0, 4), np.float32)
    if value.ndim != 2 or value.shape[1] != 4 or value.dtype.kind not in "iuf":
        raise InputError(f"{source}: boxes are {value.dtype} {value.shape}, not numbers (n, 4)")
    return value.astype(np.float32)


def _check_inside(boxes: FloatArray, width: int, height: int, source: str) -> None:
    """Makes sure that boxes lie in their image: with x and y swapped, or counted from 1, they soon do not."""
    if not np.isfinite(boxes).all():
        raise InputError(f"{source}: a box has an edge that is no number; remove the box")
    outside = (boxes[:, :2] < 0).any() or (boxes[:, 2:] > (width, height)).any()
    if outside or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise InputError(
            f"{source}: boxes reach out of the {width} x {height} image or are empty; .mat holds "
            "[y1 x1 y2 x2] from 1, inclusive; .npz [x1 y1 x2 y2] from 0, right and bottom exclusive"
        )


def _write_mat(file: Any, by_id: dict[str, FloatArray]) -> None:
    from scipy.io import savemat

    savemat(
        file,
        {
            "images": _cells(np.array([image_id]) for image_id in by_id).reshape(-1, 1),
            "boxes": _cells(
                (boxes[:, [1, 0, 3, 2]] + np.array([1, 1, 0, 0])).astype(np.float64)
                for boxes in by_id.values()
            ).reshape(1, -1),
        },
        do_compression=True,
    )


def _write_npz(file: Any, by_id: dict[str, FloatArray]) -> None:
    # Not np.savez: there an image called "file" would be taken for its argument of that name.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for image_id, boxes in by_id.items():
            with archive.open(f"{image_id}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, boxes, allow_pickle=False)


def _cells(values: Iterable[NDArray[Any]]) -> NDArray[np.object_]:
    """Makes a MATLAB cell array."""
    items = list(values)
    cells = np.empty(len(items), object)
    for index, value in enumerate(items):
        cells[index] = value
    return cells
