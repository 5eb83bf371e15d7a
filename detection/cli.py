"""The command ``sppnet``."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import cv2
import typer
from rich.table import Table

from data import (
    VOC2007_URL,
    Dataset,
    Image,
    InputError,
    OnError,
    default_train_split,
    download_voc2007,
    make_sample,
    open_dataset,
    read_image,
)
from detection.bench import bench_many, bench_pooling, bench_stages
from detection.cli_classify import classify_command
from detection.cli_distill import distill_command
from detection.cli_linear import classify_svm_command
from detection.cli_options import (
    SAMPLE,
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
    choose_dataset,
    console,
    reported,
)
from detection.cli_pretrain import crops_command, pretrain_command
from detection.combine import combine_runs
from detection.compare import Sizes, compare
from detection.compare_table import comparison_table, comparison_title, write_comparison
from detection.console import ProgressReport
from detection.detector import Detector
from detection.many import detect_many
from detection.presets import make_settings
from detection.proposal_bench import (
    bench_proposals,
    faults,
    quality_table,
    times_table,
    write_bench,
)
from detection.proposal_drawing import draw_proposals
from detection.proposal_eval import ENGINES, evaluate_engines, fill_engines, make_engine, write_evaluation
from detection.proposal_start import starts_table
from detection.runs import Run
from detection.suppression import DetectionSettings
from detection.training import ALONE, Group, join_group
from eval import (
    VOCResult,
    abo_table,
    class_table,
    coco_metrics,
    draw_detections,
    evaluate_voc,
    plot_precision_recall,
    proposal_table,
    read_voc_detections,
    write_metrics,
)
from proposals import ProposalCache, SelectiveSearch, exchange, fill_cache, propose_example
from proposals.source import ImageSource

app = typer.Typer(no_args_is_help=True, add_completion=False, help="SPP-net object detection on a CPU.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: download VOC2007, write the built-in sample.")
app.add_typer(data_app, name="data")
data_app.command("crops")(crops_command)
app.command("pretrain")(pretrain_command)
app.command("classify")(classify_command)
app.command("classify-svm")(classify_svm_command)
app.command("distill")(distill_command)


class _Job:
    """What the commands on a run share: settings, data sets, proposals cache, run folder."""

    def __init__(
        self,
        dataset: str,
        voc_root: Path,
        train_split: str = "",
        backbone: str = "",
        weights: str = "",
        preset: str = "default",
        config: Path | None = None,
        changes: list[str] | None = None,
        run: str = "",
        limit: int = 0,
        map_gb: float = 0,
        skip_errors: bool = False,
        head: str = "pool5",
        fc_rank: int = 0,
        bfloat16: bool = False,
    ) -> None:
        network = {"name": backbone, "weights": weights}
        self.settings = make_settings(
            preset, config, changes or (), {key: value for key, value in network.items() if value}
        )
        self.voc_root = voc_root if voc_root.is_dir() else None
        self.name, why = choose_dataset(dataset, voc_root)
        self.limit, self.skip_errors = limit or None, skip_errors
        self.train_split = train_split or default_train_split(self.name, self.voc_root)
        console.print(f"data set: {self.name} ({why})", highlight=False)
        name = run or "-".join([Path(self.name).name.replace(":", "_"), self.settings.network.name, preset])
        self.cache = ProposalCache(Path("cache/proposals.sqlite"), self.settings.proposer)
        self.run = Run(
            Path("runs") / name, self.settings, self.cache, Path("cache/maps"), map_gb, head, fc_rank,
            bfloat16,
        )  # fmt: skip

    def open(self, split: str) -> Dataset:
        """The first ``limit`` images of a split."""
        on_error: OnError = "skip" if self.skip_errors else "raise"
        dataset = open_dataset(self.name, split, self.voc_root, SAMPLE, on_error).head(self.limit)
        console.print(f"{split}: {len(dataset)} images", highlight=False)
        return dataset

    def image_source(self, split: str, url: str) -> ImageSource | None:
        """The URL that stands for the data set's folder (VOC's devkit, COCO's images) at the workers."""
        if not url:
            return None
        _, *folders = self.name.replace("{split}", split).split(":")
        named = {"sample": SAMPLE, "voc2007": self.voc_root, "voc2012": self.voc_root}.get(self.name)
        return ImageSource(named or Path(folders[-1] if folders else self.name), url)

    def fill(self, dataset: Dataset, jobs: int, source: ImageSource | None = None) -> Dataset:
        """Fills the cache with the proposals of a split; returns the images that have some."""
        start = time.monotonic()
        with ProgressReport(console) as progress:
            report = fill_cache(
                dataset, self.settings.proposer, self.cache, jobs,
                lambda done, total: progress(f"proposals ({dataset.split})", done, total), source,
            )  # fmt: skip
        console.print(
            f"proposals ({dataset.split}): {report.computed} images computed in "
            f"{time.monotonic() - start:.0f} s, {report.cached} in the cache",
            highlight=False,
        )
        if not report.errors:
            return dataset
        if not self.skip_errors:
            raise InputError(report.complaint())
        first = next(iter(report.errors.values()))
        console.print(f"{len(report.errors)} images left out, the first: {first}", highlight=False)
        return dataset.without(report.errors)


