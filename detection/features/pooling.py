"""The spatial pyramid: pools windows of a feature map to vectors of one length (SPP-net §2.2)."""

from collections.abc import Sequence

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.detection.features.pooling_kernels import max_tables, pool_windows
from sppnet.detection.features.projection import Windows

# Bins per side of each pyramid level, together 50 bins (SPP-net §4.1).
PAPER_LEVELS = (6, 3, 2, 1)


def num_bins(levels: Sequence[int]) -> int:
    """Computes the number of bins of a pyramid.

    Example:
        >>> num_bins((6, 3, 2, 1))
        50
    """
    return sum(level * level for level in levels)


def spatial_pyramid_pool(
    feature_map: FloatArray,
    windows: Windows,
    levels: Sequence[int] = PAPER_LEVELS,
    use_tables: bool | None = None,
) -> FloatArray:
    """Max-pools windows of a feature map over a spatial pyramid.

    Bin i of n over a window of w cells covers cells ``floor(i w / n)`` to ``ceil((i + 1) w / n)``
    (exclusive), in both directions, so bins of small windows overlap and none is empty.
    `SpatialPyramidPooling` gives the same values as a torch module with a gradient.

    Args:
        feature_map: float32 (h, w, C), channels last.
        windows: int32 (N, 4), cells x0 y0 x1 y1, right and bottom exclusive, inside the map, at least one
            cell each.
        levels: bins per side of each pyramid level.
        use_tables: whether maxima over blocks of the map, which many windows share, are computed first. The
            result is the same. ``None``: the faster way is chosen (`tables_are_faster`).

    Returns:
        float32 (N, bins * C): level by level in the given order, bins row by row, channels within a bin.

    Raises:
        ValueError: a window lies outside the map or has no cell, or there is no level.

    Example:
        >>> import numpy as np
        >>> feature_map = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
        >>> windows = np.array([[0, 0, 4, 4], [1, 1, 4, 3]], np.int32)
        >>> spatial_pyramid_pool(feature_map, windows, levels=(2, 1))
        array([[ 5.,  7., 13., 15., 15.],
               [ 6.,  7., 10., 11., 11.]], dtype=float32)
    """
    height, width, channels = feature_map.shape
    if not levels or min(levels) < 1:
        raise ValueError(f"levels {levels}: give at least one, each at least 1")
    if len(windows) == 0:
        return np.empty((0, num_bins(levels) * channels), np.float32)
    if (
        windows[:, :2].min() < 0
        or windows[:, 2].max() > width
        or windows[:, 3].max() > height
        or (windows[:, 2:] <= windows[:, :2]).any()
    ):
        raise ValueError(f"each window must have a cell and lie inside the {width} x {height} map")
    if use_tables is None:
        use_tables = tables_are_faster(windows, (height, width), levels)
    if use_tables:
        tables = max_tables(feature_map, *_table_counts(windows, (height, width), levels))
    else:
        # For another memory order the loops would be compiled again, which takes seconds.
        tables = np.ascontiguousarray(feature_map, np.float32)[None, None]
    pooled = np.empty((len(windows), num_bins(levels), channels), np.float32)
    finer = np.array(_finer_levels(levels))
    pool_windows(tables, use_tables, windows.astype(np.int64), np.array(levels), finer, pooled)
    return pooled.reshape(len(windows), -1)


def tables_are_faster(
    windows: Windows, map_size: tuple[int, int], levels: Sequence[int] = PAPER_LEVELS
) -> bool:
    """Predicts whether `spatial_pyramid_pool` is faster with tables of maxima than without.

    Tables are slower for few windows, as in fine-tuning at several scales. To compute a cell of a table takes
    longer than to read a cell of the map. If more cells would be computed than read, reading was faster in
    every measured case.

    Args:
        windows: int32 (N, 4), as in `spatial_pyramid_pool`; N > 0.
        map_size: height and width of the map, in cells.
        levels: bins per side of each pyramid level.
    """
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    read = int(sides.prod(axis=1).sum()) * _finer_levels(levels).count(-1)
    tables_y, tables_x = _table_counts(windows, map_size, levels)
    return read > tables_y * tables_x * map_size[0] * map_size[1]


def _finer_levels(levels: Sequence[int]) -> list[int]:
    """Returns for each level the index of an earlier level with twice the bins per side, or -1.

    A bin is exactly the union of four bins of that finer level, so its maximum is the maximum of theirs:
    floor(i w / n) = floor(2 i w / 2 n), and likewise for the ceiling.
    """
    indices = []
    for index, level in enumerate(levels):
        earlier = levels[:index]
        indices.append(earlier.index(2 * level) if 2 * level in earlier else -1)
    return indices


def _table_counts(windows: Windows, map_size: tuple[int, int], levels: Sequence[int]) -> tuple[int, int]:
    """Computes how many block heights and widths (1, 2, 4, … cells) the largest bins need."""
    pooled_from_map = [level for level, finer in zip(levels, _finer_levels(levels), strict=True) if finer < 0]
    columns, rows = -(-(windows[:, 2:] - windows[:, :2]).max(axis=0) // min(pooled_from_map))
    # A bin that does not begin at the edge of a cell covers one cell more.
    count_y, count_x = (
        min(int(cells) + 1, side).bit_length() for cells, side in zip((rows, columns), map_size, strict=True)
    )
    return count_y, count_x
