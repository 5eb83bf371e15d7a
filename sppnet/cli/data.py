"""The commands ``sppnet data …``."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.groups import PanelCommand, new_app
from sppnet.cli.options import DataOptions
from sppnet.common.errors import InputError
from sppnet.common.folders import SAMPLE_ROOT

app = new_app("Data sets: downloads VOC2007, writes the built-in sample, cuts out objects.")


@app.command(cls=PanelCommand)
@command
def download(
    name: Annotated[str, typer.Argument(help="voc2007")],
    *,
    data: Annotated[DataOptions, Without("dataset", "train_split", "test_split", "limit", "skip_errors")],
    base_url: Annotated[
        str, typer.Option(help="Folder on a server that holds the archives; empty: PASCAL VOC's.")
    ] = "",
) -> None:
    """Downloads a data set; a broken download goes on where it stopped."""
    if name != "voc2007":
        raise InputError(f"no download of {name!r}; there is voc2007")
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say_written
    from sppnet.data import VOC2007_URL, download_voc2007

    with ProgressReport(console) as progress:
        folder = download_voc2007(data.voc_root, base_url or VOC2007_URL, progress=progress)
    say_written(folder)


@app.command(cls=PanelCommand)
@command
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = SAMPLE_ROOT,
) -> None:
    """Writes the built-in sample."""
    from sppnet.cli.terminal import say_written
    from sppnet.data import make_sample

    say_written(make_sample(folder))


@app.command(cls=PanelCommand)
@command
def crops(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; it must not exist yet.")],
    *,
    data: Annotated[DataOptions, Without("skip_errors")],
) -> None:
    """Writes the objects of a detection data set as images by class, in train/ and val/ of a folder."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.data.object_crops import write_object_crops
    from sppnet.detection.runs.checks import check_same_classes, shared_images_warning

    chosen = ChosenDataset(data)
    names = {"train": chosen.train_split, "val": chosen.test_split}
    if names["train"] == names["val"]:
        raise InputError(f"split {names['val']}: to train and to test on; give two")
    splits = {name: chosen.open(split) for name, split in names.items()}
    check_same_classes(splits["val"], splits["train"])
    if warning := shared_images_warning(splits["val"], splits["train"]):
        say(warning)
    with ProgressReport(console) as progress:
        counts = write_object_crops(splits, folder, progress)
    for name, count in counts.items():
        say(f"{name}: {count} objects")
    say_written(*(folder / name for name in counts))
