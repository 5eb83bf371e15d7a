"""The spatial pyramid against torchvision's roi_pool, to the bit, and against loops."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.ops import roi_pool

from sppnet.detection.features.pooling import (
    PAPER_LEVELS,
    num_bins,
    spatial_pyramid_pool,
    tables_are_faster,
)


def make_map(height, width, channels, seed=0):
    return np.random.default_rng(seed).standard_normal((height, width, channels)).astype(np.float32)


def slow_pool(feature_map, windows, levels):
    rows = []
    for left, top, right, bottom in windows.tolist():
        window = feature_map[top:bottom, left:right]
        height, width = window.shape[:2]
        bins = []
        for n in levels:
            for i in range(n):
                for j in range(n):
                    part = window[
                        math.floor(i * height / n) : math.ceil((i + 1) * height / n),
                        math.floor(j * width / n) : math.ceil((j + 1) * width / n),
                    ]
                    bins.append(part.max(axis=(0, 1)))
        rows.append(np.concatenate(bins))
    return np.array(rows)


def torchvision_pool(feature_map, windows, levels):
    """Calls roi_pool for each level with inclusive cells, and reorders (N, C, n, n) to bins × channels."""
    rois = np.hstack([np.zeros((len(windows), 1)), windows[:, :2], windows[:, 2:] - 1]).astype(np.float32)
    image = torch.from_numpy(np.ascontiguousarray(feature_map.transpose(2, 0, 1)))[None]
    parts = [
        roi_pool(image, torch.from_numpy(rois), n, spatial_scale=1.0).permute(0, 2, 3, 1).flatten(1).numpy()
        for n in levels
    ]
    return np.concatenate(parts, axis=1)


def random_windows(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (width, height), (2, count, 2))
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.hstack([low, high + 1]).astype(np.int32)


def test_bins_of_the_paper():
    assert PAPER_LEVELS == (6, 3, 2, 1)
    assert num_bins(PAPER_LEVELS) == 36 + 9 + 4 + 1 == 50


# With None, pooling chooses the faster way.
both_ways = pytest.mark.parametrize("use_tables", [True, False], ids=["tables", "cells"])


@pytest.mark.parametrize("side", range(1, 41))
@both_ways
def test_every_window_size(side, use_tables):
    feature_map = make_map(41, 44, 3, side)
    wide = np.array([[2, 1, 2 + side, 41], [2, 1, 3, 1 + side], [44 - side, 0, 44, side]], np.int32)
    pooled = spatial_pyramid_pool(feature_map, wide, use_tables=use_tables)
    np.testing.assert_array_equal(pooled, torchvision_pool(feature_map, wide, PAPER_LEVELS))
    np.testing.assert_array_equal(pooled, slow_pool(feature_map, wide, PAPER_LEVELS))


@pytest.mark.parametrize(
    "levels",
    [
        (6, 3, 2, 1),
        (1, 2, 3, 6),
        (4, 3, 2, 1),
        (1,),
        (5,),
        (7, 2),
        (2, 4),
        (4, 2, 1),
        (12, 6, 3),
        (2, 2),
        (8, 1, 4),
    ],
    ids=lambda levels: "-".join(map(str, levels)),
)
@pytest.mark.parametrize("channels", [1, 3, 8])
@both_ways
def test_levels(levels, channels, use_tables):
    feature_map, windows = make_map(23, 31, channels), random_windows(60, 23, 31)
    pooled = spatial_pyramid_pool(feature_map, windows, levels, use_tables=use_tables)
    assert pooled.shape == (60, num_bins(levels) * channels)
    assert pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled, torchvision_pool(feature_map, windows, levels))
    np.testing.assert_array_equal(pooled, slow_pool(feature_map, windows, levels))


@pytest.mark.parametrize("channels", [13, 256])
@both_ways
def test_channels(channels, use_tables):
    feature_map, windows = make_map(40, 55, channels), random_windows(40, 40, 55)
    np.testing.assert_array_equal(
        spatial_pyramid_pool(feature_map, windows, use_tables=use_tables),
        torchvision_pool(feature_map, windows, PAPER_LEVELS),
    )


def test_tables_are_for_many_windows_only():
    feature_map, windows = make_map(40, 55, 8), random_windows(400, 40, 55)
    assert tables_are_faster(windows, (40, 55))
    parts = [windows[start : start + 5] for start in range(0, 400, 5)]
    assert not any(tables_are_faster(part, (40, 55)) for part in parts)
    together = spatial_pyramid_pool(feature_map, windows)
    np.testing.assert_array_equal(together, spatial_pyramid_pool(feature_map, windows, use_tables=True))
    few = np.concatenate([spatial_pyramid_pool(feature_map, part) for part in parts])
    np.testing.assert_array_equal(together, few)


@both_ways
def test_all_negative(use_tables):
    # This fails if the maximum starts from 0, as Caffe's does for empty bins.
    feature_map, windows = -1 - np.abs(make_map(20, 20, 4)), random_windows(30, 20, 20)
    pooled = spatial_pyramid_pool(feature_map, windows, use_tables=use_tables)
    assert pooled.max() <= -1
    np.testing.assert_array_equal(pooled, slow_pool(feature_map, windows, PAPER_LEVELS))


@both_ways
def test_infinities(use_tables):
    feature_map = make_map(9, 9, 2)
    feature_map[4, 4], feature_map[:4, :4] = np.inf, -np.inf
    windows = random_windows(30, 9, 9)
    np.testing.assert_array_equal(
        spatial_pyramid_pool(feature_map, windows, use_tables=use_tables),
        slow_pool(feature_map, windows, PAPER_LEVELS),
    )


def test_known_answer():
    feature_map = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    pooled = spatial_pyramid_pool(feature_map, np.array([[0, 0, 4, 4], [1, 1, 4, 3]], np.int32), (2, 1))
    # The second window: rows 4..7 and 8..11 without column 0; its bins have columns 1-2 and 2-3.
    np.testing.assert_array_equal(pooled, [[5, 7, 13, 15, 15], [6, 7, 10, 11, 11]])


def test_layout_is_level_row_column_channel():
    feature_map = np.stack(np.meshgrid(range(6), range(6), indexing="ij"), axis=-1).astype(np.float32)
    pooled = spatial_pyramid_pool(feature_map, np.array([[0, 0, 6, 6]], np.int32)).reshape(50, 2)
    np.testing.assert_array_equal(pooled[:36], feature_map.reshape(36, 2))
    np.testing.assert_array_equal(pooled[36:45], [(r, c) for r in (1, 3, 5) for c in (1, 3, 5)])
    np.testing.assert_array_equal(pooled[45:49], [(2, 2), (2, 5), (5, 2), (5, 5)])
    np.testing.assert_array_equal(pooled[49], (5, 5))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1), (2, 3)])
def test_tiny_maps(height, width):
    feature_map, windows = make_map(height, width, 5), random_windows(20, height, width)
    np.testing.assert_array_equal(
        spatial_pyramid_pool(feature_map, windows), slow_pool(feature_map, windows, PAPER_LEVELS)
    )


@both_ways
def test_a_map_in_another_memory_order(use_tables):
    feature_map = make_map(5, 20, 30).transpose(1, 2, 0)
    windows = random_windows(20, 20, 30)
    pooled = spatial_pyramid_pool(feature_map, windows, use_tables=use_tables)
    np.testing.assert_array_equal(pooled, slow_pool(feature_map, windows, PAPER_LEVELS))


def test_no_windows():
    pooled = spatial_pyramid_pool(make_map(5, 5, 3), np.zeros((0, 4), np.int32))
    assert pooled.shape == (0, 150)
    assert pooled.dtype == np.float32


def test_the_input_is_left_alone():
    feature_map, windows = make_map(12, 12, 3), random_windows(9, 12, 12)
    before = feature_map.copy(), windows.copy()
    spatial_pyramid_pool(feature_map, windows)
    np.testing.assert_array_equal(feature_map, before[0])
    np.testing.assert_array_equal(windows, before[1])


@pytest.mark.parametrize(
    "window",
    [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 6, 2), (0, 0, 2, 5), (2, 2, 2, 3), (2, 2, 3, 2), (3, 1, 2, 2)],
    ids=["left", "top", "right", "bottom", "no_width", "no_height", "inverted"],
)
def test_windows_outside_or_empty(window):
    with pytest.raises(ValueError, match="inside the 5 x 4 map"):
        spatial_pyramid_pool(make_map(4, 5, 2), np.array([(0, 0, 1, 1), window], np.int32))


@pytest.mark.parametrize("levels", [(), (0,), (3, -1)])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="levels"):
        spatial_pyramid_pool(make_map(4, 5, 2), np.array([[0, 0, 1, 1]], np.int32), levels)


def test_pooling_alone_imports_no_torch():
    """A user of the pyramid alone should not wait for the import of torch."""
    check = "import sys, sppnet.detection.features.pooling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
