"""The built-in sample: a small data set in VOC's layout, drawn by program, for trials without real images."""

import tempfile
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import Image
from sppnet.common.errors import InputError
from sppnet.common.files import sync_all, sync_folder
from sppnet.data.sample_objects import KINDS, Sprite, draw_background, draw_clutter, draw_object
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import write_voc

CLASSES = tuple(KINDS)
SIZES = {"train": 60, "test": 30}
WIDTH, HEIGHT = 320, 240

_SEED = 1406_4729
# Raise the version when the drawing changes: a sample of another version is drawn again.
_VERSION = "1"
_JPEG_QUALITY = 92
_VERSION_FILE = "sample-version.txt"
# An object is difficult below these limits: visible share of its area, shorter side of its box in pixels.
_DIFFICULT_SHARE, _DIFFICULT_SIDE = 0.45, 28


def make_sample(root: Path) -> Path:
    """Draws the sample into the folder ``root``, unless it is there already.

    The sample has 60 training and 30 test images of 320x240 with one to four objects of eight classes, which
    vary in size and rotation and are partly hidden by each other and by clutter. Boxes are tight around the
    visible part. Some objects are ``truncated`` (cut by the border or an occluder), some are ``difficult``
    (mostly hidden, or tiny). Every run with the same OpenCV and NumPy writes the same bytes.

    Args:
        root: the folder; it appears complete or not at all. `sppnet.data.load_voc` reads it.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds something other than the sample, or cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in make_sample(Path(folder, "sample")).iterdir())
        ['Annotations', 'ImageSets', 'JPEGImages', 'classes.txt', 'sample-version.txt']
    """
    root = Path(root)
    if _is_current(root):
        return root
    if root.exists() and not (root / _VERSION_FILE).is_file():
        raise InputError(f"{root}: holds something other than the sample; choose another folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as hidden:
            drawn = Path(hidden) / root.name
            for split in SIZES:
                _write_split(split, drawn)
            (drawn / _VERSION_FILE).write_text(_VERSION, encoding="utf-8")
            sync_all()
            if root.exists():
                root.rename(Path(hidden) / "old")
            drawn.rename(root)
            sync_folder(root.parent)
    except OSError as error:
        if not _is_current(root):  # another process may have drawn it meanwhile
            raise InputError(
                f"{root}: the sample cannot be written ({error}); check the folder and the space left"
            ) from error
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
    # Classes are dealt like cards from a shuffled deck, so that each comes up equally often.
    deck = chain.from_iterable(rng.permutation(CLASSES) for _ in repeat(None))
    for index in range(SIZES[split]):
        image_id = f"{number}{index:05d}"
        names = [str(next(deck)) for _ in range(rng.choice((1, 2, 3, 4), p=(0.1, 0.2, 0.3, 0.4)))]
        scene = draw_scene(names, np.random.default_rng([_SEED, number, index]))
        path = images / f"{image_id}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        encoded = cv2.imencode(".jpg", scene.image[..., ::-1], quality)[1]
        path.write_bytes(encoded.tobytes())
        examples.append(scene.example(image_id, path))
    write_voc(Dataset("sample", split, CLASSES, tuple(examples)), folder)


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image and its objects.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        names: the class of each of the N objects that can be seen.
        boxes: float32 (N, 4), xyxy, tight around the visible part.
        visible: float64 (N,), the visible share of each object's area.
    """

    image: Image
    names: tuple[str, ...]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float64]

    def example(self, image_id: str, path: Path) -> Example:
        """Returns the annotated example of the scene, whose image is saved as ``path``."""
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


def draw_scene(names: list[str], rng: np.random.Generator) -> Scene:
    """Draws one image: background, clutter, and one object for each class in ``names``."""
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
        _paste(sprite, _find_centre(sprite, side, owner, rng), canvas, owner, index)
    for index in range(len(names)):
        if rng.random() < 0.4:
            centres = rng.permutation(np.argwhere(owner == index))[:1, ::-1]
            for centre in centres:  # Empty if the object is hidden already.
                _paste(draw_clutter(0.7 * np.sqrt(areas[index]), rng), centre, canvas, owner, -1)
    noisy = canvas + rng.normal(0, 0.015, canvas.shape)
    seen = np.unique(owner[owner >= 0])
    boxes = [cv2.boundingRect((owner == index).astype(np.uint8)) for index in seen]
    return Scene(
        np.rint(noisy.clip(0, 1) * 255).astype(np.uint8),
        tuple(names[index] for index in seen),
        np.array([(x, y, x + width, y + height) for x, y, width, height in boxes], np.float32),
        np.bincount(owner[owner >= 0])[seen] / areas[seen],
    )


def _find_centre(
    sprite: Sprite, side: float, owner: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Finds a centre where the sprite hides little of earlier objects; one in seven may cross the border."""
    inset = side * (0.2 if rng.random() < 0.15 else 0.5)
    allowed = 0.4 if rng.random() < 0.4 else 0.05
    centres = rng.uniform((inset, inset), (WIDTH - inset, HEIGHT - inset), (40, 2))
    areas = np.bincount(owner.ravel() + 1)
    hidden = []
    for centre in centres:
        target, part = _overlap(sprite, centre)
        covered = owner[target][sprite.alpha[part] > 0.5]
        shares = np.bincount(covered + 1, minlength=len(areas))[1:] / np.maximum(areas[1:], 1)
        hidden.append(shares.max(initial=0))
        if hidden[-1] <= allowed:
            break
    best: NDArray[np.float64] = centres[int(np.argmin(hidden))]
    return best


def _paste(
    sprite: Sprite,
    centre: NDArray[np.float64],
    canvas: NDArray[np.float64],
    owner: NDArray[np.int64],
    index: int,
) -> None:
    """Draws a sprite onto ``canvas``; sets ``owner`` to ``index`` where it covers over half of a pixel."""
    target, part = _overlap(sprite, centre)
    alpha = sprite.alpha[part]
    canvas[target] += alpha[..., None] * (sprite.rgb[part] - canvas[target])
    owner[target][alpha > 0.5] = index


def _overlap(sprite: Sprite, centre: NDArray[np.float64]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the rows and columns of the image that the sprite covers, and the same part of the sprite."""
    size = len(sprite.alpha)
    left, top = np.rint(centre - size / 2).astype(int)
    rows = slice(max(top, 0), max(min(top + size, HEIGHT), 0))
    columns = slice(max(left, 0), max(min(left + size, WIDTH), 0))
    part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (rows, columns), part
