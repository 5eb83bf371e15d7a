"""Calibration: from a detection's raw score to the probability that it is right, and thresholds on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.errors import InputError
from sppnet.eval.boxes import Float64
from sppnet.eval.calibration import MatchedDetections

# The map of a class is fitted on its own held-out detections and, with the weight of so many objects, on
# those of all classes: with hundreds of objects these hardly count, with none they decide. Our own.
PRIOR_OBJECTS = 20.0
# The same for thresholds, which hang on fewer detections: of 5 to 200, 50 gave held-out detections of 300
# images of VOC2007 the best F1.
THRESHOLD_PRIOR_OBJECTS = 50.0
# Held-out detections that are less probable are not kept: no threshold is as low.
LEAST_PROBABILITY = 0.01

# The names of its arrays in files of models begin with this.
TENSOR_PREFIX = "calibration."
_PRECISION = "precision:"
# For a class that no held-out detection tells of, and for all where nothing was found: even odds.
_NO_EVIDENCE = 0.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map a class from raw scores to probabilities, and held-out detections.

    A map is Platt's logistic function (1999), whose slope may change at a few scores, the knots: most scores
    of SVMs are low and hardly any of these is right, and one slope does not suit them and the others. The
    maps rise, so detections of a class keep their order.

    Attributes:
        knots: float64 (K,), rising; the same for all classes.
        slopes: float64 (C, K + 1), positive: below the first knot, between knots, and above the last.
        intercepts: float64 (C,).
        held_out: detections of training images by detectors that were not trained on these images; their
            scores are probabilities of at least `LEAST_PROBABILITY`.

    Example:
        >>> scores = np.array([0.95, 0.9, 0.4, 0.3], np.float32)
        >>> correct = np.array([True, True, True, False])
        >>> held_out = MatchedDetections(scores, np.zeros(4, np.int64), correct, np.array([4]))
        >>> knots, slopes, intercepts = np.zeros(0), np.array([[2.0]]), np.array([-1.0])
        >>> calibration = Calibration(knots, slopes, intercepts, held_out)
        >>> calibration.probabilities([0.5, 2.0], [0, 0])
        array([0.5       , 0.95257413], dtype=float32)
        >>> calibration.thresholds("f1")
        array([0.4], dtype=float32)
        >>> calibration.thresholds("precision:0.7")
        array([0.3], dtype=float32)
    """

    knots: Float64
    slopes: Float64
    intercepts: Float64
    held_out: MatchedDetections

    def probabilities(self, scores: FloatArray, labels: IntArray) -> FloatArray:
        """The probability that each detection is right: float32 (N,).

        Args:
            scores: (N,), raw.
            labels: int (N,).
        """
        labels = np.asarray(labels, np.int64)
        parts = segments(np.asarray(scores, np.float64), self.knots)
        logits = np.sum(self.slopes[labels] * parts, axis=1) + self.intercepts[labels]
        return logistic(logits).astype(np.float32)

    def thresholds(self, choice: str | float = "f1") -> FloatArray:
        """The least probability of each class at which a detection is worth showing: float32 (C,).

        Args:
            choice: ``"f1"``: the threshold with the best F1 on the held-out detections; ``"precision:0.9"``:
                the lowest one at which that part of them is right, or 0.9 itself where none is; or a
                probability, for all classes.

        Raises:
            InputError: another choice.
        """
        kind, value = parse_threshold(choice)
        if kind == "probability":
            return np.full(len(self.slopes), value, np.float32)
        least = [
            self._best_f1(label) if kind == "f1" else self._lowest(label, value)
            for label in range(len(self.slopes))
        ]
        return np.array(least, np.float32)

    def _best_f1(self, label: int) -> float:
        probabilities, right, wrong, objects = self._curve(label)
        if not len(right) or not right[-1]:
            return _NO_EVIDENCE
        return float(probabilities[np.argmax(2 * right / (right + wrong + objects))])

    def _lowest(self, label: int, precision: float) -> float:
        probabilities, right, wrong, _ = self._curve(label)
        enough = np.flatnonzero(right >= precision * (right + wrong))
        return float(probabilities[enough[-1]]) if len(enough) else precision

    def _curve(self, label: int) -> tuple[FloatArray, Float64, Float64, float]:
        """The weights of right and wrong held-out detections down to each probability, and of the objects."""
        held_out = self.held_out
        total = held_out.ground_truths.sum()
        prior = THRESHOLD_PRIOR_OBJECTS / total if total else 0.0
        weights = prior + (held_out.labels == label)
        order = np.argsort(-held_out.scores, kind="stable")
        probabilities = held_out.scores[order]
        right = np.cumsum(weights[order] * held_out.correct[order])
        wrong = np.cumsum(weights[order] * ~held_out.correct[order])
        # Of equal probabilities all are shown, or none; a threshold is one of the class' own.
        last = np.append(probabilities[1:] != probabilities[:-1], len(probabilities) > 0)[
            : len(probabilities)
        ]
        return probabilities[last], right[last], wrong[last], held_out.ground_truths[label] + prior * total

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by their names in files of models."""
        held_out = self.held_out
        return {
            f"{TENSOR_PREFIX}knots": self.knots,
            f"{TENSOR_PREFIX}slopes": self.slopes,
            f"{TENSOR_PREFIX}intercepts": self.intercepts,
            f"{TENSOR_PREFIX}held_out.probabilities": held_out.scores,
            f"{TENSOR_PREFIX}held_out.labels": held_out.labels,
            f"{TENSOR_PREFIX}held_out.correct": held_out.correct,
            f"{TENSOR_PREFIX}held_out.ground_truths": held_out.ground_truths,
        }

    @classmethod
    def from_tensors(cls, arrays: Mapping[str, np.ndarray]) -> Self | None:
        """The calibration whose `tensors` are among some arrays; None where there is none.

        Raises:
            KeyError: a part of it is missing.
            ValueError: the shapes of its parts do not fit each other.
        """
        if f"{TENSOR_PREFIX}slopes" not in arrays:
            return None

        def array(name: str) -> np.ndarray:
            return arrays[f"{TENSOR_PREFIX}{name}"]

        held_out = MatchedDetections(
            array("held_out.probabilities"), array("held_out.labels"), array("held_out.correct"),
            array("held_out.ground_truths"),
        )  # fmt: skip
        knots, slopes, intercepts = array("knots"), array("slopes"), array("intercepts")
        held_out_shapes = {held_out.scores.shape, held_out.labels.shape, held_out.correct.shape}
        fits = knots.ndim == 1 and slopes.shape == (*intercepts.shape, len(knots) + 1)
        if not fits or slopes.shape[:1] != held_out.ground_truths.shape or len(held_out_shapes) > 1:
            raise ValueError(f"{len(knots)} knots and slopes of shape {slopes.shape} do not fit")
        return cls(knots, slopes, intercepts, held_out)


def parse_threshold(choice: str | float) -> tuple[str, float]:
    """The kind of a threshold, ``f1``, ``precision`` or ``probability``, and its number (0 for ``f1``).

    Raises:
        InputError: another choice, or a number outside of [0, 1].

    Example:
        >>> parse_threshold("precision:0.9"), parse_threshold(0.25)
        (('precision', 0.9), ('probability', 0.25))
    """
    if choice == "f1":
        return "f1", 0.0
    kind, text = "probability", str(choice)
    if text.startswith(_PRECISION):
        kind, text = "precision", text.removeprefix(_PRECISION)
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise InputError(f'threshold {choice!r}: give "f1", "precision:0.9" or a probability from 0 to 1')
    return kind, value


def segments(scores: Float64, knots: Float64) -> Float64:
    """How far each score reaches into each segment between knots: float64 (N, K + 1).

    Their sum is the score. A weighted sum is a function whose slope changes at the knots.

    Args:
        scores: (N,).
        knots: (K,), rising.

    Example:
        >>> segments(np.array([-3.0, 0.5, 4.0]), np.array([-1.0, 1.0])).tolist()
        [[-3.0, 0.0, 0.0], [-1.0, 1.5, 0.0], [-1.0, 2.0, 3.0]]
    """
    lower, upper = np.append(-np.inf, knots), np.append(knots, np.inf)
    start = np.append(0.0, knots)
    parts: Float64 = np.clip(scores[:, None], lower, upper) - start
    return parts


def logistic(logits: Float64) -> Float64:
    """1 / (1 + exp(-x)), without overflow.

    Example:
        >>> logistic(np.array([-1000.0, 0.0])).tolist()
        [0.0, 0.5]
    """
    small = np.exp(-np.abs(logits))
    result: Float64 = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return result
