"""The types of annotated images: an example, and the data set of one split, the same for every format."""

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from sppnet.common.arrays import BoolArray, FloatArray, Image, IntArray
from sppnet.data.images import read_image


@dataclass(frozen=True, eq=False)
class Example:
    """One annotated image.

    Attributes:
        image_id: the id in the data set's lists, for example ``"000017"``.
        path: the image file.
        width, height: pixels, as the annotation states them.
        boxes: float32 (N, 4) ground truth, xyxy, 0-based pixel edges, right and bottom exclusive.
        labels: int64 (N,) indices into the data set's ``classes``.
        difficult: bool (N,), true for objects that scoring ignores.
        truncated: bool (N,), true for objects that the image border or an occluder cuts.

    Example:
        >>> import numpy as np
        >>> flags = np.zeros(1, bool)
        >>> boxes, labels = np.array([[10, 20, 60, 80]], np.float32), np.array([1])
        >>> example = Example("000017", Path("000017.jpg"), 100, 90, boxes, labels, flags, flags)
        >>> example.image_id, len(example.boxes)
        ('000017', 1)
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: FloatArray
    labels: IntArray
    difficult: BoolArray
    truncated: BoolArray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the annotation states them."""
        return self.width, self.height

    def read(self) -> Image:
        """Decodes the image file in the orientation that the boxes are in, see `sppnet.data.read_image`.

        Returns:
            uint8 (H, W, 3), RGB.

        Raises:
            InputError: the file is missing, damaged or too large.
        """
        return read_image(self.path, annotated=self.size)


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Example]):
    """The examples of one split, the same type from VOC, COCO, ILSVRC and the built-in sample.

    An index gives an `Example`, a slice a `Dataset` of the same split.

    Attributes:
        name: the name in figures, for example ``"VOC2007"``.
        split: for example ``"train"``.
        classes: class names; a label is an index into them.
        examples: the annotated images, in the order of the split's list.
        category_ids: the id of each class in the COCO file of the set; None: the set is not from COCO.
        image_ids: ``image_id`` to the image's id in the COCO file, usually a number; None as above.

    Example:
        >>> import numpy as np
        >>> flags = np.zeros(1, bool)
        >>> boxes, labels = np.array([[10, 20, 60, 80]], np.float32), np.array([1])
        >>> example = Example("000017", Path("000017.jpg"), 100, 90, boxes, labels, flags, flags)
        >>> dataset = Dataset("toys", "train", ("cat", "dog"), (example, example))
        >>> dataset
        Dataset(toys train: 2 images, 2 classes, 2 objects)
        >>> dataset[0].image_id
        '000017'
        >>> dataset[:1]
        Dataset(toys train: 1 images, 2 classes, 1 objects)
    """

    name: str
    split: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    category_ids: tuple[int, ...] | None = None
    image_ids: Mapping[str, int | str] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...

    def __getitem__(self, index: int | slice) -> "Example | Dataset":
        if isinstance(index, slice):
            return replace(self, examples=self.examples[index])
        return self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __repr__(self) -> str:
        objects = sum(len(example.labels) for example in self.examples)
        return (
            f"Dataset({self.name} {self.split}: {len(self):,} images, {len(self.classes):,} classes, "
            f"{objects:,} objects)"
        )

    def without(self, image_ids: Container[str]) -> "Dataset":
        """Returns the data set without some images."""
        kept = tuple(example for example in self.examples if example.image_id not in image_ids)
        return replace(self, examples=kept)

    def digest(self) -> str:
        """Computes a SHA-256 over the classes, the split, the image ids and the annotations."""
        digest = hashlib.sha256(repr((self.classes, self.split)).encode())
        for example in self.examples:
            digest.update(example.image_id.encode())
            for array in (example.boxes, example.labels, example.difficult):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def head(self, limit: int | None) -> "Dataset":
        """Returns a data set of the first ``limit`` examples; None: of all."""
        return self[:limit]
