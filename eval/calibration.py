"""How far scores can be taken as probabilities: matches, reliability, calibration error, working points."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sppnet.common.arrays import BoolArray, FloatArray, IntArray
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset
from sppnet.eval.boxes import Float64, box_iou
from sppnet.eval.output import new_figure, write_png

_INCHES = (4.6, 4.4)


@dataclass(frozen=True, eq=False)
class MatchedDetections:
    """The detections of many images, each right or wrong; those of difficult objects are left out.

    Attributes:
        scores: float32 (N,).
        labels: int64 (N,).
        correct: bool (N,).
        ground_truths: int64 (C,), objects of each class that are not difficult.

    Example:
        >>> matched = MatchedDetections(
        ...     np.array([0.9, 0.4], np.float32), np.array([0, 0]), np.array([True, False]), np.array([2])
        ... )
        >>> int(matched.correct.sum()), int(matched.ground_truths[0])
        (1, 2)
    """

    scores: FloatArray
    labels: IntArray
    correct: BoolArray
    ground_truths: IntArray

    @classmethod
    def merge(cls, parts: "list[MatchedDetections]") -> "MatchedDetections":
        """Joins the detections of different images of the same classes.

        Raises:
            ValueError: there are no parts.
        """
        return cls(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.correct for part in parts]),
            np.sum([part.ground_truths for part in parts], axis=0),
        )


def match_detections(
    dataset: Dataset, detections: Mapping[str, Detections], iou_threshold: float = 0.5
) -> MatchedDetections:
    """Tells right from wrong detections by the rule of `evaluate_voc`.

    Best score first, a detection goes to the object of its class that it overlaps most. Overlap >= the
    threshold matches; the first match of an object is right, all else is wrong. Matches with difficult
    objects count for nothing.

    Args:
        dataset: with ground truth.
        detections: by image id; an image that is left out has none.
        iou_threshold: the least IoU of a match.

    Example:
        >>> from sppnet.data.types import Example
        >>> flags = np.zeros(1, bool)
        >>> boxes, labels = np.array([[0, 0, 10, 10]], np.float32), np.array([0])
        >>> example = Example("1", Path("1.jpg"), 40, 30, boxes, labels, flags, flags)
        >>> dataset = Dataset("toys", "test", ("cat",), (example,))
        >>> detections = Detections.of([[0, 0, 10, 9], [20, 0, 30, 10]], [0.9, 0.4], [0, 0])
        >>> match_detections(dataset, {"1": detections}).correct
        array([ True, False])
    """
    scores, labels = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    correct = [np.zeros(0, np.bool_)]
    ground_truths = np.zeros(len(dataset.classes), np.int64)
    for example in dataset:
        ground_truths += np.bincount(example.labels[~example.difficult], minlength=len(ground_truths))
        image_detections = detections.get(example.image_id)
        if image_detections is None:
            continue
        for label in np.unique(image_detections.labels):
            rows = np.flatnonzero(image_detections.labels == label)
            rows = rows[np.argsort(-image_detections.scores[rows], kind="stable")]
            objects = example.labels == label
            counted, right = _match(
                image_detections.boxes[rows],
                example.boxes[objects],
                example.difficult[objects],
                iou_threshold,
            )
            scores.append(image_detections.scores[rows[counted]])
            labels.append(np.full(np.count_nonzero(counted), label))
            correct.append(right[counted])
    return MatchedDetections(
        np.concatenate(scores), np.concatenate(labels), np.concatenate(correct), ground_truths
    )


def _match(
    boxes: FloatArray, objects: FloatArray, difficult: BoolArray, iou_threshold: float
) -> tuple[BoolArray, BoolArray]:
    """Which detections of one class and image, best first, count, and which are right: bool (N,) each."""
    counted, right = np.ones(len(boxes), np.bool_), np.zeros(len(boxes), np.bool_)
    if not len(objects):
        return counted, right
    iou = box_iou(boxes, objects)
    best = iou.argmax(axis=1)
    matched = np.flatnonzero(iou.max(axis=1) >= iou_threshold)
    counted[matched] = ~difficult[best[matched]]
    candidates = matched[counted[matched]]
    right[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    return counted, right


@dataclass(frozen=True, eq=False)
class Reliability:
    """Probabilities beside what they promise, in bins of equal width.

    Attributes:
        edges: float64 (B + 1,), from 0 to 1.
        counts: int64 (B,), detections in each bin.
        probability: float64 (B,), their mean probability; NaN in an empty bin.
        precision: float64 (B,), the part of them that is right; NaN in an empty bin.

    Example:
        >>> result = reliability([0.25, 0.25, 0.25, 0.25, 0.95], [True, False, False, False, True])
        >>> result
        Reliability(error=0.0100, detections=5)
    """

    edges: Float64
    counts: IntArray
    probability: Float64
    precision: Float64

    def __repr__(self) -> str:
        return f"Reliability(error={self.error:.4f}, detections={int(self.counts.sum())})"

    @property
    def error(self) -> float:
        """The expected calibration error: mean over the detections of
        ``|probability - precision|`` of their bin.

        NaN without detections (Naeini et al., AAAI 2015; Guo et al., ICML 2017).
        """
        total = self.counts.sum()
        if not total:
            return np.nan
        filled = self.counts > 0
        gaps = np.abs(self.probability[filled] - self.precision[filled])
        return float(np.sum(self.counts[filled] * gaps) / total)


def reliability(probabilities: ArrayLike, correct: ArrayLike, bins: int = 10) -> Reliability:
    """Compares probabilities with the part of detections that is right, bin by bin.

    Args:
        probabilities: (N,), in [0, 1].
        correct: bool (N,).
        bins: number of bins.

    Raises:
        ValueError: shapes that differ, a probability outside [0, 1], or no bins.

    Example:
        >>> round(reliability([0.1, 0.9], [False, True], bins=2).error, 3)
        0.1
    """
    values, right = np.asarray(probabilities, np.float64), np.asarray(correct, np.bool_)
    if values.ndim != 1 or values.shape != right.shape or bins < 1:
        raise ValueError(
            f"probabilities {values.shape}, correct {right.shape}, {bins} bins: give (N,), (N,), B >= 1"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability is not in [0, 1]")
    index = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        probability = np.bincount(index, values, bins) / counts
        precision = np.bincount(index, right, bins) / counts
    return Reliability(np.linspace(0, 1, bins + 1), counts, probability, precision)


@dataclass(frozen=True)
class WorkingPoint:
    """Precision and recall of the detections of at least a threshold.

    Attributes:
        correct: right detections.
        detections: of at least the threshold.
        ground_truths: objects that are not difficult.

    Example:
        >>> point = WorkingPoint(correct=3, detections=4, ground_truths=6)
        >>> point.precision, point.recall, round(point.f1, 3)
        (0.75, 0.5, 0.6)
    """

    correct: int
    detections: int
    ground_truths: int

    @property
    def precision(self) -> float:
        """The part of the detections that is right; NaN without detections."""
        return self.correct / self.detections if self.detections else np.nan

    @property
    def recall(self) -> float:
        """The part of the objects that is found; NaN without objects."""
        return self.correct / self.ground_truths if self.ground_truths else np.nan

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; NaN with neither detections nor objects."""
        total = self.detections + self.ground_truths
        return 2 * self.correct / total if total else np.nan


