"""Checks training and test sets before hours of work."""

from sppnet.common.errors import InputError
from sppnet.data import Dataset, check_names
from sppnet.detection.training.positives import objects_by_class

# A warning names at most so many classes.
_NAMES_IN_MESSAGE = 5


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


def check_training_set(train: Dataset, difficult_positives: bool) -> list[str]:
    """Checks that there is something to train on.

    Args:
        train: the images to train on.
        difficult_positives: whether difficult objects are trained on.

    Returns:
        warnings, a sentence each.

    Raises:
        InputError: no object is annotated, or all objects are difficult and these are left out; or a name
            cannot be used in the files of detections.
    """
    check_names(train.name, train.classes, train.split, [example.image_id for example in train])
    counts = objects_by_class(train, difficult_positives)
    if not counts.any():
        difficult = sum(len(example.boxes) for example in train)
        what = (
            f"all {difficult} objects are difficult; set training.difficult_positives to true"
            if difficult
            else "no annotated object to train on; check the annotations, or choose another --train-split"
        )
        raise InputError(f"{train.name} {train.split}: {what}")
    missing = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if not missing:
        return []
    names = ", ".join(map(repr, missing[:_NAMES_IN_MESSAGE]))
    names += f" and {len(missing) - _NAMES_IN_MESSAGE} more" if len(missing) > _NAMES_IN_MESSAGE else ""
    return [f"warning: {train.split} has no object of {names} to train on, so none will be detected"]


def check_test_set(test: Dataset, train: Dataset) -> list[str]:
    """Checks that a detector of ``train`` can be tested on a test set.

    Returns:
        warnings, a sentence each.

    Raises:
        InputError: the classes differ from ``train``'s, or a name cannot be used in the files of detections.
    """
    check_same_classes(test, train)
    check_names(test.name, test.classes, test.split, [example.image_id for example in test])
    warnings = []
    if not any(len(example.boxes) for example in test):
        warnings.append(
            f"warning: no object is annotated in {test.split}: there will be detections, but no mAP; "
            "see --test-split"
        )
    return warnings + [warning for warning in [shared_images_warning(test, train)] if warning]
