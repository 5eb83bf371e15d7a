"""The grouping against a reference that goes back to the pixels at every step."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppnet.proposals.selective_search.grouping import Similarities, group
from sppnet.proposals.selective_search.regions import colour_bins, measure, texture_bins
from sppnet.proposals.selective_search.segmentation import segment, sorted_edges

SUBSETS = [Similarities(*used) for used in itertools.product([True, False], repeat=4) if any(used)]  # All 15.


def name(similarities):
    return "".join(letter for letter, used in zip("CTSF", similarities, strict=True) if used)


def histogram(channels, size):
    """Counts the values 0 to size - 1 in each column, normalised to whole numbers out of 2**24."""
    counts = np.concatenate([np.bincount(column, minlength=size) for column in channels.T])
    return np.floor(counts * (2**24 / counts.sum()))


class Region:
    """A region measured from its pixels."""

    def __init__(self, mask, colours, textures):
        ys, xs = np.nonzero(mask)
        self.mask = mask
        self.size = len(ys)
        self.box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        self.colour = histogram(colours[mask], 25)
        signed = textures[mask].astype(int)
        opposite = np.stack([np.maximum(signed, 0), np.maximum(-signed, 0)], axis=2)
        self.texture = histogram(opposite.reshape(self.size, -1), 10)


def similarity(a, b, image, used):
    box = (*np.minimum(a.box[:2], b.box[:2]), *np.maximum(a.box[2:], b.box[2:]))
    box_size = (box[2] - box[0]) * (box[3] - box[1])
    total = 0.0
    if used.colour:
        total += np.minimum(a.colour, b.colour).sum() / 2**24
    if used.texture:
        total += np.minimum(a.texture, b.texture).sum() / 2**24
    if used.size:
        total += 1 - (a.size + b.size) / image
    if used.fill:
        total += 1 - (box_size - a.size - b.size) / image
    return total


def touching(alive):
    """Returns pairs i < j of regions with pixels in each other's 8-neighbourhood."""
    number = np.empty(next(iter(alive.values())).mask.shape, int)
    for index, region in alive.items():
        number[region.mask] = index
    padded = np.pad(number, 1, constant_values=-1)
    height, width = number.shape
    pairs = set()
    for y, x in ((1, 2), (2, 0), (2, 1), (2, 2)):
        shifted = padded[y : y + height, x : x + width]
        pairs |= set(zip(number.ravel().tolist(), shifted.ravel().tolist(), strict=True))
    return sorted({(min(pair), max(pair)) for pair in pairs if min(pair) >= 0 and pair[0] != pair[1]})


def reference(labels, colours, textures, used):
    """Computes (merges, boxes) by Algorithm 1, from the pixels at each step."""
    count = int(labels.max()) + 1
    alive = {index: Region(labels == index, colours, textures) for index in range(count)}
    boxes = [alive[index].box for index in range(count)]
    merges = []
    while len(alive) > 1:
        ranked = [(-similarity(alive[i], alive[j], labels.size, used), i, j) for i, j in touching(alive)]
        _, *best = min(ranked)
        merges.append(best)
        a, b = (alive.pop(index) for index in best)
        made = Region(a.mask | b.mask, colours, textures)
        alive[count + len(merges) - 1] = made
        boxes.append(made.box)
    return merges, boxes


def check(labels, colours, subsets=SUBSETS):
    """Compares merges and boxes with the reference; returns the hierarchies."""
    bins, textures = colour_bins(colours), texture_bins(colours)
    regions = measure(labels, bins, textures)
    hierarchies = []
    for used in subsets:
        hierarchy = group(regions, used)
        merges, boxes = reference(labels, bins, textures, used)
        assert hierarchy.merges.tolist() == merges, name(used)
        assert hierarchy.boxes.tolist() == [[int(edge) for edge in box] for box in boxes], name(used)
        assert hierarchy.merges.dtype == hierarchy.boxes.dtype == np.int32
        assert hierarchy.merges.shape == (len(regions.sizes) - 1, 2)
        hierarchies.append(hierarchy)
    return hierarchies


def check_image(colours, k, min_size, subsets=SUBSETS):
    colours = np.asarray(colours, np.float32)
    return check(segment(sorted_edges(colours, 0.8), k, min_size), colours, subsets)


def relabelled(values):
    number = {}
    flat = [number.setdefault(value, len(number)) for value in values.ravel().tolist()]
    return np.array(flat, np.int32).reshape(values.shape)


def noise(seed, height, width, channels, blur=0.0):
    values = np.random.default_rng(seed).uniform(0, 255, (height, width, channels)).astype(np.float32)
    return cv2.GaussianBlur(values, (0, 0), blur).reshape(values.shape) if blur else values


def checkerboard(height, width, channels, cell=1):
    y, x = np.mgrid[:height, :width] // cell
    return ((y + x) % 2 * 255.0)[..., None].repeat(channels, axis=2).astype(np.float32)


@pytest.mark.parametrize("used", SUBSETS, ids=name)
def test_noise(used):
    for seed, (height, width, channels, k) in enumerate(
        [(7, 9, 3, 60), (9, 6, 1, 100), (6, 6, 2, 30), (16, 16, 3, 400)]
    ):
        check_image(noise(seed, height, width, channels), k, 2, [used])


