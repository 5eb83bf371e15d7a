"""Scores image classification as the PASCAL VOC devkit does (VOCevalcls.m)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.data.types import Dataset
from sppnet.eval.average_precision import average_precision_11point, average_precision_area


@dataclass(frozen=True)
class ImageClassResult:
    """The figures of one class.

    Attributes:
        name: the class.
        ap_11point: VOC2007's average precision; NaN without positive images.
        ap_area: the average precision of VOC2010 and later; NaN without positive images.
        positives: number of images with an object of the class that is not difficult.
        images: number of images that count: all except images whose objects of the class are all difficult.

    Example:
        >>> result = evaluate_voc_classification([[1], [-1], [0]], [[0.9], [0.2], [0.5]], ("cat",))
        >>> result.classes[0]
        ImageClassResult(name='cat', ap_11point=1.0, ap_area=1.0, positives=1, images=2)
    """

    name: str
    ap_11point: float
    ap_area: float
    positives: int
    images: int


@dataclass(frozen=True)
class ImageClassificationResult:
    """The figures of a data set.

    Attributes:
        classes: the result of each class, in the data set's order.

    Example:
        >>> labels, scores = [[1, -1], [-1, 1]], [[0.9, 0.7], [0.2, 0.4]]
        >>> result = evaluate_voc_classification(labels, scores, ("cat", "dog"))
        >>> result.map_area, result.counted_classes
        (0.75, 2)
    """

    classes: tuple[ImageClassResult, ...]

    @property
    def map_11point(self) -> float:
        """Mean of the 11-point average precisions over the classes with positive images; NaN without any."""
        return float(np.mean([figures.ap_11point for figures in self.classes if figures.positives] or np.nan))

    @property
    def map_area(self) -> float:
        """Mean of the area average precisions over the classes with positive images; NaN without any."""
        return float(np.mean([figures.ap_area for figures in self.classes if figures.positives] or np.nan))

    @property
    def counted_classes(self) -> int:
        """Number of classes that count in the means: they have positive images."""
        return sum(figures.positives > 0 for figures in self.classes)


def image_labels(dataset: Dataset) -> NDArray[np.int8]:
    """Makes the devkit's image labels (``ImageSets/Main/<class>_<split>.txt``) from the objects.

    Returns:
        int8 (N, C): 1 if the image has an object of the class that is not difficult, 0 if it has only
        difficult objects of the class, else -1.

    Example:
        >>> from pathlib import Path
        >>> from sppnet.data import Example
        >>> boxes, labels = np.array([[0, 0, 9, 9], [5, 5, 9, 9]], np.float32), np.array([0, 1])
        >>> difficult, truncated = np.array([False, True]), np.zeros(2, bool)
        >>> example = Example("a", Path("a.jpg"), 20, 20, boxes, labels, difficult, truncated)
        >>> image_labels(Dataset("toys", "test", ("cat", "dog", "hen"), (example,)))
        array([[ 1,  0, -1]], dtype=int8)
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

    Class by class, images are ranked by score, best first; images of equal score keep their order. Images
    with the label 0 are left out.

    Args:
        labels: (N, C), 1 for positive, -1 for negative, 0 for left out; see `image_labels`.
        scores: float (N, C), higher is surer.
        classes: C class names.

    Raises:
        ValueError: the shapes do not match, a label is not 1, 0 or -1, or a score is NaN.

    Example:
        >>> labels = [[1, -1], [-1, 1], [1, 0]]
        >>> scores = [[0.9, 0.1], [0.8, 0.7], [0.3, 0.2]]
        >>> evaluate_voc_classification(labels, scores, ("cat", "dog")).classes[1].ap_area
        1.0
    """
    ground_truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if ground_truth.shape != values.shape or ground_truth.ndim != 2 or ground_truth.shape[1] != len(classes):
        raise ValueError(
            f"labels {ground_truth.shape} and scores {values.shape} of {len(classes)} classes; give (N, C)"
        )
    if not np.isin(ground_truth, (-1, 0, 1)).all():
        raise ValueError("labels must be 1, 0 or -1")
    if np.isnan(values).any():
        raise ValueError("a score is NaN; every image needs a number for every class")
    return ImageClassificationResult(tuple(map(_class_result, classes, ground_truth.T, values.T)))


def _class_result(name: str, labels: NDArray[np.int8], scores: NDArray[np.float64]) -> ImageClassResult:
    order = np.argsort(-scores, kind="stable")
    positive = labels[order[labels[order] != 0]] > 0
    count = int(positive.sum())
    if not count:
        return ImageClassResult(name, np.nan, np.nan, 0, len(positive))
    true_positives = np.cumsum(positive, dtype=np.float64)
    recall, precision = true_positives / count, true_positives / np.arange(1, len(positive) + 1)
    return ImageClassResult(
        name,
        average_precision_11point(recall, precision),
        average_precision_area(recall, precision),
        count,
        len(positive),
    )
