"""The commands ``sppnet train``, ``finetune``, ``detect`` and ``eval``."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import typer
from rich.markup import escape
from rich.table import Table

from sppnet.cli.job import Job, with_detections
from sppnet.cli.options import (
    VOC_ROOT,
    Backbone,
    BFloat16,
    Change,
    Config,
    DatasetName,
    FcRank,
    HeadName,
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
    complain,
    console,
    percent,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.common.arrays import Image
from sppnet.common.distributed import ALONE, Group, join_group
from sppnet.common.errors import InputError
from sppnet.data import Dataset, read_image
from sppnet.data.image_folder import list_images
from sppnet.detection.batch import detect_many
from sppnet.detection.detector import Detector
from sppnet.detection.runs.run import hasten
from sppnet.detection.training.finetuning import starting_layers
from sppnet.eval import (
    VOCResult,
    class_table,
    coco_metrics,
    draw_detections,
    evaluate_voc,
    plot_precision_recall,
    read_voc_detections,
    write_metrics,
)
from sppnet.proposals import ImportedBoxes, SelectiveSearch


@reported
def train(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    backbone: Backbone = "",
    weights: Weights = "",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    run: RunName = "",
    jobs: Jobs = -1,
    limit: Limit = 0,
    map_gb: MapGb = 20,
    skip_errors: SkipErrors = False,
    head: HeadName = "pool5",
) -> None:
    """Trains a detector; stopped at any moment, it goes on from there."""
    job = Job(
        dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
        skip_errors, head,
    )  # fmt: skip
    _train(job, jobs)


@reported
def finetune_layers(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    backbone: Backbone = "",
    weights: Weights = "",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    run: RunName = "",
    jobs: Jobs = -1,
    limit: Limit = 0,
    map_gb: MapGb = 20,
    skip_errors: SkipErrors = False,
) -> None:
    """Fine-tunes fully connected layers on a run's network; below torchrun, in several processes."""
    with join_group() as group:
        console.quiet = group.rank > 0
        job = Job(
            dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
            skip_errors, "softmax",
        )  # fmt: skip
        if group.size > 1 and not replace(job.run, head="pool5").trained:
            raise InputError(f"{job.run.folder}: no model yet; run 'sppnet train' first, without torchrun")
        detector = _train(job, jobs, group)
    table = Table("step", "loss", "accuracy", "precision", title="held-out windows, % but for the loss")
    tuning = detector.origin["finetuning"]
    for one in tuning["history"]:
        mark = " (chosen)" if one["step"] == tuning["chosen_step"] else ""
        figures = f"{one['loss']:.3f}", percent(one["accuracy"]), percent(one["precision"])
        table.add_row(f"{one['step']}{mark}", *figures)
    console.print(table)


def _train(job: Job, jobs: int, group: Group = ALONE, test: Dataset | None = None) -> Detector:
    """The job's detector, trained where there is none, after those that it builds on; ``test`` is checked."""
    dataset = job.open(job.train_split)
    if test is not None:
        job.check_test(test, dataset)
    job.run.claim(f"{job.name} {job.train_split}, {len(dataset)} images", dataset.digest())
    detector = job.run.load()
    if detector is not None:
        console.print(f"model: {job.run.model} (trained before)", highlight=False)
        return detector
    # Before the hours of proposals and pooled windows: what is wrong with the network, or with the layers to
    # start fine-tuning from, shows here.
    extractor = job.run.build()
    if job.run.head != "pool5" and not replace(job.run, head="softmax").trained:
        starting_layers(job.run.settings.finetuning, extractor)
    # One process writes the cache; the others then find all in it.
    if group.rank > 0:
        group.wait()
    dataset = job.fill(dataset, jobs)
    if group.rank == 0:
        group.wait()
    head = job.run.head
    # The pooled windows' detector brings fitted taps, the features' scale and box regression to the others.
    base: Detector | None = None
    for stage in ["pool5", *(["softmax"] if head != "pool5" else []), *([head] if head[:2] == "fc" else [])]:
        run = replace(job.run, head=stage, fc_rank=0, bfloat16=False)
        base, detector = detector, run.load()
        if detector is None:
            with ProgressReport(console) as progress:
                if base is None:
                    detector = run.train(dataset, extractor, progress)
                elif stage == "softmax":
                    detector = run.finetune(dataset, base, progress, group)
                else:
                    detector = run.train_head(dataset, base, progress)
            console.print(f"model: {run.model}", highlight=False)
    loaded = job.run.load()
    assert loaded is not None, "the last stage saved it"
    return loaded


