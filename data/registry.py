"""Opens data sets of any format by name."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from sppnet.common.errors import InputError
from sppnet.common.folders import SAMPLE_ROOT, VOC_ROOT
from sppnet.common.settings import check_choice
from sppnet.data.coco import load_coco
from sppnet.data.examples import OnError
from sppnet.data.folders import FINDERS, describe_folder, load_folder, recognise
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.sample import make_sample
from sppnet.data.split_names import canonical_split
from sppnet.data.types import Dataset
from sppnet.data.voc import find_voc, list_splits, load_voc

DATASETS = ("voc2007", "voc2012", "sample")

_VOC_NAMES = ("voc2007", "voc2012")


def load_dataset(
    name: str | Path,
    split: str = "train",
    root: Path | str | None = None,
    on_error: OnError = "raise",
    limit: int | None = None,
    *,
    need_images: bool = True,
) -> Dataset:
    """Opens one split of a data set of any format.

    These names are known:

    - ``voc2007`` and ``voc2012``: PASCAL VOC, in the devkit's folder ``root``.
    - ``sample``: the built-in sample. It is drawn into the folder ``root`` if it is not there yet.
    - a folder with annotated images in VOC's, COCO's or YOLO's form, as programs export them; the format is
      recognised. Where there are two, ``voc:<folder>``, ``coco:<folder>`` or ``yolo:<folder>`` chooses.
    - ``coco:<json>:<images>``: a JSON file of COCO's form and the folder of its images; ``{split}`` in them
      stands for the split.
    - ``ilsvrc:<folder>``: the ILSVRC detection task.

    Args:
        name: as listed above.
        split: the split's name in the data set, for example ``"train"``, ``"trainval"`` or ``"test"``. In a
            folder, ``"val"`` also opens ``valid``; ``"train"`` opens ``trainval`` if there is no ``train``,
            and all images if there are no splits; ``"test"`` opens ``val`` if there is no ``test``, which is
            logged.
        root: the VOC devkit, or the sample's folder; other names contain their folders. Default: for VOC the
            environment variable ``VOC_ROOT`` or ``datasets/VOCdevkit``; for the sample ``datasets/sample``.
        on_error: ``"raise"``, or ``"skip"`` images with a bad or missing file, counted in a logged warning. A
            function gets each fault instead of the log.
        limit: only the first images; None: all.
        need_images: False: image files may be missing, as for scoring. YOLO's labels need them all the same.

    Returns:
        the data set; its ``split`` names the list that was opened.

    Raises:
        InputError: there is no such data set or split, or a file of it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_dataset("sample", "test", root=f"{folder}/sample", limit=10)
        Dataset(sample test: 10 images, 8 classes, 32 objects)
    """
    if not callable(on_error):
        check_choice("on_error", on_error, Literal["raise", "skip"])
    folder = None if root is None else Path(root)
    return _open(str(name), split, folder, on_error, need_images).head(limit)


def _open(name: str, split: str, root: Path | None, on_error: OnError, need_images: bool) -> Dataset:
    if name == "sample":
        return load_voc(make_sample(root or SAMPLE_ROOT), split, on_error=on_error)
    if name in _VOC_NAMES:
        return _load_year(_year_folder(root or _voc_root(), name), split, on_error, need_images)
    kind, *paths = name.replace("{split}", split).split(":")
    if kind == "coco" and len(paths) == 2:
        return load_coco(Path(paths[0]), Path(paths[1]), split, on_error, need_images=need_images)
    if kind == "ilsvrc" and len(paths) == 1:
        return load_ilsvrc_det(Path(paths[0]), split, on_error=on_error, need_images=need_images)
    folder = dataset_folder(name)
    if folder is not None:
        return load_folder(folder[0], split, on_error, folder[1], need_images)
    raise _unknown(name)


def _unknown(name: str) -> InputError:
    nearest = get_close_matches(name, DATASETS, 1)
    return InputError(
        f"no data set {name!r}{f': did you mean {nearest[0]!r}?' if nearest else ';'} Give one of "
        f"{', '.join(DATASETS)}, a folder of annotated images, coco:<json>:<images>, or ilsvrc:<folder>"
    )


def dataset_folder(name: str) -> tuple[Path, str] | None:
    """The folder that a name means and the format to look for in it; None: the name is of another kind."""
    if Path(name).is_dir():
        return Path(name), ""
    kind, _, path = name.partition(":")
    if kind in FINDERS and path and (kind != "coco" or ":" not in path):
        return Path(path), kind
    return None


def describe_format(name: str | Path) -> str:
    """Describes a data set in a few words: its format and, of a folder, the number of classes and the splits.

    Args:
        name: as in `load_dataset`.

    Raises:
        InputError: a folder holds no annotated images in a known format, or in two.

    Example:
        >>> import tempfile
        >>> from sppnet.data import make_sample
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     describe_format(make_sample(Path(folder, "sample")))
        'VOC, 8 classes, splits train, test'
    """
    name = str(name)
    folder = None if name in DATASETS else dataset_folder(name)
    if folder is not None:
        return describe_folder(*folder)
    kind, _, path = name.partition(":")
    formats = {"voc2007": "VOC", "voc2012": "VOC", "sample": "VOC, built in"}
    formats |= {"coco": "COCO JSON", "ilsvrc": "ILSVRC DET"} if path else {}
    if kind not in formats:
        raise _unknown(name)
    return formats[kind]


def default_train_split(name: str, root: Path | None = None, test_split: str = "test") -> str:
    """Returns the split of a data set to train on: ``trainval`` if the set has it, else ``train``.

    Args:
        name: as in `load_dataset`; only VOC's layout has ``trainval``.
        root: as in `load_dataset`.
        test_split: the split to test on. It is a part of ``trainval`` if it is ``val`` or ``trainval``; then
            the result is ``train``.

    Example:
        >>> default_train_split("coco:instances_{split}.json:images")
        'train'
    """
    if canonical_split(test_split) in ("val", "trainval"):
        return "train"
    try:
        splits = set(map(canonical_split, split_names(name, root)))
    except InputError:
        return "train"
    # Without a test split, val is tested on, which is a part of trainval.
    val_is_tested = name not in _VOC_NAMES and {"test", "val"} & splits == {"val"}
    return "trainval" if "trainval" in splits and not val_is_tested else "train"


def split_names(name: str, root: Path | None = None) -> tuple[str, ...]:
    """The names of the splits of a data set, as its folder has them; none of a name with another prefix.

    Args:
        name: as in `load_dataset`.
        root: as in `load_dataset`.

    Raises:
        InputError: there is no such data set.
    """
    if name == "sample":
        return ("train", "test")
    if name in _VOC_NAMES:
        return list_splits(_year_folder(root or _voc_root(), name))
    folder = dataset_folder(name)
    return () if folder is None else recognise(*folder).splits


def _load_year(folder: Path, split: str, on_error: OnError, need_images: bool) -> Dataset:
    """Reads a split of VOC2007 or VOC2012, ``trainval`` in place of a missing ``train``."""
    if split == "train" and not _has_split(folder, "train") and _has_split(folder, "trainval"):
        split = "trainval"
    return load_voc(folder, split, on_error=on_error, need_images=need_images)


def _has_split(folder: Path, split: str) -> bool:
    return (folder / "ImageSets" / "Main" / f"{split}.txt").is_file()


def _voc_root() -> Path:
    return Path(os.environ.get("VOC_ROOT") or VOC_ROOT)


def _year_folder(root: Path, name: str) -> Path:
    """Finds the folder of ``voc2007`` or ``voc2012`` in a devkit; ``root`` may also be that folder.

    Raises:
        InputError: there is no such folder, or ``root`` is the folder of another year.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; {name} needs a VOC devkit: set VOC_ROOT or run "
            "'sppnet data download voc2007'"
        )
    year = name.removeprefix("voc")
    folder = find_voc(root, year)
    if re.fullmatch(r"VOC20\d\d", folder.name) and folder.name != f"VOC{year}":
        raise InputError(
            f"{folder}: is not {name}; give the devkit's folder, or name this one as the data set"
        )
    return folder
