"""Draws the parts of the built-in sample: eight kinds of objects, backgrounds, clutter."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Tones = NDArray[np.int64]

_SUPERSAMPLING = 2
_OUTSIDE, _MAIN, _SECOND, _THIRD = -1, 0, 1, 2


@dataclass(frozen=True)
class Sprite:
    """A drawing to paste into an image.

    Attributes:
        rgb: float64 (n, n, 3), colours from 0 to 1.
        alpha: float64 (n, n), opacity from 0 to 1.
    """

    rgb: Field
    alpha: Field


# Each shape maps coordinates (x to the right, y down, the object spans -1 to 1) to the tone of each point.
# Classes differ in shape and pattern; they share hues.
def _ball(x: Field, y: Field) -> Tones:
    panels = np.floor(np.arctan2(y + 0.25, x + 0.2) * 3 / np.pi).astype(int) % 2
    tones = np.where(np.hypot(x + 0.2, y + 0.25) < 0.2, _THIRD, panels)
    return np.where(np.hypot(x, y) < 1, tones, _OUTSIDE)


def _cone(x: Field, y: Field) -> Tones:
    body = (np.abs(x) < 0.12 + 0.3 * (y + 1)) & (y > -1) & (y < 0.72)
    base = (np.abs(x) < 0.95) & (y >= 0.72) & (y < 1)
    stripes = np.floor((y + 1) * 2.3).astype(int) % 2
    return np.where(base, _MAIN, np.where(body, stripes, _OUTSIDE))


def _crate(x: Field, y: Field) -> Tones:
    frame = (np.maximum(np.abs(x), np.abs(y)) > 0.68) | (np.abs(x - y) < 0.2)
    gaps = np.mod(y + 0.07, 0.34) < 0.07
    tones = np.where(frame, _MAIN, np.where(gaps, _THIRD, _SECOND))
    return np.where(np.maximum(np.abs(x), np.abs(y)) < 0.95, tones, _OUTSIDE)


def _cross(x: Field, y: Field) -> Tones:
    inside = (np.minimum(np.abs(x), np.abs(y)) < 0.34) & (np.maximum(np.abs(x), np.abs(y)) < 1)
    checks = (np.floor(x * 4.4 + 0.5) + np.floor(y * 4.4 + 0.5)).astype(int) % 2
    return np.where(inside, checks, _OUTSIDE)


def _fish(x: Field, y: Field) -> Tones:
    body = np.hypot((x - 0.22) / 0.78, y / 0.56) < 1
    tail = (x > -1) & (x < -0.3) & (np.abs(y) < 0.12 - (x + 0.4) * 0.85)
    tones = np.floor((x + 0.5 * y * y) * 5).astype(int) % 2
    tones = np.where(x > 0.5, _MAIN, tones)
    tones = np.where(np.hypot(x - 0.66, y + 0.13) < 0.1, _THIRD, tones)
    return np.where(body | tail, tones, _OUTSIDE)


def _mushroom(x: Field, y: Field) -> Tones:
    cap = (np.hypot(x, (y - 0.1) / 1.05) < 1) & (y < 0.1)
    stem = (np.abs(x) < 0.28 + 0.1 * y * y) & (y >= 0.1) & (y < 0.98)
    dots = np.zeros(x.shape, bool)
    for left, top, radius in ((-0.55, -0.2, 0.17), (0.05, -0.55, 0.2), (0.55, -0.15, 0.16), (0.0, -0.1, 0.1)):
        dots |= np.hypot(x - left, y - top) < radius
    return np.where(stem, _SECOND, np.where(cap, np.where(dots, _SECOND, _MAIN), _OUTSIDE))


def _ring(x: Field, y: Field) -> Tones:
    radius = np.hypot(x, y)
    segments = np.floor(np.arctan2(y, x) * 4 / np.pi).astype(int) % 2
    return np.where((radius < 1) & (radius > 0.5), segments, _OUTSIDE)


def _star(x: Field, y: Field) -> Tones:
    # Folded to one edge of the star: from the tip (1, 0) to the inner corner at 36 degrees and radius 0.45.
    angle = np.abs(np.mod(np.arctan2(x, -y) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    corner_x, corner_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
    size = along + across * (1 - corner_x) / corner_y
    return np.where(size < 0.55, _SECOND, np.where(size < 1, _MAIN, _OUTSIDE))


@dataclass(frozen=True)
class _Kind:
    """The shape and the colours of a class."""

    shape: Callable[[Field, Field], Tones]
    hues: tuple[float, ...]
    second: tuple[float, float]  # saturation and value of the second tone, in the main tone's hue


KINDS = {
    "ball": _Kind(_ball, (0.0, 0.6, 0.35), (0.05, 0.95)),
    "cone": _Kind(_cone, (0.05, 0.6), (0.05, 0.95)),
    "crate": _Kind(_crate, (0.08, 0.3), (0.4, 0.85)),
    "cross": _Kind(_cross, (0.0, 0.35, 0.75), (0.5, 0.25)),
    "fish": _Kind(_fish, (0.07, 0.55, 0.9), (0.35, 0.95)),
    "mushroom": _Kind(_mushroom, (0.0, 0.08, 0.75), (0.12, 0.92)),
    "ring": _Kind(_ring, (0.0, 0.6), (0.05, 0.95)),
    "star": _Kind(_star, (0.14, 0.55, 0.9), (0.9, 0.6)),
}


def draw_object(name: str, side: float, rng: np.random.Generator) -> Sprite:
    """Draws an object of a class, about ``side`` pixels long, with random rotation, shape and colours."""
    kind = KINDS[name]
    hue = float(rng.choice(kind.hues)) + rng.normal(0, 0.015)
    colours = np.array(
        [
            colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.7, 0.95), rng.uniform(0.65, 0.95)),
            colorsys.hsv_to_rgb(hue % 1, *kind.second),
            (0.12, 0.1, 0.1),
        ]
    )
    turn = np.deg2rad(rng.uniform(-40, 40))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    mirror = rng.choice((-1, 1))
    pixels = int(np.ceil(side * 1.6)) * _SUPERSAMPLING
    grid = (np.arange(pixels) + 0.5 - pixels / 2) / (side / 2 * _SUPERSAMPLING)
    right, down = np.meshgrid(grid, grid)
    x = mirror * (np.cos(turn) * right + np.sin(turn) * down) / stretch
    y = (-np.sin(turn) * right + np.cos(turn) * down) * stretch
    tones = kind.shape(x, y)
    light = 1 - 0.22 * (right + down) / 1.4
    return _shade(tones >= 0, colours[np.maximum(tones, 0)] * light[..., None], rng)


def draw_clutter(side: float, rng: np.random.Generator) -> Sprite:
    """Draws a polygon or an oval about ``side`` pixels long, striped in two colours."""
    pixels = int(np.ceil(side * 1.1)) * _SUPERSAMPLING
    mask = np.zeros((pixels, pixels), np.uint8)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
    if rng.random() < 0.3:
        angles = np.linspace(0, 2 * np.pi, 40)
    reach = pixels / 2.2 * np.array([1, rng.uniform(0.25, 1)])
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(mask, [np.rint(corners @ rotation + pixels / 2).astype(np.int32)], 1)
    colours = np.array(
        [colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.9)) for _ in range(2)]
    )
    rows, columns = np.indices(mask.shape)
    period = rng.uniform(0.2, 1.5) * pixels
    stripes = np.floor((rows * np.cos(turn) + columns * np.sin(turn)) / period).astype(int) % 2
    return _shade(mask > 0, colours[stripes], rng)


def draw_background(width: int, height: int, rng: np.random.Generator) -> Field:
    """Draws two muted, textured areas, a wall above a floor: float64 (height, width, 3) from 0 to 1."""
    rows, columns = np.indices((height, width))
    horizon = height * rng.uniform(0.35, 0.75) + (columns - width / 2) * rng.uniform(-0.15, 0.15)
    wall, floor = (_textured_area(width, height, rng) for _ in range(2))
    slope_x, slope_y = rng.uniform(-0.2, 0.2, 2)
    light = 1 + slope_x * (columns / width - 0.5) + slope_y * (rows / height - 0.5)
    area: Field = np.where((rows < horizon)[..., None], wall, floor) * light[..., None]
    return area


def _textured_area(width: int, height: int, rng: np.random.Generator) -> Field:
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.35, 0.8)))
    rows, columns = np.indices((height, width))
    turn = rng.choice((0, np.pi / 2, rng.uniform(0, np.pi)))
    along = rows * np.cos(turn) + columns * np.sin(turn)
    across = columns * np.cos(turn) - rows * np.sin(turn)
    period = rng.uniform(9, 28)
    gaps = np.mod(along, period) < 2
    match rng.choice(["plain", "planks", "bricks", "waves"]):
        case "planks":
            pattern = -2.0 * gaps
        case "bricks":
            pattern = -2.0 * (gaps | (np.mod(across + period * (along // period), 2 * period) < 2))
        case "waves":
            pattern = np.sin(2 * np.pi * along / period + np.sin(2 * np.pi * across / period / 3))
        case _:
            pattern = np.zeros((height, width))
    texture = pattern * rng.uniform(0.03, 0.07) + _noise(width, height, rng) * rng.uniform(0.04, 0.08)
    area: Field = colour * (1 + texture[..., None])
    return area


def _noise(width: int, height: int, rng: np.random.Generator) -> Field:
    """Draws noise of several grain sizes, with a standard deviation of about 1."""
    total = np.zeros((height, width))
    for cell in (1, 3, 9, 27):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2))
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / 2


def _shade(mask: NDArray[np.bool_], rgb: Field, rng: np.random.Generator) -> Sprite:
    """Adds a dark outline and grain, and shrinks the supersampled drawing to its size."""
    outline = 2 * _SUPERSAMPLING + 1
    inner = cv2.erode(mask.astype(np.uint8), np.ones((outline, outline), np.uint8), borderValue=0) > 0
    size = (mask.shape[1] // _SUPERSAMPLING, mask.shape[0] // _SUPERSAMPLING)
    alpha = np.asarray(cv2.resize(mask.astype(np.float64), size, interpolation=cv2.INTER_AREA), np.float64)
    weighted = rgb * (mask * np.where(inner, 1.0, 0.45))[..., None]
    colour = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA) / np.maximum(alpha, 1e-6)[..., None]
    return Sprite(colour * (1 + 0.05 * _noise(*size, rng))[..., None], alpha)
