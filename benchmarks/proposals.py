"""Compares implementations of Selective Search: time and quality on the same images, on one thread.

python -m benchmarks.proposals [--dataset voc2007] [--limit 50]
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.proposal_peers import CONTENDERS, MIN_SIDE, REFERENCE, Contender, Propose
from benchmarks.proposal_start import Start, measure_starts, starts_table
from sppnet.cli.command import Without, command
from sppnet.cli.datasets import ChosenDataset
from sppnet.cli.groups import single_command
from sppnet.cli.options import DataOptions
from sppnet.cli.progress import ProgressReport
from sppnet.cli.terminal import console, say, say_written
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.files import write_json
from sppnet.data import Dataset, read_image
from sppnet.eval import evaluate_proposals
from sppnet.eval.proposal_report import proposal_curves
from sppnet.eval.proposals import ALL, BEST

_WARM_UP_SIZE = (128, 96)
_PACKAGES = (
    "numpy", "scipy", "numba", "opencv-contrib-python-headless", "scikit-image", "selectivesearch",
    "selective-search",
)  # fmt: skip
_CAPTION = (
    f"one thread; ratio: time divided by the time of {REFERENCE}, median over the images; AlpacaDB is "
    "PyPI's selectivesearch, ChenjieXu selective-search; patched: made to run on today's numpy"
)


@dataclass
class Measured:
    """The measurements of a contender, by the number of the image.

    Attributes:
        seconds: image to wall-clock time.
        cpu_seconds: image to processor time of the whole process: more than ``seconds`` if it used several
            threads, less if it waited for other programs.
        proposals: image to proposals, float32 (N, 4).
        failed: number of images on which the contender raised an error.
        fault: the first of these errors, or the error of its import; empty if there was none.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    proposals: dict[int, FloatArray] = field(default_factory=dict)
    failed: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Row:
    """The result of a contender; its numbers are None if it failed on every image.

    Attributes:
        name: the name of the contender.
        images: number of images that it searched.
        median_seconds, p90_seconds: wall-clock time per image, median and 90th percentile.
        median_cpu_seconds: median processor time per image.
        ratio: median over the images of its wall-clock time divided by that of our fast mode.
        cpu_ratio: as ``ratio``, for processor time, which depends less on other programs.
        mean_proposals: mean number of proposals per image.
        figures: name of the figure to its values, in [0, 1], for the best 2,000 proposals and for all.
        failed, fault: as in `Measured`.
    """

    name: str
    images: int = 0
    median_seconds: float | None = None
    p90_seconds: float | None = None
    median_cpu_seconds: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    mean_proposals: float | None = None
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: int = 0
    fault: str = ""


def race(
    images: Sequence[Callable[[], Image]],
    contenders: Sequence[Contender],
    slow_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Measured]:
    """Runs all contenders on one thread, image after image, so that other load delays all of them.

    First each contender runs once on a small image, which compiles its code.

    Args:
        images: functions that read the images; reading is not timed.
        contenders: the implementations; each image starts with another contender.
        slow_seconds: a slow contender gets no further image after this time, but at least one image.
        progress: called with (images done, images in total).

    Returns:
        name of the contender to its measurements. An image on which it raises an error counts as failed.
    """
    measured = {contender.name: Measured() for contender in contenders}
    running: dict[str, Propose] = {}
    slow = {contender.name for contender in contenders if contender.slow}
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        small = np.asarray(cv2.resize(images[0](), _WARM_UP_SIZE), np.uint8)
        for contender in contenders:
            try:
                running[contender.name] = contender.load()
            except ImportError as error:
                measured[contender.name].fault = _described(error)
                continue
            with contextlib.suppress(Exception):  # The same error comes again on the images.
                running[contender.name](small)
        for number, read in enumerate(images):
            progress(number, len(images))
            image = read()
            names = list(running)
            turn = number % max(len(names), 1)
            for name in names[turn:] + names[:turn]:
                result = measured[name]
                start, cpu_start = time.perf_counter(), time.process_time()
                try:
                    proposals = running[name](image)
                # Errors of other packages, of any type, belong in the table.
                except Exception as error:
                    result.failed += 1
                    result.fault = result.fault or _described(error)
                    continue
                result.seconds[number] = time.perf_counter() - start
                result.cpu_seconds[number] = time.process_time() - cpu_start
                result.proposals[number] = proposals
                if name in slow and sum(result.seconds.values()) > slow_seconds:
                    del running[name]
    progress(len(images), len(images))
    return measured


def make_rows(dataset: Dataset, measured: dict[str, Measured], reference: str = REFERENCE) -> list[Row]:
    """Computes times and figures from the result of `race` on the images of a data set.

    Args:
        dataset: the same images, in the same order.
        measured: name of the contender to its measurements.
        reference: the contender whose times are the divisor of ratios.
    """
    rows = []
    for name, result in measured.items():
        if not result.seconds:
            rows.append(Row(name, failed=result.failed, fault=result.fault))
            continue
        examples = tuple(dataset.examples[number] for number in result.seconds)
        part = Dataset(dataset.name, dataset.split, dataset.classes, examples)
        in_order = (result.proposals[number] for number in result.seconds)
        quality = evaluate_proposals(part, in_order, [BEST, ALL])
        base = measured[reference]
        seconds = list(result.seconds.values())
        rows.append(
            Row(
                name,
                len(seconds),
                statistics.median(seconds),
                float(np.quantile(seconds, 0.9)),
                statistics.median(result.cpu_seconds.values()),
                _ratio(result.seconds, base.seconds),
                _ratio(result.cpu_seconds, base.cpu_seconds),
                float(quality.proposals_per_image.mean()),
                {title: (float(a), float(b)) for title, (a, b) in proposal_curves(quality).items()},
                result.failed,
                result.fault,
            )
        )
    return rows


