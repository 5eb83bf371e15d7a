"""The commands ``sppnet data …``."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.choices import DatasetLayout
from sppnet.cli.command import Without, command
from sppnet.cli.groups import PanelCommand, new_app
from sppnet.cli.options import DataOptions, SkipErrors
from sppnet.common.errors import InputError
from sppnet.common.folders import SAMPLE_ROOT
from sppnet.common.text import counted

app = new_app("Data sets: checks, divides, converts, downloads VOC2007, writes the sample, cuts out objects.")


_Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Folder of a data set, or another name that --dataset takes.")
]


@app.command(cls=PanelCommand)
@command
def check(
    folder: _Folder,
    *,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with all details and drawn examples to this file.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Check this split only; repeatable; by default all.")
    ] = None,
) -> None:
    """Checks a data set: counts, sizes, what is wrong and what to do; the exit status is 1 with problems."""
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say_written
    from sppnet.common.files import atomic_path
    from sppnet.common.outputs import check_output_file
    from sppnet.data.check import check_dataset
    from sppnet.data.check_report import html_report, terminal_report

    if html is not None:
        check_output_file(html)
    with ProgressReport(console) as progress:
        result = check_dataset(folder, split, progress)
    console.print(terminal_report(result), highlight=False)
    if html is not None:
        with atomic_path(html) as path:
            path.write_text(html_report(result), encoding="utf-8", errors="backslashreplace")
        say_written(html)
    if result.problems:
        raise typer.Exit(1)


@app.command(cls=PanelCommand)
@command
def split(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    *,
    test: Annotated[float, typer.Option(min=0, max=1, help="Part of the images to test on.")] = 0.2,
    val: Annotated[float, typer.Option(min=0, max=1, help="Part of the images for choices in training.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another division.")] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Divide anew; lists that are there get .old behind their names."),
    ] = False,
    skip_errors: SkipErrors = False,
) -> None:
    """Divides a data set into train, val and test, evenly over the classes; writes lists, moves no image."""
    from sppnet.cli.terminal import console, say_written
    from sppnet.data import OnError
    from sppnet.data.check_report import count_table
    from sppnet.data.folders import recognise
    from sppnet.data.splits import join_splits
    from sppnet.data.splitting import split_dataset, write_lists

    on_error: OnError = "skip" if skip_errors else "raise"
    layout = recognise(folder)
    if len(layout.splits) > 1 and not force:
        names = ", ".join(layout.splits)
        raise InputError(f"{folder}: is divided already ({names}); give --force to divide all images anew")
    whole = join_splits([layout.open(name, on_error) for name in layout.splits])
    fractions = {name: part for name, part in (("val", val), ("test", test)) if part}
    parts = split_dataset(whole, fractions, seed)
    written = write_lists(parts, layout.folder, force)
    console.print(count_table(tuple(parts.values())), highlight=False)
    say_written(*written)


@app.command(cls=PanelCommand)
@command
def convert(
    folder: _Folder,
    *,
    to: Annotated[DatasetLayout, typer.Option(help="Layout to write.")],
    output: Annotated[Path, typer.Option(help="New folder; it must be missing or empty.")],
    link: Annotated[bool, typer.Option("--link", help="Link to the images instead of copying them.")] = False,
    skip_errors: SkipErrors = False,
) -> None:
    """Converts all splits of a data set to the layout of VOC, COCO or YOLO, in a new folder."""
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.data.all_splits import load_splits
    from sppnet.data.convert import convert_dataset

    splits = load_splits(folder, "skip" if skip_errors else "raise")
    with ProgressReport(console) as progress:
        conversion = convert_dataset(splits, output, to, link, progress)
    for name, images in conversion.images.items():
        say(f"{name}: {counted(images, 'image')}, {counted(conversion.objects[name], 'object')}")
    for note in conversion.notes:
        say(f"note: {note}")
    say_written(output)


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
