"""The built-in sample: a small data set in VOC's layout, drawn by rule, for machines without real images."""

import tempfile
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.data.sample_objects import KINDS, Sprite, draw_background, draw_clutter, draw_object
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import write_voc

CLASSES = tuple(KINDS)
SIZES = {"train": 60, "test": 30}
WIDTH, HEIGHT = 320, 240

_SEED = 1406_4729
# Raise this when the drawing changes: a sample of another version is drawn anew.
_VERSION = "1"
_JPEG_QUALITY = 92
_VERSION_FILE = "sample-version.txt"
# An object is marked difficult below these: the visible share of its area, and the shorter side of its box.
_DIFFICULT_SHARE, _DIFFICULT_SIDE = 0.45, 28


def make_sample(root: Path) -> Path:
    """Makes the sample in the folder ``root``, or returns the one that is there.

    60 training and 30 test images of 320x240 with one to four objects of eight classes, under scale, turn,
    occlusion and clutter; boxes are tight around what is visible; some objects are ``truncated`` (cut by the
    border or an occluder) and some ``difficult`` (mostly hidden, or tiny). The same bytes come out on every
    run with the same OpenCV and NumPy.

    Args:
        root: appears whole or not at all; `sppnet.data.voc.load_voc` reads it.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds something else, or cannot be written.
    """
    root = Path(root)
    if _is_current(root):
        return root
    if root.exists() and not (root / _VERSION_FILE).is_file():
        raise InputError(f"{root}: holds something other than the sample; choose another folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as hidden:
            made = Path(hidden) / root.name
            for split in SIZES:
                _write_split(split, made)
            (made / _VERSION_FILE).write_text(_VERSION, encoding="utf-8")
            if root.exists():
                root.rename(Path(hidden) / "old")
            made.rename(root)
    except OSError as error:
        if not _is_current(root):  # another process may have made it meanwhile
            raise InputError(f"{root}: the sample cannot be written ({error}); make room") from error
    return root


def _is_current(root: Path) -> bool:
    path = root / _VERSION_FILE
    return path.is_file() and path.read_text(encoding="utf-8") == _VERSION


def _write_split(split: str, folder: Path) -> None:
    images = folder / "JPEGImages"
    images.mkdir(parents=True, exist_ok=True)
    examples = []
    number = list(SIZES).index(split)
    rng = np.random.default_rng([_SEED, number])
    # Classes are dealt like cards, so that each has its share.
    deck = chain.from_iterable(rng.permutation(CLASSES) for _ in repeat(None))
    for index in range(SIZES[split]):
        image_id = f"{number}{index:05d}"
        names = [str(next(deck)) for _ in range(rng.choice((1, 2, 3, 4), p=(0.1, 0.2, 0.3, 0.4)))]
        scene = _draw_scene(names, np.random.default_rng([_SEED, number, index]))
        path = images / f"{image_id}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        encoded = cv2.imencode(".jpg", scene.image[..., ::-1], quality)[1]
        path.write_bytes(encoded.tobytes())
        examples.append(scene.example(image_id, path))
    write_voc(Dataset("sample", split, CLASSES, tuple(examples)), folder)


@dataclass(frozen=True, eq=False)
class _Scene:
    """An image, and for each object its class, its visible box, and the visible share of its area."""

    image: Image
    names: tuple[str, ...]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float64]

    def example(self, image_id: str, path: Path) -> Example:
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1)
        return Example(
            image_id,
            path,
            WIDTH,
            HEIGHT,
            self.boxes,
            np.array([CLASSES.index(name) for name in self.names], np.int64),
            (self.visible < _DIFFICULT_SHARE) | (sides < _DIFFICULT_SIDE),
            self.visible < 0.95,
        )


def _draw_scene(names: list[str], rng: np.random.Generator) -> _Scene:
    canvas = draw_background(WIDTH, HEIGHT, rng)
    owner = np.full((HEIGHT, WIDTH), -1)
    for _ in range(rng.integers(4, 11)):
        clutter = draw_clutter(rng.uniform(15, 60), rng)
        _paste(clutter, rng.uniform((0, 0), (WIDTH, HEIGHT)), canvas, owner, -1)
    areas = np.zeros(len(names))
    for index, name in enumerate(names):
        tiny = rng.random() < 0.1
        side = rng.uniform(16, 26) if tiny else 48 * np.exp(rng.uniform(0, np.log(3 / len(names) ** 0.3)))
        sprite = draw_object(name, side, rng)
        areas[index] = (sprite.alpha > 0.5).sum()
        _paste(sprite, _find_place(sprite, side, owner, rng), canvas, owner, index)
    for index in range(len(names)):
        if rng.random() < 0.4:
            place = rng.permutation(np.argwhere(owner == index))[:1, ::-1]
            for centre in place:  # none, if the object is hidden already
                _paste(draw_clutter(0.7 * np.sqrt(areas[index]), rng), centre, canvas, owner, -1)
    noisy = canvas + rng.normal(0, 0.015, canvas.shape)
    seen = np.unique(owner[owner >= 0])
    boxes = [cv2.boundingRect((owner == index).astype(np.uint8)) for index in seen]
    return _Scene(
        np.rint(noisy.clip(0, 1) * 255).astype(np.uint8),
        tuple(names[index] for index in seen),
        np.array([(x, y, x + width, y + height) for x, y, width, height in boxes], np.float32),
        np.bincount(owner[owner >= 0])[seen] / areas[seen],
    )


def _find_place(
    sprite: Sprite, side: float, owner: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A centre where the sprite hides little of the objects before it; one in seven is cut by the border."""
    inset = side * (0.2 if rng.random() < 0.15 else 0.5)
    allowed = 0.4 if rng.random() < 0.4 else 0.05
    places = rng.uniform((inset, inset), (WIDTH - inset, HEIGHT - inset), (40, 2))
    areas = np.bincount(owner.ravel() + 1)
    hidden = []
    for place in places:
        target, part = _overlap(sprite, place)
        covered = owner[target][sprite.alpha[part] > 0.5]
        shares = np.bincount(covered + 1, minlength=len(areas))[1:] / np.maximum(areas[1:], 1)
        hidden.append(shares.max(initial=0))
        if hidden[-1] <= allowed:
            break
    best: NDArray[np.float64] = places[int(np.argmin(hidden))]
    return best


def _paste(
    sprite: Sprite,
    centre: NDArray[np.float64],
    canvas: NDArray[np.float64],
    owner: NDArray[np.int64],
    index: int,
) -> None:
    """Draws onto ``canvas``; writes ``index`` into ``owner`` where the sprite covers over half a pixel."""
    target, part = _overlap(sprite, centre)
    alpha = sprite.alpha[part]
    canvas[target] += alpha[..., None] * (sprite.rgb[part] - canvas[target])
    owner[target][alpha > 0.5] = index


def _overlap(sprite: Sprite, centre: NDArray[np.float64]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the image that the sprite meets, and the same of the sprite."""
    size = len(sprite.alpha)
    left, top = np.rint(centre - size / 2).astype(int)
    rows = slice(max(top, 0), max(min(top + size, HEIGHT), 0))
    columns = slice(max(left, 0), max(min(left + size, WIDTH), 0))
    part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (rows, columns), part