def times_table(rows: Sequence[Row], title: str) -> Table:
    """Makes the table of times; a contender that failed has dashes (`faults` gives the reason)."""
    table = Table(title=title, caption=_CAPTION)
    table.add_column("engine", no_wrap=True)
    for column in ("images", "median ms", "p90 ms", "ratio", "CPU ratio", "proposals"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.images}",
            _shown(row.median_seconds, 1000),
            _shown(row.p90_seconds, 1000),
            _shown(row.ratio, 1, 1),
            _shown(row.cpu_ratio, 1, 1),
            _shown(row.mean_proposals),
        )
    return table


def quality_table(rows: Sequence[Row], title: str) -> Table:
    """Makes the table of figures; a contender that failed has dashes (`faults` gives the reason)."""
    table = Table(
        title=title,
        caption=f"in %, best {BEST:,} proposals/all; boxes with a side below {MIN_SIDE} pixels are dropped, "
        "except for AlpacaDB and ChenjieXu",
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("images", justify="right")
    shown = ("recall at IoU 0.5", "recall at IoU 0.7", "MABO")
    for column in shown:
        table.add_column(column, justify="right")
    for row in rows:
        pairs = [row.figures.get(column, (None, None)) for column in shown]
        table.add_row(
            row.name,
            f"{row.images}",
            *("/".join(_shown(value, 100, 1) for value in pair) for pair in pairs),
        )
    return table


def faults(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each contender that failed on an image, or could not be imported."""
    return [
        f"{row.name}: fails on {row.failed} of {row.failed + row.images} images: {row.fault}"
        if row.failed
        else f"{row.name}: {row.fault}"
        for row in rows
        if row.fault
    ]


def write_bench(path: Path, dataset: Dataset, rows: Sequence[Row], starts: tuple[Start, Start]) -> None:
    """Writes all results as JSON, with the versions of the packages, replacing the file as a whole."""
    content = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "min_side": MIN_SIDE,
        "figures_at": [BEST, None],
        "versions": {name: _version(name) for name in _PACKAGES},
        "rows": [_stored(row) for row in rows],
        "starts": {
            "nothing_compiled": asdict(starts[0]),
            "compiled_before": asdict(starts[1]),
        },
    }
    # The figures of a data set without objects are NaN.
    write_json(path, content, indent=1, allow_nan=True)


def _stored(row: Row) -> dict[str, Any]:
    """Returns the values of a row by their names in the file, where proposals are still called windows."""
    names = {"mean_proposals": "mean_windows"}
    return {names.get(name, name): value for name, value in asdict(row).items()}


def bench_proposals(
    dataset: Dataset,
    slow_seconds: float,
    contenders: Sequence[Contender],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Row], tuple[Start, Start]]:
    """Runs the race on the images of a data set, and measures the start of our implementation."""

    def reader(path: Path) -> Callable[[], Image]:
        return lambda: read_image(path)

    readers = [reader(example.path) for example in dataset]
    starts = measure_starts(readers[0]())
    return make_rows(dataset, race(readers, contenders, slow_seconds, progress)), starts


def _shown(value: float | None, factor: float = 1, digits: int = 0) -> str:
    return "–" if value is None or np.isnan(value) else f"{factor * value:,.{digits}f}"


def _ratio(times: dict[int, float], base: dict[int, float]) -> float | None:
    ratios = [seconds / base[number] for number, seconds in times.items() if number in base]
    return statistics.median(ratios) if ratios else None


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@command
def benchmark_proposals(
    *,
    data: Annotated[DataOptions, Without("train_split", "test_split", "skip_errors")],
    split: Annotated[str, typer.Option(help="Split whose images are searched.")] = "test",
    slow_seconds: Annotated[
        float, typer.Option(min=0, help="The two slow packages get no further image after this time each.")
    ] = 300,
    output: Annotated[Path, typer.Option(help="JSON file for the rows.")] = Path("runs/bench-proposals.json"),
) -> None:
    """Times Selective Search, ours and others', on one thread (50 images unless --limit says otherwise)."""
    dataset = ChosenDataset(replace(data, limit=data.limit or 50)).open(split)
    with ProgressReport(console) as progress:
        rows, starts = bench_proposals(
            dataset,
            slow_seconds,
            CONTENDERS,
            lambda done, total: progress("images searched by all", done, total),
        )
    title = f"{dataset.name} {split}, {len(dataset)} images"
    console.print(quality_table(rows, title))
    console.print(times_table(rows, title))
    for sentence in faults(rows):
        say(sentence)
    console.print(starts_table(starts))
    write_bench(output, dataset, rows, starts)
    say_written(output)


app = single_command("benchmark-proposals", benchmark_proposals)

if __name__ == "__main__":
    app()
