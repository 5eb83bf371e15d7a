"""Average precision as the PASCAL VOC devkit computes it (VOCevaldet.m, VOCap.m), whole data sets at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.common.errors import InputError
from sppnet.data.types import Dataset, Detections

Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]

# The devkit's ``for t=0:0.1:1`` (VOCevaldet.m) as the multiples of 0.1: three are a hair above their decimals
# (0.30000000000000004, 0.6000000000000001, 0.7000000000000001), so a recall of just 3/10 does not reach the
# fourth. py-faster-rcnn, chainercv (checked against MATLAB) and the Object-Detection-Metrics fixture agree; a
# colon that MATLAB makes into an array counts down from 1 in its second half, with 0.6 and 0.7 exact.
RECALL_STEPS: Float64 = np.arange(11, dtype=np.float64) * 0.1


@dataclass(frozen=True, eq=False)
class ClassResult:
    """The figures of one class.

    Attributes:
        name: the class.
        ap_11point: mean of the interpolated precision at 11 recalls (VOC2007); nan without ground truth.
        ap_area: area under the interpolated curve (VOC2010 and later); nan without ground truth.
        precision: float64 (D,) after each detection, best first; nan while all seen are matched to difficult
            objects, which count for nothing.
        recall: float64 (D,) after each detection; nan without ground truth.
        ground_truths: objects that are not difficult.
        detections: D, all detections of the class.
    """

    name: str
    ap_11point: float
    ap_area: float
    precision: Float64
    recall: Float64
    ground_truths: int
    detections: int


@dataclass(frozen=True, eq=False)
class VOCResult:
    """The figures of a data set.

    Attributes:
        iou_threshold: least intersection over union of a match.
        classes: one result a class, in the data set's order.
    """

    iou_threshold: float
    classes: tuple[ClassResult, ...]

    @property
    def map_11point(self) -> float:
        """Mean of the 11-point average precisions over the counted classes; nan when there are none."""
        return _mean([result.ap_11point for result in self.classes if result.ground_truths])

    @property
    def map_area(self) -> float:
        """Mean of the area average precisions over the counted classes; nan when there are none."""
        return _mean([result.ap_area for result in self.classes if result.ground_truths])

    @property
    def counted_classes(self) -> int:
        """How many classes have ground truth that is not difficult, and so count in the means."""
        return sum(result.ground_truths > 0 for result in self.classes)


def box_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> Float64:
    """Intersection over union of every box of one set with every box of another.

    Computed in float64, so that an overlap of exactly one half is exactly 0.5. On pixel edges this equals the
    devkit's arithmetic on inclusive pixels with its ``+1``.

    Args:
        boxes_a: (N, 4) xyxy, pixel edges.
        boxes_b: (M, 4) likewise.

    Returns:
        float64 (N, M) in [0, 1]; 0 where the boxes only touch or both are empty.
    """
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)
    return _paired_iou(a, b)


def average_precision_11point(recall: Float64, precision: Float64) -> float:
    """The VOC2007 average precision: mean over t = 0, 0.1 … 1 of the best precision at recall >= t.

    Args:
        recall: float64 (D,) after each detection, best first.
        precision: float64 (D,) likewise; nan (0/0) is passed over, as MATLAB's ``max`` does, and a curve of
            nothing else scores 0.
    """
    return float(np.append(_envelope(precision), 0)[np.searchsorted(recall, RECALL_STEPS)].mean())


def average_precision_area(recall: Float64, precision: Float64) -> float:
    """The average precision of VOC2010 and later: the exact area under the interpolated curve (VOCap.m).

    Args:
        recall: float64 (D,), as for `average_precision_11point`.
        precision: float64 (D,) likewise.
    """
    return float((np.diff(recall, prepend=0) * _envelope(precision)).sum())


def evaluate_voc(
    dataset: Dataset, detections: Mapping[str, Detections], iou_threshold: float = 0.5
) -> VOCResult:
    """Scores detections as VOCevaldet.m does.

    Best score first, each detection goes to the ground truth of its class and image that it overlaps most,
    difficult ones included (the first of equals). Overlap >= the threshold matches. A match with a difficult
    object counts for nothing, the first match of another object is a true positive, all else is a false
    positive. Detections of equal score keep their order: by image as in the data set, then as given.

    Args:
        dataset: the ground truth.
        detections: image id → detections, labels indexing ``dataset.classes``. An image left out has none.
        iou_threshold: in (0, 1]; the devkit's is 0.5.

    Raises:
        InputError: detections for an image that the data set lacks, a label out of range, or a score of nan.
        ValueError: the threshold is out of range.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; it must be in (0, 1]")
    found = _gather_detections(dataset, detections)
    ground_truth = _gather_ground_truth(dataset)
    results = []
    for label, name in enumerate(dataset.classes):
        rows = found.of_class(label)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        objects = ground_truth.of_class(label)
        match, overlap = _best_matches(found, rows, ground_truth, objects)
        match[overlap < iou_threshold] = -1
        results.append(_class_result(name, match, ground_truth.difficult[objects]))
    return VOCResult(iou_threshold, tuple(results))


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All boxes of a data set in one piece, and where those of each class are."""

    images: Indices
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    difficult: NDArray[np.bool_]
    by_class: Indices
    class_starts: Indices

    def of_class(self, label: int) -> Indices:
        return self.by_class[self.class_starts[label] : self.class_starts[label + 1]]


def _gather_detections(dataset: Dataset, detections: Mapping[str, Detections]) -> _Boxes:
    strangers = detections.keys() - {example.image_id for example in dataset}
    if strangers:
        raise InputError(
            f"detections for {len(strangers)} image(s) that {dataset.name} {dataset.split} lacks, such as "
            f"{min(strangers)!r}; score them against the split they were made on"
        )
    images = [index for index, example in enumerate(dataset) if example.image_id in detections]
    parts = [detections[dataset.examples[index].image_id] for index in images]
    for index, part in zip(images, parts, strict=True):
        name = dataset.examples[index].image_id
        if np.isnan(part.scores).any():
            raise InputError(f"detections of image {name!r}: a score is nan; every detection needs a number")
        if len(part) and not 0 <= part.labels.min() <= part.labels.max() < len(dataset.classes):
            raise InputError(
                f"detections of image {name!r}: a label is outside the {len(dataset.classes)} classes of "
                f"{dataset.name}; were they made by a detector of other classes?"
            )
    return _gather(
        np.repeat(np.array(images, np.int64), [len(part) for part in parts]),
        [part.boxes for part in parts],
        [part.labels for part in parts],
        len(dataset.classes),
        scores=[part.scores for part in parts],
    )


def _gather_ground_truth(dataset: Dataset) -> _Boxes:
    return _gather(
        np.repeat(np.arange(len(dataset)), [len(example.labels) for example in dataset]),
        [example.boxes for example in dataset],
        [example.labels for example in dataset],
        len(dataset.classes),
        difficult=[example.difficult for example in dataset],
    )


def _gather(
    images: Indices,
    boxes: Sequence[NDArray[np.float32]],
    labels: Sequence[Indices],
    classes: int,
    scores: Sequence[NDArray[np.float32]] = (),
    difficult: Sequence[NDArray[np.bool_]] = (),
) -> _Boxes:
    # The narrowest type that holds a label lets numpy's stable sort be a radix sort.
    narrow = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.min_scalar_type(classes))
    return _Boxes(
        images=images,
        boxes=np.concatenate([np.empty((0, 4), np.float32), *boxes]),
        scores=np.concatenate([np.empty(0, np.float32), *scores]),
        difficult=np.concatenate([np.empty(0, np.bool_), *difficult]),
        by_class=np.argsort(narrow, kind="stable"),
        class_starts=np.append(0, np.cumsum(np.bincount(narrow, minlength=classes))),
    )


def _best_matches(
    found: _Boxes, detections: Indices, ground_truth: _Boxes, objects: Indices
) -> tuple[Indices, Float64]:
    """For each of the detections (D,), which of the objects it overlaps most, -1 for none, and by how much.

    The objects are sorted by image, so those of one image are a run; the loop takes the first of every run,
    then the second, and so on: as many rounds as the fullest image has objects.
    """
    images = found.images[detections]
    counts = np.bincount(ground_truth.images[objects], minlength=images.max(initial=-1) + 1)
    firsts = (np.cumsum(counts) - counts)[images]
    counts = counts[images]
    best = np.zeros(len(detections))
    match = np.full(len(detections), -1, np.int64)
    rows = np.arange(len(detections))
    for step in range(counts.max(initial=0)):
        rows = rows[counts[rows] > step]
        candidates = firsts[rows] + step
        overlap = _paired_iou(
            found.boxes[detections[rows]].astype(np.float64),
            ground_truth.boxes[objects[candidates]].astype(np.float64),
        )
        better = overlap > best[rows]
        best[rows[better]] = overlap[better]
        match[rows[better]] = candidates[better]
    return match, best


def _class_result(name: str, match: Indices, difficult: NDArray[np.bool_]) -> ClassResult:
    """Figures of one class from the object that each detection, best first, matches (-1 for none)."""
    ground_truths = int(np.count_nonzero(~difficult))
    matched = np.flatnonzero(match >= 0)
    ignored = np.zeros(len(match), np.bool_)
    ignored[matched] = difficult[match[matched]]
    candidates = matched[~ignored[matched]]
    true_positive = np.zeros(len(match), np.bool_)
    true_positive[candidates[np.unique(match[candidates], return_index=True)[1]]] = True
    true_positives = np.cumsum(true_positive, dtype=np.float64)
    counted = np.cumsum(~ignored, dtype=np.float64)
    precision = _divide(true_positives, counted, np.nan)
    recall = _divide(true_positives, np.float64(ground_truths), np.nan)
    return ClassResult(
        name=name,
        ap_11point=average_precision_11point(recall, precision) if ground_truths else np.nan,
        ap_area=average_precision_area(recall, precision) if ground_truths else np.nan,
        precision=precision,
        recall=recall,
        ground_truths=ground_truths,
        detections=len(match),
    )


def _paired_iou(a: Float64, b: Float64) -> Float64:
    """Intersection over union of boxes (…, 4) that broadcast against each other."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    intersection = width.clip(min=0) * height.clip(min=0)
    union = _area(a) + _area(b) - intersection
    return _divide(intersection, union, 0)


def _area(boxes: Float64) -> Float64:
    area: Float64 = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def _divide(numerator: Float64, denominator: Float64 | np.float64, otherwise: float) -> Float64:
    quotient = np.full_like(numerator, otherwise)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _envelope(precision: Float64) -> Float64:
    """The best precision at this recall or beyond."""
    return np.maximum.accumulate(np.nan_to_num(precision)[::-1])[::-1]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan
