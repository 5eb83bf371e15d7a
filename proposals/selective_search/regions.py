"""Measures segments for the grouping: sizes, boxes, histograms and neighbours."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, Int32Array, IntArray
from sppnet.common.kernels import kernel
from sppnet.proposals.selective_search.segmentation import Labels

# IJCV 2013, §3.2. Each channel has 25 bins for colour. For texture it has 8 orientations of Gaussian
# derivatives (sigma 1), with 10 bins each.
COLOUR_BINS = 25
TEXTURE_BINS = 10
_TEXTURE_SIGMA = 1.0


class Regions(NamedTuple):
    """The measurements of the segments of one image.

    Attributes:
        sizes: int32 (R,), number of pixels.
        boxes: int32 (R, 4), xyxy, right and bottom exclusive.
        colour: int32 (R, 25 C), counts of pixels; rows sum to C * size.
        texture: int32 (R, 80 C), counts of pixels; rows sum to 8 C * size.
        neighbours: int32 (E, 2), pairs i < j of segments that touch (8-neighbourhood, as in the
            segmentation), sorted, each pair once.
    """

    sizes: Int32Array
    boxes: Int32Array
    colour: Int32Array
    texture: Int32Array
    neighbours: Int32Array


def colour_bins(colours: FloatArray) -> NDArray[np.uint8]:
    """Puts each value into one of 25 equal bins from 0 to 256.

    No whole number except 0 is the edge of a bin, so rounding errors do not move a byte to another bin.

    Args:
        colours: float32 (H, W, C).

    Returns:
        uint8 (H, W, C), 0 to 24.
    """
    bins = np.clip(colours * np.float32(COLOUR_BINS / 256), 0, COLOUR_BINS - 1)
    return np.asarray(bins, np.uint8)


def texture_bins(colours: FloatArray) -> NDArray[np.int8]:
    """Puts the derivatives of each channel in four directions into signed bins.

    A positive derivative counts for the orientation of its direction, a negative one for the opposite
    orientation; for the other orientation of the two it counts as 0. So four signed values hold eight
    orientations. The 10 bins reach from 0 to the channel's largest absolute derivative in the image (the
    paper gives no range), but at least to 1, because the derivatives of a flat channel are rounding errors.

    Args:
        colours: float32 (H, W, C).

    Returns:
        int8 (H, W, 4 C), -9 to 9, channel by channel; directions right, down, down right, down left.
    """
    blurred = cv2.GaussianBlur(colours, (0, 0), _TEXTURE_SIGMA, borderType=cv2.BORDER_REPLICATE)
    bins: NDArray[np.int8] = _texture_bins(np.asarray(blurred, np.float32).reshape(colours.shape))
    return bins


def measure(labels: Labels, colours: NDArray[np.uint8], textures: NDArray[np.int8]) -> Regions:
    """Measures the sizes, boxes, histograms and neighbours of all segments.

    Args:
        labels: int32 (H, W), 0-based, from `segment`.
        colours: uint8 (H, W, C), from `colour_bins`.
        textures: int8 (H, W, 4 C), from `texture_bins`.
    """
    count = int(labels.max()) + 1
    sizes, boxes, colour, texture = _measure(labels, colours, textures, count)
    by_orientation = texture.reshape(count, -1, TEXTURE_BINS)
    by_orientation[..., 0] = sizes[:, None] - by_orientation.sum(axis=2)
    codes = np.unique(_boundary(labels, count))
    neighbours = np.stack([codes // count, codes % count], axis=1).astype(np.int32)
    return Regions(sizes, boxes, colour, texture, neighbours)


@kernel(inline="always")
def _derivatives(
    blurred: FloatArray, y: int, x: int, channel: int
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    height, width, _ = blurred.shape
    above, below = max(y - 1, 0), min(y + 1, height - 1)
    left, right = max(x - 1, 0), min(x + 1, width - 1)
    across = blurred[y, right, channel] - blurred[y, left, channel]
    down = blurred[below, x, channel] - blurred[above, x, channel]
    diagonal = np.float32(np.sqrt(0.5))
    return across, down, (across + down) * diagonal, (down - across) * diagonal


@kernel()
def _texture_bins(blurred: FloatArray) -> NDArray[np.int8]:
    height, width, channels = blurred.shape
    bins = np.empty((height, width, 4 * channels), np.int8)
    for channel in range(channels):
        largest = np.float32(1)
        for y in range(height):
            for x in range(width):
                for value in _derivatives(blurred, y, x, channel):
                    largest = max(largest, abs(value))
        factor = np.float32(TEXTURE_BINS) / largest
        for y in range(height):
            for x in range(width):
                direction = 4 * channel
                for value in _derivatives(blurred, y, x, channel):
                    # Truncation towards 0 keeps the sign and makes bins of equal width.
                    signed_bin = np.int32(value * factor)
                    bins[y, x, direction] = max(min(signed_bin, TEXTURE_BINS - 1), 1 - TEXTURE_BINS)
                    direction += 1
    return bins


@kernel()
def _measure(
    labels: Labels, colours: NDArray[np.uint8], textures: NDArray[np.int8], count: int
) -> tuple[Int32Array, Int32Array, Int32Array, Int32Array]:
    height, width = labels.shape
    channels = colours.shape[2]
    directions = textures.shape[2]
    sizes = np.zeros(count, np.int32)
    boxes = np.zeros((count, 4), np.int32)
    for label in range(count):
        boxes[label, 0] = width
        boxes[label, 1] = height
    colour = np.zeros((count, channels * COLOUR_BINS), np.int32)
    texture = np.zeros((count, 2 * directions * TEXTURE_BINS), np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            sizes[label] += 1
            boxes[label, 0] = min(boxes[label, 0], x)
            boxes[label, 1] = min(boxes[label, 1], y)
            boxes[label, 2] = max(boxes[label, 2], x + 1)
            boxes[label, 3] = max(boxes[label, 3], y + 1)
            for channel in range(channels):
                colour[label, channel * COLOUR_BINS + colours[y, x, channel]] += 1
            for direction in range(directions):
                value = textures[y, x, direction]
                # Most derivatives are in bin 0; `measure` computes its count from the other bins.
                if value > 0:
                    texture[label, 2 * direction * TEXTURE_BINS + value] += 1
                elif value < 0:
                    texture[label, (2 * direction + 1) * TEXTURE_BINS - value] += 1
    return sizes, boxes, colour, texture


@kernel()
def _boundary(labels: Labels, count: int) -> IntArray:
    height, width = labels.shape
    codes = np.empty(4 * height * width, np.int64)
    length = 0
    last = np.int64(-1)
    for y in range(height):
        for x in range(width):
            for direction in range(4):
                y2 = y if direction == 0 else y + 1
                x2 = x + 1 if direction == 0 else x + direction - 2
                if y2 >= height or x2 >= width or x2 < 0 or labels[y, x] == labels[y2, x2]:
                    continue
                low = min(labels[y, x], labels[y2, x2])
                code = np.int64(low) * count + max(labels[y, x], labels[y2, x2])
                # Along a border the same pair comes many times in succession.
                if code != last:
                    codes[length] = code
                    length += 1
                    last = code
    return codes[:length]
