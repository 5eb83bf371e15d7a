"""The command ``sppnet classify-svm``: linear SVMs on image vectors, by VOC's or Caltech101's protocol."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from sppnet.cli.job import check_classes, file_name, warn_of_shared_images
from sppnet.cli.options import (
    SAMPLE,
    VOC_ROOT,
    Backbone,
    DatasetName,
    Limit,
    TestSplit,
    TrainSplit,
    VocRoot,
    Weights,
    choose_dataset,
    console,
    percent,
    reported,
)
from sppnet.cli.progress import ProgressReport
from sppnet.common.claim import claim
from sppnet.common.errors import InputError
from sppnet.common.files import write_json
from sppnet.data import Dataset, default_train_split, open_dataset
from sppnet.data.image_folder import ImageFolder, open_classes, split_folders
from sppnet.detection.backbones import build_network
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.feature_store import FeatureFiles, HalfArray
from sppnet.detection.classification.image_features import (
    ImageFeatureExtractor,
    ImageFeatureSettings,
    ImageLayer,
    View,
)
from sppnet.detection.classification.linear_svm import class_accuracy, fit_folder, fit_voc, split_images
from sppnet.detection.features.pooling import PAPER_LEVELS
from sppnet.detection.training.presets import NetworkSettings, TrainingSettings
from sppnet.eval import classification_dict, classification_table, evaluate_voc_classification, image_labels

# As in training a detector.
_TAP_IMAGES = TrainingSettings().feature_level_images
_NETWORK = NetworkSettings().name
# Caltech101's protocol (§3.3).
_PER_CLASS, _TEST_PER_CLASS, _SPLITS = 30, 50, 10


@reported
def classify_svm_command(
    data: Annotated[
        Path | None,
        typer.Option(
            help="A labelled set, FOLDER/<class>/<image>, for Caltech101's protocol in place of VOC's."
        ),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="With --data: training images a class.")] = _PER_CLASS,
    test_per_class: Annotated[
        int, typer.Option(min=1, help="With --data: test images a class at most.")
    ] = _TEST_PER_CLASS,
    splits: Annotated[int, typer.Option(min=1, help="With --data: how many random splits.")] = _SPLITS,
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    train_split: TrainSplit = "",
    test_split: TestSplit = "test",
    backbone: Backbone = "",
    weights: Weights = "",
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained classifier, in place of --backbone; has fc6 and fc7, too."),
    ] = None,
    view: Annotated[
        View, typer.Option(help="Whole image, centre crop, or the image warped square.")
    ] = "full",
    scale: Annotated[
        list[int] | None,
        typer.Option(help="Short side of the view in pixels, 224 by default; repeatable: averaged."),
    ] = None,
    level: Annotated[
        list[int] | None,
        typer.Option(help="Bins a side of a level of the pyramid; repeatable; 6, 3, 2 and 1 by default."),
    ] = None,
    layer: Annotated[ImageLayer, typer.Option(help="What the SVMs see: the pyramid, fc6 or fc7.")] = "conv",
    run: Annotated[
        str, typer.Option(help="Folder below runs/; empty: named by data set, network, view and layer.")
    ] = "",
    limit: Limit = 0,
    feature_gb: Annotated[
        float, typer.Option(min=0, help="Bound on vectors stored in the run's folder, in GB.")
    ] = 4,
) -> None:
    """Image classification with linear SVMs: mAP on VOC, or accuracy on a folder of classes."""
    settings = ImageFeatureSettings(view, tuple(scale or (224,)), layer, tuple(level or PAPER_LEVELS))
    if classifier is not None and level:
        raise InputError("--level is for --backbone; a classifier has the pyramid it was trained with")
    if classifier is not None and (backbone or weights):
        raise InputError("give either --classifier, or --backbone and --weights")
    if data is not None and (dataset or train_split or test_split != "test"):
        raise InputError("give either --data, or --dataset and its splits")
    if data is None and (per_class, test_per_class, splits) != (_PER_CLASS, _TEST_PER_CLASS, _SPLITS):
        raise InputError("--per-class, --test-per-class and --splits are for --data; with VOC use --limit")
    if data is not None and split_folders(data):
        raise InputError(
            f"{data}: holds splits, not classes, and images are split anew; give {data / 'train'}"
        )
    if data is not None and limit:
        raise InputError("--limit is for VOC; with --data lower --per-class and --test-per-class")
    source = (
        build_network(backbone or _NETWORK, weights or None)
        if classifier is None
        else Classifier.load(classifier)
    )
    extractor = ImageFeatureExtractor(source, settings)
    pyramid = f"{layer}{'.'.join(map(str, level))}" if level else layer
    what = "-".join([extractor.network.name, view, *map(str, settings.scales), pyramid])
    about: dict[str, Any] = {
        "weights": weights or None,
        "classifier": None if classifier is None else str(classifier),
        # A classifier has levels of its own in place of the settings'.
        "vectors": extractor.made_by(),
    }
    start = time.monotonic()
    if data is not None:
        images = open_classes(data)
        vectors = _Vectors(extractor, Path("runs") / (run or f"svm-{data.resolve().name}-{what}"), feature_gb)
        about |= {"per_class": per_class, "test_per_class": test_per_class, "splits": splits}
        vectors.claim(about | {"images": f"{len(images)} of {data.resolve().name}"})
        figures = _classify_folder(images, per_class, test_per_class, splits, vectors)
        about["data"] = str(data)
    else:
        name, root = choose_dataset(dataset, voc_root)
        vectors = _Vectors(extractor, Path("runs") / (run or f"svm-{file_name(name)}-{what}"), feature_gb)
        train, test = (
            open_dataset(name, split, root, SAMPLE).head(limit or None)
            for split in (train_split or default_train_split(name, root, test_split), test_split)
        )
        check_classes(test, train)
        warn_of_shared_images(test, train)
        about |= {"dataset": name, "train": [train.split, len(train)], "test": [test.split, len(test)]}
        vectors.claim(about)
        figures = _classify_voc(train, test, vectors)
    about["seconds"] = round(time.monotonic() - start, 1)
    write_json(vectors.run / "classification.json", {**figures, "about": about}, indent=2)
    console.print(f"written: {vectors.run}/classification.json", highlight=False)


class _Vectors:
    """The vectors of a run's images, from its folder where they are there."""

    def __init__(self, extractor: ImageFeatureExtractor, run: Path, gigabytes: float) -> None:
        self.run = run
        self._extractor, self._bytes = extractor, round(gigabytes * 1e9)

    def claim(self, about: Mapping[str, Any]) -> None:
        """Keeps the run's folder for these settings, so that no result takes another's place.

        Raises:
            InputError: it has others.
        """
        text = json.dumps(about, indent=1, sort_keys=True)
        claim(self.run / "settings.json", text + "\n")

    def fit_feature_levels(self, paths: Sequence[Path]) -> None:
        """Fits a network of several maps on some of the images."""
        count = min(_TAP_IMAGES, len(paths))
        chosen = np.sort(np.random.default_rng(0).choice(len(paths), count, replace=False))
        self._extractor.fit_feature_levels([paths[index] for index in chosen], self.run / "taps")

    def read(self, paths: Sequence[Path], stage: str) -> HalfArray:
        """The images' vectors, float16 (N, length)."""
        files = FeatureFiles(self.run / "features", self._extractor, self._bytes)
        with ProgressReport(console) as progress:
            return files.read(paths, lambda done, total: progress(stage, done, total))


