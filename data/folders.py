"""Recognises the format of a data set in a folder as a program exported it, and opens a split.

``docs/own-data.md`` shows the folders of each format. The modules of the formats decide what is accepted:
`sppnet.data.voc_folders`, `sppnet.data.coco_folders` and `sppnet.data.yolo_folders`.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.data.coco_folders import find_coco_layout
from sppnet.data.examples import OnError
from sppnet.data.file_index import FileIndex
from sppnet.data.image_folder import report_heic
from sppnet.data.layout import Layout
from sppnet.data.split_names import WHOLE, choose_split
from sppnet.data.splits import with_lists
from sppnet.data.types import Dataset
from sppnet.data.voc_folders import find_voc_layout
from sppnet.data.yolo_folders import find_yolo_layout

logger = logging.getLogger(__name__)

# What was logged or returned of folders, so that it is not said again for each split.
_logged: set[tuple[Path, str]] = set()
# The prefix of a format, to choose one where a folder holds several: ``yolo:my-data``.
FINDERS: dict[str, Callable[[Path], Layout | None]] = {
    "voc": find_voc_layout,
    "coco": find_coco_layout,
    "yolo": find_yolo_layout,
}


def recognise(folder: Path, kind: str = "") -> Layout:
    """Recognises the format of the data set in a folder.

    Args:
        folder: the folder.
        kind: one of `FINDERS`, to look for that format alone.

    Raises:
        InputError: there is no such folder, it holds no annotated images in a known format, or in two; or a
            list in ``splits`` is empty.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    finders = [FINDERS[kind]] if kind else list(FINDERS.values())
    layouts = [layout for finder in finders if (layout := finder(folder)) is not None]
    if not layouts:
        raise InputError(_unknown(folder))
    if len(layouts) > 1:
        formats = " and ".join(f"{layout.format} ({layout.evidence})" for layout in layouts)
        prefixes = " or ".join(f"{name}:{folder}" for name in FINDERS)
        raise InputError(
            f"{folder}: holds annotations in two formats, {formats}; remove one, or give {prefixes}"
        )
    return with_lists(layouts[0])


def load_folder(
    folder: Path, split: str, on_error: OnError, kind: str = "", need_images: bool = True
) -> Dataset:
    """Opens a split of the data set in a folder, see `choose_split` for its name.

    Raises:
        InputError: as in `recognise`; there is no such split; or a file of it is missing or malformed.
    """
    layout = recognise(folder, kind)
    _log_once(folder.resolve(), _describe(layout))
    if not callable(on_error) and (folder.resolve(), "HEIC") not in _logged:
        _logged.add((folder.resolve(), "HEIC"))
        report_heic(folder)
    return layout.open(choose_split(layout.splits, split, folder), on_error, need_images)


def describe_folder(folder: Path, kind: str = "") -> str:
    """Describes the data set in a folder in a few words: format, number of classes, splits.

    Raises:
        InputError: as in `recognise`.
    """
    layout = recognise(folder, kind)
    _logged.add((folder.resolve(), _describe(layout)))
    try:
        # Whatever is wrong with single images is said when the data set is opened.
        classes = len(layout.open(layout.splits[0], lambda fault: None).classes)
    except InputError:
        return _describe(layout)
    return _describe(layout, classes)


def _log_once(folder: Path, description: str) -> None:
    if (folder, description) not in _logged:
        _logged.add((folder, description))
        logger.info("%s: %s", folder, description)


def _describe(layout: Layout, classes: int | None = None) -> str:
    parts = [layout.format]
    if classes is not None:
        parts.append(f"{classes} {'class' if classes == 1 else 'classes'}")
    splits = layout.splits
    if splits == (WHOLE,):
        parts.append("no splits")
    else:
        parts.append(f"{'split' if len(splits) == 1 else 'splits'} {', '.join(splits)}")
    return ", ".join(parts)


def _unknown(folder: Path) -> str:
    images = len(FileIndex(folder).paths)
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    advice = "give the folder above its images and annotations: VOC's XML, COCO's JSON or YOLO's text files"
    if not images:
        return f"{folder}: holds no images; {advice}"
    json = next((path for path in sorted(folder.rglob("*.json")) if not path.name.startswith(".")), None)
    hint = f"; {json} is not of COCO's form" if json is not None else ""
    inside = f", such as {inner[0]}" if len(inner) == 1 else ""
    return f"{folder}: holds {images} images, but no annotations that are known{hint}; {advice}{inside}"
