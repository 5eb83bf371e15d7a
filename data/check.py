"""Checks a data set: counts, sizes and faults; it goes on behind every bad file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.progress import Progress, quiet
from sppnet.data.check_files import find_file_faults
from sppnet.data.check_finding import Finding
from sppnet.data.check_objects import MIN_SIDE, find_object_faults
from sppnet.data.check_reading import Material, read_material
from sppnet.data.types import Dataset, Example

# Upper edges of the groups of boxes by their shorter side, in pixels.
BOX_SIDES = (MIN_SIDE, 50, 100, 200)
_MOST_PICTURES = 24


@dataclass(frozen=True)
class SplitCounts:
    """The numbers of one split.

    Attributes:
        name: of the split.
        images: images that can be read.
        empty_images: those among them without objects.
        objects: for each class.
        difficult: objects that are marked as difficult.
        joins: names of the splits whose images it joins, as ``trainval`` does; usually none.
    """

    name: str
    images: int
    empty_images: int
    objects: tuple[int, ...]
    difficult: int
    joins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of some numbers; NaN of none."""

    smallest: float
    median: float
    largest: float

    @classmethod
    def of(cls, numbers: FloatArray) -> "Spread":
        """The spread of an array of any shape."""
        if not numbers.size:
            return cls(np.nan, np.nan, np.nan)
        return cls(float(numbers.min()), float(np.median(numbers)), float(numbers.max()))


@dataclass(frozen=True)
class DatasetCheck:
    """The counts of a data set and the findings about it.

    Attributes:
        name: as it was given.
        classes: class names.
        splits: the numbers of each split; they count all images of a split that can be used.
        images: different images in all splits.
        objects: objects in them, for each class.
        widths, heights: of the images, in pixels.
        box_sides: the shorter sides of the boxes, in pixels.
        box_groups: the number of boxes whose shorter side is below each of `BOX_SIDES`, and not below the one
            before; last the rest.
        box_aspects: width divided by height.
        findings: problems first.
        pictures: at most 24 examples to look at, each with the name of its split; of every class where there
            is room.

    Example:
        >>> spread = Spread(20, 50, 90)
        >>> finding = Finding("problem", "1 image file that cannot be decoded", "Fetch it again.", ("a.jpg",))
        >>> check = DatasetCheck(
        ...     "toys", ("cat",), (), 1, (1,), spread, spread, spread, (0, 1, 0, 0, 0), spread, (finding,), ()
        ... )
        >>> [finding.details for finding in check.problems]
        [('a.jpg',)]
    """

    name: str
    classes: tuple[str, ...]
    splits: tuple[SplitCounts, ...]
    images: int
    objects: tuple[int, ...]
    widths: Spread
    heights: Spread
    box_sides: Spread
    box_groups: tuple[int, ...]
    box_aspects: Spread
    findings: tuple[Finding, ...]
    pictures: tuple[tuple[str, Example], ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are more than remarks."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")


def check_dataset(
    name: str | Path, splits: Sequence[str] | None = None, progress: Progress = quiet
) -> DatasetCheck:
    """Reads every annotation and every image of a data set, and lists its faults.

    A bad file never ends the check.

    Args:
        name: a folder, or another name that `load_dataset` knows.
        splits: the names of the splits to check; None: all.
        progress: called after each image.

    Returns:
        counts and findings. `sppnet.data.check_report` shows them.

    Raises:
        InputError: there is no such data set.

    Example:
        >>> import cv2, tempfile
        >>> from sppnet.data import write_voc
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.zeros(1, bool)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, np.array([1]), flags, flags)
        >>> write_voc(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> check = check_dataset(folder / "my-data")
        >>> check.images, check.objects, check.problems
        (1, (0, 1), ())
        >>> check.findings[0].title, check.findings[0].details
        ('1 class without a single object', ('cat',))
    """
    material = read_material(str(name), splits, progress)
    return _sum_up(material, [*find_file_faults(material), *find_object_faults(material)])


def count_split(dataset: Dataset, joins: tuple[str, ...] = ()) -> SplitCounts:
    """Counts the images and objects of a split."""
    return SplitCounts(
        dataset.split,
        len(dataset),
        sum(not len(example.labels) for example in dataset),
        count_objects(dataset, len(dataset.classes)),
        sum(int(example.difficult.sum()) for example in dataset),
        joins,
    )


def count_objects(examples: Iterable[Example], num_classes: int) -> tuple[int, ...]:
    """Counts the objects of each class."""
    labels = np.concatenate([np.zeros(0, np.int64), *(example.labels for example in examples)])
    return tuple(np.bincount(labels, minlength=num_classes).tolist())


def _sum_up(material: Material, findings: Sequence[Finding]) -> DatasetCheck:
    examples = material.examples
    sizes = np.array([example.size for example in examples], np.float32).reshape(-1, 2)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(example.boxes for example in examples)])
    box_sizes = boxes[:, 2:] - boxes[:, :2]
    sides = box_sizes.min(axis=1)
    groups = np.bincount(np.searchsorted(BOX_SIDES, sides, side="right"), minlength=len(BOX_SIDES) + 1)
    return DatasetCheck(
        material.name,
        material.classes,
        tuple(count_split(dataset, material.joins.get(dataset.split, ())) for dataset in material.datasets),
        len(examples),
        count_objects(examples, len(material.classes)),
        Spread.of(sizes[:, 0]),
        Spread.of(sizes[:, 1]),
        Spread.of(sides),
        tuple(groups.tolist()),
        Spread.of(box_sizes[:, 0] / box_sizes[:, 1]),
        tuple(sorted(findings, key=lambda finding: finding.severity)),
        _choose_pictures(material),
    )


def _choose_pictures(material: Material) -> tuple[tuple[str, Example], ...]:
    """Some images, class by class in turn, the rarest first; one seed, one choice."""
    readable = [
        (part.split, example)
        for part in material.parts
        for example in part
        if material.files[example.path].size
    ]
    queues: dict[int, list[int]] = {label: [] for label in range(len(material.classes))}
    for index in np.random.default_rng(0).permutation(len(readable)).tolist():
        for label in set(readable[index][1].labels.tolist()):
            queues[label].append(index)
    turns = sorted((queue for queue in queues.values() if queue), key=len)
    chosen: dict[int, None] = {}
    while turns and len(chosen) < _MOST_PICTURES:
        for queue in turns:
            chosen |= dict.fromkeys([index for index in queue if index not in chosen][:1])
        turns = [queue for queue in turns if not set(queue) <= chosen.keys()]
    return tuple(readable[index] for index in list(chosen)[:_MOST_PICTURES])
