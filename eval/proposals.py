"""Measures how well proposals cover objects: recall, average recall, average best overlap."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.common.arrays import IntArray
from sppnet.data.types import Dataset
from sppnet.eval.boxes import Float64, box_iou

# A number of proposals that no method reaches; as a count it stands for all proposals.
ALL = int(np.iinfo(np.int64).max)

# SPP-net §4: about 2,000 proposals for each image.
BEST = 2000


def log_counts(largest: int = 10_000, per_decade: int = 15) -> IntArray:
    """Returns numbers of proposals with even steps of the logarithm, and 500, 1,000, `BEST` and `ALL`.

    Args:
        largest: the largest of the numbers with even steps; the least is 1.
        per_decade: the number of steps from 1 to 10, from 10 to 100 and so on.

    Returns:
        int64 (G,), ascending, distinct.
    """
    steps = int(np.ceil(np.log10(largest) * per_decade)) + 1
    spaced = np.geomspace(1, largest, steps).round().astype(np.int64)
    return np.unique(np.append(spaced, [500, 1000, BEST, ALL]))


@dataclass(frozen=True, eq=False)
class ProposalResult:
    """Best overlaps of all objects of a data set, and the figures that follow from them.

    An overlap is intersection over union. Every figure is a curve over ``counts``, float64, in [0, 1], NaN
    without objects. All objects have equal weight, in any image and class; in `mabo` and `class_recall` all
    classes have equal weight.

    Attributes:
        classes: the class names of the data set.
        counts: int64 (G,), ascending numbers of proposals; an image with fewer proposals contributes all.
        overlaps: float64 (O, G), the best overlap of each object with the best ``counts`` proposals of its
            image; 0 without proposals.
        labels: int64 (O,), the class of each object.
        proposals_per_image: int64 (I,), the number of proposals of each image.

    Example:
        >>> overlaps, counts = np.array([[0.4, 0.8], [0.6, 0.6]]), np.array([1, ALL])
        >>> result = ProposalResult(("cat", "dog"), counts, overlaps, np.array([0, 1]), np.array([30]))
        >>> result.recall(0.5)
        array([0.5, 1. ])
        >>> result.mabo()
        array([0.5, 0.7])
    """

    classes: tuple[str, ...]
    counts: IntArray
    overlaps: Float64
    labels: IntArray
    proposals_per_image: IntArray

    def recall(self, threshold: float) -> Float64:
        """Computes (G,), the share of objects that a proposal overlaps by the threshold or more (VOC 0.5)."""
        return _mean(self.overlaps >= threshold)

    def class_recall(self, threshold: float) -> Float64:
        """Computes (G,), the mean recall over the classes that have objects."""
        covered = self.overlaps >= threshold
        by_class = [_mean(covered[self.labels == label]) for label in np.unique(self.labels)]
        return _mean(np.array(by_class).reshape(-1, len(self.counts)))

    def average_recall(self) -> Float64:
        """Computes (G,), the mean of recall over overlaps from 0.5 to 1 (Hosang et al., arXiv 1502.05082).

        AR = 2 · ∫ recall(o) do, o from 0.5 to 1. An object of best overlap b adds 1/O to the recall of each
        o <= b, so it adds max(0, b - 0.5)/O to the integral: AR = 2/O · Σ max(0, b - 0.5). This is exact,
        without steps of thresholds. In the authors' code (detection-proposals, closest_candidates.m) a
        proposal covers one object only; here it can cover several, as in the average best overlap.
        """
        return _mean(2 * (self.overlaps - 0.5).clip(min=0))

    def abo(self) -> Float64:
        """Computes (C, G), the average best overlap of each class (Uijlings et al., IJCV 2013, eq. 7)."""
        by_class = [_mean(self.overlaps[self.labels == label]) for label in range(len(self.classes))]
        return np.array(by_class).reshape(-1, len(self.counts))

    def mabo(self) -> Float64:
        """Computes (G,), the mean of `abo` over the classes that have objects."""
        abo = self.abo()
        return _mean(abo[np.bincount(self.labels, minlength=len(self.classes)) > 0])

    def at(self, count: int) -> int:
        """Returns the index of ``count`` in ``counts``.

        Raises:
            ValueError: ``counts`` does not have this count.
        """
        return list(self.counts).index(count)


def evaluate_proposals(
    dataset: Dataset,
    proposals: Iterable[ArrayLike],
    counts: ArrayLike | None = None,
    difficult: bool = False,
) -> ProposalResult:
    """Measures how well ranked proposals cover the objects of a data set.

    Difficult objects are left out, as in VOC's evaluation of detections, unless ``difficult`` is true.
    Publications of recall and overlap seldom say whether they count these objects.

    Args:
        dataset: the ground truth.
        proposals: for each image, in the data set's order, (N, 4) xyxy pixel edges, best first; N may be 0.
            The iterable is read once, so a generator can load one image at a time.
        counts: (G,), numbers of proposals to take, ascending, from 1; None: `log_counts()`.
        difficult: whether difficult objects count.

    Raises:
        ValueError: ``proposals`` has more or fewer images than ``dataset``, or the counts do not ascend from
            at least 1.

    Example:
        >>> from pathlib import Path
        >>> from sppnet.data import Example
        >>> boxes, flags = np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, bool)
        >>> example = Example("a", Path("a.jpg"), 50, 50, boxes, np.array([0]), flags, flags)
        >>> dataset = Dataset("toys", "test", ("cat",), (example,))
        >>> result = evaluate_proposals(dataset, [[[20, 20, 40, 40], [0, 0, 10, 8]]], counts=[1, 2])
        >>> result.recall(0.5)
        array([0., 1.])
        >>> result.mabo()
        array([0. , 0.8])
    """
    grid = log_counts() if counts is None else np.asarray(counts, np.int64)
    if grid.ndim != 1 or not len(grid) or grid[0] < 1 or (np.diff(grid) <= 0).any():
        raise ValueError(f"counts are {grid.tolist()}; they must ascend from at least 1")
    overlaps, labels, proposals_per_image = [np.empty((0, len(grid)))], [np.empty(0, np.int64)], []
    for example, boxes in zip(dataset, proposals, strict=True):
        chosen = np.ones(len(example.labels), np.bool_) if difficult else ~example.difficult
        ranked = np.asarray(boxes).reshape(-1, 4)
        overlaps.append(best_overlaps(example.boxes[chosen], ranked, grid))
        labels.append(example.labels[chosen])
        proposals_per_image.append(len(ranked))
    return ProposalResult(
        classes=dataset.classes,
        counts=grid,
        overlaps=np.concatenate(overlaps),
        labels=np.concatenate(labels),
        proposals_per_image=np.array(proposals_per_image, np.int64),
    )


def best_overlaps(objects: ArrayLike, proposals: ArrayLike, counts: IntArray) -> Float64:
    """Computes the best overlap of each object with the first proposals.

    Args:
        objects: (M, 4) xyxy pixel edges.
        proposals: (N, 4) xyxy pixel edges, best first.
        counts: int64 (G,), numbers of proposals to take, from 1.

    Returns:
        float64 (M, G) intersection over union; 0 without proposals.
    """
    overlap = box_iou(objects, proposals)
    if not overlap.shape[1]:
        return np.zeros((len(overlap), len(counts)))
    running: Float64 = np.maximum.accumulate(overlap, axis=1)
    return running[:, np.minimum(counts, overlap.shape[1]) - 1]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> Float64:
    """Computes the mean over the first axis; NaN if the axis is empty."""
    mean: Float64 = values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)
    return mean