@reported
def detect(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files or folders; without any, the main job: a run.")
    ] = None,
    more_images: Annotated[
        list[Path] | None, typer.Option("--images", help="The same, as an option.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder for images; empty: the run's.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn.")] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Print and draw detections of at least this score: margin, or log-odds of softmax. By "
            "default -0.75 or even odds."
        ),
    ] = None,
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    test_split: TestSplit = "test",
    backbone: Backbone = "",
    weights: Weights = "",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    run: RunName = "",
    jobs: Jobs = -1,
    limit: Limit = 0,
    map_gb: MapGb = 20,
    skip_errors: SkipErrors = False,
    head: HeadName = "pool5",
    fc_rank: FcRank = 0,
    bfloat16: BFloat16 = False,
    regression: Annotated[
        bool, typer.Option(help="Boxes moved by regression, or as they were proposed. A run keeps both.")
    ] = True,
) -> None:
    """The main job: proposals, training where there is no model yet, detection, mAP. Or any images."""
    images = [*(images or []), *(more_images or [])]
    if model is not None:
        unused = dataset, train_split, backbone, weights, run, config, change, limit
        chosen = head != "pool5" or preset != "default" or test_split != "test"
        if not images or any(unused) or chosen:
            raise InputError(
                "--model is for images, and has its head and settings; leave out the flags of a run "
                "(--dataset and its splits, --backbone, --weights, --preset, --head, --config, --set, --run, "
                "--limit)"
            )
        detector = Detector.load(model)
        hasten(detector, fc_rank, bfloat16)
        _detect_images(detector, images, draw, min_score, regression, skip_errors, jobs)
        return
    job = Job(
        dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
        skip_errors, head, fc_rank, bfloat16, test_split,
    )  # fmt: skip
    if images:
        _detect_images(_train(job, jobs), images, draw, min_score, regression, skip_errors, jobs)
        return
    start = time.monotonic()
    test = job.open(test_split)
    detector = _train(job, jobs, test=test)
    test = job.fill(test, jobs)
    with ProgressReport(console) as progress:
        refined, found = job.run.detect(detector, test, progress)
    result, windows = job.run.score(test, refined, found)
    job.run.record(main_job_seconds_this_time=time.monotonic() - start)
    _print_result(test, result, windows, coco_metrics(test, refined))
    console.print(f"run: {job.run.folder}", highlight=False)
    if draw is not None:
        shown = refined if regression else found
        least = detector.least_shown if min_score is None else min_score
        for example in test:
            picture = draw_detections(
                read_image(example.path), shown[example.image_id], test.classes, least, example
            )
            _write_picture(draw / f"{example.image_id}.png", picture)


def _print_result(
    dataset: Dataset, result: VOCResult, windows: VOCResult | None, coco: Mapping[str, float]
) -> None:
    title = f"{dataset.name} {dataset.split}, {len(dataset)} images, IoU {result.iou_threshold}, AP in %"
    console.print(class_table(result, title))
    console.print(f"mAP, 11-point: {percent(result.map_11point)}; area: {percent(result.map_area)}")
    if windows is not None:
        console.print(
            f"the same without box regression: {percent(windows.map_11point)}; {percent(windows.map_area)}"
        )
    figures = ", ".join(f"{name} {percent(coco[name])}" for name in ("AP", "AP50", "AP75", "AR_100"))
    console.print(f"COCO's figures of the same (difficult as crowd): {figures}", highlight=False)


