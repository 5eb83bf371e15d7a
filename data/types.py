"""The types that pass between the rooms: examples, data sets, detections."""

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sppnet.common.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Example:
    """One annotated image.

    Attributes:
        image_id: the id in the data set's lists, for example ``"000017"``.
        path: the image file.
        width, height: pixels, as the annotation states them.
        boxes: float32 (N, 4) ground truth, xyxy, 0-based pixel edges, right and bottom exclusive.
        labels: int64 (N,) indices into the data set's ``classes``.
        difficult: bool (N,) objects that scoring ignores.
        truncated: bool (N,) objects that the image border or an occluder cuts.
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: FloatArray
    labels: IntArray
    difficult: BoolArray
    truncated: BoolArray


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Example]):
    """A sequence of examples of one split, the same type from VOC, COCO, ILSVRC and the built-in sample.

    Attributes:
        name: what to call it in figures, for example ``"VOC2007"``.
        split: for example ``"train"``.
        classes: class names; a label is an index into them.
        examples: in the order of the split's list.
        category_ids: each class' id in the COCO file that the set was read from; None: it was not from one.
        image_ids: likewise, ``image_id`` → the image's id as that file has it, usually a number.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    category_ids: tuple[int, ...] | None = None
    image_ids: Mapping[str, int | str] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        return self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def without(self, image_ids: Container[str]) -> "Dataset":
        """The examples of other images."""
        kept = tuple(one for one in self.examples if one.image_id not in image_ids)
        return replace(self, examples=kept)

    def digest(self) -> str:
        """SHA-256 over the classes, ids and annotations, for telling whether they changed."""
        digest = hashlib.sha256(repr((self.classes, self.split)).encode())
        for one in self.examples:
            digest.update(one.image_id.encode())
            for array in (one.boxes, one.labels, one.difficult):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def head(self, limit: int | None) -> "Dataset":
        """The first ``limit`` examples (all of them for ``None``)."""
        return replace(self, examples=self.examples[:limit])


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image, best first within a class.

    Attributes:
        boxes: float32 (N, 4), xyxy, 0-based pixel edges, right and bottom exclusive.
        scores: float32 (N,), higher is surer; not probabilities.
        labels: int64 (N,) indices into the detector's classes.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.scores)
