"""Selective Search against its peers: time and quality on the same images, in one process on one thread."""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.proposal_peers import CONTENDERS, MIN_SIDE, REFERENCE, Contender, Propose
from benchmarks.proposal_start import Start, measure_starts, starts_table
from sppnet.cli.job import Job
from sppnet.cli.options import VOC_ROOT, DatasetName, Limit, VocRoot, console, reported
from sppnet.cli.progress import ProgressReport
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.files import atomic_path
from sppnet.data import Dataset, read_image
from sppnet.eval import evaluate_proposals
from sppnet.eval.proposal_report import proposal_curves
from sppnet.eval.proposals import ALL, BEST

app = typer.Typer(add_completion=False)

_WARM_UP_SIZE = (128, 96)
_PACKAGES = (
    "numpy", "scipy", "numba", "opencv-contrib-python-headless", "scikit-image", "selectivesearch",
    "selective-search",
)  # fmt: skip
_WHO = (
    f"one thread; ratio: an image's time over that of {REFERENCE}, median over the images; AlpacaDB is "
    "PyPI's selectivesearch, ChenjieXu selective-search; mended: made to run on today's numpy"
)


@dataclass
class Measured:
    """What a contender did: seconds and windows by the number of the image.

    Attributes:
        seconds: wall clock.
        cpu_seconds: of the whole process, which says whether someone used more threads than one, or waited
            for other programs.
        windows: float32 (N, 4) each.
        failed: how many images it raised something on.
        fault: the first thing raised there, or by its import; empty if there was none.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    windows: dict[int, FloatArray] = field(default_factory=dict)
    failed: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the result.

    Attributes:
        name: of the contender.
        images: how many it has done.
        median_seconds, p90_seconds: an image, wall clock.
        median_cpu_seconds: an image, of the process.
        ratio: median over the images of its time over that of ours, fast; wall clock.
        cpu_ratio: the same of the process's time, which other programs on the machine change less.
        mean_windows: an image.
        figures: name to the figure, in [0, 1], at the best 2,000 windows and at all.
        failed, fault: as in `Measured`; of a contender that failed always, the numbers are None.
    """

    name: str
    images: int = 0
    median_seconds: float | None = None
    p90_seconds: float | None = None
    median_cpu_seconds: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    mean_windows: float | None = None
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: int = 0
    fault: str = ""


