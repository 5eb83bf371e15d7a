"""Converts ground truth and detections of any program to the form that the evaluators use.

`sppnet.eval.evaluate_voc` documents the plain forms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import BoolArray, IntArray
from sppnet.common.errors import InputError
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset

# The keys are Any because image ids are texts or whole numbers, and a Mapping's key type is invariant.
GroundTruthLike = Dataset | Mapping[Any, Mapping[str, Any]]
DetectionsLike = Mapping[Any, Detections | Mapping[str, Any]]

Floats = NDArray[np.floating[Any]]

_GROUND_TRUTH_FORM = "a sppnet Dataset or a dict {image id: {'boxes': ..., 'labels': ...}}"
_DETECTIONS_FORM = "a dict {image id: Detections or {'boxes': ..., 'labels': ..., 'scores': ...}}"
# An error message lists at most this many class names.
_NAMES_IN_MESSAGE = 10


class Objects(NamedTuple):
    """The ground truth of one image.

    Attributes:
        boxes: float (N, 4) xyxy, continuous edges.
        labels: int64 (N,), indices of classes.
        difficult: bool (N,), true for objects that scoring ignores.
    """

    boxes: Floats
    labels: IntArray
    difficult: BoolArray


class ScoredBoxes(NamedTuple):
    """The detections of one image.

    Attributes:
        boxes: float (N, 4) xyxy, continuous edges.
        scores: float (N,), without NaN; higher is surer.
        labels: int64 (N,), indices into the classes of the ground truth.
    """

    boxes: Floats
    scores: Floats
    labels: IntArray


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The ground truth of all images.

    Attributes:
        title: the name of the ground truth in error messages.
        classes: class names.
        image_ids: the ids of the images, in their order.
        objects: the objects of each image.
        numbers: the whole number that stands for each class in labels; None: the index of the class.
    """

    title: str
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    objects: tuple[Objects, ...]
    numbers: tuple[int, ...] | None = None

    @cached_property
    def _index(self) -> dict[str | int, int]:
        """Name or number of a class to its index."""
        index: dict[str | int, int] = {name: index for index, name in enumerate(self.classes)}
        numbers = range(len(self.classes)) if self.numbers is None else self.numbers
        return index | {number: index for index, number in enumerate(numbers)}

    def class_indices(self, labels: NDArray[Any], source: str) -> IntArray:
        """Returns the class index of each label: int64 (N,).

        Args:
            labels: (N,), names or whole numbers.
            source: the origin of the labels, for the error message.

        Raises:
            InputError: a label stands for no class.
        """
        distinct, inverse = np.unique(labels, return_inverse=True)
        unknown = [label for label in distinct.tolist() if label not in self._index]
        if unknown:
            names = ", ".join(self.classes[:_NAMES_IN_MESSAGE])
            names += ", ..." if len(self.classes) > _NAMES_IN_MESSAGE else ""
            raise InputError(
                f"{source}: label {unknown[0]!r} is outside the {len(self.classes)} classes of {self.title} "
                f"({names}); correct the label, or name all classes with classes="
            )
        return np.array([self._index[label] for label in distinct.tolist()], np.int64)[inverse]


