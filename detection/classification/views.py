"""Views of an image: the parts whose scores are averaged to test a classifier (SPP-net §3.1).

A view is a box on the resized image; the part in the box may be mirrored.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice

ViewName = Literal["centre", "ten", "full", "multi", "multi+full"]
VIEW_NAMES: tuple[ViewName, ...] = get_args(ViewName)

# The paper's networks see 224 x 224 pixels; all its scales are relative to this size.
_PAPER_SIZE = 224
# Largest ratio of the sides of an image. Photographs do not reach it, and without a limit the resized image
# of a strip would have no bound.
_LONGEST = 16.0

# The position of a view: shares of the horizontal room to its left, and of the vertical room above it.
_Position = tuple[float, float]
_CENTRE: _Position = (0.5, 0.5)
_CORNERS: tuple[_Position, ...] = ((0, 0), (1, 0), (0, 1), (1, 1))
_SIDES: tuple[_Position, ...] = ((0.5, 0), (0, 0.5), (1, 0.5), (0.5, 1))


@dataclass(frozen=True)
class ViewSettings:
    """Sizes of views in pixels.

    Attributes:
        size: side of a view; the size of the network's input in training (224 in the paper).
        scale: short side of the resized image for ``centre``, ``ten`` and ``full`` (256: §3.1.1, §3.1.4).
        scales: short sides of the resized image for ``multi`` (§3.1.5).

    Raises:
        InputError: there is no scale, or a scale is below the view's size.

    Example:
        >>> ViewSettings.proportional(112)
        ViewSettings(size=112, scale=128, scales=(112, 128, 150, 180, 224, 280))
    """

    size: int = _PAPER_SIZE
    scale: int = 256
    scales: tuple[int, ...] = (224, 256, 300, 360, 448, 560)

    def __post_init__(self) -> None:
        if self.size < 1 or not self.scales or min(self.scale, *self.scales) < self.size:
            raise InputError(
                f"view size {self.size} with scale {self.scale} and scales {self.scales}: "
                "give at least one scale, none below the view's size"
            )

    @classmethod
    def proportional(cls, size: int) -> "ViewSettings":
        """Returns the paper's scales in proportion to another view size: for 112, half of each."""
        paper = cls()
        scaled = [round(scale * size / _PAPER_SIZE) for scale in (paper.scale, *paper.scales)]
        return cls(size, scaled[0], tuple(scaled[1:]))


@dataclass(frozen=True, eq=False)
class ScaleViews:
    """The views of an image at one scale.

    Attributes:
        height, width: size of the image at this scale, in pixels.
        boxes: float32 (N, 4), xyxy, 0-based pixel edges of the resized image, right and bottom exclusive;
            whole numbers.
        flipped: bool (N,), true if the part in the box is mirrored left to right.
    """

    height: int
    width: int
    boxes: FloatArray
    flipped: BoolArray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def mirrored_boxes(self) -> FloatArray:
        """The boxes on the mirrored image, float32 (N, 4)."""
        mirrored: FloatArray = self.boxes[:, [2, 1, 0, 3]]
        mirrored[:, [0, 2]] = self.width - mirrored[:, [0, 2]]
        return mirrored


def make_views(
    name: ViewName, height: int, width: int, settings: ViewSettings | None = None
) -> list[ScaleViews]:
    """Returns the views of an image, scale by scale.

    - ``centre``: one view.
    - ``ten``: the centre and the four corners, each also mirrored.
    - ``full``: the whole image, not square (§3.1.4).
    - ``multi`` (§3.1.5): at each of the six scales the centre, the corners and the middles of the sides, each
      also mirrored: 18. At the scale of the view's size these positions lie in a row, and 6 views remain: the
      centre and the two ends. 96 in total.
    - ``multi+full``: the 96 views of ``multi``, the full image and its mirror image: 98.

    All 96 views have equal weight, even if some coincide. At the smallest scale the six views of a square
    image are three times the whole image and three times its mirror image, so the scale has the same weight
    for every image.

    Args:
        name: the name of the views.
        height: the height of the image, in pixels.
        width: the width of the image, in pixels.
        settings: the sizes; None: the paper's sizes.

    Returns:
        one entry per scale, in the order of the settings; centres between pixels are rounded down.

    Raises:
        InputError: the name is unknown, or the image is more than 16 times as long as wide.

    Example:
        >>> (views,) = make_views("centre", height=375, width=500)
        >>> views.height, views.width, views.boxes.tolist()
        (256, 341, [[58.0, 16.0, 282.0, 240.0]])
        >>> [len(views) for views in make_views("multi", height=375, width=500)]
        [6, 18, 18, 18, 18, 18]
    """
    check_choice("views", name, ViewName)
    settings = settings or ViewSettings()
    corners, sides = (_CENTRE, *_CORNERS), (_CENTRE, *_CORNERS, *_SIDES)
    if name == "centre":
        return [_at(height, width, settings.scale, settings.size, (_CENTRE,), mirror=False)]
    if name == "ten":
        return [_at(height, width, settings.scale, settings.size, corners, mirror=True)]
    if name == "full":
        return [_full(height, width, settings.scale, mirror=False)]
    views = []
    for scale in settings.scales:
        ends: tuple[_Position, ...] = (_CENTRE, (0, 0), (1, 1))
        positions = ends if scale == settings.size else sides
        views.append(_at(height, width, scale, settings.size, positions, mirror=True))
    if name == "multi":
        return views
    full = _full(height, width, settings.scale, mirror=True)
    if settings.scale not in settings.scales:
        return [*views, full]
    # Joined with the views of the same scale, so that the scale takes one pass through the convolutions.
    index = settings.scales.index(settings.scale)
    views[index] = _joined(views[index], full)
    return views


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Computes height and width of an image that is resized to a short side of ``short_side`` pixels.

    Raises:
        InputError: the image is more than 16 times as long as wide.

    Example:
        >>> resized_size(375, 500, short_side=256)
        (256, 341)
    """
    if max(height, width) > _LONGEST * min(height, width):
        raise InputError(f"{width}x{height} pixels: over {_LONGEST:.0f} times as long as wide; cut it")
    factor = short_side / min(height, width)
    return round(height * factor), round(width * factor)


def resize(image: Image, height: int, width: int) -> Image:
    """Resizes an image, uint8 (H, W, 3), bilinearly."""
    if image.shape[:2] == (height, width):
        return image
    resized: Image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return resized


def _at(
    height: int, width: int, scale: int, size: int, positions: tuple[_Position, ...], mirror: bool
) -> ScaleViews:
    height, width = resized_size(height, width, scale)
    corners = [(math.floor(x * (width - size)), math.floor(y * (height - size))) for x, y in positions]
    return _views(height, width, [(x, y, x + size, y + size) for x, y in corners], mirror)


def _full(height: int, width: int, scale: int, mirror: bool) -> ScaleViews:
    height, width = resized_size(height, width, scale)
    return _views(height, width, [(0, 0, width, height)], mirror)


def _views(height: int, width: int, boxes: list[tuple[int, int, int, int]], mirror: bool) -> ScaleViews:
    repeated = boxes * 2 if mirror else boxes
    flipped = np.arange(len(repeated)) >= len(boxes)
    return ScaleViews(height, width, np.array(repeated, np.float32), flipped)


def _joined(first: ScaleViews, second: ScaleViews) -> ScaleViews:
    return ScaleViews(
        first.height,
        first.width,
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.flipped, second.flipped]),
    )
