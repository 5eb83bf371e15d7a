"""Checks training and test sets before hours of work."""

from sppnet.common.errors import InputError
from sppnet.data.types import Dataset
from sppnet.eval import check_voc_names


def check_same_classes(test: Dataset, train: Dataset) -> None:
    """Checks that a test set has the same classes as the training set.

    Raises:
        InputError: the sets have different classes, or the same classes in another order.
    """
    if test.classes != train.classes:
        differences = sorted({*test.classes} ^ {*train.classes}) or ["the order"]
        raise InputError(
            f"{test.name}: {test.split} and {train.split} differ in their classes, such as "
            f"{differences[0]!r}; give both the same classes in the same order"
        )


def shared_images_warning(test: Dataset, train: Dataset) -> str:
    """Returns a sentence about the images that are in both sets; empty if there are none."""
    shared = {example.path for example in test} & {example.path for example in train}
    if not shared:
        return ""
    return (
        f"warning: {len(shared)} of the {len(test)} images of {test.split} are among the training images "
        f"({train.split}), so the figures say little about new images; see --train-split and --test-split, "
        "and {split} in coco:<json>:<images>"
    )


def check_test_set(test: Dataset, train: Dataset) -> list[str]:
    """Checks that a detector of ``train`` can be tested on a test set.

    Returns:
        warnings, a sentence each.

    Raises:
        InputError: the classes differ from ``train``'s, or VOC's files cannot hold the detections.
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
