"""Boxes to windows: the scale rules and the two projections, against slow references and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.features.projection import choose_scale, project, resize_factor

# ZF-5 as released: the figures of its layers (stride 16, centre of cell 0 at pixel 20, receptive field 139).
ZF5 = Geometry(16, 20, 139)
UNSCALED = (1.0, 1.0)
RULES = ("paper", "released")

sides = st.tuples(st.integers(-60, 900), st.integers(1, 500))


def box(left, top, right, bottom):
    return np.array([[left, top, right, bottom]], np.float32)


def released_1_based(first, last, size):
    """Projects with the released code's arithmetic, from 1-based inclusive pixels to such cells."""
    low = math.floor((first - 21 + 6.5) / 16 + 0.5) + 1
    high = math.ceil((last - 21 - 6.5) / 16 - 0.5) + 1
    if low > high:
        low = high = math.trunc((low + high) / 2)
    return min(max(low, 1), size), min(max(high, 1), size)


def paper_slowly(start, end, factor, geometry, size):
    """Lists the cells, of an unlimited map, that are centred strictly between first and last pixel."""
    first, last = start * factor, end * factor - 1
    inside = [k for k in range(-300, 600) if first < geometry.offset + geometry.stride * k < last]
    if not inside:
        return None
    limited = [min(max(k, 0), size - 1) for k in inside]
    return min(limited), max(limited) + 1


@given(sides, sides, st.integers(1, 60), st.integers(1, 60))
def test_released_is_the_released_code(x, y, height, width):
    cells = project(box(x[0], y[0], sum(x), sum(y)), UNSCALED, ZF5, (height, width), "released")[0]
    for axis, (start, length), size in ((0, x, width), (1, y, height)):
        # The released code counts from 1: `start` is `start + 1` there, the exclusive edge is the last pixel.
        low, high = released_1_based(start + 1, start + length, size)
        assert (cells[axis], cells[axis + 2]) == (low - 1, high)


def test_released_in_its_0_based_form():
    """floor((x - 5.5) / 16) and ceil((x - 34.5) / 16), x the first and last pixel, before any limit."""
    rng = np.random.default_rng(0)
    first = rng.integers(2000, 4000, (2000, 2))
    last = first + rng.integers(100, 900, (2000, 2))
    cells = project(np.hstack([first, last + 1]).astype(np.float32), UNSCALED, ZF5, (9999, 9999), "released")
    np.testing.assert_array_equal(cells[:, :2], np.floor((first - 5.5) / 16))
    np.testing.assert_array_equal(cells[:, 2:], np.ceil((last - 34.5) / 16) + 1)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-100, 800, width=32),
    st.floats(1, 500, width=32),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([ZF5, Geometry(16, 15, 195), Geometry(8, 3.5, 50), Geometry(32, 0, 400)]),
    st.integers(1, 60),
)
def test_paper_equals_the_slow_one(start, length, factor, geometry, size):
    end = float(np.float32(start + length))
    x = project(box(start, 0, end, 600), (factor, 1.0), geometry, (9, size))[0, [0, 2]]
    y = project(box(0, start, 600, end), (1.0, factor), geometry, (size, 9))[0, [1, 3]]
    np.testing.assert_array_equal(x, y)
    slow = paper_slowly(start, end, factor, geometry, size)
    if slow is not None:
        assert tuple(x) == slow
        return
    # A box without a cell inside gets one cell; its centre is within a stride, unless the map ends before.
    assert x[1] - x[0] == 1
    centre = geometry.offset + geometry.stride * x[0]
    middle = (start * factor + end * factor - 1) / 2
    if -geometry.stride < (middle - geometry.offset) < geometry.stride * size:
        assert abs(centre - middle) <= geometry.stride
    else:
        assert x[0] in (0, size - 1)


@pytest.mark.parametrize(
    ("start", "end", "cells"),
    [
        # ZF-5's cells are centred on pixels 20, 36, 52, 68, 84, ...
        (20, 70, (1, 3)),  # first pixel 20, last 69: 36, 52, 68 but 20 itself is not strictly inside
        (19, 70, (0, 3)),
        (19, 69, (0, 2)),  # the last pixel is 68: not strictly inside
        (0, 21, (0, 0)),  # last pixel 20: none inside, lo 0 > hi -1, middle -1, clamped
        (0, 22, (0, 0)),
        (37, 53, (1, 1)),  # between the centres 36 and 52: lo 2 > hi 1, middle 1
        (40, 41, (1, 1)),  # one pixel
        (0, 10_000, (0, 9)),
        (-500, -400, (0, 0)),
        (5000, 5100, (9, 9)),
        (-500, 5000, (0, 9)),
    ],
)
def test_paper_by_hand(start, end, cells):
    first, last = cells
    expected = [first, 0, last + 1, 10]
    np.testing.assert_array_equal(project(box(start, -99, end, 999), UNSCALED, ZF5, (10, 10))[0], expected)