def _classify_voc(train: Dataset, test: Dataset, vectors: _Vectors) -> dict[str, Any]:
    vectors.fit_feature_levels([example.path for example in train])
    # Both first: a file that cannot be read is found before an hour of training, not after it.
    train_vectors, test_vectors = (
        vectors.read([example.path for example in split], f"vectors ({split.split})")
        for split in (train, test)
    )
    fit = fit_voc(train_vectors.astype(np.float32), image_labels(train))
    scores = fit.svms.score(test_vectors.astype(np.float32))
    result = evaluate_voc_classification(image_labels(test), scores, test.classes)
    title = f"{test.name} {test.split}, {len(test)} images; trained on {train.split}, {len(train)}"
    console.print(classification_table(result, title))
    tried = ", ".join(f"{cost:g}: {percent(value)}" for cost, value in fit.tried.items())
    console.print(f"C = {fit.cost:g}; mAP in cross-validation by C: {tried}", highlight=False)
    console.print(
        f"mAP, 11-point: {percent(result.map_11point)}; area: {percent(result.map_area)}", highlight=False
    )
    return {**classification_dict(result), "cost": fit.cost, "tried": _by_name(fit.tried)}


def _classify_folder(
    images: ImageFolder, per_class: int, test_per_class: int, splits: int, vectors: _Vectors
) -> dict[str, Any]:
    parts = [
        split_images(images.labels, images.classes, per_class, test_per_class, seed) for seed in range(splits)
    ]
    console.print(f"{images.folder}: {len(images)} images, {len(images.classes)} classes", highlight=False)
    used = np.unique(np.concatenate([indices for part in parts for indices in part]))
    chosen = images.only(used)
    # One for all splits, so that each image is convolved once; the labels do not enter.
    vectors.fit_feature_levels(chosen.paths)
    halves = vectors.read(chosen.paths, "vectors")
    found = []
    with ProgressReport(console) as progress:
        for done, part in enumerate(parts):
            progress("splits", done, splits)
            train, test = (np.searchsorted(used, indices) for indices in part)
            fit = fit_folder(halves[train].astype(np.float32), chosen.labels[train], len(images.classes))
            scores = fit.svms.score(halves[test].astype(np.float32))
            found.append((fit, class_accuracy(chosen.labels[test], scores)))
        progress("splits", splits, splits)
    by_class = np.mean([accuracy for _, accuracy in found], axis=0)
    accuracies = [float(accuracy.mean()) for _, accuracy in found]
    mean, spread = float(np.mean(accuracies)), float(np.std(accuracies, ddof=min(1, splits - 1)))
    title = f"{images.folder.name}: {per_class} training images a class, mean of {splits} random splits"
    table = Table("class", title=escape(title), show_footer=True)
    table.columns[0].footer = f"mean of {len(images.classes)}"
    table.add_column("accuracy", justify="right", footer=percent(mean))
    for name, value in zip(images.classes, by_class, strict=True):
        table.add_row(escape(name), percent(float(value)))
    console.print(table)
    for seed, (fit, accuracy) in enumerate(found):
        console.print(f"split {seed}: {percent(accuracy.mean())}, C = {fit.cost:g}", highlight=False)
    console.print(f"accuracy: {percent(mean)}, standard deviation {percent(spread)}", highlight=False)
    return {
        "accuracy": mean,
        "standard_deviation": spread,
        "classes": dict(zip(images.classes, by_class.tolist(), strict=True)),
        "splits": [
            {"seed": seed, "accuracy": accuracy, "cost": fit.cost, "tried": _by_name(fit.tried)}
            for seed, (accuracy, (fit, _)) in enumerate(zip(accuracies, found, strict=True))
        ],
    }


def _by_name(tried: Mapping[float, float]) -> dict[str, float]:
    return {f"{cost:g}": value for cost, value in tried.items()}
