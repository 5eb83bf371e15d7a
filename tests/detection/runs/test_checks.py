"""Checks of a training and a test set, before hours of work."""

from dataclasses import replace

import pytest

from sppnet.common.errors import InputError
from sppnet.detection.runs.checks import check_test_set
from sppnet.detection.runs.detection_files import only_detected


def test_a_test_without_objects_is_warned_of(tiny_train, tiny_test):
    bare = [replace(example, boxes=example.boxes[:0], labels=example.labels[:0]) for example in tiny_test]
    (warning,) = check_test_set(replace(tiny_test, examples=tuple(bare)), tiny_train)
    assert "warning: no object is annotated in test" in warning


def test_images_trained_on_and_tested_on_alike_are_warned_of(tiny_train, tiny_test):
    assert check_test_set(tiny_test, tiny_train) == []
    (warning,) = check_test_set(replace(tiny_test, examples=(*tiny_test, tiny_train[0])), tiny_train)
    assert "warning: 1 of the 4 images of test are among the training images (train)" in warning


def test_a_set_that_could_not_be_tested_on_shows_before_the_training(tiny_train, tiny_test):
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'circle'"):
        check_test_set(replace(tiny_test, classes=("bar", "circle")), tiny_train)
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'the order'"):
        check_test_set(replace(tiny_test, classes=tiny_test.classes[::-1]), tiny_train)
    slashed = [replace(dataset, classes=("bar", "cup/mug")) for dataset in (tiny_test, tiny_train)]
    with pytest.raises(InputError, match="rename the class or split without slashes"):
        check_test_set(*slashed)
    blank = replace(tiny_test, examples=(replace(tiny_test[0], image_id="a b"),))
    with pytest.raises(InputError, match="image id 'a b' has blanks"):
        check_test_set(blank, tiny_train)


def test_the_images_of_a_list(tiny_test, tmp_path):
    assert only_detected(tiny_test, tmp_path) is tiny_test
    (tmp_path / "images.txt").write_text(f"{tiny_test[2].image_id}\n{tiny_test[0].image_id}\n")
    listed = [example.image_id for example in only_detected(tiny_test, tmp_path)]
    assert listed == [tiny_test[0].image_id, tiny_test[2].image_id]