def working_point(matched: MatchedDetections, thresholds: ArrayLike) -> WorkingPoint:
    """Counts the detections of at least a threshold, over all classes.

    Args:
        matched: detections; their scores are compared with the thresholds.
        thresholds: (C,), one a class.

    Example:
        >>> scores, labels = np.array([0.9, 0.4], np.float32), np.array([0, 0])
        >>> matched = MatchedDetections(scores, labels, np.array([True, False]), np.array([2]))
        >>> working_point(matched, [0.5])
        WorkingPoint(correct=1, detections=1, ground_truths=2)
    """
    shown = matched.scores >= np.asarray(thresholds)[matched.labels]
    return WorkingPoint(
        int(np.count_nonzero(matched.correct & shown)),
        int(np.count_nonzero(shown)),
        int(matched.ground_truths.sum()),
    )


def plot_reliability(path: Path, results: Mapping[str, Reliability]) -> None:
    """Draws the reliability diagram: precision over probability, a line each, into a PNG.

    Args:
        path: the file, replaced as a whole.
        results: by what the legend calls them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "reliability.png")
        ...     plot_reliability(path, {"calibrated": reliability([0.1, 0.9], [False, True])})
        ...     path.read_bytes()[1:4]
        b'PNG'
    """
    figure = new_figure(*_INCHES)
    panel = figure.subplots(gridspec_kw={"left": 0.13, "right": 0.97, "bottom": 0.12, "top": 0.97})
    panel.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle="--")
    for name, result in results.items():
        filled = result.counts > 0
        panel.plot(
            result.probability[filled], result.precision[filled],
            marker="o", markersize=4, label=f"{name}: error {100 * result.error:.1f} %",
        )  # fmt: skip
    panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="part of the detections that is right")
    panel.grid(alpha=0.3, linewidth=0.5)
    panel.legend(loc="upper left", fontsize=8)
    write_png(path, figure)
