"""Scores the detections of a whole data set as the PASCAL VOC devkit does (VOCevaldet.m)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sppnet.common.arrays import BoolArray, IntArray
from sppnet.eval.average_precision import average_precision_11point, average_precision_area
from sppnet.eval.boxes import Float64, edges_in_parts, paired_iou
from sppnet.eval.plain import (
    DetectionsLike,
    Floats,
    GroundTruthLike,
    Objects,
    ScoredBoxes,
    read_detections,
    read_ground_truth,
)


@dataclass(frozen=True, eq=False)
class ClassResult:
    """The figures of one class.

    Attributes:
        name: the class.
        ap_11point: mean of the interpolated precision at 11 recalls (VOC2007); NaN without ground truth.
        ap_area: area under the interpolated curve (VOC2010 and later); NaN without ground truth.
        precision: float64 (D,), after each detection, best first; NaN while all detections so far are matched
            with difficult objects, which are not counted.
        recall: float64 (D,), after each detection; NaN without ground truth.
        ground_truths: number of objects that are not difficult.
        detections: D, the number of detections of the class.

    Example:
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 10, 10]], "labels": ["cat"]}}
        >>> boxes = [[0, 0, 10, 10], [50, 50, 60, 60]]
        >>> detections = {"a.jpg": {"boxes": boxes, "labels": ["cat", "cat"], "scores": [0.9, 0.6]}}
        >>> cat = evaluate_voc(ground_truth, detections).by_class["cat"]
        >>> cat
        ClassResult(name='cat', ap_11point=1.0, ap_area=1.0, ground_truths=1, detections=2)
        >>> cat.precision
        array([1. , 0.5])
    """

    name: str
    ap_11point: float
    ap_area: float
    precision: Float64 = field(repr=False)
    recall: Float64 = field(repr=False)
    ground_truths: int
    detections: int


@dataclass(frozen=True, eq=False)
class VOCResult:
    """The figures of a data set.

    Attributes:
        iou_threshold: least intersection over union of a match.
        classes: the result of each class, in the data set's order.

    Example:
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 9, 9], [20, 20, 30, 30]], "labels": ["cat", "dog"]}}
        >>> detections = {"a.jpg": {"boxes": [[0, 0, 9, 9]], "labels": ["cat"], "scores": [0.9]}}
        >>> result = evaluate_voc(ground_truth, detections)
        >>> result
        VOCResult(map_11point=0.5000, map_area=0.5000, iou_threshold=0.5, counted_classes=2)
        >>> {name: figures.ap_area for name, figures in result.by_class.items()}
        {'cat': 1.0, 'dog': 0.0}
    """

    iou_threshold: float
    classes: tuple[ClassResult, ...]

    def __repr__(self) -> str:
        return (
            f"VOCResult(map_11point={self.map_11point:.4f}, map_area={self.map_area:.4f}, "
            f"iou_threshold={self.iou_threshold}, counted_classes={self.counted_classes})"
        )

    @property
    def map_11point(self) -> float:
        """Mean of the 11-point average precisions over the counted classes; NaN if there are none."""
        return _mean([result.ap_11point for result in self.classes if result.ground_truths])

    @property
    def map_area(self) -> float:
        """Mean of the area average precisions over the counted classes; NaN if there are none."""
        return _mean([result.ap_area for result in self.classes if result.ground_truths])

    @property
    def counted_classes(self) -> int:
        """Number of classes that count in the means: they have ground truth that is not difficult."""
        return sum(result.ground_truths > 0 for result in self.classes)

    @property
    def by_class(self) -> dict[str, ClassResult]:
        """The result of each class by its name."""
        return {result.name: result for result in self.classes}


def evaluate_voc(
    ground_truth: GroundTruthLike,
    detections: DetectionsLike,
    iou_threshold: float = 0.5,
    *,
    classes: Sequence[str] | None = None,
) -> VOCResult:
    """Scores detections as VOCevaldet.m does.

    Best score first, each detection is compared with the object of its class and image that it overlaps most
    (of equal overlaps the first), difficult objects included. It matches the object if the overlap is at
    least the threshold. A match with a difficult object is not counted. The first match of any other object
    is a true positive; all other detections are false positives. Detections of equal score keep their order:
    by image as in the ground truth, then as given.

    Both inputs can be plain dicts of lists, NumPy arrays or torch tensors, from any program. Further keys of
    these dicts, such as ``iscrowd`` and ``masks``, are not read. Image ids are texts or whole numbers; 17 and
    ``"17"`` are the same image.

    Boxes are continuous edges: (0, 0, 10, 20) covers 10 by 20 pixels. VOC's 1-based inclusive xmin, ymin,
    xmax, ymax becomes (xmin - 1, ymin - 1, xmax, ymax). COCO's x, y, width, height becomes
    (x, y, x + width, y + height).

    Args:
        ground_truth: a `sppnet.data.Dataset`, or ``{image id: {"boxes": (N, 4) xyxy, "labels": (N,)}}`` with
            an optional ``"difficult": (N,)`` of booleans; if it is left out, no object is difficult.
        detections: ``{image id: Detections}``, or ``{image id: {"boxes": (N, 4) xyxy, "labels": (N,),
            "scores": (N,)}}``, as torchvision's detection models return and torchmetrics takes. An image that
            is left out has no detections.
        iou_threshold: least overlap of a match, in (0, 1]; the devkit's is 0.5.
        classes: the class names, for plain ground truth. A label is a name, or a whole number that is an
            index into ``classes``. None: the classes are the sorted labels that occur in the ground truth. If
            these are names, a whole number is an index into them; if these are numbers, it is a label itself.

    Raises:
        InputError: a key is missing, an array has a wrong shape, a value is NaN, a box is inverted, there are
            detections for an image that the ground truth lacks, a label belongs to no class, or ``classes``
            is given with a `Dataset`.
        ValueError: the threshold is out of range.

    Example:
        >>> ground_truth = {
        ...     "street.jpg": {"boxes": [[0, 0, 10, 20], [30, 0, 50, 20]], "labels": ["cat", "dog"]},
        ...     "garden.jpg": {"boxes": [[5, 5, 25, 25]], "labels": ["dog"], "difficult": [False]},
        ... }
        >>> detections = {
        ...     "street.jpg": {"boxes": [[0, 0, 10, 19]], "labels": ["cat"], "scores": [0.9]},
        ...     "garden.jpg": {"boxes": np.array([[5, 5, 25, 24]]), "labels": [1], "scores": [0.8]},
        ... }
        >>> result = evaluate_voc(ground_truth, detections)
        >>> result.map_area
        0.75
        >>> result.by_class["dog"].ap_area
        0.5
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; it must be in (0, 1]")
    checked = read_ground_truth(ground_truth, classes)
    parts = read_detections(detections, checked)
    scored = _gather(parts, len(checked.classes), scores=[part.scores for part in parts])
    flags = [part.difficult for part in checked.objects]
    objects = _gather(checked.objects, len(checked.classes), difficult=flags)
    results = []
    for label, name in enumerate(checked.classes):
        rows = scored.of_class(label)
        rows = rows[np.argsort(-scored.scores[rows], kind="stable")]
        object_rows = objects.of_class(label)
        match, overlap = _best_matches(scored, rows, objects, object_rows)
        match[overlap < iou_threshold] = -1
        results.append(_class_result(name, match, objects.difficult[object_rows]))
    return VOCResult(iou_threshold, tuple(results))


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All boxes of a data set in one piece, in `edges_in_parts`, and the rows of each class."""

    images: IntArray
    boxes: Float64
    scores: Floats
    difficult: BoolArray
    by_class: IntArray
    class_starts: IntArray

    def of_class(self, label: int) -> IntArray:
        return self.by_class[self.class_starts[label] : self.class_starts[label + 1]]


def _gather(
    parts: Sequence[Objects] | Sequence[ScoredBoxes],
    classes: int,
    scores: Sequence[Floats] = (),
    difficult: Sequence[BoolArray] = (),
) -> _Boxes:
    labels = [part.labels for part in parts]
    # The narrowest type that holds a label lets numpy's stable sort be a radix sort.
    narrow = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.min_scalar_type(classes))
    return _Boxes(
        images=np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]),
        boxes=_joined_edges([part.boxes for part in parts]),
        scores=np.concatenate([np.empty(0, np.float32), *scores]),
        difficult=np.concatenate([np.empty(0, np.bool_), *difficult]),
        by_class=np.argsort(narrow, kind="stable"),
        class_starts=np.append(0, np.cumsum(np.bincount(narrow, minlength=classes))),
    )


def _joined_edges(parts: Sequence[Floats]) -> Float64:
    """Joins the boxes of all images, each rounded as its own type is; see `edges_in_parts`."""
    filled = [boxes for boxes in parts if len(boxes)]
    if len({boxes.dtype for boxes in filled}) == 1:
        # Much faster than image by image.
        return edges_in_parts(np.concatenate(filled))
    return np.concatenate([np.empty((0, 4)), *map(edges_in_parts, filled)])


def _best_matches(
    scored: _Boxes, rows: IntArray, objects: _Boxes, object_rows: IntArray
) -> tuple[IntArray, Float64]:
    """Finds the object that each detection overlaps most, and the overlap.

    The objects are sorted by image, so the objects of an image are a run. The loop compares with the first
    object of every run, then with the second, and so on: as many rounds as the fullest image has objects.

    Args:
        scored: all detections.
        rows: (D,), rows of the detections to match.
        objects: all ground truth.
        object_rows: (M,), rows of the objects to match them with.

    Returns:
        int64 (D,), indices into ``object_rows``, -1 for none, and float64 (D,), intersection over union.
    """
    images = scored.images[rows]
    counts = np.bincount(objects.images[object_rows], minlength=images.max(initial=-1) + 1)
    firsts = (np.cumsum(counts) - counts)[images]
    counts = counts[images]
    best = np.zeros(len(rows))
    match = np.full(len(rows), -1, np.int64)
    active = np.arange(len(rows))
    for step in range(counts.max(initial=0)):
        active = active[counts[active] > step]
        candidates = firsts[active] + step
        overlap = paired_iou(scored.boxes[rows[active]], objects.boxes[object_rows[candidates]])
        better = overlap > best[active]
        best[active[better]] = overlap[better]
        match[active[better]] = candidates[better]
    return match, best


def _class_result(name: str, match: IntArray, difficult: BoolArray) -> ClassResult:
    """Computes the figures of one class.

    Args:
        name: the class.
        match: (D,), the object that each detection matches, best detection first; -1 for none.
        difficult: (M,), true for difficult objects.
    """
    ground_truths = int(np.count_nonzero(~difficult))
    matched = np.flatnonzero(match >= 0)
    ignored = np.zeros(len(match), np.bool_)
    ignored[matched] = difficult[match[matched]]
    candidates = matched[~ignored[matched]]
    true_positive = np.zeros(len(match), np.bool_)
    true_positive[candidates[np.unique(match[candidates], return_index=True)[1]]] = True
    true_positives = np.cumsum(true_positive, dtype=np.float64)
    counted = np.cumsum(~ignored, dtype=np.float64)
    precision = _divide(true_positives, counted)
    recall = _divide(true_positives, np.float64(ground_truths))
    return ClassResult(
        name=name,
        ap_11point=average_precision_11point(recall, precision) if ground_truths else np.nan,
        ap_area=average_precision_area(recall, precision) if ground_truths else np.nan,
        precision=precision,
        recall=recall,
        ground_truths=ground_truths,
        detections=len(match),
    )


def _divide(numerator: Float64, denominator: Float64 | np.float64) -> Float64:
    """Divides; NaN where the denominator is 0."""
    quotient = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan
