"""Windows of the image to cells of the map: scale choice and the two projections (SPP-net §4, appendix A)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.detection.backbones.geometry import Geometry

Projection = Literal["paper", "released"]
ScaleRule = Literal["paper", "released"]
Windows = NDArray[np.int32]

# Paper §4.1: the scale at which the window is closest to 224 x 224 pixels. The released code aims at 13 cells
# of 16 pixels.
_TARGET_SIDE = {"paper": 224.0, "released": 208.0}
# Released code (spp_config): every side of a window moves inwards by 6.5 pixels, at stride 16.
_RELEASED_SHRINK = 6.5 / 16


def resize_factor(height: int, width: int, short_side: int, long_side: int) -> float:
    """The factor that brings the short side to ``short_side``, or the long one to ``long_side`` if less."""
    return min(short_side / min(height, width), long_side / max(height, width))


def choose_scale(boxes: FloatArray, factors: FloatArray, rule: ScaleRule = "paper") -> IntArray:
    """The scale each window is pooled from.

    Args:
        boxes: float32 (N, 4), xyxy, pixels of the original image.
        factors: float (S,), the resize factor of each scale.
        rule: ``paper``: the number of pixels of the scaled window is closest to 224 x 224.
            ``released``: the scale is closest to the one at which the window has 208 x 208 pixels.

    Returns:
        int64 (N,), indices into ``factors``.
    """
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    target = _TARGET_SIDE[rule]
    if rule == "paper":
        distance = np.abs((side[:, None] * factors) ** 2 - target**2)
    else:
        distance = np.abs(factors - target / np.maximum(side, 1)[:, None])
    chosen: IntArray = np.argmin(distance, axis=1)
    return chosen


def project(
    boxes: FloatArray,
    factor: tuple[float, float],
    geometry: Geometry,
    map_size: tuple[int, int],
    rule: Projection = "paper",
) -> Windows:
    """Projects windows onto a feature map.

    ``paper`` (appendix A): the cells whose receptive fields are centred strictly inside the window's first
    and last pixels, ``floor(x / S) + 1`` to ``ceil(x / S) - 1``, with the network's offset taken off x.
    ``released``: the cells centred nearest to the window's sides after these moved inwards by 6.5 pixels.
    A window that holds no cell gets the one in the middle of the crossed limits; cells outside the map
    become its nearest.

    Args:
        boxes: float32 (N, 4), xyxy, pixels of the original image, right and bottom exclusive.
        factor: resize factors in x and y from the original image to the network's input.
        geometry: the network's stride and centre of cell 0.
        map_size: height and width of the feature map in cells.
        rule: which projection.

    Returns:
        int32 (N, 4), x0 y0 x1 y1 in cells, right and bottom exclusive; at least one cell each.
    """
    cells = np.empty((len(boxes), 4), np.int32)
    for axis in (0, 1):
        # The first and last pixel of the scaled window, as distances from the centre of cell 0, in cells.
        first = (boxes[:, axis].astype(np.float64) * factor[axis] - geometry.offset) / geometry.stride
        last = (boxes[:, axis + 2].astype(np.float64) * factor[axis] - 1 - geometry.offset) / geometry.stride
        if rule == "paper":
            low, high = np.floor(first) + 1, np.ceil(last) - 1
        else:
            low = np.floor(first + _RELEASED_SHRINK + 0.5)
            high = np.ceil(last - _RELEASED_SHRINK - 0.5)
        middle = np.floor((low + high) / 2)
        crossed = low > high
        limit = map_size[1 - axis] - 1
        cells[:, axis] = np.clip(np.where(crossed, middle, low), 0, limit)
        cells[:, axis + 2] = np.clip(np.where(crossed, middle, high), 0, limit) + 1
    return cells
