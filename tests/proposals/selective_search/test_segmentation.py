"""The graph segmentation against Felzenszwalb and Huttenlocher's algorithm as their paper describes it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppnet.proposals.selective_search.segmentation import segment, sorted_edges


def smoothed(colours, sigma):
    if sigma == 0:
        return colours
    shape = colours.shape
    return cv2.GaussianBlur(colours, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE).reshape(shape)


def edges_of(colours, sigma):
    """Returns edges (weight, pixel, pixel), lightest first.

    Equal weights are in scan order of the upper or left pixel, and for the same pixel in the order right,
    down left, down, down right.
    """
    height, width, channels = colours.shape
    smooth = smoothed(colours, sigma).astype(np.float64)
    edges = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    squared = ((smooth[y, x] - smooth[y + dy, x + dx]) ** 2).sum()
                    # As if a single channel were repeated three times, and two channels one and a half times.
                    distance = np.sqrt(squared * 3 / channels)
                    edges.append((int(distance * 128 + 0.5) / 128, (y, x), (y + dy, x + dx)))
    return sorted(edges, key=lambda edge: edge[0])


def reference(colours, sigma, k, min_size):
    """Segments with components as sets of pixels, and a dictionary from pixel to set."""
    height, width, _ = colours.shape
    component = {(y, x): frozenset([(y, x)]) for y in range(height) for x in range(width)}
    internal = dict.fromkeys(component.values(), 0.0)
    edges = edges_of(colours, sigma)

    def join(a, b):
        both = a | b
        for pixel in both:
            component[pixel] = both
        return both

    for weight, p, q in edges:
        a, b = component[p], component[q]
        if a != b and weight <= min(internal[a] + k / len(a), internal[b] + k / len(b)):
            # Edges come in order, so this edge is the heaviest of the new tree.
            internal[join(a, b)] = weight
    for _, p, q in edges:
        a, b = component[p], component[q]
        if a != b and min(len(a), len(b)) < min_size:
            join(a, b)

    number = {}
    labels = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            labels[y, x] = number.setdefault(component[y, x], len(number))
    return labels


def check(colours, sigma, k, min_size):
    colours = np.asarray(colours, np.float32)
    labels = segment(sorted_edges(colours, sigma), k, min_size)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, reference(colours, sigma, k, min_size))
    return labels


def noise(seed, height, width, channels, levels=256):
    values = np.random.default_rng(seed).integers(0, levels, (height, width, channels))
    return (values * (255 // (levels - 1))).astype(np.float32)


def checkerboard(height, width, channels, low=0, high=255):
    y, x = np.mgrid[:height, :width]
    return np.where(((y + x) % 2)[..., None] == 0, low, high).repeat(channels, axis=2).astype(np.float32)


def ramp(height, width, channels, step_y, step_x):
    y, x = np.mgrid[:height, :width]
    return np.stack([(step_y * y + step_x * x) % 256] * channels, axis=2).astype(np.float32)


def blocks(seed, height, width, channels):
    """Makes flat 4 x 4 blocks with faint noise, which give segments of realistic sizes."""
    rng = np.random.default_rng(seed)
    flat = rng.integers(20, 230, (-(-height // 4), -(-width // 4), channels))
    flat = flat.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return (flat + rng.normal(0, 4, flat.shape)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("sigma", [0, 0.5, 0.8, 2.5])
@pytest.mark.parametrize(("k", "min_size"), [(1, 1), (10, 3), (50, 5), (50, 50), (300, 1), (2000, 20)])
def test_blocks_with_noise(channels, sigma, k, min_size):
    check(blocks(channels, 13, 17, channels), sigma, k, min_size)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("k", "min_size"), [(30, 1), (200, 8), (1000, 30)])
def test_noise(seed, channels, k, min_size):
    check(noise(seed, 11, 12, channels), 0.8, k, min_size)


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 100, 256, 600])
def test_few_levels_give_many_equal_weights(levels, k):
    for seed, channels, min_size in [(0, 1, 1), (1, 3, 1), (2, 1, 6), (3, 2, 6)]:
        check(noise(seed, 9, 10, channels, levels), 0, k, min_size)


@pytest.mark.parametrize(("k", "min_size"), [(20, 20), (300, 10), (100_000, 1)])
def test_a_larger_one(k, min_size):
    check(blocks(0, 24, 31, 3), 0.8, k, min_size)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("sigma", [0, 0.8])
@pytest.mark.parametrize(("k", "min_size"), [(1, 1), (64, 4), (500, 7)])
def test_patterns(channels, sigma, k, min_size):
    check(checkerboard(8, 9, channels), sigma, k, min_size)
    check(checkerboard(8, 9, channels, 100, 103), sigma, k, min_size)
    check(ramp(9, 14, channels, 0, 5), sigma, k, min_size)
    check(ramp(14, 9, channels, 3, 11), sigma, k, min_size)
    check(ramp(10, 10, channels, 40, 17), sigma, k, min_size)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 23), (23, 1), (2, 15), (15, 2)]
)
def test_narrow(height, width, channels):
    for sigma in (0, 0.8):
        for k, min_size in ((1, 1), (40, 3), (300, 2), (20, 1000)):
            check(noise(height, height, width, channels), sigma, k, min_size)
            check(ramp(height, width, channels, 9, 9), sigma, k, min_size)


@pytest.mark.parametrize("value", [0, 85, 99.7, 255])
@pytest.mark.parametrize("sigma", [0, 0.8, 30])
def test_one_colour_is_one_segment(value, sigma):
    colours = np.full((21, 34, 3), value, np.float32)
    assert not segment(sorted_edges(colours, sigma), 1, 1).any()


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 3, 20, 100, 101, 200, 255]))
    ),
    st.sampled_from([1, 2, 7, 20, 64, 100, 442, 1000, 100_000]),
    st.integers(1, 12),
)
def test_any_small_image(colours, k, min_size):
    check(colours, 0, k, min_size)


def test_one_sort_serves_every_threshold():
    colours = blocks(7, 12, 12, 3)
    edges = sorted_edges(colours, 0.8)
    for k, min_size in ((300, 30), (10, 2), (300, 30), (50, 50)):
        np.testing.assert_array_equal(segment(edges, k, min_size), reference(colours, 0.8, k, min_size))


def test_by_hand():
    """Three steps of 10, 40 and 10 on a line; k / size decides at 40 only."""
    colours = np.array([[[0], [10], [50], [60]]], np.float32) / np.sqrt(3)
    assert segment(sorted_edges(colours, 0), 9, 1).tolist() == [[0, 1, 2, 3]]
    assert segment(sorted_edges(colours, 0), 10, 1).tolist() == [[0, 0, 1, 1]]
    # Internal difference 10 and k / 2 = 30 make up the 40.
    assert segment(sorted_edges(colours, 0), 59, 1).tolist() == [[0, 0, 1, 1]]
    assert segment(sorted_edges(colours, 0), 60, 1).tolist() == [[0, 0, 0, 0]]
    assert segment(sorted_edges(colours, 0), 10, 3).tolist() == [[0, 0, 0, 0]]


def test_small_segments_join_across_their_lightest_edge():
    colours = np.array([[[0], [100], [130], [250], [250]]], np.float32)
    assert segment(sorted_edges(colours, 0), 1, 1).tolist() == [[0, 1, 2, 3, 3]]
    assert segment(sorted_edges(colours, 0), 1, 2).tolist() == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_channels_weigh_as_repeated_ones(channels):
    """One or two equal channels weigh as much as three, so that k means the same."""
    single = blocks(3, 12, 12, 1)
    for k in (20, 100, 400):
        few = segment(sorted_edges(single.repeat(channels, axis=2), 0), k, 4)
        np.testing.assert_array_equal(few, segment(sorted_edges(single.repeat(3, axis=2), 0), k, 4))


def test_the_heaviest_edge_there_is():
    """Black beside white is at the far end of the counting sort."""
    for channels in (1, 2, 3):
        colours = np.zeros((2, 6, channels), np.float32)
        colours[:, 3:] = 255
        labels = check(colours, 0, 441, 1)
        assert labels.max() == 1
        check(colours, 0, 10_000, 1)


def test_every_segment_is_connected_and_large_enough():
    colours = blocks(11, 60, 70, 3)
    labels = segment(sorted_edges(colours, 0.8), 40, 12)
    assert labels.max() > 20
    _, first = np.unique(labels, return_index=True)
    assert (np.diff(first) > 0).all()  # Numbered in scan order of the first pixel.
    for label in range(labels.max() + 1):
        mask = labels == label
        assert mask.sum() >= 12
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2


def test_the_input_is_left_alone():
    colours = blocks(5, 10, 10, 3)
    before = colours.copy()
    colours.flags.writeable = False
    edges = sorted_edges(colours, 0)
    np.testing.assert_array_equal(segment(edges, 50, 5), segment(edges, 50, 5))
    np.testing.assert_array_equal(colours, before)
