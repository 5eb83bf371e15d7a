"""Hierarchical grouping (IJCV 2013, Algorithm 1)."""

import heapq
from typing import NamedTuple

import numpy as np

from sppnet.common.arrays import FloatArray, Int32Array, IntArray
from sppnet.common.kernels import kernel
from sppnet.proposals.selective_search.regions import Regions

# Normalised histograms are whole numbers that sum to at most 2**24. float32 holds all their sums exactly, so
# the similarities do not depend on the order in which a processor adds.
_HISTOGRAM_SUM = 1 << 24


class Similarities(NamedTuple):
    """The choice of similarities to add: each of the four has weight 0 or 1 (IJCV 2013, §3.2)."""

    colour: bool
    texture: bool
    size: bool
    fill: bool


class Hierarchy(NamedTuple):
    """A tree of regions: 0 to R - 1 are the segments, merge m makes region R + m, the last is the image.

    Attributes:
        merges: int32 (R - 1, 2), the two regions that each merge joins, lower index first.
        boxes: int32 (2 R - 1, 4), xyxy, right and bottom exclusive.
    """

    merges: Int32Array
    boxes: Int32Array


def group(regions: Regions, similarities: Similarities) -> Hierarchy:
    """Joins the most similar pair of neighbours until one region is left.

    The similarity is the sum of the chosen terms, each from 0 to 1: colour, the intersection of the
    L1-normalised colour histograms; texture, the intersection of the L1-normalised texture histograms; size,
    ``1 - (size_i + size_j) / size_image``; fill, ``1 - (size_box - size_i - size_j) / size_image``, where
    ``size_box`` is the size of the box around both regions. Of equally similar pairs, the pair with the lower
    first index is joined, then the pair with the lower second index. Size, box and histogram counts of a new
    region are computed from its two parts; no pixel is read again.

    Args:
        regions: the segments of one image.
        similarities: the terms to add; at least one is true.
    """
    count = len(regions.sizes)
    sizes = np.zeros(2 * count - 1, np.int64)
    sizes[:count] = regions.sizes
    boxes = np.zeros((2 * count - 1, 4), np.int32)
    boxes[:count] = regions.boxes
    colour = _with_room(regions.colour, similarities.colour)
    texture = _with_room(regions.texture, similarities.texture)
    merges = _group(sizes, boxes, colour, texture, regions.neighbours.astype(np.int64), similarities)
    return Hierarchy(merges, boxes)


def _with_room(counts: Int32Array, used: bool) -> Int32Array:
    """Copies counts (R, bins) into an array with rows for all regions, or without rows if it is not used."""
    rows = 2 * len(counts) - 1 if used else 0
    extended = np.zeros((rows, counts.shape[1]), np.int32)
    extended[: len(counts)] = counts[:rows]
    return extended


@kernel()
def _normalise(counts: Int32Array, normalised: FloatArray, region: int) -> None:
    total = 0
    for b in range(counts.shape[1]):
        total += counts[region, b]
    factor = _HISTOGRAM_SUM / total
    for b in range(counts.shape[1]):
        normalised[region, b] = np.floor(counts[region, b] * factor)


# The values are whole numbers that sum to at most 2**24, so adding them in any order ("reassoc") is exact.
@kernel(fastmath={"reassoc", "nnan", "nsz"})
def _intersection(normalised: FloatArray, i: int, j: int) -> np.float32:
    total = np.float32(0)
    for b in range(normalised.shape[1]):
        total += min(normalised[i, b], normalised[j, b])
    return total


@kernel()
def _similarity(
    sizes: IntArray,
    boxes: Int32Array,
    colour: FloatArray,
    texture: FloatArray,
    i: int,
    j: int,
    image: int,
    use: Similarities,
) -> float:
    total = 0.0
    if use.colour:
        total += float(_intersection(colour, i, j)) / _HISTOGRAM_SUM
    if use.texture:
        total += float(_intersection(texture, i, j)) / _HISTOGRAM_SUM
    both = int(sizes[i] + sizes[j])
    if use.size:
        total += 1.0 - both / image
    if use.fill:
        width = max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0])
        height = max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1])
        total += 1.0 - (np.int64(width) * height - both) / image
    return total