def _detect_images(
    detector: Detector,
    images: list[Path],
    draw: Path | None,
    min_score: float | None,
    regression: bool,
    skip_errors: bool,
    jobs: int,
) -> None:
    least = detector.least_shown if min_score is None else min_score
    if not regression:
        detector.regressors = None
    if isinstance(detector.engine, ImportedBoxes):
        console.print("warning: trained on imported boxes, of which these images have none; Selective Search")
        detector.engine = SelectiveSearch()
    files = [(path, file) for path in images for file in list_images(path)]
    # A picture is called after the path below the folder that was given.
    pictures = [str(file.relative_to(path)) if path.is_dir() else file.name for path, file in files]
    twice = next((name for name, count in Counter(pictures).items() if count > 1), None)
    if draw is not None and twice is not None:
        first, second = [file for (_, file), name in zip(files, pictures, strict=True) if name == twice][:2]
        raise InputError(
            f"{first} and {second}: both would be drawn as {draw / twice}.png; give the folder above both, "
            "or draw them one after the other, into two folders"
        )
    errors = []
    results = detect_many(detector, [file for _, file in files], max(jobs, 0))
    for (file, result), name in zip(results, pictures, strict=True):
        if isinstance(result, InputError):
            errors.append(result)
            continue
        image, found = result
        table = Table("class", "score", "left", "top", "right", "bottom")
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if score >= least:
                table.add_row(
                    escape(detector.classes[label]), f"{score:.2f}", *(f"{edge:.0f}" for edge in box)
                )
        # Not the table's title, which is broken to its width.
        said = f"{file}:" if table.row_count else f"{file}: nothing found"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
        if table.row_count:
            console.print(table)
        if draw is not None:
            _write_picture(draw / f"{name}.png", draw_detections(image, found, detector.classes, least))
    if errors:
        complain(f"{len(errors)} of {len(files)} files skipped, the first: {errors[0]}", skip_errors)


def _write_picture(path: Path, picture: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise InputError(f"{path}: cannot be written; check the folder and the space left")


@reported
def evaluate(
    detections: Annotated[
        Path | None, typer.Option(help="Any folder of comp?_det_<split>_<class>.txt; without it, a run's.")
    ] = None,
    run: RunName = "",
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    test_split: TestSplit = "test",
    iou: Annotated[float, typer.Option(help="Least overlap of a match.")] = 0.5,
    backbone: Backbone = "",
    preset: Preset = "default",
    limit: Limit = 0,
    head: HeadName = "pool5",
    fc_rank: FcRank = 0,
    bfloat16: BFloat16 = False,
    skip_errors: SkipErrors = False,
) -> None:
    """Scores a run, or any folder of VOC detection files, against a split."""
    if not 0 < iou <= 1:
        raise InputError(f"--iou {iou}: give an overlap above 0, at most 1")
    if detections is not None and (
        run or backbone or preset != "default" or head != "pool5" or fc_rank or bfloat16
    ):
        raise InputError("--detections is a folder of any program's; leave out the flags of a run")
    job = Job(
        dataset,
        voc_root,
        test_split,
        backbone,
        preset=preset,
        run=run,
        limit=limit,
        head=head,
        fc_rank=fc_rank,
        bfloat16=bfloat16,
        skip_errors=skip_errors,
    )
    test = job.open(test_split)
    if detections is None:
        if skip_errors:
            test = with_detections(test, job.run.detections)
        refined, found = job.run.read_detections(test)
        result, windows = job.run.score(test, refined, found, iou)
        _print_result(test, result, windows, coco_metrics(test, refined))
        return
    refined = read_voc_detections(detections, test.classes, test.split)
    result, coco = evaluate_voc(test, refined, iou), coco_metrics(test, refined)
    _print_result(test, result, None, coco)
    about = {"dataset": test.name, "split": test.split, "images": len(test), "detections": str(detections)}
    write_metrics(detections / "metrics.json", result, coco, about)
    plot_precision_recall(detections / "precision_recall.png", result)
    console.print(f"written: {detections}/metrics.json and precision_recall.png", highlight=False)
