"""The commands ``sppnet combine`` and ``compare``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from sppnet.cli.job import Job, file_name, with_detections
from sppnet.cli.options import (
    VOC_ROOT,
    Backbone,
    Change,
    Config,
    DatasetName,
    Jobs,
    Limit,
    MapGb,
    Preset,
    RunName,
    SkipErrors,
    TestSplit,
    TrainSplit,
    VocRoot,
    Weights,
    console,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.detection.experiments.combine import combine_runs, part_name
from sppnet.detection.experiments.rcnn_comparison import Sizes, compare
from sppnet.detection.experiments.rcnn_comparison_table import (
    comparison_table,
    comparison_title,
    write_comparison,
)
from sppnet.detection.nms import DetectionSettings
from sppnet.detection.runs.run import named_by_head
from sppnet.detection.training import HEADS


@reported
def combine_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            help=f"Runs, by name or folder, RUN:HEAD for another head than pool5 ({', '.join(HEADS[1:])}); "
            "or folders of VOC files."
        ),
    ],
    run: Annotated[str, typer.Option(help="Name of the new run; empty: made of theirs.")] = "",
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    test_split: TestSplit = "test",
    nms_iou: Annotated[float, typer.Option(help="A box that overlaps a better one by more goes.")] = 0.3,
    scores: Annotated[
        Literal["as-is", "rank"],
        typer.Option(help="Compare scores as they are, or (SVMs with softmax) ranks in each run's list."),
    ] = "as-is",
    limit: Limit = 0,
    skip_errors: SkipErrors = False,
) -> None:
    """Combines the detections of several runs: suppression over their union; their mAP beside its own."""
    folders = [_detections(one) for one in runs]
    name = run or "+".join(part_name(folder) for folder in folders)
    job = Job(dataset, voc_root, test_split, run=name, limit=limit, skip_errors=skip_errors)
    test, settings = job.open(test_split), DetectionSettings(nms_iou=nms_iou)
    if skip_errors:
        for folder in folders:
            test = with_detections(test, folder)
    console.print(combine_runs(folders, test, job.run, settings, scores))
    console.print(f"run: {job.run.folder}", highlight=False)


def _detections(text: str) -> Path:
    """The folder of the detections that ``combine`` is given as a run, or as a folder of files."""
    name, _, head = text.rpartition(":")
    if not name or head not in HEADS:
        name, head = text, ""
    run = Path("runs") / name if (Path("runs") / name).is_dir() else Path(name)
    inside = run / named_by_head("detections", head or "pool5")
    return inside if head or inside.is_dir() else run


@reported
def compare_command(
    train_images: Annotated[int, typer.Option(help="Images to train each method on.")] = 60,
    train_windows: Annotated[int, typer.Option(help="Proposed windows of each of them.")] = 100,
    test_images: Annotated[int, typer.Option(help="Images to score each method on.")] = 40,
    test_windows: Annotated[int, typer.Option(help="Proposed windows of each of them.")] = 200,
    timed_images: Annotated[int, typer.Option(help="Test images to time, with all their windows.")] = 3,
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    test_split: TestSplit = "test",
    backbone: Backbone = "",
    weights: Weights = "",
    preset: Preset = "paper-1scale",
    config: Config = None,
    change: Change = None,
    run: RunName = "",
    jobs: Jobs = -1,
    map_gb: MapGb = 20,
    skip_errors: SkipErrors = False,
) -> None:
    """R-CNN beside SPP-net at one and five scales, same backbone and windows: mAP and time of each stage."""
    sizes = Sizes(train_images, train_windows, test_images, test_windows, timed_images)
    job = Job(
        dataset, voc_root, train_split, backbone, weights, preset, config, change, run, map_gb=map_gb,
        skip_errors=skip_errors, test_split=test_split,
    )  # fmt: skip
    if not run:
        folder = f"compare-{file_name(job.name)}-{job.settings.network.name}"
        job.run = replace(job.run, folder=Path("runs") / folder)
    # What is wrong with the network shows before the work.
    job.run.build()
    train = job.open(job.train_split).head(sizes.train_images)
    test = job.open(test_split).head(sizes.test_images)
    job.check_test(test, train)
    train, test = job.fill(train, jobs), job.fill(test, jobs)
    sizes = replace(
        sizes, train_images=len(train), test_images=len(test), timed_images=min(timed_images, len(test))
    )
    with ProgressReport(console) as progress:
        figures, windows = compare(train, test, job.run, sizes, progress)
    title = comparison_title(test.name, job.settings.network.name, sizes, windows)
    console.print(comparison_table(figures, title))
    write_comparison(job.run.folder / "compare.json", figures, sizes, title)
    console.print(f"written: {job.run.folder}/compare.json; the runs are beside it", highlight=False)
