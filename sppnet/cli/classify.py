"""The command ``sppnet classify``."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from sppnet.cli.options import Change, SkipErrors, complain, console, percent, reported
from sppnet.cli.progress import ProgressReport
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import write_json
from sppnet.common.settings import changed
from sppnet.data.image_folder import ImageFolder, list_images, open_image_folder
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.score_store import ScoreStore
from sppnet.detection.classification.view_testing import Source, ViewTester, compare_sources
from sppnet.detection.classification.views import ViewName, ViewSettings, resized_size
from sppnet.detection.features.parallel import one_a_core
from sppnet.eval import accuracy_table, evaluate_classification, write_classification

_TOP = 5


@reported
def classify_command(
    models: Annotated[
        list[Path], typer.Argument(help="Folders of trained classifiers; of several, scores are averaged.")
    ],
    images: Annotated[
        list[Path] | None, typer.Option(help="An image, or a folder of images; repeatable.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="A labelled set, FOLDER/<class>/<image>: errors and confusion.")
    ] = None,
    views: Annotated[ViewName, typer.Option(help="What the classifiers see of an image.")] = "ten",
    source: Annotated[
        Source | None,
        typer.Option(
            "--from",
            help="Views pooled from the feature maps, or each cut out of the image and passed on its own; "
            "by default maps, or crops for a classifier without a pyramid.",
        ),
    ] = None,
    check_crops: Annotated[
        int, typer.Option(min=0, help="Compare maps with crops on so many images: agreement and times.")
    ] = 0,
    change: Change = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Only so many images, evenly over the classes; 0: all.")
    ] = 0,
    skip_errors: SkipErrors = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to: top5.json of images; classification.json, confusion.csv and "
            "confusion.png of a labelled set; scores.sqlite, by which the same command goes on when stopped."
        ),
    ] = None,
) -> None:
    """Classifies images, or tests classifiers on a labelled set: top-1, top-5, confusion."""
    if bool(images) == (labelled is not None):
        raise InputError("give either --images or --labelled")
    classifiers = [Classifier.load(model) for model in models]
    sizes: ViewSettings | None = None
    if change:
        if len({one.settings.size for one in classifiers}) > 1:
            raise InputError("--set is of views of one size, the classifiers are of several; test each alone")
        sizes = changed(ViewSettings.proportional(classifiers[0].settings.size), None, change)
    if source is None:
        source = "maps" if all(one.settings.levels for one in classifiers) else "crops"
    tester = ViewTester(classifiers, views, sizes, source)
    folder = None if labelled is None else spread(open_image_folder(labelled, tester.classes), limit)
    given = [one for path in images or () for one in list_images(path)][: limit or None]
    files = given if folder is None else list(folder.paths)
    if check_crops:
        _compare(tester, files[:: max(1, len(files) // check_crops)][:check_crops], skip_errors)
    store = None if output is None else ScoreStore(output / "scores.sqlite", tester)
    scores, errors = _scores(tester, files, store, show=folder is None)
    if folder is None and output is not None:
        found = [{"image": str(file), "classes": _best(tester.classes, row)} for file, row in scores.items()]
        write_json(output / "top5.json", found, indent=1)
    if folder is not None and scores:
        labels = np.array([label for file, label in zip(files, folder.labels, strict=True) if file in scores])
        result = evaluate_classification(np.array(list(scores.values())), labels, tester.classes)
        title = f"{labelled}, {result.images} images, views {views} from {source}, accuracy in %"
        console.print(accuracy_table(result, title))
        console.print(f"top-1 error: {percent(result.top1_error)}; top-5: {percent(result.top5_error)}")
        if output is not None:
            about = {
                "models": [str(model) for model in models],
                "labelled": str(labelled),
                "views": views,
                "from": source,
                "limit": limit,
                "skipped": len(errors),
            }
            write_classification(output, result, about)
    if output is not None and scores:
        console.print(f"written: {output}", highlight=False, markup=False, soft_wrap=True)
    if errors:
        complain(f"{len(errors)} of {len(files)} images left out, the first: {errors[0]}", skip_errors)


def spread(folder: ImageFolder, limit: int) -> ImageFolder:
    """``limit`` images (0: all) evenly over the classes: the first of each, then the second of each, …"""
    first = np.searchsorted(folder.labels, folder.labels)
    rank = np.arange(len(folder)) - first
    chosen = np.lexsort((folder.labels, rank))[: limit or None]
    return folder.only(np.sort(chosen))


def _scores(
    tester: ViewTester, files: Sequence[Path], store: ScoreStore | None, show: bool
) -> tuple[dict[Path, FloatArray], list[InputError]]:
    """The scores of the images that can be read, in their order, and why others have none."""
    scores: dict[Path, FloatArray] = {}
    errors: list[InputError] = []
    kept = 0
    results = (
        ((file, result, False) for file, result in tester.scores_of_files(files))
        if store is None
        else store.scores_of_files(files)
    )
    start = time.monotonic()
    try:
        with ProgressReport(console) as progress:
            for file, result, known in results:
                kept += known
                if isinstance(result, InputError):
                    errors.append(result)
                else:
                    scores[file] = result
                    if show:
                        best = ", ".join(
                            f"{one['class']} {percent(float(one['score']))}"
                            for one in _best(tester.classes, result)
                        )
                        console.print(f"{file}: {best}", highlight=False, markup=False, soft_wrap=True)
                progress("images classified", len(scores) + len(errors), len(files))
    except KeyboardInterrupt:
        done = len(scores) + len(errors)
        how = "with --output it could go on" if store is None else "the same command goes on"
        console.print(f"stopped after {done} of {len(files)} images; {how}", highlight=False)
        raise typer.Exit(130) from None
    if kept:
        console.print(f"{kept} images, scored before", highlight=False)
    if len(scores) > kept:
        rate = (len(scores) - kept) / (time.monotonic() - start)
        console.print(f"{len(scores) - kept} images, {rate:.2f} a second", highlight=False)
    return scores, errors


def _best(classes: Sequence[str], scores: FloatArray) -> list[dict[str, str | float]]:
    order = np.argsort(-scores, kind="stable")[:_TOP]
    return [{"class": classes[one], "score": float(scores[one])} for one in order]


def _no_strip(image: Image) -> Image:
    resized_size(image.shape[0], image.shape[1], 1)  # Refuses it.
    return image


def _compare(tester: ViewTester, files: Sequence[Path], skip_errors: bool) -> None:
    def images() -> Iterator[Image]:
        count = 0
        # One at a time: both sides are timed.
        for _, result in one_a_core(_no_strip, files, 1):
            if not isinstance(result, InputError):
                count += 1
                yield result
            elif not skip_errors:
                raise result
        if not count:
            raise InputError(f"{files[0]}: none of the images to compare maps with crops on can be read")

    found = compare_sources(tester, images())
    table = Table(title=f"views {tester.views}, {found.images} images: maps against crops")
    for name in (
        "same top-1 %",
        "mean |difference|",
        "correlation",
        "s/image maps",
        "s/image crops",
        "ratio",
    ):
        table.add_column(name, justify="right")
    table.add_row(
        percent(found.top1),
        f"{found.difference:.4f}",
        f"{found.correlation:.4f}",
        f"{found.seconds_maps / found.images:.3f}",
        f"{found.seconds_crops / found.images:.3f}",
        f"{found.seconds_crops / found.seconds_maps:.1f}",
    )
    console.print(table)
