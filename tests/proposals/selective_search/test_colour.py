"""The eight colour spaces against formulas written out by hand, one colour at a time."""

import colorsys
import itertools
import math

import numpy as np
import pytest

from sppnet.proposals.selective_search.colour import COLOUR_SPACES, to_colour_space

CHANNELS = {
    "rgb": 3,
    "intensity": 1,
    "lab": 3,
    "rgi": 3,
    "hsv": 3,
    "normalised-rgb": 3,
    "c": 2,
    "hue": 1,
}
# OpenCV reads L, a and b from a table between whose entries it interpolates; all else is float32 rounding.
TOLERANCE = {space: 0.6 if space == "lab" else 1e-3 for space in COLOUR_SPACES}


def grid():
    """Makes every combination of 16 values per channel, and all greys: (257, 16, 3)."""
    colours = list(itertools.product(range(0, 256, 17), repeat=3)) + [(v, v, v) for v in range(0, 256, 16)]
    return np.array(colours, np.uint8).reshape(-1, 16, 3)


def intensity(r, g, b):
    return 0.299 * r + 0.587 * g + 0.114 * b


def normalised(r, g, b):
    total = r + g + b
    return [255 * value / total for value in (r, g, b)] if total else [85.0, 85.0, 85.0]


def hsv(r, g, b):
    hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
    return [180 * hue, 255 * saturation, 255 * value]


def lab(r, g, b):
    """Converts sRGB (IEC 61966-2-1) to CIE 1976 L*a*b* under D65."""
    linear = [
        value / 255 / 12.92 if value / 255 <= 0.04045 else ((value / 255 + 0.055) / 1.055) ** 2.4
        for value in (r, g, b)
    ]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    white = [sum(row) for row in to_xyz]
    xyz = [
        sum(weight * value for weight, value in zip(row, linear, strict=True)) / of_white
        for row, of_white in zip(to_xyz, white, strict=True)
    ]
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in xyz)
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    return [lightness * 255 / 100, a + 128, b + 128]


def opponent(r, g, b):
    """Computes O1 / O3 and O2 / O3, each stretched from its least to its largest value over all colours."""
    if r + g + b == 0:
        first, second = 0.0, 0.0
    else:
        third = (r + g + b) / math.sqrt(3)
        first = (r - g) / math.sqrt(2) / third
        second = (r + g - 2 * b) / math.sqrt(6) / third
    # Pure red, green, blue and yellow are the extremes.
    most = math.sqrt(3 / 2)
    least_second, most_second = -2 / math.sqrt(6) * math.sqrt(3), 1 / math.sqrt(6) * math.sqrt(3)
    return [
        255 * (first + most) / (2 * most),
        255 * (second - least_second) / (most_second - least_second),
    ]


FORMULAS = {
    "rgb": lambda r, g, b: [r, g, b],
    "intensity": lambda r, g, b: [intensity(r, g, b)],
    "lab": lab,
    "rgi": lambda r, g, b: [*normalised(r, g, b)[:2], intensity(r, g, b)],
    "hsv": hsv,
    "normalised-rgb": normalised,
    "c": opponent,
    "hue": lambda r, g, b: hsv(r, g, b)[:1],
}


def convert(space, *rgb):
    """Converts a single colour; returns a list."""
    return to_colour_space(np.array([[rgb]], np.uint8), space)[0, 0].tolist()


def test_the_eight_spaces_of_the_paper():
    assert set(COLOUR_SPACES) == set(CHANNELS)


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_every_colour_of_a_grid(space):
    image = grid()
    converted = to_colour_space(image, space)
    expected = [FORMULAS[space](*(int(value) for value in rgb)) for rgb in image.reshape(-1, 3)]
    expected = np.array(expected).reshape(*image.shape[:2], -1)
    np.testing.assert_allclose(converted, expected, rtol=0, atol=TOLERANCE[space])


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_form_and_range(space):
    image = grid()
    converted = to_colour_space(image, space)
    assert converted.dtype == np.float32
    assert converted.shape == (*image.shape[:2], CHANNELS[space])
    assert converted.flags.c_contiguous
    assert np.isfinite(converted).all()
    assert converted.min() >= -1e-3
    assert converted.max() <= 255 + 1e-3