@app.command()
@reported
def proposals(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[list[str] | None, typer.Option(help="Splits; those of the main job by default.")] = None,
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    jobs: Jobs = -1,
    limit: Limit = 0,
    skip_errors: SkipErrors = False,
    scheduler: Annotated[
        str, typer.Option(help="Address of a Dask scheduler, tcp://host:8786; empty: local processes.")
    ] = "",
    images_url: Annotated[
        str,
        typer.Option(
            help="Where workers read images: an fsspec URL that stands for the data set's folder (VOC_ROOT, "
            "COCO's images); empty: the same paths as here."
        ),
    ] = "",
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a picture of each image: segments, regions at a few levels, and the windows "
            "that cover its objects best. Mind --limit."
        ),
    ] = None,
) -> None:
    """Fills the offline cache of proposals; stopped at any moment, it goes on from there."""
    job = _Job(
        dataset, voc_root, preset=preset, config=config, changes=change, limit=limit, skip_errors=skip_errors
    )
    engine = job.settings.proposer
    if draw is not None and not isinstance(engine, SelectiveSearch):
        raise InputError("--draw shows regions of our own Selective Search: leave out 'engine' and 'boxes'")
    where: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if scheduler:
        # It loads Dask, which no other work has to wait for.
        from proposals.cluster import dask_cluster

        where = dask_cluster(scheduler)
    with where:
        for name in split or [job.train_split, "test"]:
            dataset_split = job.fill(job.open(name), jobs, job.image_source(name, images_url))
            if draw is not None and isinstance(engine, SelectiveSearch):
                _draw_proposals(dataset_split, engine, job.cache, draw)


