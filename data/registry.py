"""Data sets by name."""

import re
from difflib import get_close_matches
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.data.coco import load_coco
from sppnet.data.examples import OnError
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.sample import make_sample
from sppnet.data.types import Dataset
from sppnet.data.voc import find_voc, load_voc

DATASETS = ("voc2007", "voc2012", "sample")


def open_dataset(
    name: str, split: str, voc_root: Path | None, sample_root: Path, on_error: OnError = "raise"
) -> Dataset:
    """Opens one split of a data set.

    Args:
        name: ``"voc2007"`` or ``"voc2012"`` in ``voc_root``; ``"sample"``; ``"coco:<json>:<images>"``, in
            which ``{split}`` stands for the split; ``"ilsvrc:<folder>"``; or a folder in VOC's layout.
        split: for example ``"train"``.
        voc_root: the VOC devkit folder, None if there is none.
        sample_root: where the built-in sample is, or is made.
        on_error: ``"skip"`` leaves out images with faults, and logs how many.

    Raises:
        InputError: no such name, or the data set cannot be read.
    """
    if name == "sample":
        return load_voc(make_sample(sample_root), split, on_error=on_error)
    if name in ("voc2007", "voc2012"):
        if voc_root is None:
            raise InputError(f"{name} needs a VOC devkit: set VOC_ROOT or run 'sppnet data download voc2007'")
        return load_voc(_year_folder(voc_root, name), split, on_error=on_error)
    kind, *paths = name.replace("{split}", split).split(":")
    if kind == "coco" and len(paths) == 2:
        return load_coco(Path(paths[0]), Path(paths[1]), split, on_error)
    if kind == "ilsvrc" and len(paths) == 1:
        return load_ilsvrc_det(Path(paths[0]), split, on_error=on_error)
    if Path(name).is_dir():
        return load_voc(Path(name), split, on_error=on_error)
    nearest = get_close_matches(name, DATASETS, 1)
    raise InputError(
        f"no data set {name!r}{f'; did you mean {nearest[0]!r}?' if nearest else ''} Give one of "
        f"{', '.join(DATASETS)}, a folder in VOC's layout, coco:<json>:<images>, or ilsvrc:<folder>"
    )


def default_train_split(name: str, voc_root: Path | None, test_split: str = "test") -> str:
    """``trainval`` where a data set in VOC's layout has it and val is not tested on, else ``train``."""
    if test_split in ("val", "trainval"):
        return "train"
    try:
        if voc_root is not None and name in ("voc2007", "voc2012"):
            folder = _year_folder(voc_root, name)
        else:
            folder = find_voc(Path(name))
    except InputError:
        return "train"
    return "trainval" if (folder / "ImageSets" / "Main" / "trainval.txt").is_file() else "train"


def _year_folder(voc_root: Path, name: str) -> Path:
    """The folder of ``voc2007`` or ``voc2012`` in a devkit, or that folder itself.

    Raises:
        InputError: it is not there, or ``voc_root`` is the folder of another year.
    """
    year = name.removeprefix("voc")
    folder = find_voc(voc_root, year)
    if re.fullmatch(r"VOC20\d\d", folder.name) and folder.name != f"VOC{year}":
        raise InputError(
            f"{folder}: is not {name}; give the devkit's folder, or name this one as the data set"
        )
    return folder
