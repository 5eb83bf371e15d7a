"""Checks of a training and a test set, before hours of work."""

from sppnet.common.errors import InputError
from sppnet.data.types import Dataset
from sppnet.eval import check_voc_names


def check_same_classes(test: Dataset, train: Dataset) -> None:
    """Refuses a test set that a model of ``train`` could not be tested on.

    Raises:
        InputError: the two have other classes, or the same in another order.
    """
    if test.classes != train.classes:
        other = sorted({*test.classes} ^ {*train.classes}) or ["the order"]
        raise InputError(
            f"{test.name}: {test.split} and {train.split} differ in their classes, such as {other[0]!r}; "
            "give both the same classes in the same order"
        )


def shared_images_warning(test: Dataset, train: Dataset) -> str:
    """A sentence about the images of both sets; empty where they share none."""
    shared = {example.path for example in test} & {example.path for example in train}
    if not shared:
        return ""
    return (
        f"warning: {len(shared)} of the {len(test)} images of {test.split} are among those trained on "
        f"({train.split}), so the figures say little of new images; see --train-split and --test-split, "
        "and {split} in coco:<json>:<images>"
    )


def check_test_set(test: Dataset, train: Dataset) -> list[str]:
    """Refuses a test set that a detector of ``train`` could not be tested on.

    Returns:
        warnings, a sentence each.

    Raises:
        InputError: its classes are others than ``train``'s, or detections of it cannot be written.
    """
    check_same_classes(test, train)
    check_voc_names(test.classes, test.split, [example.image_id for example in test])
    warnings = []
    if not any(len(example.boxes) for example in test):
        warnings.append(
            f"warning: no object is annotated in {test.split}: there will be detections, but no mAP; "
            "see --test-split"
        )
    return warnings + [warning for warning in [shared_images_warning(test, train)] if warning]
