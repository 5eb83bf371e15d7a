"""The commands ``sppnet combine``, ``compare`` and ``bench``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from detection.bench import bench_many, bench_pooling, bench_stages
from detection.cli_job import Job
from detection.cli_options import (
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
    TestSplit,
    TrainSplit,
    VocRoot,
    Weights,
    console,
    reported,
)
from detection.combine import combine_runs
from detection.compare import Sizes, compare
from detection.compare_table import comparison_table, comparison_title, write_comparison
from detection.console import ProgressReport
from detection.detector import Detector
from detection.suppression import DetectionSettings


@reported
def combine_command(
    runs: Annotated[list[str], typer.Argument(help="Runs, by name or folder, or folders of VOC files.")],
    run: Annotated[str, typer.Option(help="Name of the new run; empty: made of theirs.")] = "",
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    test_split: TestSplit = "test",
    nms_overlap: Annotated[float, typer.Option(help="A box that overlaps a better one by more goes.")] = 0.3,
    scores: Annotated[
        Literal["as-is", "rank"],
        typer.Option(help="Compare scores as they are, or (SVMs with softmax) ranks in each run's list."),
    ] = "as-is",
    limit: Limit = 0,
) -> None:
    """Combines the detections of several runs: suppression over their union; their mAP beside its own."""
    folders = [Path("runs") / one if (Path("runs") / one).is_dir() else Path(one) for one in runs]
    name = run or "+".join(folder.name for folder in folders)
    job = Job(dataset, voc_root, test_split, run=name, limit=limit)
    settings = DetectionSettings(nms_overlap=nms_overlap)
    console.print(combine_runs(folders, job.open(test_split), job.run, settings, scores))
    console.print(f"run: {job.run.folder}", highlight=False)


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
) -> None:
    """R-CNN beside SPP-net at one and five scales, same backbone and windows: mAP and time of each stage."""
    sizes = Sizes(train_images, train_windows, test_images, test_windows, timed_images)
    job = Job(dataset, voc_root, train_split, backbone, weights, preset, config, change, run, map_gb=map_gb)
    if not run:
        folder = f"compare-{Path(job.name).name.replace(':', '_')}-{job.settings.network.name}"
        job.run = replace(job.run, folder=Path("runs") / folder)
    # What is wrong with the network shows before the work.
    job.run.build()
    train = job.fill(job.open(job.train_split).head(sizes.train_images), jobs)
    test = job.fill(job.open(test_split).head(sizes.test_images), jobs)
    with ProgressReport(console) as progress:
        figures, windows = compare(train, test, job.run, sizes, progress)
    title = comparison_title(test.name, job.settings.network.name, sizes, windows)
    console.print(comparison_table(figures, title))
    write_comparison(job.run.folder / "compare.json", figures, sizes, title)
    console.print(f"written: {job.run.folder}/compare.json; the runs are beside it", highlight=False)


@reported
def bench(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    backbone: Backbone = "",
    preset: Preset = "default",
    run: RunName = "",
    limit: Limit = 0,
) -> None:
    """Times pooling, and the stages of a run's detector on test images (50 unless --limit says otherwise)."""
    console.print(bench_pooling())
    job = Job(dataset, voc_root, "test", backbone, preset=preset, run=run, limit=limit or 50)
    if not (job.run.model / "model.json").exists():
        console.print(f"{job.run.folder}: no model yet, so no times of its stages", highlight=False)
        return
    detector, examples = Detector.load(job.run.model), job.open("test").examples
    console.print(bench_stages(detector, examples))
    console.print(bench_many(detector, examples))
