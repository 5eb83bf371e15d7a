"""Experiments with linear SVMs on vectors of images, by the protocols of VOC and Caltech101 (§3.2, §3.3)."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray
from sppnet.common.claim import claim
from sppnet.common.files import write_json
from sppnet.common.progress import Progress, quiet
from sppnet.data.image_folder import ImageFolder
from sppnet.data.types import Dataset
from sppnet.detection.classification.feature_store import FeatureStore, HalfArray
from sppnet.detection.classification.image_features import ImageFeatureExtractor
from sppnet.detection.classification.linear_svm import (
    LinearFit,
    check_image_count,
    check_voc_labels,
    class_accuracy,
    fit_folder,
    fit_voc,
    split_images,
)
from sppnet.detection.training.presets import TrainingSettings
from sppnet.eval import (
    ImageClassificationResult,
    classification_dict,
    evaluate_voc_classification,
    image_labels,
)

# The feature levels of a network are fitted on this many images, as in the training of a detector.
FEATURE_LEVEL_IMAGES = TrainingSettings().feature_level_images


@dataclass(frozen=True)
class FolderProtocol:
    """Caltech101's protocol: random splits with the same number of training images in every class.

    Attributes:
        per_class: number of training images per class (§3.3: 30).
        test_per_class: largest number of test images per class (§3.3: 50).
        splits: number of random splits (§3.3: 10).
    """

    per_class: int = 30
    test_per_class: int = 50
    splits: int = 10


@dataclass(frozen=True, eq=False)
class VOCExperiment:
    """The result of VOC's protocol.

    Attributes:
        result: the figures on the test images.
        fit: the SVMs.
    """

    result: ImageClassificationResult
    fit: LinearFit

    def figures(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        return {
            **classification_dict(self.result),
            "cost": self.fit.cost,
            "tried": _by_name(self.fit.tried),
        }


@dataclass(frozen=True, eq=False)
class FolderExperiment:
    """The result of Caltech101's protocol.

    Attributes:
        classes: names of the K classes.
        fits: the SVMs of each split; a split's seed is its index.
        class_accuracies: float64 (splits, K), the accuracy of each class on the test images of each split.
    """

    classes: tuple[str, ...]
    fits: Sequence[LinearFit]
    class_accuracies: NDArray[np.float64]

    @property
    def accuracies(self) -> list[float]:
        """The mean accuracy of the classes in each split."""
        return [float(accuracies.mean()) for accuracies in self.class_accuracies]

    @property
    def mean(self) -> float:
        """The mean accuracy over the splits."""
        return float(np.mean(self.accuracies))

    @property
    def standard_deviation(self) -> float:
        """The standard deviation of the accuracy over the splits; 0 for a single split."""
        return float(np.std(self.accuracies, ddof=min(1, len(self.fits) - 1)))

    @property
    def by_class(self) -> NDArray[np.float64]:
        """float64 (K,), the mean accuracy of each class over the splits."""
        means: NDArray[np.float64] = np.mean(list(self.class_accuracies), axis=0)
        return means

    def figures(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        return {
            "accuracy": self.mean,
            "standard_deviation": self.standard_deviation,
            "classes": dict(zip(self.classes, self.by_class.tolist(), strict=True)),
            "splits": [
                {"seed": seed, "accuracy": accuracy, "cost": fit.cost, "tried": _by_name(fit.tried)}
                for seed, (accuracy, fit) in enumerate(zip(self.accuracies, self.fits, strict=True))
            ],
        }


@dataclass(frozen=True)
class ImageSVMRun:
    """The folder of an experiment: ``settings.json``, stored vectors and ``classification.json``.

    Attributes:
        folder: the folder of the run, usually ``runs/<name>``.
        extractor: makes the vectors.
        source: the names of the weights and of the classifier, for the files.
        feature_gb: largest size of the stored vectors, in 10^9 bytes.
        progress: called with a stage's name, the items done, and the items in total.
    """

    folder: Path
    extractor: ImageFeatureExtractor
    source: Mapping[str, str | None]
    feature_gb: float = 4.0
    progress: Progress = quiet

    @property
    def result(self) -> Path:
        """The file of the figures."""
        return self.folder / "classification.json"

    def classify_voc(self, train: Dataset, test: Dataset, name: str) -> VOCExperiment:
        """Trains an SVM for each class on image labels, with C from cross-validation, and tests the SVMs.

        Args:
            train: images to train on.
            test: images to test on, with the same classes.
            name: the name of the data set, for the files.

        Raises:
            InputError: the folder has other settings, or an image cannot be read.
        """
        start = time.monotonic()
        check_voc_labels(image_labels(train))
        about = self._about() | {
            "dataset": name,
            "train": [train.split, len(train)],
            "test": [test.split, len(test)],
        }
        self._claim(about)
        self._fit_feature_levels([example.path for example in train])
        # The vectors of both splits come first, so that a bad file stops the run before the training.
        train_vectors, test_vectors = (
            self._vectors([example.path for example in split], f"vectors ({split.split})")
            for split in (train, test)
        )
        fit = fit_voc(_exact(train_vectors), image_labels(train))
        scores = fit.svms.score(_exact(test_vectors))
        experiment = VOCExperiment(evaluate_voc_classification(image_labels(test), scores, test.classes), fit)
        self._write(experiment.figures(), about, start)
        return experiment

    def classify_folder(self, images: ImageFolder, protocol: FolderProtocol, name: str) -> FolderExperiment:
        """Trains and tests SVMs on random splits.

        Args:
            images: the images, sorted by class.
            protocol: the sizes and the number of the splits.
            name: the name of the folder of images, for the files.

        Raises:
            InputError: the folder of the run has other settings, an image cannot be read, or a class has no
                image left to test on.
        """
        start = time.monotonic()
        about = self._about() | {
            "per_class": protocol.per_class,
            "test_per_class": protocol.test_per_class,
            "splits": protocol.splits,
        }
        self._claim(about | {"images": f"{len(images)} of {images.folder.resolve().name}"})
        parts = [
            split_images(images.labels, images.classes, protocol.per_class, protocol.test_per_class, seed)
            for seed in range(protocol.splits)
        ]
        check_image_count(len(parts[0][0]))
        used = np.unique(np.concatenate([indices for part in parts for indices in part]))
        chosen = images.only(used)
        # Fitted once for all splits, so that each image is convolved once. Labels are not used.
        self._fit_feature_levels(chosen.paths)
        vectors = self._vectors(chosen.paths, "vectors")
        fits, accuracies = [], []
        for done, part in enumerate(parts):
            self.progress("splits", done, protocol.splits)
            train, test = (np.searchsorted(used, indices) for indices in part)
            fit = fit_folder(_exact(vectors[train]), chosen.labels[train], len(images.classes))
            scores = fit.svms.score(_exact(vectors[test]))
            fits.append(fit)
            accuracies.append(class_accuracy(chosen.labels[test], scores))
        self.progress("splits", protocol.splits, protocol.splits)
        experiment = FolderExperiment(images.classes, fits, np.array(accuracies))
        self._write(experiment.figures(), about | {"data": name}, start)
        return experiment

    def _about(self) -> dict[str, Any]:
        # A classifier has its own levels, which count instead of the levels in the settings.
        return {**self.source, "vectors": self.extractor.made_by()}

    def _claim(self, about: Mapping[str, Any]) -> None:
        """Claims the folder for these settings, so that no other experiment overwrites the result."""
        claim(self.folder / "settings.json", json.dumps(about, indent=1, sort_keys=True) + "\n")

    def _fit_feature_levels(self, paths: Sequence[Path]) -> None:
        """Fits the feature levels of a network on some of the images."""
        count = min(FEATURE_LEVEL_IMAGES, len(paths))
        chosen = np.sort(np.random.default_rng(0).choice(len(paths), count, replace=False))
        # The folder keeps its name from earlier versions, so that their runs can continue.
        self.extractor.fit_feature_levels([paths[index] for index in chosen], self.folder / "taps")

    def _vectors(self, paths: Sequence[Path], stage: str) -> HalfArray:
        """Returns the vectors of images, float16 (N, length)."""
        store = FeatureStore(self.folder / "features", self.extractor, round(self.feature_gb * 1e9))
        return store.read(paths, lambda done, total: self.progress(stage, done, total))

    def _write(self, figures: Mapping[str, Any], about: dict[str, Any], start: float) -> None:
        about["seconds"] = round(time.monotonic() - start, 1)
        write_json(self.result, {**figures, "about": about}, indent=2)


def _exact(vectors: HalfArray) -> FloatArray:
    return vectors.astype(np.float32)


def _by_name(tried: Mapping[float, float]) -> dict[str, float]:
    return {f"{cost:g}": value for cost, value in tried.items()}
