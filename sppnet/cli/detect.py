"""The commands ``sppnet detect`` and ``eval``."""

import math
from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.options import DataOptions, HeadOptions, RunOptions, SettingsOptions
from sppnet.common.errors import InputError


@command
def detect(
    *,
    data: DataOptions,
    settings: SettingsOptions,
    run: RunOptions,
    head: HeadOptions,
    draw: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn.")] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Draw detections of at least this probability; by default the threshold of each class "
            "with the best F1 on held-out training images."
        ),
    ] = None,
    regression: Annotated[
        bool, typer.Option(help="Draw boxes moved by regression, or as they were proposed; a run keeps both.")
    ] = True,
) -> None:
    """The benchmark: proposals, training where there is no model yet, detection in a test set, mAP."""
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.result_tables import print_scores
    from sppnet.cli.settings import default_run_name, read_settings
    from sppnet.cli.terminal import say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.data import draw_detections

    if draw is not None:
        check_output_folder(draw)
    resolved = read_settings(settings)
    chosen = ChosenDataset(data)

    from sppnet.cli.job import open_run, printing_pipeline
    from sppnet.cli.photos import write_picture

    # Before the data are read: a wrong head or rank shows at once.
    opened = open_run(resolved, run, default_run_name(chosen.name, resolved, settings.preset), head)
    train, test = chosen.open(chosen.train_split), chosen.open(chosen.test_split)
    with printing_pipeline(opened, run.jobs, data.skip_errors) as pipeline:
        result = pipeline.main_job(train, test)
    print_scores(result.test, result.scores.voc, result.scores.voc_proposed, result.scores.coco)
    if draw is None:
        say_written(opened.folder)
        return
    detections = result.detections.regressed if regression else result.detections.proposed
    assert detections is not None, "detecting keeps both"
    detector, threshold = result.detector, "f1" if min_score is None else min_score
    for example in result.test:
        shown = detector.shown(detector.calibrated(detections[example.image_id]), threshold)
        picture = draw_detections(example.read(), shown, test.classes, -math.inf, example)
        write_picture(draw / f"{example.image_id}.png", picture)
    say_written(opened.folder, draw)


@command
def evaluate(
    *,
    detections: Annotated[
        Path | None, typer.Option(help="Any folder of comp?_det_<split>_<class>.txt; without it, a run's.")
    ] = None,
    iou: Annotated[float, typer.Option(help="Least overlap of a match.")] = 0.5,
    data: Annotated[DataOptions, Without("train_split")],
    settings: Annotated[SettingsOptions, Without("weights", "config", "change")],
    run: Annotated[RunOptions, Without("jobs", "map_gb")],
    head: HeadOptions,
) -> None:
    """Scores the detections of a run, or any folder of VOC detection files, against a split."""
    if not 0 < iou <= 1:
        raise InputError(f"--iou {iou}: give an overlap above 0, at most 1")
    # SPPNET_CACHE, which is no flag, may name another cache.
    of_a_run = (settings, run, head) != (SettingsOptions(), RunOptions(cache=run.cache), HeadOptions())
    if detections is not None and of_a_run:
        raise InputError("--detections is a folder of any program's; leave out the flags of a run")
    if detections is not None:
        _evaluate_folder(detections, data, iou)
    else:
        _evaluate_run(data, settings, run, head, iou)


def _evaluate_folder(folder: Path, data: DataOptions, iou: float) -> None:
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.result_tables import print_scores
    from sppnet.cli.terminal import say, say_written
    from sppnet.common.outputs import check_output_folder
    from sppnet.common.text import counted
    from sppnet.eval import (
        coco_metrics,
        evaluate_voc,
        plot_precision_recall,
        read_voc_detections,
        write_metrics,
    )

    chosen = ChosenDataset(data)
    test = chosen.open(chosen.test_split, need_images=False)
    detections = read_voc_detections(folder, test.classes, test.split)
    check_output_folder(folder)
    scored = {example.image_id for example in test}
    left_out = detections.keys() - scored
    unknown = left_out - chosen.image_ids(chosen.test_split) if data.limit or data.skip_errors else left_out
    if unknown:
        raise InputError(
            f"{folder}: has detections of {counted(len(unknown), 'image')} that {test.name} {test.split} "
            f"lacks, such as {min(unknown)!r}; score them against the split that they were made on"
        )
    if left_out:
        say(f"left out: the detections of {counted(len(left_out), 'image')} that are not scored")
        detections = {image_id: part for image_id, part in detections.items() if image_id in scored}
    voc, coco = evaluate_voc(test, detections, iou), coco_metrics(test, detections)
    print_scores(test, voc, None, coco)
    about = {"dataset": test.name, "split": test.split, "images": len(test), "detections": str(folder)}
    metrics, plot = folder / "metrics.json", folder / "precision_recall.png"
    write_metrics(metrics, voc, coco, about)
    plot_precision_recall(plot, voc)
    say_written(metrics, plot)


def _evaluate_run(
    data: DataOptions, settings: SettingsOptions, run: RunOptions, head: HeadOptions, iou: float
) -> None:
    from sppnet.cli.datasets import ChosenDataset
    from sppnet.cli.result_tables import print_scores
    from sppnet.cli.settings import default_run_name, read_settings
    from sppnet.cli.terminal import say_written

    resolved = read_settings(settings)
    chosen = ChosenDataset(data)
    test = chosen.open(chosen.test_split, need_images=False)

    from sppnet.cli.job import open_run
    from sppnet.detection.runs.detection_files import only_detected, read_detections
    from sppnet.detection.runs.scoring import score_run

    opened = open_run(resolved, run, default_run_name(chosen.name, resolved, settings.preset), head)
    if data.skip_errors:
        test = only_detected(test, opened.detections)
    scores = score_run(opened, test, read_detections(opened, test), iou)
    print_scores(test, scores.voc, scores.voc_proposed, scores.coco)
    say_written(opened.result_path("metrics", ".json"), opened.result_path("precision_recall", ".png"))
