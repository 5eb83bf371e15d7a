"""The commands ``sppnet combine`` and ``compare``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.choices import ScoreComparison
from sppnet.cli.command import Defaults, Without, command
from sppnet.cli.options import Cache, DataOptions, RunOptions, SettingsOptions
from sppnet.common.folders import CACHE, RUNS
from sppnet.detection.runs.names import named_by_head
from sppnet.detection.training.choices import HEADS


@command
def combine(
    runs: Annotated[
        list[str],
        typer.Argument(
            help=f"Runs, by name or folder; RUN:HEAD for other heads than pool5 ({', '.join(HEADS[1:])}); "
            "or folders of VOC files."
        ),
    ],
    *,
    run: Annotated[str, typer.Option(help="Name of the new run; empty: made from the runs' names.")] = "",
    nms_iou: Annotated[
        float, typer.Option(help="A box that overlaps a better box by a higher IoU is dropped.")
    ] = 0.3,
    scores: Annotated[
        ScoreComparison,
        typer.Option(help="Compare scores unchanged, or (SVMs with softmax) the ranks in each run's list."),
    ] = "as-is",
    cache: Cache = CACHE,
    data: Annotated[DataOptions, Without("train_split")],
) -> None:
    """Combines the detections of several runs: suppression over their union; its mAP beside theirs."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.job import open_run
    from sppnet.cli.settings import read_settings
    from sppnet.cli.terminal import console, say_written
    from sppnet.detection.detection_settings import DetectionSettings
    from sppnet.detection.experiments.combine import combine_runs, part_name
    from sppnet.detection.runs.detection_files import only_detected

    folders = [_detections_folder(text) for text in runs]
    chosen = ChosenDataset(data)
    name = run or "+".join(part_name(folder) for folder in folders)
    opened = open_run(read_settings(SettingsOptions()), RunOptions(run=name, cache=cache))
    test = chosen.open(chosen.test_split)
    if data.skip_errors:
        for folder in folders:
            test = only_detected(test, folder)
    console.print(combine_runs(folders, test, opened, DetectionSettings(nms_iou=nms_iou), scores))
    say_written(opened.folder)


def _detections_folder(text: str) -> Path:
    """Finds the folder of detections from a run's name, or from a folder of files."""
    name, _, head = text.rpartition(":")
    if not name or head not in HEADS:
        name, head = text, ""
    run = RUNS / name if (RUNS / name).is_dir() else Path(name)
    inside = run / named_by_head("detections", head or "pool5")
    return inside if head or inside.is_dir() else run


@command
def compare(
    *,
    train_images: Annotated[int, typer.Option(help="Images to train each method on.")] = 60,
    train_proposals: Annotated[int, typer.Option(help="Proposals of each training image.")] = 100,
    test_images: Annotated[int, typer.Option(help="Images to score each method on.")] = 40,
    test_proposals: Annotated[int, typer.Option(help="Proposals of each test image.")] = 200,
    timed_images: Annotated[int, typer.Option(help="Test images to time, with all their proposals.")] = 3,
    data: Annotated[DataOptions, Without("limit")],
    settings: Annotated[SettingsOptions, Defaults(preset="paper-1scale")],
    run: RunOptions,
) -> None:
    """R-CNN beside SPP-net at one and five scales, same backbone and proposals: mAP, times of the stages."""
    from sppnet.cli.datasets import ChosenDataset, short_name
    from sppnet.cli.job import open_run, printing_pipeline
    from sppnet.cli.settings import read_settings
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.detection.experiments import rcnn_comparison, rcnn_comparison_table
    from sppnet.detection.runs.checks import check_test_set, check_training_set

    sizes = rcnn_comparison.Sizes(train_images, train_proposals, test_images, test_proposals, timed_images)
    resolved = read_settings(settings)
    chosen = ChosenDataset(data)
    network = resolved.network.name
    opened = open_run(resolved, run, f"compare-{short_name(chosen.name)}-{network}")
    # Here, so that a wrong network, or boxes that cannot be bounded, are reported before the work.
    opened.build()
    resolved.with_max_proposals(train_proposals)
    check_output_folder(opened.folder)
    train = chosen.open(chosen.train_split).head(train_images)
    test = chosen.open(chosen.test_split).head(test_images)
    warnings = check_training_set(train, resolved.training.difficult_positives)
    for warning in warnings + check_test_set(test, train):
        say(warning)
    with printing_pipeline(opened, run.jobs, data.skip_errors) as pipeline:
        train, test = pipeline.fill_proposals(train), pipeline.fill_proposals(test)
        sizes = replace(
            sizes, train_images=len(train), test_images=len(test), timed_images=min(timed_images, len(test))
        )
        figures, proposals = rcnn_comparison.compare(train, test, opened, sizes, pipeline.progress)
    title = rcnn_comparison_table.comparison_title(test.name, network, sizes, proposals)
    console.print(rcnn_comparison_table.comparison_table(figures, title))
    result = opened.folder / "compare.json"
    rcnn_comparison_table.write_comparison(result, figures, sizes, title)
    say_written(f"{result}, and a run of each method beside it")
