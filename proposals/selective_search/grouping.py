"""Hierarchical grouping (IJCV 2013, Algorithm 1)."""

import heapq
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from data.types import FloatArray
from proposals.selective_search.regions import Regions
from proposals.selective_search.segmentation import IntArray

# Normalised histograms are kept as whole numbers that sum to at most 2**24: float32 holds every sum of them
# exactly, so the similarities do not depend on the order in which a processor adds.
_ONE = 1 << 24


class Similarities(NamedTuple):
    """Which of the four similarities are added (weights 0 or 1, §3.2)."""

    colour: bool
    texture: bool
    size: bool
    fill: bool


class Hierarchy(NamedTuple):
    """A tree of regions: 0 to R - 1 are the segments, R + m is what merge m made, the last one the image.

    Attributes:
        merges: int32 (R - 1, 2), the two regions that each step joined, lower index first.
        boxes: int32 (2 R - 1, 4), xyxy, right and bottom exclusive.
    """

    merges: IntArray
    boxes: IntArray


def group(regions: Regions, similarities: Similarities) -> Hierarchy:
    """Joins the most similar pair of neighbours until one region is left.

    The similarity is the sum of those chosen, all within 0 and 1: intersection of the L1-normalised colour
    histograms; of the texture histograms; ``1 - (size_i + size_j) / size_image``;
    ``1 - (size_box - size_i - size_j) / size_image``, where ``size_box`` is of the box around both. Of
    equally similar pairs the one with the lower first, then the lower second index is joined. Sizes,
    boxes and histogram counts of a new region are those of its parts added; no pixel is touched.

    Args:
        regions: of one segmentation.
        similarities: at least one of them.
    """
    merges, boxes = _group(
        regions.sizes,
        regions.boxes,
        regions.colour,
        regions.texture,
        regions.neighbours.astype(np.int64),
        *(bool(used) for used in similarities),
    )
    return Hierarchy(merges, boxes)


@numba.njit(cache=True, nogil=True)
def _normalise(counts: IntArray, normalised: FloatArray, region: int) -> None:
    total = counts[region].sum()
    scale = _ONE / total
    for b in range(counts.shape[1]):
        normalised[region, b] = np.floor(counts[region, b] * scale)


# Whole numbers below 2**24: adding them in any order is exact, so "reassoc" changes no result.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _intersection(normalised: FloatArray, i: int, j: int) -> np.float32:
    total = np.float32(0)
    for b in range(normalised.shape[1]):
        total += min(normalised[i, b], normalised[j, b])
    return total


@numba.njit(cache=True, nogil=True)
def _similarity(
    sizes: NDArray[np.int64],
    boxes: IntArray,
    colour: FloatArray,
    texture: FloatArray,
    i: int,
    j: int,
    image: int,
    use: tuple[bool, bool, bool, bool],
) -> float:
    total = 0.0
    if use[0]:
        total += float(_intersection(colour, i, j)) / _ONE
    if use[1]:
        total += float(_intersection(texture, i, j)) / _ONE
    both = sizes[i] + sizes[j]
    if use[2]:
        total += 1.0 - both / image
    if use[3]:
        width = max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0])
        height = max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1])
        total += 1.0 - (np.int64(width) * height - both) / image
    return total


@numba.njit(cache=True, nogil=True)
def _alive(joined: NDArray[np.int64], region: int) -> int:
    """The region that ``region`` is part of by now."""
    while joined[region] >= 0:
        if joined[joined[region]] >= 0:
            joined[region] = joined[joined[region]]
        region = joined[region]
    return region


@numba.njit(cache=True, nogil=True)
def _group(
    segment_sizes: IntArray,
    segment_boxes: IntArray,
    colour_counts: IntArray,
    texture_counts: IntArray,
    pairs: NDArray[np.int64],
    c: bool,
    t: bool,
    s: bool,
    f: bool,
) -> tuple[IntArray, IntArray]:
    segments = len(segment_sizes)
    regions = 2 * segments - 1
    use = (c, t, s, f)
    sizes = np.empty(regions, np.int64)
    sizes[:segments] = segment_sizes
    boxes = np.empty((regions, 4), np.int32)
    boxes[:segments] = segment_boxes
    # A histogram that no similarity asks for gets no rows.
    colour_sum = np.empty((regions if c else 0, colour_counts.shape[1]), np.int32)
    texture_sum = np.empty((regions if t else 0, texture_counts.shape[1]), np.int32)
    colour = np.empty(colour_sum.shape, np.float32)
    texture = np.empty(texture_sum.shape, np.float32)
    for region in range(segments):
        if c:
            colour_sum[region] = colour_counts[region]
            _normalise(colour_sum, colour, region)
        if t:
            texture_sum[region] = texture_counts[region]
            _normalise(texture_sum, texture, region)
    image = sizes[:segments].sum()

    # Neighbours of each region as chains of entries; an entry names a region that may be part of another
    # by now. Each pair starts with an entry at either end.
    first_entry = np.full(regions, -1, np.int32)
    entry_region = np.empty(max(2 * len(pairs), 1), np.int64)
    entry_next = np.empty(max(2 * len(pairs), 1), np.int32)
    heap = [(0.0, 0, 0) for _ in range(0)]  # Empty, of a known type.
    for e in range(len(pairs)):
        i, j = int(pairs[e, 0]), int(pairs[e, 1])
        entry_region[2 * e] = j
        entry_next[2 * e] = first_entry[i]
        first_entry[i] = 2 * e
        entry_region[2 * e + 1] = i
        entry_next[2 * e + 1] = first_entry[j]
        first_entry[j] = 2 * e + 1
        heap.append((-_similarity(sizes, boxes, colour, texture, i, j, image, use), i, j))
    heapq.heapify(heap)

    joined = np.full(regions, -1, np.int64)
    seen = np.full(regions, -1, np.int32)
    merges = np.empty((segments - 1, 2), np.int32)
    new = segments
    while new < regions:
        _, i, j = heapq.heappop(heap)
        # Pairs of regions that are gone stay in the heap until they come up.
        if joined[i] >= 0 or joined[j] >= 0:
            continue
        merges[new - segments] = (i, j)
        sizes[new] = sizes[i] + sizes[j]
        for side in range(2):
            boxes[new, side] = min(boxes[i, side], boxes[j, side])
            boxes[new, side + 2] = max(boxes[i, side + 2], boxes[j, side + 2])
        if c:
            colour_sum[new] = colour_sum[i] + colour_sum[j]
            _normalise(colour_sum, colour, new)
        if t:
            texture_sum[new] = texture_sum[i] + texture_sum[j]
            _normalise(texture_sum, texture, new)
        joined[i] = new
        joined[j] = new
        seen[new] = new
        # The new chain takes over the entries of both, each neighbour once.
        for part in (i, j):
            entry = first_entry[part]
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
    return merges, boxes
