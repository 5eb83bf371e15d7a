"""Data sets by name."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.common.folders import SAMPLE_ROOT, VOC_ROOT
from sppnet.common.settings import check_choice
from sppnet.data.coco import load_coco
from sppnet.data.examples import OnError
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.sample import make_sample
from sppnet.data.types import Dataset
from sppnet.data.voc import find_voc, load_voc

DATASETS = ("voc2007", "voc2012", "sample")

_VOC_NAMES = ("voc2007", "voc2012")


def load_dataset(
    name: str | Path,
    split: str = "train",
    root: Path | str | None = None,
    on_error: OnError = "raise",
    limit: int | None = None,
) -> Dataset:
    """Opens one split of a data set of any format.

    These names are known:

    - ``voc2007`` and ``voc2012``: PASCAL VOC, in the devkit's folder ``root``.
    - ``sample``: the built-in sample. It is drawn into the folder ``root`` if it is not there yet.
    - a folder in VOC's layout: ``ImageSets/Main/<split>.txt``, ``Annotations/`` and ``JPEGImages/``.
    - ``coco:<json>:<images>``: a JSON file of COCO's form and the folder of its images; ``{split}`` in them
      stands for the split.
    - ``ilsvrc:<folder>``: the ILSVRC detection task.

    Args:
        name: as listed above.
        split: the split's name in the data set, for example ``"train"``, ``"trainval"`` or ``"test"``. Where
            a set in VOC's layout has ``trainval`` but no ``train``, ``"train"`` opens that.
        root: the VOC devkit, or the sample's folder; other names contain their folders. Default: for VOC the
            environment variable ``VOC_ROOT`` or ``datasets/VOCdevkit``; for the sample ``datasets/sample``.
        on_error: ``"raise"``, or ``"skip"`` images with a bad or missing file, counted in a logged warning.
        limit: only the first images; None: all.

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
    check_choice("on_error", on_error, OnError)
    return _open(str(name), split, None if root is None else Path(root), on_error).head(limit)


def _open(name: str, split: str, root: Path | None, on_error: OnError) -> Dataset:
    if name == "sample":
        return load_voc(make_sample(root or SAMPLE_ROOT), split, on_error=on_error)
    if name in _VOC_NAMES:
        return _load_layout(_year_folder(root or _voc_root(), name), split, on_error)
    kind, *paths = name.replace("{split}", split).split(":")
    if kind == "coco" and len(paths) == 2:
        return load_coco(Path(paths[0]), Path(paths[1]), split, on_error)
    if kind == "ilsvrc" and len(paths) == 1:
        return load_ilsvrc_det(Path(paths[0]), split, on_error=on_error)
    if Path(name).is_dir():
        return _load_layout(Path(name), split, on_error)
    nearest = get_close_matches(name, DATASETS, 1)
    raise InputError(
        f"no data set {name!r}{f': did you mean {nearest[0]!r}?' if nearest else ';'} Give one of "
        f"{', '.join(DATASETS)}, a folder in VOC's layout, coco:<json>:<images>, or ilsvrc:<folder>"
    )


def default_train_split(name: str, root: Path | None = None, test_split: str = "test") -> str:
    """The split of a data set to train on: ``trainval`` where the set has it, else ``train``.

    Args:
        name: as in `load_dataset`; only VOC's layout has ``trainval``.
        root: as in `load_dataset`.
        test_split: the split to test on; for ``val`` and ``trainval`` the answer is ``train``.

    Example:
        >>> default_train_split("coco:instances_{split}.json:images")
        'train'
    """
    if test_split in ("val", "trainval"):
        return "train"
    try:
        folder = _year_folder(root or _voc_root(), name) if name in _VOC_NAMES else find_voc(Path(name))
    except InputError:
        return "train"
    return "trainval" if _has_split(folder, "trainval") else "train"


def _load_layout(folder: Path, split: str, on_error: OnError) -> Dataset:
    """Reads a split in VOC's layout, ``trainval`` in place of a missing ``train``."""
    own_folder = find_voc(folder)
    if split == "train" and not _has_split(own_folder, "train") and _has_split(own_folder, "trainval"):
        split = "trainval"
    return load_voc(folder, split, on_error=on_error)


def _has_split(folder: Path, split: str) -> bool:
    return (folder / "ImageSets" / "Main" / f"{split}.txt").is_file()


def _voc_root() -> Path:
    return Path(os.environ.get("VOC_ROOT") or VOC_ROOT)


def _year_folder(root: Path, name: str) -> Path:
    """The folder of ``voc2007`` or ``voc2012`` in a devkit, or that folder itself.

    Raises:
        InputError: it is not there, or ``root`` is the folder of another year.
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