@pytest.mark.parametrize("used", SUBSETS, ids=name)
def test_many_ties(used):
    """In a grid of equal cells most pairs are equally similar, and the indices decide."""
    board = checkerboard(8, 10, 3, 2)
    y, x = np.mgrid[:8, :10]
    check(relabelled(y // 2 * 5 + x // 2), board, [used])
    check(relabelled(y // 2 * 5 + x // 2), np.full((8, 10, 1), 77, np.float32), [used])
    check(relabelled(y[:4, :6] * 6 + x[:4, :6]), checkerboard(4, 6, 2), [used])
    check(np.arange(20, dtype=np.int32).reshape(1, 20), np.zeros((1, 20, 3), np.float32), [used])


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.integers(0, 9)),
    st.integers(1, 3),
    st.sampled_from([0, 1, 5]),
    st.sampled_from(SUBSETS),
)
def test_any_labels(values, channels, seed, used):
    """Segments in several pieces and with holes; seed 0 stands for one colour."""
    colours = noise(seed, *values.shape, channels, 1) if seed else np.full((*values.shape, channels), 9)
    check(relabelled(values), colours.astype(np.float32), [used])


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(1, 3)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 50, 60, 128, 255]))
    ),
    st.sampled_from([1, 30, 100, 300]),
    st.sampled_from(SUBSETS),
)
def test_any_small_image(colours, k, used):
    check_image(colours, k, 4 if colours.size < 200 else 8, [used])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (1, 25), (25, 1), (2, 13)])
def test_narrow(height, width):
    check_image(noise(1, height, width, 3), 20, 1, SUBSETS[::3])


def test_one_segment():
    for hierarchy in check(np.zeros((4, 5), np.int32), noise(0, 4, 5, 3)):
        assert hierarchy.merges.shape == (0, 2)
        assert hierarchy.boxes.tolist() == [[0, 0, 5, 4]]


@pytest.mark.parametrize(
    "used", [Similarities(True, True, True, True), Similarities(False, True, True, True)]
)
def test_a_larger_image(used):
    """Long chains of neighbours and many stale pairs in the heap."""
    colours = noise(3, 48, 64, 3, 1.5)
    hierarchy = check_image(colours, 15, 12, [used])[0]
    assert len(hierarchy.merges) > 60


def test_a_segment_with_many_neighbours():
    """One long segment touches all other segments, so that every step renews every pair."""
    labels = np.zeros((9, 31), np.int32)
    labels[1::2, 1::2] = np.arange(1, 1 + 4 * 15).reshape(4, 15)
    used = Similarities(True, True, True, True)
    check(relabelled(labels), noise(4, 9, 31, 3, 1), [used, Similarities(False, False, True, False)])


def test_the_smallest_are_joined_first_by_size():
    labels = np.array([[0, 0, 0, 0, 1, 2, 2, 2]], np.int32)
    regions = measure(
        labels, *(np.zeros((1, 8, size), dtype) for size, dtype in ((1, np.uint8), (4, np.int8)))
    )
    # 1 with 2 makes 4 pixels, 1 with 0 makes 5.
    assert group(regions, Similarities(False, False, True, False)).merges.tolist() == [[1, 2], [0, 3]]


def test_a_segment_in_a_hole_is_joined_first_by_fill():
    labels = np.array([[0, 0, 0, 2], [0, 1, 0, 2], [0, 0, 0, 2]], np.int32)
    regions = measure(
        labels, *(np.zeros((3, 4, size), dtype) for size, dtype in ((1, np.uint8), (4, np.int8)))
    )
    assert group(regions, Similarities(False, False, False, True)).merges.tolist()[0] == [0, 1]


def test_similar_colours_are_joined_first():
    labels = np.array([[0, 0, 1, 1, 2, 2]], np.int32)
    colours = np.array([[0, 0, 9, 9, 9, 9]], np.uint8)[..., None]
    regions = measure(labels, colours, np.zeros((1, 6, 4), np.int8))
    assert group(regions, Similarities(True, False, False, False)).merges.tolist() == [[1, 2], [0, 3]]


def test_similar_textures_are_joined_first():
    """Derivatives of the same size in opposite directions are not similar."""
    labels = np.array([[0, 0, 1, 1, 2, 2]], np.int32)
    textures = np.array([[-5, -5, 5, 5, 5, 5]], np.int8)[..., None].repeat(4, axis=2)
    regions = measure(labels, np.zeros((1, 6, 1), np.uint8), textures)
    assert group(regions, Similarities(False, True, False, False)).merges.tolist() == [[1, 2], [0, 3]]


def test_the_regions_are_left_alone():
    colours = noise(2, 12, 12, 3, 1)
    regions = measure(segment(sorted_edges(colours, 0.8), 20, 4), colour_bins(colours), texture_bins(colours))
    before = [array.copy() for array in regions]
    first = [group(regions, used) for used in SUBSETS]
    again = [group(regions, used) for used in SUBSETS]
    for array, copy in zip(regions, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    for hierarchy, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(hierarchy.merges, repeated.merges)
    # Most subsets of similarities build different trees.
    assert len({hierarchy.merges.tobytes() for hierarchy in first}) > 8
