"""Views of an image: the windows whose scores are averaged in testing a classifier (SPP-net §3.1).

A view is a box on the image resized so that its short side has a given length, and whether what lies in the
box is then mirrored.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray, Image
from sppnet.common.errors import InputError

ViewName = Literal["centre", "ten", "full", "multi", "multi+full"]
VIEW_NAMES: tuple[ViewName, ...] = get_args(ViewName)

# The paper's networks see 224 x 224 pixels; all its scales are relative to that.
_PAPER_SIZE = 224
# Longer strips than this do not occur among photographs, and resizing one to a given short side has no bound.
_LONGEST = 16.0

# Places of a window, as the share of the room beside it that lies to its left, and above it.
_Place = tuple[float, float]
_CENTRE: _Place = (0.5, 0.5)
_CORNERS: tuple[_Place, ...] = ((0, 0), (1, 0), (0, 1), (1, 1))
_SIDES: tuple[_Place, ...] = ((0.5, 0), (0, 0.5), (1, 0.5), (0.5, 1))


@dataclass(frozen=True)
class ViewSettings:
    """Sizes of views in pixels.

    Attributes:
        size: side of a view; the network's input in training (224 in the paper).
        scale: short side of the image for ``centre``, ``ten`` and ``full`` (256: §3.1.1 and §3.1.4).
        scales: short sides of the image for ``multi`` (§3.1.5).
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
        """The paper's scales for views of another size: for 112, half of each."""
        paper = cls()
        scaled = [round(one * size / _PAPER_SIZE) for one in (paper.scale, *paper.scales)]
        return cls(size, scaled[0], tuple(scaled[1:]))


@dataclass(frozen=True, eq=False)
class ScaleViews:
    """The views of an image at one scale.

    Attributes:
        height, width: of the image at this scale, pixels.
        boxes: float32 (N, 4), xyxy, 0-based pixel edges of the resized image, right and bottom exclusive;
            whole numbers.
        flipped: bool (N,), whether what the box holds is mirrored left to right.
    """

    height: int
    width: int
    boxes: FloatArray
    flipped: BoolArray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def mirrored_boxes(self) -> FloatArray:
        """The boxes where they lie on the mirrored image, float32 (N, 4)."""
        mirrored: FloatArray = self.boxes[:, [2, 1, 0, 3]]
        mirrored[:, [0, 2]] = self.width - mirrored[:, [0, 2]]
        return mirrored


def make_views(
    name: ViewName, height: int, width: int, settings: ViewSettings | None = None
) -> list[ScaleViews]:
    """The views of an image, scale by scale.

    ``centre``: one. ``ten``: the centre and the four corners, each also mirrored. ``full``: the whole image,
    not square (§3.1.4). ``multi`` (§3.1.5): at each of the six scales the centre, the corners and the middles
    of the sides, each also mirrored, 18; where the short side is the view's, all of these lie in a row and 6
    remain, of the centre and the two ends; 96 in all. ``multi+full``: these, the full image and its mirror
    image, 98.

    All 96 count alike, also where some coincide: of a square image at the smallest scale the six are three
    times the whole image and three times its mirror image, so the scale weighs the same for every image.

    Args:
        name: which.
        height: of the image, pixels.
        width: likewise.
        settings: the sizes; None: the paper's.

    Returns:
        one entry a scale, in the order of the settings; centres that fall between pixels are rounded down.

    Raises:
        InputError: unknown name, or an image more than 16 times as long as wide.
    """
    settings = settings or ViewSettings()
    corners, sides = (_CENTRE, *_CORNERS), (_CENTRE, *_CORNERS, *_SIDES)
    if name == "centre":
        return [_at(height, width, settings.scale, settings.size, (_CENTRE,), mirror=False)]
    if name == "ten":
        return [_at(height, width, settings.scale, settings.size, corners, mirror=True)]
    if name == "full":
        return [_full(height, width, settings.scale, mirror=False)]
    if name not in VIEW_NAMES:
        raise InputError(f"views {name!r}: choose one of {', '.join(VIEW_NAMES)}")
    views = []
    for scale in settings.scales:
        ends: tuple[_Place, ...] = (_CENTRE, (0, 0), (1, 1))
        places = ends if scale == settings.size else sides
        views.append(_at(height, width, scale, settings.size, places, mirror=True))
    if name == "multi":
        return views
    full = _full(height, width, settings.scale, mirror=True)
    if settings.scale not in settings.scales:
        return [*views, full]
    # One scale, one pass through the convolutions.
    place = settings.scales.index(settings.scale)
    views[place] = _joined(views[place], full)
    return views


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of an image resized so that its short side is ``short_side`` pixels.

    Raises:
        InputError: it is more than 16 times as long as wide.
    """
    if max(height, width) > _LONGEST * min(height, width):
        raise InputError(f"{width}x{height} pixels: over {_LONGEST:.0f} times as long as wide; cut it")
    factor = short_side / min(height, width)
    return round(height * factor), round(width * factor)


def resize(image: Image, height: int, width: int) -> Image:
    """The image, uint8 (H, W, 3), at another size (bilinear)."""
    if image.shape[:2] == (height, width):
        return image
    resized: Image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return resized


def _at(
    height: int, width: int, scale: int, size: int, places: tuple[_Place, ...], mirror: bool
) -> ScaleViews:
    height, width = resized_size(height, width, scale)
    corners = [(math.floor(x * (width - size)), math.floor(y * (height - size))) for x, y in places]
    return _views(height, width, [(x, y, x + size, y + size) for x, y in corners], mirror)


def _full(height: int, width: int, scale: int, mirror: bool) -> ScaleViews:
    height, width = resized_size(height, width, scale)
    return _views(height, width, [(0, 0, width, height)], mirror)


def _views(height: int, width: int, boxes: list[tuple[int, int, int, int]], mirror: bool) -> ScaleViews:
    both = boxes * 2 if mirror else boxes
    return ScaleViews(height, width, np.array(both, np.float32), np.arange(len(both)) >= len(boxes))


def _joined(one: ScaleViews, other: ScaleViews) -> ScaleViews:
    return ScaleViews(
        one.height,
        one.width,
        np.concatenate([one.boxes, other.boxes]),
        np.concatenate([one.flipped, other.flipped]),
    )
