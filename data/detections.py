"""The detections of an image: indexing, filtering, merging, suppression, records, drawing."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.common.arrays import BoolArray, FloatArray, Image, IntArray
from sppnet.common.errors import InputError

_MOST_IN_REPR = 5


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image: boxes, scores and labels, row by row.

    A detector returns them grouped by label, best first within a label. Indexing works as on a NumPy array
    and always gives `Detections`; iterating gives ``(box, score, label)``. The constructor takes the arrays
    as they are; `Detections.of` converts and checks them.

    Attributes:
        boxes: float32 (N, 4), xyxy, 0-based pixel edges, right and bottom exclusive.
        scores: float32 (N,), higher is surer; margins of SVMs are not probabilities.
        labels: int64 (N,) indices into the detector's classes.
        classes: the class names, for display; a label is an index into them. None: unknown.

    Example:
        >>> boxes = [[10, 20, 60, 80], [12, 22, 60, 80], [70, 10, 90, 40]]
        >>> detections = Detections.of(boxes, [0.92, 0.4, 0.81], [1, 1, 0], classes=["cat", "dog"])
        >>> detections
        Detections(3: dog 0.92, cat 0.81, dog 0.40)
        >>> detections[0].boxes
        array([[10., 20., 60., 80.]], dtype=float32)
        >>> detections[detections.scores > 0.5]
        Detections(2: dog 0.92, cat 0.81)
        >>> detections.with_nms(iou=0.3)
        Detections(2: dog 0.92, cat 0.81)
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, classes: Sequence[str] | None = None
    ) -> "Detections":
        """Converts and checks boxes, scores and labels of any number type.

        Args:
            boxes: (N, 4), xyxy, 0-based pixel edges, right and bottom exclusive.
            scores: (N,), higher is surer.
            labels: (N,) whole numbers from 0, indices into ``classes``.
            classes: the class names; a label is an index into them.

        Raises:
            InputError: the shapes do not match, a value is text or NaN, a box is infinite or inverted, or a
                label is not an index into ``classes``.

        Example:
            >>> Detections.of([[0, 0, 10, 10]], [0.5], [3])
            Detections(1: label 3 0.50)
        """
        try:
            # Numbers beyond float32 become infinite; the check below reports them.
            with np.errstate(over="ignore"):
                edges, values = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
            numbers = np.asarray(labels, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"detections: boxes, scores and labels must be arrays of numbers ({error})"
            ) from error
        if edges.size == 0:
            edges = edges.reshape(0, 4)
        count = edges.shape[:1]
        if edges.shape != (*count, 4) or values.shape != count or numbers.shape != count:
            raise InputError(
                f"detections: boxes {edges.shape}, scores {values.shape} and labels {numbers.shape}; "
                "give (N, 4), (N,) and (N,)"
            )
        if not np.isfinite(edges).all() or np.isnan(values).any():
            raise InputError("detections: a box or score is NaN or infinite; remove or correct it")
        if (edges[:, 2:] < edges[:, :2]).any():
            raise InputError(
                "detections: a box is inverted; give xmin, ymin, xmax, ymax, not a corner, width and height"
            )
        limit = np.inf if classes is None else len(classes)
        wrong = numbers[(numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= limit)]
        if len(wrong):
            known = "" if classes is None else f" below {len(classes)}, the number of classes"
            raise InputError(f"detections: label {wrong[0]:g}; give whole numbers from 0{known}")
        return cls(edges, values, numbers.astype(np.int64), None if classes is None else tuple(classes))

    @classmethod
    def empty(cls, classes: Sequence[str] | None = None) -> "Detections":
        """Returns no detections.

        Example:
            >>> len(Detections.empty())
            0
        """
        return cls.of([], [], [], classes)

    @classmethod
    def merge(cls, parts: Sequence["Detections"]) -> "Detections":
        """Joins detections in their order, for example from the tiles of one image.

        The class names are kept if every part that is not empty has them.

        Raises:
            InputError: the parts have different class names, so equal labels would mean different classes.

        Example:
            >>> cat = Detections.of([[0, 0, 10, 10]], [0.8], [0], ["cat"])
            >>> Detections.merge([cat, Detections.empty(), cat])
            Detections(2: cat 0.80, cat 0.80)
        """
        names = {part.classes for part in parts if len(part) or part.classes is not None}
        if len(names - {None}) > 1:
            raise InputError("detections of different classes cannot be merged; give all the same classes")
        classes = names.pop() if len(names) == 1 else None
        parts = [cls.empty(), *parts]
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            classes,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: int | slice | Sequence[int] | NDArray[np.integer] | BoolArray
    ) -> "Detections":
        if isinstance(index, int | np.integer):
            index = [int(index)]
        rows = index if isinstance(index, slice) else np.asarray(index, None if len(index) else np.int64)
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def __iter__(self) -> Iterator[tuple[FloatArray, float, int]]:
        return zip(self.boxes, self.scores.tolist(), self.labels.tolist(), strict=True)

    def __repr__(self) -> str:
        if len(self) == 0:
            return "Detections(0)"
        best = self[np.argsort(-self.scores, kind="stable")[:_MOST_IN_REPR]]
        texts = [f"{name} {score:.2f}" for name, score in zip(best.names(), best.scores, strict=True)]
        return f"Detections({len(self)}: {', '.join(texts)}{', …' if len(self) > len(best) else ''})"

    def names(self, classes: Sequence[str] | None = None) -> list[str]:
        """Returns the class name of each detection.

        Args:
            classes: the class names; a label is an index into them. None: the attribute ``classes``; if that
                is None, too, the names are of the form ``"label 3"``.

        Raises:
            InputError: a label is not an index into the classes.

        Example:
            >>> Detections.of([[0, 0, 10, 10]], [0.8], [1]).names(["cat", "dog"])
            ['dog']
        """
        classes = self.classes if classes is None else classes
        labels: list[int] = self.labels.tolist()
        if classes is None:
            return [f"label {label}" for label in labels]
        if labels and not 0 <= min(labels) <= max(labels) < len(classes):
            raise InputError(f"detections: label {max(labels)}, but {len(classes)} classes; give all classes")
        return [classes[label] for label in labels]

    def filter(self, min_score: float | None = None, labels: Collection[int] | None = None) -> "Detections":
        """Selects the detections with at least a score, and with certain labels.

        Args:
            min_score: least score; None: any.
            labels: labels to keep; None: all.

        Example:
            >>> detections = Detections.of([[0, 0, 9, 9]] * 3, [0.9, 0.5, 0.1], [0, 1, 0])
            >>> detections.filter(min_score=0.5, labels=[0])
            Detections(1: label 0 0.90)
        """
        kept = np.ones(len(self), np.bool_)
        if min_score is not None:
            kept &= self.scores >= min_score
        if labels is not None:
            kept &= np.isin(self.labels, list(labels))
        return self[kept]

    def with_nms(self, iou: float = 0.3) -> "Detections":
        """Selects the detections that remain after greedy non-maximum suppression, class by class.

        From the best score down, each detection suppresses all detections of its class that it overlaps by
        more than ``iou``. Of two equal scores, the earlier row counts as the better one. The arithmetic
        equals ``torchvision.ops.nms``.

        Args:
            iou: highest intersection over union of two detections of a class (paper §4.1: 0.3).

        Returns:
            the detections grouped by label, best first within a label.

        Example:
            >>> boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]]
            >>> Detections.of(boxes, [0.6, 0.9, 0.5], [0, 0, 1]).with_nms()
            Detections(2: label 0 0.90, label 1 0.50)
        """
        kept = [np.zeros(0, np.int64)]
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)
            kept.append(rows[_suppress(self.boxes[rows], self.scores[rows], iou)])
        return self[np.concatenate(kept)]

    def to_records(self, classes: Sequence[str] | None = None) -> list[dict[str, str | float]]:
        """Converts the detections to dicts of plain Python values, for pandas or JSON.

        Args:
            classes: as in `names`.

        Returns:
            for each detection a dict with ``class``, ``score``, ``xmin``, ``ymin``, ``xmax`` and ``ymax``:
            0-based pixel edges, right and bottom exclusive.

        Raises:
            InputError: a label is not an index into the classes.

        Example:
            >>> Detections.of([[10, 20, 60, 80]], [0.75], [0]).to_records(["cat"])
            [{'class': 'cat', 'score': 0.75, 'xmin': 10.0, 'ymin': 20.0, 'xmax': 60.0, 'ymax': 80.0}]
        """
        edges = ("xmin", "ymin", "xmax", "ymax")
        return [
            {"class": name, "score": score, **dict(zip(edges, box.tolist(), strict=True))}
            for name, (box, score, _) in zip(self.names(classes), self, strict=True)
        ]

    def draw(
        self, image: Image, classes: Sequence[str] | None = None, min_score: float | None = None
    ) -> Image:
        """Draws the boxes with class name and score into a copy of the image, the surest on top.

        Args:
            image: uint8 (H, W, 3) RGB, the image of these detections.
            classes: as in `names`.
            min_score: draw detections of at least this score; None: all.

        Returns:
            uint8 (H, W, 3) RGB.

        Raises:
            InputError: a label is not an index into the classes.

        Example:
            >>> image = np.zeros((100, 100, 3), np.uint8)
            >>> Detections.of([[10, 20, 60, 80]], [0.75], [0]).draw(image, ["cat"]).shape
            (100, 100, 3)
        """
        # Imported here because drawing imports this module.
        from sppnet.data.draw import draw_detections

        return draw_detections(image, self, classes, -np.inf if min_score is None else min_score)


def _suppress(boxes: FloatArray, scores: FloatArray, iou: float) -> IntArray:
    """Returns the rows of the boxes of one class that remain after suppression, best first."""
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, weaker = order[0], order[1:]
        kept.append(best)
        widths = np.minimum(right[best], right[weaker]) - np.maximum(left[best], left[weaker])
        heights = np.minimum(bottom[best], bottom[weaker]) - np.maximum(top[best], top[weaker])
        shared = np.maximum(widths, 0) * np.maximum(heights, 0)
        with np.errstate(invalid="ignore"):
            # Two boxes without area give 0/0, which suppresses nothing.
            overlaps = shared / (areas[best] + areas[weaker] - shared)
        # In float32 the comparison would round the threshold.
        order = weaker[~(overlaps.astype(np.float64) > iou)]
    return np.array(kept, np.int64)
