"""Converts data sets to the layouts of VOC, COCO and YOLO."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, partial_folder
from sppnet.common.progress import Progress, quiet
from sppnet.common.settings import check_choice
from sppnet.common.text import counted
from sppnet.data.examples import inside
from sppnet.data.names import printable
from sppnet.data.orientation import is_taken_as_stored
from sppnet.data.split_names import canonical_split
from sppnet.data.splits import joined_splits
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import write_voc
from sppnet.data.writers import copy_missing, write_coco, write_yolo

Layout = Literal["voc", "coco", "yolo"]

# Where a layout has its images.
_IMAGES: dict[Layout, Callable[[str], str]] = {
    "voc": lambda split: "JPEGImages",
    "coco": lambda split: f"images/{split}",
    "yolo": lambda split: f"images/{split}",
}
# VOC's boxes are whole pixels. Boxes that come from rounded fractions are a hundredth beside them at most.
_WHOLE = 0.01
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        folder: the new data set.
        images: images by split.
        objects: objects by split.
        notes: sentences about losses, and about images that got another name.
    """

    folder: Path
    images: dict[str, int]
    objects: dict[str, int]
    notes: tuple[str, ...]


def convert_dataset(
    splits: Sequence[Dataset],
    folder: Path,
    layout: Layout,
    link: bool = False,
    progress: Progress = quiet,
) -> Conversion:
    """Writes the splits of a data set to a new folder, in the layout of VOC, COCO or YOLO.

    - ``voc``: ``JPEGImages/``, ``Annotations/``, ``ImageSets/Main/<split>.txt``, ``classes.txt``.
    - ``coco``: ``images/<split>/``, ``annotations/instances_<split>.json``.
    - ``yolo``: ``images/<split>/``, ``labels/<split>/``, ``data.yaml``.

    Images keep their names; two images of one name get different ones. Splits get their usual names:
    ``valid`` is ``val``, ``train2017`` is ``train``. The folder appears when all is written; after an error
    there is none.

    Args:
        splits: all splits, of the same classes.
        folder: the new folder; it must be missing or empty.
        layout: as above.
        link: make symbolic links to the images instead of copies.
        progress: called after each image.

    Returns:
        the numbers that were written, and notes on losses.

    Raises:
        InputError: the folder is not empty, the splits have different classes, or an image is missing.

    Example:
        >>> import cv2, tempfile
        >>> temporary = tempfile.TemporaryDirectory()
        >>> work = Path(temporary.name)
        >>> _ = cv2.imwrite(str(work / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.ones(1, bool)
        >>> example = Example("a", work / "a.png", 100, 80, boxes, np.array([1]), flags, ~flags)
        >>> train = Dataset("photos", "train", ("cat", "dog"), (example,))
        >>> conversion = convert_dataset([train], work / "yolo", "yolo")
        >>> conversion.images, conversion.notes
        ({'train': 1}, ("YOLO's labels have no 'difficult': 1 object became like others", ...
        >>> sorted(path.name for path in (work / "yolo").rglob("*.*"))
        ['a.png', 'a.txt', 'data.yaml']
    """
    check_choice("layout", layout, Layout)
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already, and not empty; give a new folder")
    for dataset in splits[1:]:
        if dataset.classes != splits[0].classes:
            raise InputError(
                f"{dataset.name}: the splits {splits[0].split} and {dataset.split} have different classes; "
                "list all classes for both"
            )
    notes: list[str] = []
    splits = _with_usual_names(splits)
    if layout != "voc":
        splits = _without_unions(splits, notes)
    renamed = _with_unique_names(splits, notes)
    notes += _losses(splits, layout)
    total, done = sum(map(len, renamed)), 0
    # It waits for the disk once, for all files.
    with partial_folder(folder) as partial:
        for dataset in renamed:
            images = partial / _IMAGES[layout](dataset.split)
            for example in dataset:
                target = inside(images, example.image_id + example.path.suffix, folder)
                # YOLO's labels state no size, so that readers would turn the image.
                if layout == "yolo" and is_taken_as_stored(example):
                    _write_upright(example, target)
                elif link:
                    _link(example.path, target)
                else:
                    copy_missing(example.path, target, durable=False)
                progress("images", done := done + 1, total)
            if layout == "voc":
                write_voc(dataset, partial, folder.name)
            else:
                (write_coco if layout == "coco" else write_yolo)(dataset, partial)
    return Conversion(
        folder,
        {dataset.split: len(dataset) for dataset in splits},
        {dataset.split: _count(dataset, lambda example: len(example.labels)) for dataset in splits},
        tuple(notes),
    )


