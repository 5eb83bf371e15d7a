"""Opens all splits of a data set."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sppnet.data.examples import OnError
from sppnet.data.folders import recognise
from sppnet.data.registry import DATASETS, dataset_folder, load_dataset, split_names
from sppnet.data.split_names import WHOLE
from sppnet.data.types import Dataset

# Opens a split; faults are treated as in `load_dataset`.
Opener = Callable[[OnError], Dataset]

_USUAL = ("train", "val", "trainval", "test")


def split_openers(name: str | Path) -> dict[str, Opener]:
    """Lists the splits of a data set of any format.

    Args:
        name: as in `load_dataset`.

    Returns:
        for each split a function that opens it. The split ``"all"`` alone: there are no splits.

    Raises:
        InputError: there is no such data set.
    """
    name = str(name)
    folder = None if name in DATASETS else dataset_folder(name)
    if folder is not None:
        layout = recognise(*folder)
        return {split: partial(layout.open, split) for split in layout.splits}
    kind, _, paths = name.partition(":")
    json = paths.split(":")[0]
    # Of these two the folders are not looked into.
    if kind == "ilsvrc":
        names: tuple[str, ...] = ("train", "val")
    elif kind == "coco" and ":" in paths:
        names = tuple(split for split in _USUAL if Path(json.replace("{split}", split)).is_file())
        names = names if "{split}" in json else (WHOLE,)
    else:
        names = split_names(name)
    if not names:
        # Raises the error that says which names there are.
        load_dataset(name)
    return {split: partial(load_dataset, name, split, None) for split in names}


def load_splits(name: str | Path, on_error: OnError = "raise") -> tuple[Dataset, ...]:
    """Opens all splits of a data set.

    Args:
        name: as in `load_dataset`.
        on_error: as in `load_dataset`.

    Raises:
        InputError: as in `load_dataset`.
    """
    return tuple(opener(on_error) for opener in split_openers(name).values())
