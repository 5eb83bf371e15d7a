"""How well windows cover the objects of a data set: recall, average recall, average best overlap."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.data.types import Dataset
from sppnet.eval.voc import Float64, Indices, box_iou

# A number of windows that no method reaches: as a count it stands for all of them.
ALL = int(np.iinfo(np.int64).max)

# SPP-net §4: about 2,000 windows an image.
BEST = 2000


def log_counts(most: int = 10_000, a_decade: int = 15) -> Indices:
    """Numbers of windows from 1 to ``most``, evenly spaced in the logarithm; with 500, 1,000, `BEST`, `ALL`.

    Returns:
        int64 (G,), ascending, distinct.
    """
    steps = int(np.ceil(np.log10(most) * a_decade)) + 1
    return np.unique(np.append(np.geomspace(1, most, steps).round().astype(np.int64), [500, 1000, BEST, ALL]))


@dataclass(frozen=True, eq=False)
class ProposalResult:
    """Best overlaps of all objects of a data set, and the figures that follow from them.

    Every figure is a curve over ``counts``, float64, in [0, 1], nan where there is no object. The objects of
    all images and classes count alike, but in `mabo`, in which the classes do.

    Attributes:
        classes: the data set's.
        counts: int64 (G,), ascending numbers of windows; of an image with fewer windows all are taken.
        overlaps: float64 (O, G), the best overlap of each object with the best ``counts`` windows of its
            image; 0 without windows.
        labels: int64 (O,), of the objects.
        windows: int64 (I,), how many windows each image has.
    """

    classes: tuple[str, ...]
    counts: Indices
    overlaps: Float64
    labels: Indices
    windows: Indices

    def recall(self, threshold: float) -> Float64:
        """(G,): share of the objects with a window of at least this overlap (VOC's criterion: 0.5)."""
        return _mean(self.overlaps >= threshold)

    def class_recall(self, threshold: float) -> Float64:
        """(G,): mean of the recall of each class that has objects; `recall` counts all objects alike."""
        found = self.overlaps >= threshold
        by_class = [_mean(found[self.labels == label]) for label in np.unique(self.labels)]
        return _mean(np.array(by_class).reshape(-1, len(self.counts)))

    def average_recall(self) -> Float64:
        """(G,): recall averaged over overlaps from 0.5 to 1 (Hosang et al., arXiv 1502.05082).

        AR = 2 · ∫ recall(o) do, o from 0.5 to 1. An object of best overlap b adds 1/O to the recall of each
        o <= b, so it adds max(0, b - 0.5)/O to the integral: AR = 2/O · Σ max(0, b - 0.5), exact, with no
        steps of thresholds. The authors' code (detection-proposals, closest_candidates.m) lets a window cover
        one object only; here it can cover several, as in the average best overlap.
        """
        return _mean(2 * (self.overlaps - 0.5).clip(min=0))

    def abo(self) -> Float64:
        """(C, G): average best overlap of each class (Uijlings et al., IJCV 2013, eq. 7)."""
        by_class = [_mean(self.overlaps[self.labels == label]) for label in range(len(self.classes))]
        return np.array(by_class).reshape(-1, len(self.counts))

    def mabo(self) -> Float64:
        """(G,): mean of `abo` over the classes that have objects."""
        abo = self.abo()
        return _mean(abo[np.bincount(self.labels, minlength=len(self.classes)) > 0])

    def at(self, count: int) -> int:
        """Where ``count`` stands in ``counts``.

        Raises:
            ValueError: it does not.
        """
        return list(self.counts).index(count)


def evaluate_proposals(
    dataset: Dataset, windows: Iterable[ArrayLike], counts: ArrayLike | None = None, difficult: bool = False
) -> ProposalResult:
    """Measures how well ranked windows cover the objects of a data set.

    Objects that VOC calls difficult are left out, as in its evaluation of detections, unless ``difficult``
    asks for them. Which of the two published figures of recall and overlap are made with is seldom said.

    Args:
        dataset: the objects.
        windows: for each of its images, in their order, (N, 4) xyxy pixel edges, best first; N may be 0. It
            is gone through once, so it may read them one after the other.
        counts: (G,) numbers of windows to take, ascending, from 1; `log_counts()` if None.
        difficult: whether difficult objects count.

    Raises:
        ValueError: more or fewer images in ``windows``, or counts that do not ascend from 1.
    """
    grid = log_counts() if counts is None else np.asarray(counts, np.int64)
    if grid.ndim != 1 or not len(grid) or grid[0] < 1 or (np.diff(grid) <= 0).any():
        raise ValueError(f"counts are {grid.tolist()}; they must ascend from at least 1")
    overlaps, labels, numbers = [np.empty((0, len(grid)))], [np.empty(0, np.int64)], []
    for example, boxes in zip(dataset, windows, strict=True):
        chosen = np.ones(len(example.labels), np.bool_) if difficult else ~example.difficult
        ranked = np.asarray(boxes, np.float64).reshape(-1, 4)
        overlaps.append(best_overlaps(example.boxes[chosen], ranked, grid))
        labels.append(example.labels[chosen])
        numbers.append(len(ranked))
    return ProposalResult(
        classes=dataset.classes,
        counts=grid,
        overlaps=np.concatenate(overlaps),
        labels=np.concatenate(labels),
        windows=np.array(numbers, np.int64),
    )


def best_overlaps(objects: ArrayLike, windows: ArrayLike, counts: Indices) -> Float64:
    """The best overlap of each object with the first windows.

    Args:
        objects: (M, 4) xyxy pixel edges.
        windows: (N, 4) likewise, best first.
        counts: int64 (G,), how many windows to take, from 1.

    Returns:
        float64 (M, G) intersection over union; 0 without windows.
    """
    overlap = box_iou(objects, windows)
    if not overlap.shape[1]:
        return np.zeros((len(overlap), len(counts)))
    running: Float64 = np.maximum.accumulate(overlap, axis=1)
    return running[:, np.minimum(counts, overlap.shape[1]) - 1]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> Float64:
    """Over the first axis; nan where it is empty."""
    mean: Float64 = values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)
    return mean