def race(
    images: Sequence[Callable[[], Image]],
    contenders: Sequence[Contender],
    slow_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Measured]:
    """Lets all contenders propose windows, on one thread, image after image, so that noise hits all alike.

    Before, each is run once on a small picture, which compiles what is to be compiled.

    Args:
        images: read each image, which is not timed.
        contenders: who takes part. Who goes first changes from image to image.
        slow_seconds: a slow one gets no further image after so much time; it gets one at least.
        progress: called with (images done, images in all).

    Returns:
        by the contender's name. An image on which a contender raises something counts as failed.
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
                measured[contender.name].fault = _told(error)
                continue
            with contextlib.suppress(Exception):  # It would show again on the images.
                running[contender.name](small)
        for number, read in enumerate(images):
            progress(number, len(images))
            image = read()
            names = list(running)
            turn = number % max(len(names), 1)
            for name in names[turn:] + names[:turn]:
                own = measured[name]
                start, cpu_start = time.perf_counter(), time.process_time()
                try:
                    windows = running[name](image)
                # Whatever someone else's package stumbles over belongs into the table.
                except Exception as error:
                    own.failed += 1
                    own.fault = own.fault or _told(error)
                    continue
                own.seconds[number] = time.perf_counter() - start
                own.cpu_seconds[number] = time.process_time() - cpu_start
                own.windows[number] = windows
                if name in slow and sum(own.seconds.values()) > slow_seconds:
                    del running[name]
    progress(len(images), len(images))
    return measured


def make_rows(dataset: Dataset, measured: dict[str, Measured], reference: str = REFERENCE) -> list[Row]:
    """Times and figures of `race` on the images of a data set.

    Args:
        dataset: the same images, in the same order.
        measured: by contender.
        reference: whose times the ratios are to.
    """
    rows = []
    for name, own in measured.items():
        if not own.seconds:
            rows.append(Row(name, failed=own.failed, fault=own.fault))
            continue
        examples = tuple(dataset.examples[number] for number in own.seconds)
        part = Dataset(dataset.name, dataset.split, dataset.classes, examples)
        result = evaluate_proposals(part, (own.windows[number] for number in own.seconds), [BEST, ALL])
        base = measured[reference]
        seconds = list(own.seconds.values())
        rows.append(
            Row(
                name,
                len(seconds),
                statistics.median(seconds),
                float(np.quantile(seconds, 0.9)),
                statistics.median(own.cpu_seconds.values()),
                _ratio(own.seconds, base.seconds),
                _ratio(own.cpu_seconds, base.cpu_seconds),
                float(result.windows.mean()),
                {title: (float(a), float(b)) for title, (a, b) in proposal_curves(result).items()},
                own.failed,
                own.fault,
            )
        )
    return rows


def times_table(rows: Sequence[Row], title: str) -> Table:
    """Times for the terminal; a contender that failed has dashes (`faults` says why)."""
    table = Table(title=title, caption=_WHO)
    table.add_column("engine", no_wrap=True)
    for column in ("images", "median ms", "p90 ms", "ratio", "CPU ratio", "windows"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.images}",
            _shown(row.median_seconds, 1000),
            _shown(row.p90_seconds, 1000),
            _shown(row.ratio, 1, 1),
            _shown(row.cpu_ratio, 1, 1),
            _shown(row.mean_windows),
        )
    return table


def quality_table(rows: Sequence[Row], title: str) -> Table:
    """Figures for the terminal, likewise."""
    table = Table(
        title=title,
        caption=f"in %, best {BEST:,} windows/all; boxes with a side below {MIN_SIDE} pixels dropped, but "
        "not of AlpacaDB and ChenjieXu",
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
    """A line for each contender that failed on an image, or could not be imported."""
    return [
        f"{row.name}: fails on {row.failed} of {row.failed + row.images} images: {row.fault}"
        if row.failed
        else f"{row.name}: {row.fault}"
        for row in rows
        if row.fault
    ]


def write_bench(path: Path, dataset: Dataset, rows: Sequence[Row], starts: tuple[Start, Start]) -> None:
    """Writes everything as JSON, with the versions of the packages, replacing the file as a whole."""
    content = {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "min_side": MIN_SIDE,
        "figures_at": [BEST, None],
        "versions": {name: _version(name) for name in _PACKAGES},
        "rows": [asdict(row) for row in rows],
        "starts": {
            "nothing_compiled": asdict(starts[0]),
            "compiled_before": asdict(starts[1]),
        },
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def bench_proposals(
    dataset: Dataset,
    slow_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    contenders: Sequence[Contender] = CONTENDERS,
) -> tuple[list[Row], tuple[Start, Start]]:
    """Everything: the race on the images of a data set, its figures, and the starts of ours."""

    def reader(path: Path) -> Callable[[], Image]:
        return lambda: read_image(path)

    readers = [reader(example.path) for example in dataset]
    starts = measure_starts(readers[0]())
    return make_rows(dataset, race(readers, contenders, slow_seconds, progress)), starts


def _shown(value: float | None, factor: float = 1, digits: int = 0) -> str:
    return "–" if value is None or np.isnan(value) else f"{factor * value:,.{digits}f}"


def _ratio(own: dict[int, float], base: dict[int, float]) -> float | None:
    ratios = [seconds / base[number] for number, seconds in own.items() if number in base]
    return statistics.median(ratios) if ratios else None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@app.command()
@reported
def benchmark_proposals(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose images are searched.")] = "test",
    slow_seconds: Annotated[
        float, typer.Option(min=0, help="The two slow packages get no further image after so much time each.")
    ] = 300,
    output: Annotated[Path, typer.Option(help="JSON file for the rows.")] = Path("runs/bench-proposals.json"),
    limit: Limit = 0,
) -> None:
    """Times Selective Search, ours and others', on one thread (50 images unless --limit says otherwise)."""
    examples = Job(dataset, voc_root, split, limit=limit or 50).open(split)
    with ProgressReport(console) as progress:
        rows, starts = bench_proposals(
            examples, slow_seconds, lambda done, total: progress("images searched by all", done, total)
        )
    title = f"{examples.name} {split}, {len(examples)} images"
    console.print(quality_table(rows, title))
    console.print(times_table(rows, title))
    for line in faults(rows):
        console.print(line, highlight=False, markup=False)
    console.print(starts_table(starts))
    write_bench(output, examples, rows, starts)
    console.print(f"written: {output}", highlight=False)


if __name__ == "__main__":
    app()