@kernel()
def _alive(joined: IntArray, region: int) -> int:
    """Returns the region that ``region`` is part of after the merges so far."""
    while joined[region] >= 0:
        if joined[joined[region]] >= 0:
            joined[region] = joined[joined[region]]
        region = joined[region]
    return region


@kernel()
def _join(counts: Int32Array, normalised: FloatArray, i: int, j: int, new: int) -> None:
    for b in range(counts.shape[1]):
        counts[new, b] = counts[i, b] + counts[j, b]
    _normalise(counts, normalised, new)


@kernel()
def _group(
    sizes: IntArray,
    boxes: Int32Array,
    colour_counts: Int32Array,
    texture_counts: Int32Array,
    pairs: IntArray,
    use: Similarities,
) -> Int32Array:
    """Runs the grouping: fills ``sizes``, ``boxes`` and the counts from row R on, and returns the merges."""
    regions = len(sizes)
    segments = (regions + 1) // 2
    colour = np.empty(colour_counts.shape, np.float32)
    texture = np.empty(texture_counts.shape, np.float32)
    image = 0
    for region in range(segments):
        image += sizes[region]
        if use.colour:
            _normalise(colour_counts, colour, region)
        if use.texture:
            _normalise(texture_counts, texture, region)

    # The neighbours of each region are a chain of entries. An entry names a region, which may meanwhile have
    # become a part of another region. Each pair starts as one entry in the chain of either region.
    first_entry = np.full(regions, -1, np.int64)
    entry_region = np.empty(2 * len(pairs), np.int64)
    entry_next = np.empty(2 * len(pairs), np.int64)
    heap = [(0.0, 0, 0) for _ in range(0)]  # Empty; numba needs the type of its items.
    for e in range(len(pairs)):
        i, j = pairs[e, 0], pairs[e, 1]
        entry_region[2 * e] = j
        entry_next[2 * e] = first_entry[i]
        first_entry[i] = 2 * e
        entry_region[2 * e + 1] = i
        entry_next[2 * e + 1] = first_entry[j]
        first_entry[j] = 2 * e + 1
        similarity = _similarity(sizes, boxes, colour, texture, int(i), int(j), image, use)
        heap.append((-similarity, int(i), int(j)))
    heapq.heapify(heap)

    joined = np.full(regions, -1, np.int64)
    seen = np.full(regions, -1, np.int64)
    merges = np.empty((segments - 1, 2), np.int32)
    new = segments
    while new < regions:
        _, i, j = heapq.heappop(heap)
        # The heap still holds pairs whose regions have been joined meanwhile.
        if joined[i] >= 0 or joined[j] >= 0:
            continue
        merges[new - segments, 0] = i
        merges[new - segments, 1] = j
        sizes[new] = sizes[i] + sizes[j]
        for side in range(2):
            boxes[new, side] = min(boxes[i, side], boxes[j, side])
            boxes[new, side + 2] = max(boxes[i, side + 2], boxes[j, side + 2])
        if use.colour:
            _join(colour_counts, colour, i, j, new)
        if use.texture:
            _join(texture_counts, texture, i, j, new)
        joined[i] = new
        joined[j] = new
        seen[new] = new
        # The new chain takes over the entries of both parts, each neighbour once.
        for side in range(2):
            entry = first_entry[i if side == 0 else j]
            while entry >= 0:
                following = entry_next[entry]
                neighbour = _alive(joined, int(entry_region[entry]))
                if seen[neighbour] != new:
                    seen[neighbour] = new
                    entry_region[entry] = neighbour
                    entry_next[entry] = first_entry[new]
                    first_entry[new] = entry
                    similarity = _similarity(sizes, boxes, colour, texture, neighbour, new, image, use)
                    heapq.heappush(heap, (-similarity, neighbour, new))
                entry = following
        new += 1
    return merges