def test_first_cell_of_the_by_hand_rule():
    """20 is not strictly inside [20, 69]: floor(0) + 1 = 1, and 68 is: ceil(49/16) - 1 = 3."""
    assert math.floor((20 - 20) / 16) + 1 == 1
    assert math.ceil((69 - 20) / 16) - 1 == 3


@pytest.mark.parametrize("rule", RULES)
@given(st.data())
def test_every_region_has_a_cell_inside_the_map(rule, data):
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    corner = np.array(data.draw(st.tuples(*[st.floats(-1000, 2000, width=32)] * 2)), np.float32)
    extent = np.array(data.draw(st.tuples(*[st.floats(0, 3000, width=32)] * 2)), np.float32)
    factor = data.draw(st.tuples(*[st.floats(0.05, 20)] * 2))
    cells = project(np.hstack([corner, corner + extent])[None], factor, ZF5, size, rule)[0]
    assert cells.dtype == np.int32
    assert 0 <= cells[0] < cells[2] <= size[1]
    assert 0 <= cells[1] < cells[3] <= size[0]


@pytest.mark.parametrize("rule", RULES)
def test_the_whole_image_is_the_whole_map(rule):
    # 600 x 448 pixels: cells are centred on 20, 36, ... up to the last one inside.
    width, height = (600 - 139) // 16 + 8, (448 - 139) // 16 + 8
    cells = project(box(0, 0, 600, 448), UNSCALED, ZF5, (height, width), rule)[0]
    np.testing.assert_array_equal(cells, [0, 0, width, height])


@pytest.mark.parametrize("rule", RULES)
def test_the_factors_of_x_and_y(rule):
    scaled = project(box(80, 60, 300, 200), (2.0, 3.0), ZF5, (99, 99), rule)
    # Pixel edges scale; the last pixel is one before the scaled edge.
    np.testing.assert_array_equal(scaled, project(box(160, 180, 600, 600), UNSCALED, ZF5, (99, 99), rule))


@pytest.mark.parametrize("rule", RULES)
def test_moving_by_a_stride_moves_by_a_cell(rule):
    boxes = np.array([[100, 100, 250, 300], [100, 100, 110, 105]], np.float32)
    before = project(boxes, UNSCALED, ZF5, (99, 99), rule)
    after = project(boxes + np.array([16, 32, 16, 32], np.float32), UNSCALED, ZF5, (99, 99), rule)
    np.testing.assert_array_equal(after, before + np.array([1, 2, 1, 2]))


@pytest.mark.parametrize("rule", RULES)
def test_no_boxes(rule):
    assert project(np.zeros((0, 4), np.float32), UNSCALED, ZF5, (9, 9), rule).shape == (0, 4)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "factor"),
    [
        (480, 640, 688, 2500, 688 / 480),
        (640, 480, 688, 2500, 688 / 480),
        (100, 100, 50, 2500, 0.5),
        (20, 10_000, 688, 2500, 2500 / 10_000),
        (10_000, 20, 688, 2500, 2500 / 10_000),
        (1, 1, 688, 2500, 688),
        (100, 400, 500, 2000, 5.0),
    ],
)
def test_resize_factor(height, width, short, longest, factor):
    assert resize_factor(height, width, short, longest) == factor


SCALES = np.array([1.0, 2.0, 4.0], np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("width", "height", "chosen"),
    [(224, 224, 0), (112, 112, 1), (56, 56, 2), (28, 224, 1), (2, 2, 2), (999, 999, 0)],
)
def test_scales_by_hand(rule, width, height, chosen):
    # 28 x 224 pixels have the area of 79.2 x 79.2; twice that is 158, four times is 317.
    assert choose_scale(box(0, 0, width, height), SCALES, rule).tolist() == [chosen]


def test_the_rules_differ():
    """100 x 100 at 1.6 and 2.7 has 25600 and 72900 pixels (target 50176); by factor, 2.08 is best."""
    factors = np.array([1.6, 2.7], np.float32)
    assert abs(160**2 - 224**2) > abs(270**2 - 224**2)
    assert abs(1.6 - 2.08) < abs(2.7 - 2.08)
    assert choose_scale(box(10, 10, 110, 110), factors, "paper").tolist() == [1]
    assert choose_scale(box(10, 10, 110, 110), factors, "released").tolist() == [0]


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(1, 500), st.integers(1, 500)),
        max_size=20,
    )
)
def test_released_scale_is_the_released_code(rows):
    """The released rule takes the scale nearest to 13 * 16 * min(h, w) / sqrt(area), here not rounded."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)
    short, scales = 375, [480, 576, 688, 874, 1200]
    chosen = choose_scale(boxes, np.array([scale / short for scale in scales], np.float32), "released")
    assert chosen.dtype == np.int64
    for (_, _, width, height), index in zip(rows, chosen, strict=True):
        expected = 13 * 16 * short / math.sqrt(width * height)
        assert abs(scales[index] - expected) <= min(abs(scale - expected) for scale in scales) + 0.01