def read_ground_truth(ground_truth: GroundTruthLike, classes: Sequence[str] | None = None) -> GroundTruth:
    """Converts and checks ground truth.

    Args:
        ground_truth: see `sppnet.eval.evaluate_voc`.
        classes: see `sppnet.eval.evaluate_voc`.

    Raises:
        InputError: see `sppnet.eval.evaluate_voc`.
    """
    if isinstance(ground_truth, Dataset):
        if classes is not None:
            raise InputError(
                "classes= is for plain ground truth; leave it out, a Dataset has its own classes"
            )
        return GroundTruth(
            f"{ground_truth.name} {ground_truth.split}",
            ground_truth.classes,
            tuple(example.image_id for example in ground_truth),
            tuple(Objects(example.boxes, example.labels, example.difficult) for example in ground_truth),
        )
    entries = _by_image_id(ground_truth, "the ground truth", _GROUND_TRUTH_FORM)
    objects = [_read_objects(entry, f"ground truth of image {name!r}") for name, entry in entries.items()]
    numbers = None
    if classes is None:
        names, numbers = _classes_of([labels for _, labels, _ in objects])
    else:
        names = _checked_classes(classes)
    without_objects = GroundTruth("the ground truth", names, tuple(entries), (), numbers)
    indexed = tuple(
        Objects(boxes, without_objects.class_indices(labels, f"ground truth of image {name!r}"), difficult)
        for name, (boxes, labels, difficult) in zip(entries, objects, strict=True)
    )
    return replace(without_objects, objects=indexed)


def read_detections(detections: DetectionsLike, ground_truth: GroundTruth) -> list[ScoredBoxes]:
    """Converts and checks detections.

    Args:
        detections: see `sppnet.eval.evaluate_voc`.
        ground_truth: the ground truth of the same images.

    Returns:
        the detections of each image of the ground truth, in its order.

    Raises:
        InputError: see `sppnet.eval.evaluate_voc`.
    """
    entries = _by_image_id(detections, "detections", _DETECTIONS_FORM)
    unknown = entries.keys() - set(ground_truth.image_ids)
    if unknown:
        raise InputError(
            f"detections for {len(unknown)} image(s) that {ground_truth.title} lacks, such as "
            f"{min(unknown)!r}; score them against the split they were made on"
        )
    no_boxes = ScoredBoxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    return [
        _read_scored_boxes(entries[image_id], ground_truth, f"detections of image {image_id!r}")
        if image_id in entries
        else no_boxes
        for image_id in ground_truth.image_ids
    ]


def _by_image_id(entries: object, source: str, form: str) -> dict[str, Any]:
    """Returns image id, as text, to the entry of a plain form."""
    if not isinstance(entries, Mapping):
        raise InputError(f"{source}: a {type(entries).__name__}; give {form}")
    by_id = {}
    for image_id, entry in entries.items():
        if not isinstance(image_id, str | Integral):
            raise InputError(f"{source}: image id {image_id!r}; give a text or a whole number")
        if str(image_id) in by_id:
            raise InputError(f"{source}: image id {str(image_id)!r} is there as a text and as a number")
        by_id[str(image_id)] = entry
    return by_id


def _read_objects(entry: Any, source: str) -> tuple[Floats, NDArray[Any], BoolArray]:
    """Reads boxes, labels (unchanged) and difficult flags from one image's plain ground truth."""
    _check_keys(entry, ("boxes", "labels"), source)
    boxes = _read_boxes(entry["boxes"], source)
    flags = entry.get("difficult")
    if flags is None:
        flags = np.zeros(len(boxes), np.bool_)
    difficult = _read_column(flags, len(boxes), f"{source}: 'difficult'")
    if not np.isin(difficult, (0, 1)).all():
        raise InputError(f"{source}: 'difficult' must hold true or false for each box")
    return boxes, _read_labels(entry["labels"], len(boxes), source), difficult.astype(np.bool_)


def _read_scored_boxes(entry: Any, ground_truth: GroundTruth, source: str) -> ScoredBoxes:
    if isinstance(entry, Detections):
        scored = ScoredBoxes(entry.boxes, entry.scores, _read_typed_labels(entry, ground_truth, source))
    else:
        _check_keys(entry, ("boxes", "labels", "scores"), source)
        boxes = _read_boxes(entry["boxes"], source)
        scores = _read_column(entry["scores"], len(boxes), f"{source}: 'scores'")
        labels = _read_labels(entry["labels"], len(boxes), source)
        scored = ScoredBoxes(
            boxes, _as_floats(scores, f"{source}: 'scores'"), ground_truth.class_indices(labels, source)
        )
    if np.isnan(scored.scores).any():
        raise InputError(f"{source}: a score is NaN; every detection needs a number")
    return scored