def _write_upright(example: Example, target: Path) -> None:
    """Writes the pixels of an image without EXIF."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    # A name of JPEG files that OpenCV does not know.
    suffix = ".jpg" if target.suffix.lower() == ".jfif" else target.suffix
    encoded = cv2.imencode(suffix, np.ascontiguousarray(example.read()[:, :, ::-1]), quality)[1]
    with atomic_path(target, durable=False) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _link(source: Path, target: Path) -> None:
    if target.is_symlink():
        return
    source = source.resolve()
    if not source.is_file():
        raise InputError(f"{source}: the image is missing; restore it")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source, target)


def _count(dataset: Dataset, number: Callable[[Example], int]) -> int:
    return sum(number(example) for example in dataset)


def _with_usual_names(splits: Sequence[Dataset]) -> Sequence[Dataset]:
    """The same splits: ``valid`` as ``val``, ``train2017`` as ``train``, unless two would have one name."""
    names = [canonical_split(dataset.split) for dataset in splits]
    if len(set(names)) < len(names):
        return splits
    return [replace(dataset, split=name) for dataset, name in zip(splits, names, strict=True)]


def _without_unions(splits: Sequence[Dataset], notes: list[str]) -> list[Dataset]:
    """The splits without ``trainval`` and others that only join some of them."""
    joined = joined_splits(splits)
    for split, parts in joined.items():
        names = " and ".join(parts)
        notes.append(f"{split} is left out: it has the images of {names}, which would be double")
    return [dataset for dataset in splits if dataset.split not in joined]


def _with_unique_names(splits: Sequence[Dataset], notes: list[str]) -> list[Dataset]:
    """The same splits with image ids that are names of files, and numbers for COCO.

    No two images share a name, in small or capital letters and with any suffix: there is one annotation file
    for a name.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    changed: list[str] = []
    for dataset in splits:
        for example in dataset:
            if example.path in names:
                continue
            # Ids of a COCO file are numbers; the file's name says more.
            own_name = example.path.stem if dataset.image_ids is not None else example.image_id
            own_name = own_name.removesuffix(example.path.suffix)
            # The names of files of a COCO file need not be UTF-8.
            first_name = printable(own_name).replace("\\", "_").strip() or "image"
            name, number = first_name, 1
            while name.casefold() in taken:
                number += 1
                name = f"{first_name}-{number}"
            if name != own_name:
                changed.append(f"{example.path} is now {name}")
            names[example.path] = name
            taken.add(name.casefold())
    if changed:
        renamed = counted(len(changed), "image")
        notes.append(
            f"{renamed} got another name, because two had the same or it cannot be an id; "
            f"the first: {changed[0]}"
        )
    numbers = {name: number for number, name in enumerate(names.values(), 1)}
    return [
        replace(
            dataset,
            examples=tuple(replace(example, image_id=names[example.path]) for example in dataset),
            image_ids=numbers,
        )
        for dataset in splits
    ]


def _losses(splits: Sequence[Dataset], layout: Layout) -> list[str]:
    """Lists, in sentences, the parts of these splits that a layout cannot hold."""
    difficult = sum(_count(dataset, lambda example: example.difficult.sum()) for dataset in splits)
    truncated = sum(_count(dataset, lambda example: example.truncated.sum()) for dataset in splits)
    moved = sum(_count(dataset, _boxes_between_pixels) for dataset in splits)
    notes = []
    if layout == "yolo" and difficult:
        notes.append(f"YOLO's labels have no 'difficult': {counted(difficult, 'object')} became like others")
    if layout == "yolo" and truncated:
        notes.append(f"YOLO's labels have no 'truncated': lost for {counted(truncated, 'object')}")
    stored = sum(_count(dataset, is_taken_as_stored) for dataset in splits) if layout == "yolo" else 0
    if stored:
        notes.append(
            f"{counted(stored, 'image')} written anew without EXIF orientation: annotated as stored, and "
            "YOLO's labels have no size to tell that"
        )
    if layout == "yolo" and "val" not in {dataset.split for dataset in splits}:
        notes.append("there is no split val, without which Ultralytics does not train")
    if layout == "coco" and difficult:
        notes.append(f"COCO has 'iscrowd' for 'difficult': {counted(difficult, 'object')}")
    if layout == "voc" and moved:
        notes.append(f"VOC has whole pixels: {counted(moved, 'box')} moved by half a pixel at most")
    return notes


def _boxes_between_pixels(example: Example) -> int:
    return int((np.abs(example.boxes - np.rint(example.boxes)) > _WHOLE).any(axis=1).sum())
