"""Computes top-1 and top-5 error and the confusion matrix from class scores and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sppnet.common.arrays import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """The errors and the confusion matrix of classified images.

    Attributes:
        classes: K class names.
        confusion: int64 (K, K), images by true class (rows) and by the class of the highest score (columns).
        top1_error: share of images whose true class does not have the highest score.
        top5_error: share of images whose true class is not among the five highest scores.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], np.float32)
        >>> result = evaluate_classification(scores, np.array([0, 1, 1]), ["cat", "dog"])
        >>> result.confusion
        array([[1, 0],
               [1, 1]])
        >>> result.accuracies
        array([1. , 0.5], dtype=float32)
    """

    classes: tuple[str, ...]
    confusion: IntArray
    top1_error: float
    top5_error: float

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def accuracies(self) -> FloatArray:
        """float32 (K,), the share of each class's images that are classified right; NaN without images."""
        counts = self.confusion.sum(axis=1)
        shares = np.full(len(self.classes), np.nan, np.float32)
        np.divide(self.confusion.diagonal(), counts, out=shares, where=counts > 0, casting="unsafe")
        return shares


def evaluate_classification(
    scores: FloatArray, labels: IntArray, classes: Sequence[str]
) -> ClassificationResult:
    """Compares scores with labels; of equal scores, the class that comes first ranks first.

    Args:
        scores: float (N, K), higher is surer; N at least 1.
        labels: int64 (N,), indices into ``classes``.
        classes: K class names.

    Raises:
        ValueError: there is no image, or the shapes do not match.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
        >>> evaluate_classification(scores, np.array([0, 1]), ["cat", "dog"]).top1_error
        0.5
    """
    count, width = scores.shape
    if not count or width != len(classes) or labels.shape != (count,):
        raise ValueError(
            f"scores {scores.shape}, labels {labels.shape}, {len(classes)} classes; give (N, K), (N,) and K "
            "names, N at least 1"
        )
    # scikit-learn's top-k accuracy refuses two classes, and its import takes a second.
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = order == labels[:, None]
    confusion = np.bincount(labels * width + order[:, 0], minlength=width**2).reshape(width, width)
    return ClassificationResult(
        tuple(classes), confusion, float(1 - hits[:, :1].sum() / count), float(1 - hits[:, :5].sum() / count)
    )
