"""Scores images with classifiers, with progress, for the commands ``classify`` and ``test-classifier``."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import typer
from rich.table import Table

from sppnet.cli.options import ViewOptions
from sppnet.cli.progress import ProgressReport
from sppnet.cli.terminal import complain, console, say
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.settings import changed
from sppnet.common.text import percent
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.score_store import ScoreStore
from sppnet.detection.classification.view_testing import ViewTester, compare_sources
from sppnet.detection.classification.views import ViewSettings, resized_size
from sppnet.detection.features.parallel import one_a_core

_SHOWN_CLASSES = 5


def make_tester(models: Sequence[Path], options: ViewOptions) -> ViewTester:
    """Loads classifiers and chooses their views.

    Raises:
        InputError: a folder holds no classifier, the classifiers cannot be combined, or the views do not suit
            them.
    """
    classifiers = [Classifier.load(model) for model in models]
    sizes: ViewSettings | None = None
    if options.change:
        if len({classifier.settings.size for classifier in classifiers}) > 1:
            raise InputError("--set needs classifiers of one size, these have several; test each alone")
        sizes = changed(ViewSettings.proportional(classifiers[0].settings.size), None, options.change)
    source = options.source
    if source is None:
        source = "maps" if all(classifier.settings.levels for classifier in classifiers) else "crops"
    return ViewTester(classifiers, options.views, sizes, source)


def score_files(
    tester: ViewTester, files: Sequence[Path], output: Path | None, show: bool
) -> tuple[dict[Path, FloatArray], list[InputError]]:
    """Scores images, and prints the speed.

    Args:
        tester: the classifiers and their views.
        files: the images.
        output: folder where scores are kept, so that a stopped command can continue; None: they are not kept.
        show: whether the best classes of each image are printed.

    Returns:
        the scores of the images that can be read, in their order, and the errors of the other images.

    Raises:
        InputError: the kept scores are damaged.
        typer.Exit: Ctrl-C; the progress so far is printed.
    """
    scores: dict[Path, FloatArray] = {}
    errors: list[InputError] = []
    kept = 0
    store = None if output is None else ScoreStore(output / "scores.sqlite", tester)
    start = time.monotonic()
    try:
        with ProgressReport(console) as progress:
            for file, result, known in _results(tester, files, store):
                kept += known
                if isinstance(result, InputError):
                    errors.append(result)
                else:
                    scores[file] = result
                    if show:
                        _print_best(file, tester.classes, result)
                progress("images classified", len(scores) + len(errors), len(files))
    except KeyboardInterrupt:
        done = len(scores) + len(errors)
        advice = "with --output it could continue" if store is None else "the same command continues"
        say(f"stopped after {done} of {len(files)} images; {advice}")
        raise typer.Exit(130) from None
    finally:
        if store is not None:
            store.close()
    if kept:
        say(f"{kept} images were scored before")
    if len(scores) > kept:
        rate = (len(scores) - kept) / (time.monotonic() - start)
        say(f"{len(scores) - kept} images, {rate:.2f} per second")
    return scores, errors


def _results(
    tester: ViewTester, files: Sequence[Path], store: ScoreStore | None
) -> Iterator[tuple[Path, FloatArray | InputError, bool]]:
    """Yields each image with its scores or its error, and whether the scores were kept from before."""
    if store is not None:
        yield from store.scores_of_files(files)
        return
    for file, result in tester.scores_of_files(files):
        yield file, result, False


def best_classes(classes: Sequence[str], scores: FloatArray) -> list[dict[str, str | float]]:
    """Returns the five best classes at most, best first, with their scores."""
    order = np.argsort(-scores, kind="stable")[:_SHOWN_CLASSES]
    return [{"class": classes[label], "score": float(scores[label])} for label in order]


def _print_best(file: Path, classes: Sequence[str], scores: FloatArray) -> None:
    best = best_classes(classes, scores)
    listed = ", ".join(f"{entry['class']} {percent(float(entry['score']))}" for entry in best)
    say(f"{file}: {listed}")


def complain_of(errors: Sequence[InputError], images: int, skip_errors: bool) -> None:
    """Prints the number of images that were left out; see `complain`."""
    if errors:
        complain(f"{len(errors)} of {images} images left out, the first: {errors[0]}", skip_errors)


def print_agreement(tester: ViewTester, files: Sequence[Path], count: int, skip_errors: bool) -> None:
    """Compares scores from maps with scores from crops, on some of the images.

    Args:
        tester: the classifiers and their views.
        files: the images.
        count: number of images to compare on, evenly from the files; 0: no comparison.
        skip_errors: whether images that cannot be read are left out.

    Raises:
        InputError: an image cannot be read, or no image can be read; or a classifier has no pyramid.
    """
    if not count:
        return
    chosen = files[:: max(1, len(files) // count)][:count]
    agreement = compare_sources(tester, _readable(chosen, skip_errors))
    table = Table(title=f"views {tester.views}, {agreement.images} images: maps against crops")
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
        percent(agreement.top1),
        f"{agreement.difference:.4f}",
        f"{agreement.correlation:.4f}",
        f"{agreement.seconds_maps / agreement.images:.3f}",
        f"{agreement.seconds_crops / agreement.images:.3f}",
        f"{agreement.seconds_crops / agreement.seconds_maps:.1f}",
    )
    console.print(table)


def _readable(files: Sequence[Path], skip_errors: bool) -> Iterator[Image]:
    count = 0
    # One image at a time, because both ways are timed.
    for _, result in one_a_core(_checked_shape, files, 1):
        if not isinstance(result, InputError):
            count += 1
            yield result
        elif not skip_errors:
            raise result
    if not count:
        raise InputError(f"{files[0]}: none of the images to compare maps with crops on can be read")


def _checked_shape(image: Image) -> Image:
    """Returns the image, after a check that views can be taken from its shape."""
    resized_size(image.shape[0], image.shape[1], 1)
    return image
