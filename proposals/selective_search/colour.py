"""The eight colour spaces of Selective Search (IJCV 2013, §3.2 and Table 1)."""

from collections.abc import Callable
from typing import Literal, get_args

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image

ColourSpace = Literal["rgb", "intensity", "lab", "rgi", "hsv", "normalised-rgb", "c", "hue"]
COLOUR_SPACES: tuple[ColourSpace, ...] = get_args(ColourSpace)


def to_colour_space(image: Image, space: ColourSpace) -> FloatArray:
    """Converts an image to a colour space.

    Every channel is stretched to the range 0 to 255, except hue, which is stretched to 0 to 180. The paper
    names the spaces and gives no ranges; with equal ranges the threshold k and the 25 bins mean the same in
    all spaces. Hue is noise where there is little colour; in half degrees, as in OpenCV's 8-bit images, it
    weighs less. Of upper ends from 60 to 255, 180 covered the objects of VOC2007 `train` best. Hue is not
    treated as a circle: red lies at both ends.

    Args:
        image: uint8 (H, W, 3), RGB.
        space: ``rgb``; ``intensity`` (0.299 R + 0.587 G + 0.114 B); ``lab`` (CIE, D65, from sRGB);
            ``rgi`` (r and g of normalised RGB, and intensity); ``hsv``; ``normalised-rgb`` (R, G and B over
            their sum); ``c`` (both opponent colours over intensity); ``hue`` (of HSV). A pixel whose sum is 0
            gets the quotients of a grey pixel.

    Returns:
        float32 (H, W, C), C = 3, but 1 for ``intensity`` and ``hue`` and 2 for ``c``.
    """
    return np.ascontiguousarray(_FROM_RGB[space](image * np.float32(1 / 255)), np.float32)


def _rgb(image: FloatArray) -> FloatArray:
    return image * np.float32(255)


def _intensity(image: FloatArray) -> FloatArray:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)[..., None] * np.float32(255)


def _lab(image: FloatArray) -> FloatArray:
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), np.float32)
    # L is 0 to 100; a and b of sRGB colours lie within -128 and 127.
    lab[..., 0] *= np.float32(2.55)
    lab[..., 1:] += np.float32(128)
    return lab


def _hsv(image: FloatArray) -> FloatArray:
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] *= np.float32(1 / 2)
    hsv[..., 1:] *= np.float32(255)
    return hsv


def _hue(image: FloatArray) -> FloatArray:
    return _hsv(image)[..., :1]


def _normalised_rgb(image: FloatArray) -> FloatArray:
    total = image.sum(axis=2, keepdims=True)
    grey = np.full_like(image, 1 / 3)
    normalised: FloatArray = np.divide(image, total, out=grey, where=total > 0)
    return normalised * np.float32(255)


def _rgi(image: FloatArray) -> FloatArray:
    return np.concatenate([_normalised_rgb(image)[..., :2], _intensity(image)], axis=2)


def _c(image: FloatArray) -> FloatArray:
    red, green, blue = np.moveaxis(image, 2, 0)
    # O1 / O3 and O2 / O3 of the opponent colours O1 = (R - G) / sqrt 2, O2 = (R + G - 2 B) / sqrt 6 and
    # O3 = (R + G + B) / sqrt 3. They range from -sqrt 1.5 to sqrt 1.5 and from -sqrt 2 to sqrt 0.5.
    opponents = np.stack([np.sqrt(1.5) * (red - green), np.sqrt(0.5) * (red + green - 2 * blue)], axis=2)
    total = image.sum(axis=2, keepdims=True)
    quotients = np.divide(opponents, total, out=np.zeros_like(opponents), where=total > 0)
    low, high = -np.sqrt([1.5, 2]), np.sqrt([1.5, 0.5])
    return np.asarray((quotients - low) * (255 / (high - low)), np.float32)


_FROM_RGB: dict[ColourSpace, Callable[[FloatArray], FloatArray]] = {
    "rgb": _rgb,
    "intensity": _intensity,
    "lab": _lab,
    "rgi": _rgi,
    "hsv": _hsv,
    "normalised-rgb": _normalised_rgb,
    "c": _c,
    "hue": _hue,
}
