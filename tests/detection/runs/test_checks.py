"""Checks of a training and a test set, before hours of work."""

from dataclasses import replace

import pytest

from sppnet.common.errors import InputError
from sppnet.detection.runs.checks import check_test_set, check_training_set
from sppnet.detection.runs.detection_files import only_detected


def test_a_test_without_objects_is_warned_of(tiny_train, tiny_test):
    bare = [replace(example, boxes=example.boxes[:0], labels=example.labels[:0]) for example in tiny_test]
    (warning,) = check_test_set(replace(tiny_test, examples=tuple(bare)), tiny_train)
    assert "warning: no object is annotated in test" in warning


def test_classes_without_objects_to_train_on_are_warned_of(tiny_train):
    assert check_training_set(tiny_train, difficult_positives=False) == []
    more = replace(tiny_train, classes=(*tiny_train.classes, *"abcdefg"))
    (warning,) = check_training_set(more, difficult_positives=False)
    names = "'a', 'b', 'c', 'd', 'e' and 2 more"
    assert warning == f"warning: train has no object of {names} to train on, so none will be detected"
    # The bar of image 1 is no difficult object, its square is one.
    (warning,) = check_training_set(tiny_train[1:2], difficult_positives=False)
    assert "'square' to train on" in warning
    assert check_training_set(tiny_train[1:2], difficult_positives=True) == []


def test_images_trained_on_and_tested_on_alike_are_warned_of(tiny_train, tiny_test):
    assert check_test_set(tiny_test, tiny_train) == []
    (warning,) = check_test_set(replace(tiny_test, examples=(*tiny_test, tiny_train[0])), tiny_train)
    assert "warning: 1 of the 4 images of test are among the training images (train)" in warning


def test_a_set_that_could_not_be_tested_on_shows_before_the_training(tiny_train, tiny_test):
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'circle'"):
        check_test_set(replace(tiny_test, classes=("bar", "circle")), tiny_train)
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'the order'"):
        check_test_set(replace(tiny_test, classes=tiny_test.classes[::-1]), tiny_train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("bar", "cup\n")}, r"the class 'cup\\n' has a control character"),
        ({"split": ""}, None),
        ({"split": "te\nst"}, r"the split 'te\\nst' has a control character"),
        ({"classes": ("bar", "cup/mug")}, None),
    ],
)
def test_names_that_no_file_can_hold_show_before_the_training(tiny_train, tiny_test, change, message):
    train, test = (replace(dataset, **change) for dataset in (tiny_train, tiny_test))
    for check in (lambda: check_training_set(train, False), lambda: check_test_set(test, train)):
        if message is None:
            check()
        else:
            with pytest.raises(InputError, match=message):
                check()


def test_image_ids_that_no_file_can_hold(tiny_train, tiny_test):
    def with_id(dataset, image_id):
        return replace(dataset, examples=(replace(dataset[0], image_id=image_id),))

    check_test_set(with_id(tiny_test, "a b"), tiny_train)
    for check in (
        lambda: check_test_set(with_id(tiny_test, "a\rb"), tiny_train),
        lambda: check_training_set(with_id(tiny_train, "a\rb"), False),
    ):
        with pytest.raises(InputError, match=r"the image id .* has a control character"):
            check()


def test_the_images_of_a_list(tiny_test, tmp_path):
    assert only_detected(tiny_test, tmp_path) is tiny_test
    (tmp_path / "images.txt").write_text(f"{tiny_test[2].image_id}\n{tiny_test[0].image_id}\n")
    listed = [example.image_id for example in only_detected(tiny_test, tmp_path)]
    assert listed == [tiny_test[0].image_id, tiny_test[2].image_id]