def _read_typed_labels(detections: Detections, ground_truth: GroundTruth, source: str) -> IntArray:
    labels = detections.labels
    if detections.classes not in (None, ground_truth.classes):
        return ground_truth.class_indices(np.array(detections.names(), np.str_), source)
    if ground_truth.numbers is not None and detections.classes is None:
        return ground_truth.class_indices(labels, source)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(ground_truth.classes):
        raise InputError(
            f"{source}: a label is outside the {len(ground_truth.classes)} classes of {ground_truth.title}; "
            "were they made by a detector of other classes?"
        )
    return labels


def _classes_of(labels: Sequence[NDArray[Any]]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Returns the classes that occur in labels, sorted, and their numbers if the labels are whole numbers."""
    labels = [array for array in labels if len(array)]
    if len({array.dtype.kind for array in labels}) > 1:
        raise InputError("the ground truth: some labels are names, others numbers; name them with classes=")
    distinct = sorted({label for array in labels for label in np.unique(array).tolist()})
    if distinct and isinstance(distinct[0], int):
        return tuple(map(str, distinct)), tuple(distinct)
    return tuple(distinct), None


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(classes, str) else tuple(classes)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError(f"classes={classes!r}: give a list of different class names")
    return tuple(map(str, names))


def _check_keys(entry: Any, keys: Sequence[str], source: str) -> None:
    if not isinstance(entry, Mapping):
        raise InputError(f"{source}: a {type(entry).__name__}; give a dict with {', '.join(map(repr, keys))}")
    missing = [repr(key) for key in keys if key not in entry]
    if missing:
        raise InputError(f"{source}: {' and '.join(missing)} missing; the keys are {', '.join(keys)}")


def _read_boxes(values: Any, source: str) -> Floats:
    boxes = _as_floats(_as_array(values, f"{source}: 'boxes'"), f"{source}: 'boxes'")
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(
            f"{source}: 'boxes' has the shape {boxes.shape}; give (N, 4): xmin, ymin, xmax, ymax of each box"
        )
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(wrong):
        raise InputError(f"{source}: box {wrong[0]} is NaN or infinite: {boxes[wrong[0]].tolist()}")
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        raise InputError(
            f"{source}: box {wrong[0]} is inverted: {boxes[wrong[0]].tolist()}; give xmin, ymin, xmax, ymax, "
            "not x, y, width, height"
        )
    return boxes


def _read_labels(values: Any, count: int, source: str) -> NDArray[Any]:
    """Reads labels as an array of int64 or of text."""
    labels = _read_column(values, count, f"{source}: 'labels'")
    if not count:
        return np.empty(0, np.int64)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    # NumPy turns a mixed list of names and numbers into names.
    names = values if isinstance(values, Sequence) else labels.tolist()
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(f"{source}: 'labels' holds {wrong[0]!r}; give class names, or whole numbers alone")
    return labels.astype(np.str_)


def _read_column(values: Any, count: int, source: str) -> NDArray[Any]:
    """Reads an array of one value for each box."""
    column = _as_array(values, source)
    if column.size == 0:
        column = column.reshape(0)
    if column.shape != (count,):
        raise InputError(f"{source} has the shape {column.shape}; give ({count},), a value for each box")
    return column


def _as_array(values: Any, source: str) -> NDArray[Any]:
    # This recognises a tensor without importing torch.
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{source} is no array ({error}); give a list or an array") from error


def _as_floats(values: NDArray[Any], source: str) -> Floats:
    """Returns numbers as floats; floats keep their type, which says how they were rounded."""
    if values.size and values.dtype.kind not in "fiu":
        raise InputError(f"{source} holds {values.ravel().tolist()[0]!r}; give numbers")
    return values if values.dtype.kind == "f" else values.astype(np.float64)
