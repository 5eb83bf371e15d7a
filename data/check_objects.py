"""The rules about classes, objects and boxes in a check of a data set."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from sppnet.common.text import counted
from sppnet.data.check_finding import Finding
from sppnet.data.check_reading import Material
from sppnet.data.split_names import canonical_split
from sppnet.data.types import Example

# Pixels: Selective Search proposes no boxes with a shorter side (`proposals.min_side`).
MIN_SIDE = 20
# Fewer objects of a class to train on are too few for an SVM that finds others.
FEW_OBJECTS = 10


def find_object_faults(material: Material) -> Iterator[Finding]:
    """Applies the rules about what was annotated."""
    yield from _class_names(material)
    yield from _objects_per_class(material)
    yield from _one_split(material)
    yield from _boxes(material)
    yield from _empty_images(material)


def _class_names(material: Material) -> Iterator[Finding]:
    if len(set(material.class_lists.values())) > 1:
        yield Finding(
            "problem",
            "splits with different classes",
            "A detector that is trained on one cannot be tested on the other. List the same classes in the "
            "same order in all files.",
            tuple(f"{split}: {', '.join(names)}" for split, names in material.class_lists.items()),
        )
    by_plain: dict[str, list[str]] = defaultdict(list)
    for name in material.classes:
        by_plain["".join(filter(str.isalnum, name.casefold()))].append(name)
    alike = [" and ".join(map(repr, names)) for plain, names in by_plain.items() if plain and len(names) > 1]
    if alike:
        yield Finding(
            "problem",
            f"{counted(len(alike), 'class')} under two names",
            "They differ only in capitals, blanks or signs, and are learnt as different classes. Use one of "
            "the names in all annotations.",
            tuple(alike),
        )


def _objects_per_class(material: Material) -> Iterator[Finding]:
    by_split = {dataset.split: _objects_by_class(dataset) for dataset in material.datasets}
    named = {canonical_split(split): split for split in reversed(by_split)}
    # A single split of any name is all for training.
    only = next(iter(by_split)) if len(by_split) == 1 else None
    train = named.get("train") or named.get("trainval") or only

    totals = _objects_by_class(example for part in material.parts for example in part)
    unused = [name for label, name in enumerate(material.classes) if not totals[label]]
    if unused:
        yield Finding(
            "remark",
            f"{counted(len(unused), 'class')} without a single object",
            "They cannot be learnt, and count for nothing in the mean. Remove them from the list of classes "
            "if nothing is to be annotated for them.",
            tuple(unused),
        )
    if train is None:
        return
    untrained, few = [], []
    for label, name in enumerate(material.classes):
        number = by_split[train][label]
        if totals[label] and not number:
            untrained.append(name)
        elif 0 < number < FEW_OBJECTS:
            few.append(f"{name}: {number}")
    if untrained:
        yield Finding(
            "problem",
            f"{counted(len(untrained), 'class')} with objects, but with none in {train}",
            "Nothing can be learnt about them. Move images to this split, or divide anew with 'sppnet data "
            "split'.",
            tuple(untrained),
        )
    if few:
        yield Finding(
            "remark",
            f"{counted(len(few), 'class')} with fewer than {FEW_OBJECTS} objects in {train}",
            "Annotate more of them: a detector of so few objects finds little else than these.",
            tuple(few),
        )
    for split in (named.get("val"), named.get("test")):
        if split and split != train:
            absent = [
                name
                for label, name in enumerate(material.classes)
                if totals[label] and not by_split[split][label]
            ]
            if absent:
                yield Finding(
                    "remark",
                    f"{counted(len(absent), 'class')} with objects, but with none in {split}",
                    f"There is no score for them on {split}. 'sppnet data split' gives each split its share.",
                    tuple(absent),
                )


def _one_split(material: Material) -> Iterator[Finding]:
    if len(material.datasets) == 1 and not material.unopened:
        yield Finding(
            "remark",
            f"no images to test on: {material.datasets[0].split} is the only split",
            "Divide the images: sppnet data split FOLDER --test 0.2",
        )


def _boxes(material: Material) -> Iterator[Finding]:
    doubled, small, objects = [], 0, 0
    for example in material.examples:
        rows = Counter(
            (label, *box) for label, box in zip(example.labels.tolist(), example.boxes.tolist(), strict=True)
        )
        for (label, *edges), number in rows.items():
            if number > 1:
                box = ", ".join(f"{edge:g}" for edge in edges)
                doubled.append(f"{example.path}: {material.classes[int(label)]} {number} times at ({box})")
        small += int(((example.boxes[:, 2:] - example.boxes[:, :2]).min(axis=1) < MIN_SIDE).sum())
        objects += len(example.labels)
    if doubled:
        yield Finding(
            "remark",
            f"{counted(len(doubled), 'object')} annotated more than once",
            "A detector can find an object once only; the copies count as missed. Remove them.",
            tuple(doubled),
        )
    if small:
        yield Finding(
            "remark",
            f"{counted(small, 'box')} of {objects} with a side below {MIN_SIDE} pixels",
            "Selective Search proposes no boxes so small (proposals.min_side), and such objects are hardly "
            "found. Use larger images, or crop them.",
        )


def _empty_images(material: Material) -> Iterator[Finding]:
    empty = [str(example.path) for example in material.examples if not len(example.labels)]
    if empty:
        yield Finding(
            "remark",
            f"{counted(len(empty), 'image')} without objects",
            "They are used as background. Check that nothing in them was forgotten.",
            tuple(empty),
        )


def _objects_by_class(examples: Iterable[Example]) -> Counter[int]:
    return Counter(label for example in examples for label in example.labels.tolist())