@pytest.mark.parametrize("space", sorted(set(COLOUR_SPACES) - {"lab"}))
def test_every_channel_uses_its_whole_range(space):
    converted = to_colour_space(grid(), space).reshape(-1, CHANNELS[space])
    np.testing.assert_allclose(converted.min(axis=0), 0, atol=1e-3)
    if space == "hue" or space == "hsv":
        # The circle is open at red: the last hue of the grid lies just below 360 degrees.
        assert 176 < converted[:, 0].max() <= 180
        converted = converted[:, 1:]
    np.testing.assert_allclose(converted.max(axis=0), 255, atol=1e-3)


@pytest.mark.parametrize(
    ("space", "rgb", "expected"),
    [
        ("rgb", (1, 2, 3), [1, 2, 3]),
        ("intensity", (255, 255, 255), [255]),
        ("lab", (0, 0, 0), [0, 128, 128]),
        ("lab", (255, 255, 255), [255, 128, 128]),
        ("lab", (255, 0, 0), [53.24 * 2.55, 80.09 + 128, 67.20 + 128]),
        ("lab", (0, 0, 255), [32.30 * 2.55, 79.19 + 128, -107.86 + 128]),
        ("rgi", (0, 0, 0), [85, 85, 0]),
        ("hsv", (0, 255, 0), [60, 255, 255]),
        ("hsv", (0, 0, 0), [0, 0, 0]),
        ("hsv", (255, 255, 255), [0, 0, 255]),
        ("normalised-rgb", (0, 0, 0), [85, 85, 85]),
        ("normalised-rgb", (0, 7, 0), [0, 255, 0]),
        ("c", (9, 0, 0), [255, 255 * 2.5 / 3 + 255 * 0.5 / 3]),
        ("c", (0, 9, 0), [0, 255]),
        ("c", (0, 0, 9), [127.5, 0]),
        ("c", (0, 0, 0), [127.5, 170]),
        ("hue", (0, 0, 1), [120]),
    ],
)
def test_known_colours(space, rgb, expected):
    np.testing.assert_allclose(convert(space, *rgb), expected, rtol=0, atol=TOLERANCE[space])


@pytest.mark.parametrize("value", [0, 1, 77, 128, 254, 255])
def test_greys(value):
    assert convert("hue", value, value, value) == [0]
    assert convert("hsv", value, value, value)[:2] == [0, 0]
    np.testing.assert_allclose(convert("normalised-rgb", value, value, value), [85] * 3, rtol=1e-6)
    np.testing.assert_allclose(convert("c", value, value, value), [127.5, 170], rtol=1e-6)
    np.testing.assert_allclose(convert("lab", value, value, value)[1:], [128, 128], atol=0.1)


@pytest.mark.parametrize("space", ["normalised-rgb", "c", "hue"])
def test_colour_without_brightness(space):
    """Half the light gives the same values in the invariant spaces."""
    np.testing.assert_allclose(convert(space, 200, 100, 40), convert(space, 100, 50, 20), rtol=1e-5)


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_a_colour_does_not_depend_on_its_neighbours(space):
    """Vectorised conversions may treat the end of a row differently; the bins must not change."""
    image = grid()
    whole = to_colour_space(image, space)
    alone = np.stack([to_colour_space(row[None, -3:], space)[0] for row in image])
    np.testing.assert_allclose(whole[:, -3:], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("space", COLOUR_SPACES)
@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::2, ::3],
        lambda image: image[::-1, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image.transpose(1, 0, 2),
        np.asfortranarray,
    ],
    ids=["slice", "turned", "bgr", "transposed", "fortran"],
)
def test_any_strides(space, view):
    seen = view(grid())
    before = seen.copy()
    seen.flags.writeable = False
    np.testing.assert_array_equal(to_colour_space(seen, space), to_colour_space(before.copy("C"), space))
    np.testing.assert_array_equal(seen, before)
