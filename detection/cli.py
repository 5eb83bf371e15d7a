"""The command ``sppnet``."""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import cv2
import typer
from rich.console import Console
from rich.table import Table

from data import (
    VOC2007_URL,
    Dataset,
    Image,
    InputError,
    download_voc2007,
    make_sample,
    open_dataset,
    read_image,
)
from detection.bench import bench_pooling, bench_stages
from detection.console import ProgressReport
from detection.detector import Detector
from detection.presets import PRESETS, RunSettings, make_settings
from detection.runs import Run
from eval import VOCResult, class_table, draw_detections, evaluate_voc, read_voc_detections
from proposals import FillReport, ProposalCache, exchange, fill_cache

Parameters = ParamSpec("Parameters")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="SPP-net object detection on a CPU.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: download VOC2007, write the built-in sample.")
app.add_typer(data_app, name="data")
console = Console()

_SAMPLE = Path("datasets/sample")

DatasetName = Annotated[
    str,
    typer.Option(
        help="voc2007, voc2012, sample, a folder in VOC's layout, coco:<json>:<images> or ilsvrc:<folder>; "
        "empty: voc2007 if it is on disk, else sample."
    ),
]
VocRoot = Annotated[Path, typer.Option(envvar="VOC_ROOT", help="The VOC devkit folder.")]
TrainSplit = Annotated[str, typer.Option(help="Split to train on; empty: trainval where it is, else train.")]
TestSplit = Annotated[str, typer.Option(help="Split to detect in and score on.")]
Backbone = Annotated[str, typer.Option(help="Network; empty: the preset's.")]
Weights = Annotated[str, typer.Option(help="Weights file, or random; empty: the network's own.")]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings over the preset's.")]
Change = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, as TOML: 'features.scales = [480, 576]'.")
]
RunName = Annotated[
    str, typer.Option(help="Folder below runs/; empty: named by data set, network and preset.")
]
Jobs = Annotated[int, typer.Option(min=-1, help="Processes for proposals; -1: one a core.")]
Limit = Annotated[int, typer.Option(min=0, help="Only the first images of each split; 0: all.")]
MapGb = Annotated[float, typer.Option(min=0, help="Bound on stored feature maps in cache/maps, in GB.")]


