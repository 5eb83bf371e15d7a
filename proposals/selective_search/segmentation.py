"""Graph segmentation (Felzenszwalb and Huttenlocher, IJCV 2004) that sorts edges once for all thresholds."""

from typing import NamedTuple

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Int32Array
from sppnet.common.kernels import kernel

Labels = Int32Array
# Weights are distances of colours from 0 to 255, so at most 255 * sqrt(3) < 442. They are rounded to steps of
# 1/128, far finer than 8-bit pixels resolve, because whole numbers can be sorted by counting.
_STEPS = 128
_MAX_WEIGHT = 442


class SortedEdges(NamedTuple):
    """The edges between 8-neighbours of an image, lightest first; equal weights in scan order.

    Attributes:
        codes: int32 (E,), 4 * pixel + direction. The pixel is row * W + column of the upper or left end;
            the directions are 0 right, 1 down left, 2 down, 3 down right.
        starts: int32 (weights + 1,); the edges of weight w / 128 are ``codes[starts[w] : starts[w + 1]]``.
        shape: height and width of the image, pixels.
    """

    codes: Int32Array
    starts: Int32Array
    shape: tuple[int, int]


def sorted_edges(colours: FloatArray, sigma: float) -> SortedEdges:
    """Smooths an image and sorts the edges between its pixels by the distance of their colours.

    Weights are rounded to 1/128 (our choice, for speed). With fewer than three channels the squared distance
    is multiplied by 3 / C, as if channels were repeated, so that k means the same in every colour space.

    Args:
        colours: float32 (H, W, C), 0 to 255, C from 1 to 3.
        sigma: sigma of the Gaussian, in pixels; 0: no smoothing.
    """
    height, width, channels = colours.shape
    if sigma > 0:
        blurred = cv2.GaussianBlur(colours, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        colours = np.asarray(blurred, np.float32).reshape(colours.shape)
    three = np.zeros((height, width, 3), np.float32)
    three[..., :channels] = colours
    codes, starts = _sorted_edges(three, np.float32(_STEPS * np.sqrt(3 / channels)))
    return SortedEdges(codes, starts, (height, width))


def segment(edges: SortedEdges, k: float, min_size: int) -> Labels:
    """Segments an image.

    Two components merge along an edge if, for each of them, the edge is no heavier than the heaviest edge in
    the component's tree plus k / size of the component. Afterwards, components below ``min_size`` merge with
    the neighbour across their lightest edge, as in the authors' code.

    Args:
        edges: the edges of the image, from `sorted_edges`.
        k: the threshold, for colours from 0 to 255; a larger threshold makes larger segments.
        min_size: least size of a segment, in pixels.

    Returns:
        int32 (H, W) labels, 0-based, numbered in scan order of each segment's first pixel.
    """
    height, width = edges.shape
    labels: Labels = _segment(edges.codes, edges.starts, height, width, np.float32(k), min_size)
    return labels.reshape(height, width)


@kernel()
def _sorted_edges(smooth: FloatArray, steps: np.float32) -> tuple[Int32Array, Int32Array]:
    height, width, _ = smooth.shape
    # Edges that leave the image keep the weight -1.
    weights = np.full(4 * height * width, -1, np.int32)
    starts = np.zeros(_MAX_WEIGHT * _STEPS + 2, np.int32)
    half = np.float32(0.5)
    for y in range(height):
        for direction in range(4):
            dy = 0 if direction == 0 else 1
            dx = 1 if direction == 0 else direction - 2
            if y + dy >= height:
                continue
            for x in range(max(0, -dx), width - max(0, dx)):
                a = smooth[y, x, 0] - smooth[y + dy, x + dx, 0]
                b = smooth[y, x, 1] - smooth[y + dy, x + dx, 1]
                c = smooth[y, x, 2] - smooth[y + dy, x + dx, 2]
                weight = min(int(np.sqrt(a * a + b * b + c * c) * steps + half), _MAX_WEIGHT * _STEPS)
                weights[4 * (y * width + x) + direction] = weight
                starts[weight + 1] += 1
    for weight in range(1, len(starts)):
        starts[weight] += starts[weight - 1]
    position = starts.copy()
    codes = np.empty(starts[-1], np.int32)
    for code in range(len(weights)):
        weight = weights[code]
        if weight >= 0:
            codes[position[weight]] = code
            position[weight] += 1
    return codes, starts


@kernel()
def _find(parent: Int32Array, pixel: int) -> int:
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@kernel()
def _segment(
    codes: Int32Array, starts: Int32Array, height: int, width: int, k: np.float32, min_size: int
) -> Int32Array:
    pixels = height * width
    offsets = np.array([1, width - 1, width, width + 1], np.int32)
    parent = np.arange(pixels).astype(np.int32)
    size = np.ones(pixels, np.int32)
    threshold = np.full(pixels, k)
    # Only edges that have joined nothing can later join components below the least size.
    between = np.empty(len(codes), np.int32)
    left = 0
    for step in range(len(starts) - 1):
        weight = np.float32(step) / np.float32(_STEPS)
        for e in range(starts[step], starts[step + 1]):
            code = codes[e]
            pixel = code >> 2
            i = _find(parent, pixel)
            j = _find(parent, pixel + offsets[code & 3])
            if i == j:
                continue
            if weight <= threshold[i] and weight <= threshold[j]:
                if size[i] < size[j]:
                    i, j = j, i
                parent[j] = i
                size[i] += size[j]
                threshold[i] = weight + k / np.float32(size[i])
            else:
                between[left] = code
                left += 1
    for e in range(left):
        code = between[e]
        pixel = code >> 2
        i = _find(parent, pixel)
        j = _find(parent, pixel + offsets[code & 3])
        if i != j and (size[i] < min_size or size[j] < min_size):
            if size[i] < size[j]:
                i, j = j, i
            parent[j] = i
            size[i] += size[j]
    labels = np.empty(pixels, np.int32)
    root_labels = np.full(pixels, -1, np.int32)
    count = 0
    for pixel in range(pixels):
        root = _find(parent, pixel)
        if root_labels[root] < 0:
            root_labels[root] = count
            count += 1
        labels[pixel] = root_labels[root]
    return labels
