"""Sizes, boxes, histograms and neighbours of segments, counted from a mask of each segment."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppnet.proposals.selective_search.colour import COLOUR_SPACES, to_colour_space
from sppnet.proposals.selective_search.regions import colour_bins, measure, texture_bins
from sppnet.proposals.selective_search.segmentation import segment, sorted_edges

COLOURS, TEXTURES = 25, 10


def noise(seed, height, width, channels):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (height, width, channels)).astype(np.float32)


def smooth_noise(seed, height, width, channels):
    blurred = cv2.GaussianBlur(noise(seed, height, width, channels), (0, 0), 2)
    return blurred.reshape(height, width, channels)


def relabelled(values):
    """Renumbers labels from 0 in scan order of their first pixel, as `segment` does."""
    number = {}
    flat = [number.setdefault(value, len(number)) for value in values.ravel().tolist()]
    return np.array(flat, np.int32).reshape(values.shape)


def reference(labels, colours, textures):
    """Computes (sizes, boxes, colour, texture, neighbours), label by label."""
    sizes, boxes, colour, texture, pairs = [], [], [], [], set()
    for label in range(labels.max() + 1):
        mask = labels == label
        ys, xs = np.nonzero(mask)
        sizes.append(len(ys))
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        row = []
        for channel in range(colours.shape[2]):
            values = colours[mask][:, channel]
            row += [np.sum(values == value) for value in range(COLOURS)]
        colour.append(row)
        row = []
        for direction in range(textures.shape[2]):
            values = textures[mask][:, direction].astype(int)
            # Values that are not positive count as 0; then the same for the opposite orientation.
            row += [np.sum(np.maximum(values, 0) == value) for value in range(TEXTURES)]
            row += [np.sum(np.maximum(-values, 0) == value) for value in range(TEXTURES)]
        texture.append(row)
        for y, x in zip(ys, xs, strict=True):
            around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            pairs |= {(label, neighbour) for neighbour in around.ravel().tolist() if neighbour > label}
    return sizes, boxes, colour, texture, sorted(pairs)


def check(labels, colours):
    height, width, channels = colours.shape
    bins, textures = colour_bins(colours), texture_bins(colours)
    regions = measure(labels, bins, textures)
    sizes, boxes, colour, texture, pairs = reference(labels, bins, textures)
    np.testing.assert_array_equal(regions.sizes, sizes)
    np.testing.assert_array_equal(regions.boxes, boxes)
    np.testing.assert_array_equal(regions.colour, colour)
    np.testing.assert_array_equal(regions.texture, texture)
    np.testing.assert_array_equal(regions.neighbours, np.array(pairs).reshape(-1, 2))
    assert {array.dtype for array in regions} == {np.dtype(np.int32)}
    assert regions.sizes.sum() == height * width
    np.testing.assert_array_equal(regions.colour.sum(axis=1), channels * regions.sizes)
    np.testing.assert_array_equal(regions.texture.sum(axis=1), 8 * channels * regions.sizes)
    return regions


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 19), (19, 1), (12, 17), (17, 12)]
)
@pytest.mark.parametrize("k", [1, 60, 500])
def test_segments(height, width, channels, k):
    colours = noise(height + width, height, width, channels)
    check(segment(sorted_edges(colours, 0.8), k, 3), colours)


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 5)),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_any_labels(values, channels, seed):
    """Scattered segments: holes, single pixels, contact at a corner."""
    check(relabelled(values), smooth_noise(seed, *values.shape, channels))


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_every_colour_space(space):
    image = np.random.default_rng(0).integers(0, 256, (14, 15, 3), np.uint8)
    colours = to_colour_space(image, space)
    check(segment(sorted_edges(colours, 0.8), 100, 4), colours)


def test_neighbours_by_hand():
    labels = np.array([[0, 0, 1], [2, 3, 3], [2, 4, 4]], np.int32)
    regions = check(labels, noise(0, 3, 3, 1))
    # 1 and 3 touch at a corner and at a side; so do 0 and 2, 2 and 3, 2 and 4. 0 and 4 do not touch.
    assert regions.neighbours.tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3], [2, 4], [3, 4]]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_corner_is_enough(mirrored):
    labels = np.array([[0, 1, 1], [2, 2, 1], [2, 2, 3]], np.int32)
    labels = relabelled(labels[:, ::-1]) if mirrored else labels
    pairs = {tuple(pair) for pair in check(labels, noise(0, 3, 3, 1)).neighbours.tolist()}
    assert len(pairs) == 5  # All but the segments of the two far corners, 0 and 3.


def test_one_segment_has_no_neighbours():
    regions = check(np.zeros((5, 6), np.int32), noise(0, 5, 6, 3))
    assert regions.neighbours.shape == (0, 2)
    assert regions.boxes.tolist() == [[0, 0, 6, 5]]


def test_colour_bins_of_all_bytes():
    """The 25 equal bins reach from 0 to 256: a byte of value v covers the interval from v to v + 1."""
    values = np.arange(256, dtype=np.float32).reshape(16, 16, 1)
    bins = colour_bins(values)
    assert bins.dtype == np.uint8
    assert bins.ravel().tolist() == [value * 25 // 256 for value in range(256)]


def test_colour_bins_between_bytes():
    """Values between whole numbers, such as hues, have equal bins, too."""
    values = np.linspace(0, 255, 2041, dtype=np.float32).reshape(13, 157, 1)
    expected = np.floor(values.astype(np.float64) * 25 / 256)
    np.testing.assert_array_equal(colour_bins(values), expected)


@pytest.mark.parametrize("off", [-1e-4, -1e-5, 1e-5, 1e-4])
def test_rounding_moves_no_byte_to_another_bin(off):
    """7 / 255 * 255 need not be 7, and vectorised conversions may round the end of a row differently."""
    values = np.arange(256, dtype=np.float32).reshape(16, 16, 1)
    np.testing.assert_array_equal(colour_bins(values + np.float32(off)), colour_bins(values))


def derivatives(colours):
    """Computes central differences of the smoothed channels, with repeated border: float64 (H, W, C, 4)."""
    blurred = cv2.GaussianBlur(colours, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    padded = np.pad(blurred.reshape(colours.shape).astype(np.float64), ((1, 1), (1, 1), (0, 0)), "edge")
    right = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    # The derivative in direction (cos a, sin a) is cos a * derivative to the right + sin a * derivative down.
    angles = np.radians([0, 90, 45, 135])
    return np.stack([np.cos(a) * right + np.sin(a) * down for a in angles], axis=-1)


def check_textures(colours):
    bins = texture_bins(colours)
    height, width, channels = colours.shape
    assert bins.dtype == np.int8
    assert bins.shape == (height, width, 4 * channels)
    values = derivatives(colours)
    largest = np.maximum(np.abs(values).max(axis=(0, 1, 3), keepdims=True), 1)
    scaled = values / largest * TEXTURES
    expected = np.sign(scaled) * np.minimum(np.floor(np.abs(scaled)), TEXTURES - 1)
    expected = expected.reshape(bins.shape)
    # float32 may put a value on the border of two bins into either bin.
    on_border = (np.abs(scaled - np.rint(scaled)) < 1e-3).reshape(bins.shape)
    np.testing.assert_array_equal(bins[~on_border], expected[~on_border])
    assert np.abs(bins - expected)[on_border].max(initial=0) <= 1
    return bins


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (1, 40), (40, 1), (2, 2), (31, 45)])
def test_textures(height, width, channels):
    """The bins of a flat channel reach to a derivative of 1; otherwise they would show rounding errors."""
    for seed in range(3):
        check_textures(noise(seed, height, width, channels))
        check_textures(smooth_noise(seed, height, width, channels))
        check_textures(smooth_noise(seed, height, width, channels) * np.float32(0.01))


def test_each_channel_has_its_own_largest_derivative():
    colours = noise(0, 20, 20, 3) * np.float32([1, 0.2, 0.05])
    bins = np.abs(check_textures(colours)).reshape(20, 20, 3, 4)
    assert bins.max(axis=(0, 1, 3)).tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("step_y", "step_x", "signs"),
    [
        (0, 4, [1, 0, 1, -1]),
        (0, -4, [-1, 0, -1, 1]),
        (4, 0, [0, 1, 1, 1]),
        (-4, 0, [0, -1, -1, -1]),
        (4, 4, [1, 1, 1, 0]),
        (4, -4, [-1, 1, 0, 1]),
    ],
    ids=["right", "left", "down", "up", "down_right", "down_left"],
)
def test_orientations(step_y, step_x, signs):
    """A plane that rises in one direction has known signs in all orientations."""
    y, x = np.mgrid[:20, :20]
    colours = (125 + step_y * (y - 10) + step_x * (x - 10))[..., None].astype(np.float32)
    middle = check_textures(colours)[10, 10]
    assert np.sign(middle).tolist() == signs


@pytest.mark.parametrize("value", [0, 85, 99.7, 1 / 3, 254.99998])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (64, 64)])
def test_one_colour_has_no_texture(value, height, width):
    """Smoothing leaves rounding errors, which do not count as derivatives."""
    colours = np.full((height, width, 3), value, np.float32)
    assert not texture_bins(colours).any()


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_a_grey_image_has_no_texture_of_colour(space):
    """Of a black and white photograph only the brightness has a texture in a colour space."""
    grey = np.clip(smooth_noise(0, 40, 50, 1) * 2 - 128, 0, 255).astype(np.uint8)
    textures = texture_bins(to_colour_space(grey.repeat(3, axis=2), space)).reshape(40, 50, -1, 4)
    bright = {
        "rgb": [0, 1, 2],
        "intensity": [0],
        "lab": [0],
        "rgi": [2],
        "hsv": [2],
        "normalised-rgb": [],
        "c": [],
        "hue": [],
    }
    assert np.flatnonzero(textures.any(axis=(0, 1, 3))).tolist() == bright[space]
