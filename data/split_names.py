"""Names of splits: finds those with the same meaning, and the split of a data set that a name means."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sppnet.common.errors import InputError

logger = logging.getLogger(__name__)

_CANONICAL = {
    "training": "train", "valid": "val", "validation": "val", "testing": "test",
    "train": "train", "val": "val", "test": "test", "trainval": "trainval",
}  # fmt: skip
# A data set without splits is one set of this name.
WHOLE = "all"


def canonical_split(name: str) -> str:
    """Returns the usual name of a split: ``valid`` becomes ``val``, ``train2017`` becomes ``train``.

    Example:
        >>> [canonical_split(name) for name in ("valid", "Train2017", "obj_train_data", "default")]
        ['val', 'train', 'train', 'default']
    """
    lower = name.lower()
    # Darknet's folders, which CVAT writes for YOLO.
    darknet = re.fullmatch(r"obj_(.+)_data", lower)
    bare = re.sub(r"(?<=[a-z])[-_]?20\d\d$", "", darknet[1] if darknet else lower)
    return _CANONICAL.get(bare, bare)


def is_split_name(name: str) -> bool:
    """Returns whether a folder or file of this name holds a split."""
    return canonical_split(name) in _CANONICAL


def split_of(parts: Sequence[str]) -> str:
    """Returns the first part of a path that names a split; empty: none does."""
    return next((part for part in parts if is_split_name(part)), "")


def sorted_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts names of splits in the usual order: train, val, trainval, test, then others."""
    order = ("train", "val", "trainval", "test")

    def rank(name: str) -> tuple[int, str]:
        usual = canonical_split(name)
        return order.index(usual) if usual in order else len(order), name

    return tuple(sorted(names, key=rank))


def choose_split(names: Iterable[str], asked: str, folder: Path) -> str:
    """Chooses the split of a data set that a name means.

    A name as it stands comes first, then one that means the same. ``trainval`` stands in for a missing
    ``train``, ``val`` for a missing ``test``, which is logged. A data set of one set without a split's name
    is all for training.

    Args:
        names: of the splits that there are.
        asked: the name that was asked for.
        folder: of the data set, for error messages.

    Raises:
        InputError: there is no such split, or two have that meaning.

    Example:
        >>> choose_split(["train", "valid"], "val", Path("my-data"))
        'valid'
        >>> choose_split(["train", "valid"], "test", Path("my-data"))
        'valid'
        >>> choose_split(["all"], "test", Path("my-data"))
        Traceback (most recent call last):
        sppnet.common.errors.InputError: my-data: has no test split: ...
    """
    names = list(names)
    if asked in names:
        return asked
    stand_ins = {"train": ("train", "trainval"), "test": ("test", "val")}
    wanted = canonical_split(asked)
    for meaning in stand_ins.get(wanted, (wanted,)):
        same = [name for name in names if canonical_split(name) == meaning]
        if len(same) > 1:
            raise InputError(f"{folder}: split {asked!r} may be {' or '.join(same)}; name one of them")
        if same:
            if meaning != wanted and wanted == "test":
                logger.warning("%s: has no test split; %s is tested on", folder, same[0])
            return same[0]
    whole = len(names) == 1 and not is_split_name(names[0])
    if whole and wanted == "train":
        return names[0]
    there = "all its images are one set" if whole else f"there are: {', '.join(names) or 'none'}"
    advice = f"; 'sppnet data split {folder}' makes one" if wanted in ("test", "val") else ""
    raise InputError(f"{folder}: has no {asked} split: {there}{advice}")
