"""Image classification as the PASCAL VOC devkit scores it (VOCevalcls.m): is a class in the image or not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.data.types import Dataset
from sppnet.eval.voc import average_precision_11point, average_precision_area


@dataclass(frozen=True)
class ImageClassResult:
    """The figures of one class.

    Attributes:
        name: the class.
        ap_11point: VOC2007's average precision; nan without positive images.
        ap_area: that of VOC2010 and later; nan without positive images.
        positives: images with an object of the class that is not difficult.
        images: images that count for the class: all but those where it is only difficult.
    """

    name: str
    ap_11point: float
    ap_area: float
    positives: int
    images: int


@dataclass(frozen=True)
class ImageClassificationResult:
    """The figures of a data set, one result a class, in its order."""

    classes: tuple[ImageClassResult, ...]

    @property
    def map_11point(self) -> float:
        """Mean of the 11-point average precisions over the classes with positive images; nan without any."""
        return float(np.mean([one.ap_11point for one in self.classes if one.positives] or np.nan))

    @property
    def map_area(self) -> float:
        """Mean of the area average precisions over the classes with positive images; nan without any."""
        return float(np.mean([one.ap_area for one in self.classes if one.positives] or np.nan))

    @property
    def counted_classes(self) -> int:
        """How many classes have positive images, and so count in the means."""
        return sum(one.positives > 0 for one in self.classes)


def image_labels(dataset: Dataset) -> NDArray[np.int8]:
    """The devkit's image labels (``ImageSets/Main/<class>_<split>.txt``), from the objects.

    Returns:
        int8 (N, C): 1 where the image has an object of the class that is not difficult, 0 where it has only
        difficult ones, else -1.
    """
    labels = np.full((len(dataset), len(dataset.classes)), -1, np.int8)
    for row, example in zip(labels, dataset, strict=True):
        row[example.labels] = 0
        row[example.labels[~example.difficult]] = 1
    return labels


def evaluate_voc_classification(
    labels: ArrayLike, scores: ArrayLike, classes: tuple[str, ...]
) -> ImageClassificationResult:
    """Scores image classification as VOCevalcls.m does.

    Class by class, images are ranked by score, best first, equal ones in their order; those labelled 0 are
    left out.

    Args:
        labels: (N, C), as `image_labels` gives them.
        scores: float (N, C), higher is surer.
        classes: C names.

    Raises:
        ValueError: shapes that do not fit together, a label that is not 1, 0 or -1, or a score of nan.
    """
    ground_truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if ground_truth.shape != values.shape or ground_truth.ndim != 2 or ground_truth.shape[1] != len(classes):
        raise ValueError(f"labels {ground_truth.shape} and scores {values.shape} of {len(classes)} classes")
    if not np.isin(ground_truth, (-1, 0, 1)).all():
        raise ValueError("labels must be 1, 0 or -1")
    if np.isnan(values).any():
        raise ValueError("a score is nan; every image needs a number for every class")
    results = (_class_result(*one) for one in zip(classes, ground_truth.T, values.T, strict=True))
    return ImageClassificationResult(tuple(results))


def _class_result(name: str, labels: NDArray[np.int8], scores: NDArray[np.float64]) -> ImageClassResult:
    order = np.argsort(-scores, kind="stable")
    positive = labels[order[labels[order] != 0]] > 0
    count = int(positive.sum())
    if not count:
        return ImageClassResult(name, np.nan, np.nan, 0, len(positive))
    found = np.cumsum(positive, dtype=np.float64)
    recall, precision = found / count, found / np.arange(1, len(positive) + 1)
    return ImageClassResult(
        name,
        average_precision_11point(recall, precision),
        average_precision_area(recall, precision),
        count,
        len(positive),
    )
