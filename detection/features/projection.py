"""Projects boxes of the image to windows of the feature map, and chooses scales (SPP-net §4, appendix A)."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray

# Only for type checkers: this package imports torch, which pooling does not need.
if TYPE_CHECKING:
    from sppnet.detection.backbones.geometry import Geometry

Projection = Literal["paper", "released"]
ScaleRule = Literal["paper", "released"]
# int32 (N, 4): cells x0 y0 x1 y1 of a feature map, right and bottom exclusive.
Windows = NDArray[np.int32]

# Pixels. Paper §4.1: the scale at which the box is closest to 224 x 224 pixels. The released code aims at 13
# cells of 16 pixels.
_TARGET_SIDE = {"paper": 224.0, "released": 208.0}
# In cells. Released code (spp_config): every side of a box moves inwards by 6.5 pixels, at stride 16.
_RELEASED_SHRINK = 6.5 / 16


def resize_factor(height: int, width: int, short_side: int, long_side: int) -> float:
    """Computes the factor that resizes an image to a scale, with a limit on the long side.

    Args:
        height: the height of the image, in pixels.
        width: the width of the image, in pixels.
        short_side: the scale: the short side of the resized image, in pixels.
        long_side: largest long side of the resized image, in pixels.

    Example:
        >>> resize_factor(480, 640, 240, 2500), resize_factor(20, 1000, 240, 2500)
        (0.5, 2.5)
    """
    return min(short_side / min(height, width), long_side / max(height, width))


def choose_scale(boxes: FloatArray, factors: FloatArray, rule: ScaleRule = "paper") -> IntArray:
    """Chooses the scale that each box is pooled from.

    Args:
        boxes: float32 (N, 4), xyxy, pixels of the original image, right and bottom exclusive.
        factors: float (S,), the resize factor of each scale.
        rule: ``paper``: the area of the resized box is closest to 224 x 224 pixels. ``released``: the factor
            is closest to the factor at which the box has 208 x 208 pixels.

    Returns:
        int64 (N,), indices into ``factors``.

    Example:
        >>> import numpy as np
        >>> boxes = np.array([[0, 0, 224, 224], [10, 10, 66, 66]], np.float32)
        >>> choose_scale(boxes, np.array([1.0, 2.0, 4.0]))
        array([0, 2])
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
    geometry: "Geometry",
    map_size: tuple[int, int],
    rule: Projection = "paper",
) -> Windows:
    """Projects boxes of the image to windows of a feature map.

    ``paper`` (appendix A): the cells whose receptive fields are centred strictly between the box's first and
    last pixels, ``floor(x / S) + 1`` to ``ceil(x / S) - 1``, after the network's offset is subtracted from x.
    ``released``: the cells centred nearest to the box's sides after these moved inwards by 6.5 pixels. A box
    that contains no cell gets the cell in the middle of the crossed limits. Cells outside the map are
    replaced by the nearest cells of the map.

    Args:
        boxes: float32 (N, 4), xyxy, pixels of the original image, right and bottom exclusive.
        factor: resize factors in x and y from the original image to the network's input.
        geometry: the network's stride and centre of cell 0.
        map_size: height and width of the feature map, in cells.
        rule: the projection.

    Returns:
        int32 (N, 4), x0 y0 x1 y1 in cells, right and bottom exclusive; at least one cell each.

    Example:
        >>> import numpy as np
        >>> from sppnet.detection.backbones import Geometry
        >>> zf5 = Geometry(stride=16, offset=20.0, receptive_field=139)
        >>> project(np.array([[20, 40, 70, 90]], np.float32), (1.0, 1.0), zf5, (10, 10))
        array([[1, 2, 4, 5]], dtype=int32)
    """
    windows = np.empty((len(boxes), 4), np.int32)
    for axis in (0, 1):
        # The first and last pixel of the resized box, as distances from the centre of cell 0, in cells.
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
        windows[:, axis] = np.clip(np.where(crossed, middle, low), 0, limit)
        windows[:, axis + 2] = np.clip(np.where(crossed, middle, high), 0, limit) + 1
    return windows