def _draw_proposals(dataset: Dataset, engine: SelectiveSearch, cache: ProposalCache, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with ProgressReport(console) as progress:
        for done, example in enumerate(dataset, start=1):
            image = read_image(example.path)
            boxes = propose_example(example, engine, cache)
            grouped = next(iter(engine.hierarchies(image)))
            path = folder / f"{example.image_id.replace('/', '_')}.png"
            draw_proposals(image, grouped, boxes, example, dataset.classes).savefig(path, dpi=100)
            progress(f"drawing ({dataset.split})", done, len(dataset))
    console.print(f"pictures: {folder}", highlight=False)


@app.command("proposals-import")
@reported
def proposals_import(
    file: Annotated[Path, typer.Argument(help="The published .mat, or an .npz of proposals-export.")],
    name: Annotated[str, typer.Option(help="What to call them: a run takes them with --set boxes='NAME'.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose images the boxes are of.")] = "test",
) -> None:
    """Puts boxes made elsewhere into the cache, under a name of their own."""
    job = _Job(dataset, voc_root, split, changes=[f"boxes = {json.dumps(name)}"])
    count = exchange.import_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images imported as {name!r}", highlight=False)


@app.command("proposals-export")
@reported
def proposals_export(
    file: Annotated[Path, typer.Argument(help="An .mat in the published layout, or an .npz.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose boxes to write.")] = "test",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    limit: Limit = 0,
) -> None:
    """Writes the cached boxes of a split."""
    job = _Job(dataset, voc_root, split, preset=preset, config=config, changes=change, limit=limit)
    count = exchange.export_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images written", highlight=False)


@app.command()
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
    job = _Job(
        dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
        skip_errors, head,
    )  # fmt: skip
    _train(job, jobs)


@app.command("finetune")
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
        job = _Job(
            dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
            skip_errors, "softmax",
        )  # fmt: skip
        if group.size > 1 and replace(job.run, head="pool5").load() is None:
            raise InputError(f"{job.run.folder}: no model yet; run 'sppnet train' first, without torchrun")
        detector = _train(job, jobs, group)
    table = Table("step", "loss", "accuracy", "precision", title="held-out windows, % but for the loss")
    tuning = detector.origin["finetuning"]
    for one in tuning["history"]:
        mark = " (chosen)" if one["step"] == tuning["chosen_step"] else ""
        figures = f"{one['loss']:.3f}", _percent(one["accuracy"]), _percent(one["precision"])
        table.add_row(f"{one['step']}{mark}", *figures)
    console.print(table)


def _train(job: _Job, jobs: int, group: Group = ALONE) -> Detector:
    """The job's detector, trained where there is none, after those that it builds on."""
    dataset = job.open(job.train_split)
    job.run.claim(f"{job.name} {job.train_split}, {len(dataset)} images", dataset.digest())
    detector = job.run.load()
    if detector is not None:
        console.print(f"model: {job.run.model} (trained before)", highlight=False)
        return detector
    # Before the hours of proposals: what is wrong with the network shows here.
    extractor = job.run.build()
    dataset = job.fill(dataset, jobs)
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


@app.command()
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
        float,
        typer.Option(
            help="Draw and print detections of at least this score: margin, or log-odds of softmax."
        ),
    ] = -0.5,
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
) -> None:
    """The main job: proposals, training where there is no model yet, detection, mAP. Or any images."""
    images = [*(images or []), *(more_images or [])]
    if images and model is not None:
        _detect_images(Detector.load(model), images, draw, min_score)
        return
    job = _Job(
        dataset, voc_root, train_split, backbone, weights, preset, config, change, run, limit, map_gb,
        skip_errors, head, fc_rank, bfloat16,
    )  # fmt: skip
    if images:
        _detect_images(_train(job, jobs), images, draw, min_score)
        return
    start = time.monotonic()
    test = job.open(test_split)
    detector = _train(job, jobs)
    test = job.fill(test, jobs)
    with ProgressReport(console) as progress:
        refined, found = job.run.detect(detector, test, progress)
    result, windows = job.run.score(test, refined, found)
    job.run.record(main_job_seconds_this_time=time.monotonic() - start)
    _print_result(test, result, windows, coco_metrics(test, refined))
    console.print(f"run: {job.run.folder}", highlight=False)
    if draw is not None:
        for example in test:
            picture = draw_detections(
                read_image(example.path), refined[example.image_id], test.classes, min_score, example
            )
            _write_picture(draw / f"{example.image_id}.png", picture)


def _print_result(
    dataset: Dataset, result: VOCResult, windows: VOCResult | None, coco: Mapping[str, float]
) -> None:
    title = f"{dataset.name} {dataset.split}, {len(dataset)} images, IoU {result.iou_threshold}, AP in %"
    console.print(class_table(result, title))
    console.print(f"mAP, 11-point: {_percent(result.map_11point)}; area: {_percent(result.map_area)}")
    if windows is not None:
        console.print(
            f"the same without box regression: {_percent(windows.map_11point)}; {_percent(windows.map_area)}"
        )
    figures = ", ".join(f"{name} {_percent(coco[name])}" for name in ("AP", "AP50", "AP75", "AR_100"))
    console.print(f"COCO's figures of the same (difficult as crowd): {figures}", highlight=False)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _detect_images(detector: Detector, images: list[Path], draw: Path | None, min_score: float) -> None:
    files = []
    for path in images:
        inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: the folder has no files")
        # A picture is called after the path below the folder that was given.
        files += [(file, file.relative_to(path) if path.is_dir() else Path(file.name)) for file in inside]
    errors = []
    results = detect_many(detector, [file for file, _ in files])
    for (file, result), (_, name) in zip(results, files, strict=True):
        if isinstance(result, InputError):
            errors.append(result)
            continue
        image, found = result
        table = Table("class", "score", "left", "top", "right", "bottom", title=str(file))
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if score >= min_score:
                table.add_row(detector.classes[label], f"{score:.2f}", *(f"{edge:.0f}" for edge in box))
        console.print(table if table.row_count else f"{file}: nothing found", highlight=False)
        if draw is not None:
            _write_picture(draw / f"{name}.png", draw_detections(image, found, detector.classes, min_score))
    if errors:
        raise InputError(f"{len(errors)} of {len(files)} files skipped, the first: {errors[0]}")


def _write_picture(path: Path, picture: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise InputError(f"{path}: cannot be written; check the folder and the space left")


@app.command("eval")
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
) -> None:
    """Scores a run, or any folder of VOC detection files, against a split."""
    if not 0 < iou <= 1:
        raise InputError(f"--iou {iou}: give an overlap above 0, at most 1")
    job = _Job(
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
    )
    test = job.open(test_split)
    if detections is None:
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