def _reported(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turns bad input and Ctrl-C into one line and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped; the same command goes on from here")
            raise typer.Exit(130) from None

    return wrapper


class _Job:
    """What the commands on a run share: settings, data sets, proposals cache, run folder."""

    def __init__(
        self,
        dataset: str,
        voc_root: Path,
        train_split: str,
        test_split: str,
        backbone: str,
        weights: str,
        preset: str,
        config: Path | None,
        changes: list[str] | None,
        run: str,
        limit: int,
        map_gb: float,
    ) -> None:
        quick = [
            f"network.{key} = '{value}'" for key, value in (("name", backbone), ("weights", weights)) if value
        ]
        self.settings: RunSettings = make_settings(preset, config, [*quick, *(changes or [])])
        self.voc_root = voc_root if voc_root.is_dir() else None
        self.name, why = _choose_dataset(dataset, voc_root)
        console.print(f"data set: {self.name} ({why})", highlight=False)
        self.test_split, self.limit = test_split, limit or None
        self.train_split = train_split or self._default_train_split()
        images = f"{self.name} {self.train_split}" + (f", first {limit}" if limit else "")
        name = run or "-".join([Path(self.name).name.replace(":", "_"), self.settings.network.name, preset])
        self.cache = ProposalCache(Path("cache/proposals.sqlite"), self.settings.proposals)
        self.run = Run(Path("runs") / name, self.settings, self.cache, Path("cache/maps"), map_gb)
        self.images = images

    def _default_train_split(self) -> str:
        try:
            return self.open("trainval").split
        except InputError:
            return "train"

    def open(self, split: str) -> Dataset:
        """The first ``limit`` images of a split."""
        return open_dataset(self.name, split, self.voc_root, _SAMPLE).head(self.limit)

    def fill(self, dataset: Dataset, jobs: int) -> None:
        """Fills the cache with the proposals of a split."""
        with ProgressReport(console) as progress:
            report = fill_cache(
                dataset, self.settings.proposals, self.cache, jobs,
                lambda done, total: progress(f"proposals ({dataset.split})", done, total),
            )  # fmt: skip
        _print_fill(dataset, report)


def _choose_dataset(dataset: str, voc_root: Path) -> tuple[str, str]:
    if dataset:
        return dataset, "as asked"
    if (voc_root / "VOC2007").is_dir():
        return "voc2007", f"found in {voc_root}"
    return "sample", (
        f"built in, since there is no VOC2007 in {voc_root}: set VOC_ROOT, "
        "or run 'sppnet data download voc2007'"
    )


def _print_fill(dataset: Dataset, report: FillReport) -> None:
    console.print(
        f"proposals ({dataset.split}): {report.computed} images computed, {report.cached} in the cache",
        highlight=False,
    )
    if report.errors:
        raise InputError(
            f"{len(report.errors)} images have no proposals, the first: {report.errors[0]}; "
            "the other images are done: mend or remove these and run again"
        )


@app.command()
@_reported
def proposals(
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
    split: Annotated[
        list[str] | None, typer.Option(help="Splits; all those of the main job by default.")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    jobs: Jobs = -1,
    limit: Limit = 0,
) -> None:
    """Fills the offline cache of proposals; stopped at any moment, it goes on from there."""
    job = _Job(dataset, voc_root, "", "test", "", "", preset, config, change, "", limit, 0)
    for name in split or [job.train_split, job.test_split]:
        job.fill(job.open(name), jobs)


@app.command("proposals-import")
@_reported
def proposals_import(
    file: Annotated[Path, typer.Argument(help="The published .mat, or an .npz of proposals-export.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
    split: Annotated[str, typer.Option(help="Split whose images the boxes are of.")] = "test",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
) -> None:
    """Puts boxes made elsewhere into the cache, for the given settings of proposals."""
    job = _Job(dataset, voc_root, split, split, "", "", preset, config, change, "", 0, 0)
    count = exchange.import_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images imported", highlight=False)


@app.command("proposals-export")
@_reported
def proposals_export(
    file: Annotated[Path, typer.Argument(help="An .mat in the published layout, or an .npz.")],
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
    split: Annotated[str, typer.Option(help="Split whose boxes to write.")] = "test",
    preset: Preset = "default",
    config: Config = None,
    change: Change = None,
    limit: Limit = 0,
) -> None:
    """Writes the cached boxes of a split."""
    job = _Job(dataset, voc_root, split, split, "", "", preset, config, change, "", limit, 0)
    count = exchange.export_boxes(file, job.open(split), job.cache)
    console.print(f"{file}: boxes of {count} images written", highlight=False)


@app.command()
@_reported
def train(
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
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
) -> None:
    """Trains a detector; stopped at any moment, it goes on from there."""
    job = _Job(
        dataset, voc_root, train_split, "test", backbone, weights, preset, config, change, run, limit, map_gb
    )
    _train(job, jobs)


def _train(job: _Job, jobs: int) -> Detector:
    job.run.claim(job.images)
    model = job.run.model / "model.json"
    if model.exists():
        console.print(f"model: {job.run.model} (trained before)", highlight=False)
        return Detector.load(job.run.model)
    dataset = job.open(job.train_split)
    job.fill(dataset, jobs)
    with ProgressReport(console) as progress:
        detector = job.run.train(dataset, progress)
    console.print(f"model: {job.run.model}", highlight=False)
    return detector


@app.command()
@_reported
def detect(
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Image files or folders; without any, the main job: a whole run."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder for --images; empty: the run's.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn.")] = None,
    min_score: Annotated[float, typer.Option(help="Draw and print detections of at least this score.")] = 0.0,
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
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
) -> None:
    """The main job: proposals, training where there is no model yet, detection, mAP. Or any images."""
    if images and model is not None:
        _detect_images(Detector.load(model), images, draw, min_score)
        return
    job = _Job(
        dataset,
        voc_root,
        train_split,
        test_split,
        backbone,
        weights,
        preset,
        config,
        change,
        run,
        limit,
        map_gb,
    )
    detector = _train(job, jobs)
    if images:
        _detect_images(detector, images, draw, min_score)
        return
    test = job.open(job.test_split)
    job.fill(test, jobs)
    with ProgressReport(console) as progress:
        refined, found = job.run.detect(detector, test, progress)
    result, windows = job.run.score(test, refined, found)
    _print_result(test, result, windows)
    console.print(f"run: {job.run.folder}", highlight=False)
    if draw is not None:
        for example in test:
            picture = draw_detections(
                read_image(example.path), refined[example.image_id], test.classes, min_score, example
            )
            _write_picture(draw / f"{example.image_id}.png", picture)


def _print_result(dataset: Dataset, result: VOCResult, windows: VOCResult) -> None:
    title = f"{dataset.name} {dataset.split}, {len(dataset)} images, IoU {result.iou_threshold}, AP in %"
    console.print(class_table(result, title))
    console.print(
        f"mAP, 11-point: {100 * result.map_11point:.1f} with box regression, "
        f"{100 * windows.map_11point:.1f} without; "
        f"area: {100 * result.map_area:.1f} and {100 * windows.map_area:.1f}",
        highlight=False,
    )


def _detect_images(detector: Detector, images: list[Path], draw: Path | None, min_score: float) -> None:
    files = []
    for path in images:
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    errors = []
    for file in files:
        try:
            image = read_image(file)
        except InputError as error:
            errors.append(error)
            continue
        found = detector.detect(image)
        table = Table("class", "score", "left", "top", "right", "bottom", title=str(file))
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if score >= min_score:
                table.add_row(detector.classes[label], f"{score:.2f}", *(f"{edge:.0f}" for edge in box))
        console.print(table if table.row_count else f"{file}: nothing found", highlight=False)
        if draw is not None:
            picture = draw_detections(image, found, detector.classes, min_score)
            _write_picture(draw / f"{file.stem}.png", picture)
    if errors:
        raise InputError(f"{len(errors)} of {len(files)} files skipped, the first: {errors[0]}")


def _write_picture(path: Path, picture: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise InputError(f"{path}: cannot be written; check the folder and the space left")


@app.command("eval")
@_reported
def evaluate(
    detections: Annotated[
        Path | None, typer.Option(help="Any folder of comp?_det_<split>_<class>.txt; without it, a run's.")
    ] = None,
    run: RunName = "",
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
    test_split: TestSplit = "test",
    iou: Annotated[float, typer.Option(help="Least overlap of a match.")] = 0.5,
    backbone: Backbone = "",
    preset: Preset = "default",
    limit: Limit = 0,
) -> None:
    """Scores a run, or any folder of VOC detection files, against a split."""
    if not 0 < iou <= 1:
        raise InputError(f"--iou {iou}: give an overlap above 0, at most 1")
    job = _Job(dataset, voc_root, test_split, test_split, backbone, "", preset, None, None, run, limit, 0)
    test = job.open(job.test_split)
    if detections is not None:
        result = evaluate_voc(test, read_voc_detections(detections, test.classes, test.split), iou)
        console.print(
            class_table(result, f"{test.name} {test.split}, {len(test)} images, IoU {iou}, AP in %")
        )
        console.print(f"mAP, 11-point: {100 * result.map_11point:.1f}; area: {100 * result.map_area:.1f}")
        return
    folder = job.run.detections
    if not folder.is_dir():
        raise InputError(f"{job.run.folder}: no detections there; run 'sppnet detect', or name another run")
    refined = read_voc_detections(folder, test.classes, test.split)
    found = read_voc_detections(folder / "windows", test.classes, test.split)
    _print_result(test, *job.run.score(test, refined, found, iou))


@app.command()
@_reported
def bench(
    dataset: DatasetName = "",
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
    backbone: Backbone = "",
    preset: Preset = "default",
    run: RunName = "",
    limit: Limit = 0,
) -> None:
    """Times pooling, and the stages of a run's detector on test images (50 unless --limit says otherwise)."""
    console.print(bench_pooling())
    job = _Job(dataset, voc_root, "test", "test", backbone, "", preset, None, None, run, limit or 50, 0)
    if not (job.run.model / "model.json").exists():
        console.print(f"{job.run.folder}: no model yet, so no times of its stages", highlight=False)
        return
    console.print(bench_stages(Detector.load(job.run.model), job.open("test").examples))


@data_app.command()
@_reported
def download(
    name: Annotated[str, typer.Argument(help="voc2007")],
    voc_root: VocRoot = Path("datasets/VOCdevkit"),
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
@_reported
def sample(folder: Annotated[Path, typer.Argument(help="Where to.")] = _SAMPLE) -> None:
    """Writes the built-in sample."""
    console.print(f"sample: {make_sample(folder)}", highlight=False)


def main() -> None:
    """The entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # One image at a time is computed on all cores; OpenCV's own threads would only compete.
    cv2.setNumThreads(1)
    app()
