"""The commands ``sppnet classify-svm`` and ``classify-svm-folder``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from sppnet.cli.choices import VectorLayer, VectorView
from sppnet.cli.command import Without, command
from sppnet.cli.options import Backbone, DataOptions, Weights
from sppnet.common.errors import InputError
from sppnet.common.folders import RUNS

if TYPE_CHECKING:
    from sppnet.cli.progress import ProgressReport
    from sppnet.detection.experiments.image_svms import ImageSVMRun


@dataclass(frozen=True)
class VectorOptions:
    """Options for the vectors of images, and for the folder that keeps them."""

    PANEL: ClassVar[str] = "Vectors"

    backbone: Backbone = ""
    weights: Weights = ""
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained classifier, instead of --backbone; it also has fc6 and fc7."),
    ] = None
    view: Annotated[
        VectorView, typer.Option(help="Whole image, centre crop, or the image warped to a square.")
    ] = "full"
    scale: Annotated[
        list[int] | None,
        typer.Option(help="Short side of the view in pixels, 224 by default; repeatable, then averaged."),
    ] = None
    level: Annotated[
        list[int] | None,
        typer.Option(help="Bins per side of a pyramid level; repeatable; 6, 3, 2 and 1 by default."),
    ] = None
    layer: Annotated[
        VectorLayer, typer.Option(help="The vectors are the output of the pyramid (conv), of fc6 or of fc7.")
    ] = "conv"
    run: Annotated[
        str, typer.Option(help="Folder below runs/; empty: named after data set, network, view and layer.")
    ] = ""
    feature_gb: Annotated[
        float, typer.Option(min=0, help="Largest size of the vectors in the run's folder, in GB.")
    ] = 4.0

    def check(self) -> None:
        """Checks that the options can be combined.

        Raises:
            InputError: a classifier is given together with options of a backbone.
        """
        if self.classifier is not None and self.level:
            raise InputError("--level is for --backbone; a classifier has its own pyramid")
        if self.classifier is not None and (self.backbone or self.weights):
            raise InputError("give either --classifier, or --backbone and --weights")


@command
def classify_svm(*, data: Annotated[DataOptions, Without("skip_errors")], vectors: VectorOptions) -> None:
    """Image classification with linear SVMs on a detection data set: VOC's protocol, mAP."""
    vectors.check()
    from sppnet.cli.datasets import ChosenDataset, short_name
    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.text import percent
    from sppnet.detection.runs.checks import check_same_classes, shared_images_warning
    from sppnet.eval import classification_table

    with ProgressReport(console) as progress:
        chosen = ChosenDataset(data)
        run = _open_run(vectors, short_name(chosen.name), progress)
        train, test = chosen.open(chosen.train_split), chosen.open(chosen.test_split)
        check_same_classes(test, train)
        if warning := shared_images_warning(test, train):
            say(warning)
        experiment = run.classify_voc(train, test, chosen.name)
    result, fit = experiment.result, experiment.fit
    title = f"{test.name} {test.split}, {len(test)} images; trained on {train.split}, {len(train)}"
    console.print(classification_table(result, title))
    tried = ", ".join(f"{cost:g}: {percent(value)}" for cost, value in fit.tried.items())
    say(f"C = {fit.cost:g}; mAP in cross-validation by C: {tried}")
    say(f"mAP, 11-point: {percent(result.map_11point)}; area: {percent(result.map_area)}")
    say_written(run.result)


@command
def classify_svm_folder(
    *,
    data: Annotated[
        Path, typer.Option(help="A labelled set, FOLDER/<class>/<image>; its splits are random.")
    ],
    per_class: Annotated[int, typer.Option(min=1, help="Number of training images per class.")] = 30,
    test_per_class: Annotated[int, typer.Option(min=1, help="Largest number of test images per class.")] = 50,
    splits: Annotated[int, typer.Option(min=1, help="Number of random splits.")] = 10,
    vectors: VectorOptions,
) -> None:
    """Image classification with linear SVMs on a folder of classes: Caltech101's protocol, accuracy."""
    vectors.check()
    from rich.markup import escape
    from rich.table import Table

    from sppnet.cli.progress import ProgressReport
    from sppnet.cli.terminal import console, say, say_written
    from sppnet.common.text import percent
    from sppnet.data.image_folder import open_classes, split_folders
    from sppnet.detection.experiments.image_svms import FolderProtocol

    if split_folders(data):
        raise InputError(
            f"{data}: holds splits, not classes; this command makes its own splits: give {data / 'train'}"
        )
    with ProgressReport(console) as progress:
        run = _open_run(vectors, data.resolve().name, progress)
        images = open_classes(data)
        say(f"{images.folder}: {len(images)} images, {len(images.classes)} classes")
        protocol = FolderProtocol(per_class, test_per_class, splits)
        experiment = run.classify_folder(images, protocol, str(data))
    title = f"{images.folder.name}: {per_class} training images per class, mean of {splits} random splits"
    table = Table("class", title=escape(title), show_footer=True)
    table.columns[0].footer = f"mean of {len(images.classes)}"
    table.add_column("accuracy", justify="right", footer=percent(experiment.mean))
    for name, accuracy in zip(experiment.classes, experiment.by_class, strict=True):
        table.add_row(escape(name), percent(float(accuracy)))
    console.print(table)
    for seed, (fit, accuracy) in enumerate(zip(experiment.fits, experiment.accuracies, strict=True)):
        say(f"split {seed}: {percent(accuracy)}, C = {fit.cost:g}")
    deviation = percent(experiment.standard_deviation)
    say(f"accuracy: {percent(experiment.mean)}, standard deviation {deviation}")
    say_written(run.result)


def _open_run(options: VectorOptions, images: str, progress: "ProgressReport") -> "ImageSVMRun":
    """Opens the run that the options name; ``images`` is the data set's part of its name.

    Raises:
        InputError: the network or the classifier cannot be made, or options do not suit it.
    """
    from sppnet.detection.backbones import build_network
    from sppnet.detection.classification.classifier import Classifier
    from sppnet.detection.classification.image_features import ImageFeatureExtractor, ImageFeatureSettings
    from sppnet.detection.experiments.image_svms import ImageSVMRun
    from sppnet.detection.features.pooling import PAPER_LEVELS
    from sppnet.detection.training.presets import NetworkSettings

    settings = ImageFeatureSettings(
        options.view, tuple(options.scale or (224,)), options.layer, tuple(options.level or PAPER_LEVELS)
    )
    source = (
        build_network(options.backbone or NetworkSettings().name, options.weights or None)
        if options.classifier is None
        else Classifier.load(options.classifier)
    )
    extractor = ImageFeatureExtractor(source, settings)
    levels = ".".join(map(str, options.level or ()))
    vector_name = [extractor.network.name, options.view, *map(str, settings.scales), options.layer + levels]
    return ImageSVMRun(
        RUNS / (options.run or "-".join(["svm", images, *vector_name])),
        extractor,
        {
            "weights": options.weights or None,
            "classifier": None if options.classifier is None else str(options.classifier),
        },
        options.feature_gb,
        progress,
    )