@app.command("combine")
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
    job = _Job(dataset, voc_root, test_split, run=name, limit=limit)
    settings = DetectionSettings(nms_overlap=nms_overlap)
    console.print(combine_runs(folders, job.open(test_split), job.run, settings, scores))
    console.print(f"run: {job.run.folder}", highlight=False)


@app.command("compare")
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
    job = _Job(dataset, voc_root, train_split, backbone, weights, preset, config, change, run, map_gb=map_gb)
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


@app.command("eval-proposals")
@reported
def evaluate_proposals(
    engine: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(ENGINES)}; repeatable.")
    ] = None,
    boxes: Annotated[
        list[Path] | None, typer.Option(help="Boxes made elsewhere, .mat or .npz; repeatable.")
    ] = None,
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    split: Annotated[str, typer.Option(help="Split whose objects are to be covered.")] = "test",
    difficult: Annotated[bool, typer.Option(help="Count objects that VOC calls difficult, too.")] = False,
    max_windows: Annotated[
        int, typer.Option(min=0, help="Windows an image; 0: all. With 2000 those of the main job serve.")
    ] = 0,
    min_side: Annotated[int, typer.Option(min=1, help="Engines drop boxes with a side below, pixels.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; empty: runs/proposals-<dataset>-<split>.")
    ] = None,
    jobs: Jobs = -1,
    limit: Limit = 0,
    skip_errors: SkipErrors = False,
) -> None:
    """Evaluates proposals side by side: recall, average recall and MABO over the number of windows."""
    names = engine or ([] if boxes else ["single", "fast", "quality"])
    engines = {name: make_engine(name, max_windows or None, min_side) for name in names}
    job = _Job(dataset, voc_root, split, limit=limit, skip_errors=skip_errors)
    examples = job.open(split)
    with ProgressReport(console) as progress:
        examples = fill_engines(examples, engines, job.cache.path, jobs, skip_errors, progress)
    console.print(f"evaluated: {len(examples)} images", highlight=False)
    results = evaluate_engines(examples, engines, boxes or (), job.cache.path, difficult)
    console.print(abo_table(results))
    title = f"{examples.name} {split}, {len(examples)} images"
    console.print(proposal_table(results, title))
    folder = output or job.run.folder.parent / f"proposals-{Path(job.name).name.replace(':', '_')}-{split}"
    about = {
        "dataset": examples.name,
        "split": split,
        "difficult": difficult,
        "engines": {name: one.parameters() for name, one in engines.items()},
        "files": [str(file) for file in boxes or ()],
    }
    write_evaluation(folder, results, about)
    console.print(f"written: {folder}/proposals.json and proposals.png", highlight=False)


@app.command()
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
    job = _Job(dataset, voc_root, "test", backbone, preset=preset, run=run, limit=limit or 50)
    if not (job.run.model / "model.json").exists():
        console.print(f"{job.run.folder}: no model yet, so no times of its stages", highlight=False)
        return
    detector, examples = Detector.load(job.run.model), job.open("test").examples
    console.print(bench_stages(detector, examples))
    console.print(bench_many(detector, examples))


@app.command("bench-proposals")
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
    examples = _Job(dataset, voc_root, split, limit=limit or 50).open(split)
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


@data_app.command()
@reported
def download(
    name: Annotated[str, typer.Argument(help="voc2007")],
    voc_root: VocRoot = VOC_ROOT,
    base_url: Annotated[str, typer.Option(help="Folder on a server that holds the archives.")] = VOC2007_URL,
) -> None:
    """Downloads a data set; a broken download goes on where it stopped."""
    if name != "voc2007":
        raise InputError(f"no download of {name!r}; there is voc2007")
    with ProgressReport(console) as progress:
        folder = download_voc2007(
            voc_root, base_url, progress=lambda file, done, total: progress(file, done, total or done)
        )
    console.print(f"VOC2007: {folder}", highlight=False)


@data_app.command()
@reported
def sample(folder: Annotated[Path, typer.Argument(help="Where to.")] = SAMPLE) -> None:
    """Writes the built-in sample."""
    console.print(f"sample: {make_sample(folder)}", highlight=False)


def main() -> None:
    """The entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # One image at a time is computed on all cores; OpenCV's own threads would only compete.
    cv2.setNumThreads(1)
    app()
