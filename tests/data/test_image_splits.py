"""Parts of image folders: images chosen evenly over the classes, and images held out."""

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data.image_folder import open_image_folder
from sppnet.data.image_splits import hold_out, open_train_and_val, shared_images, spread_over_classes


def make_classes(folder, **counts):
    """Writes empty image files, ``counts`` of each class, and opens the folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").touch()
    return open_image_folder(folder)


def test_limit_is_spread_over_the_classes(tmp_path):
    images = make_classes(tmp_path, a=4, b=1, c=3)
    for limit, expected in ((3, [0, 1, 2]), (4, [0, 0, 1, 2]), (6, [0, 0, 0, 1, 2, 2]), (0, images.labels)):
        chosen = spread_over_classes(images, limit)
        np.testing.assert_array_equal(chosen.labels, expected)
        assert len(set(chosen.paths)) == len(expected)


def test_a_part_of_each_class_is_held_out(tmp_path):
    images = make_classes(tmp_path, a=8, b=8)
    train, val = hold_out(images, 0.25)
    assert [(part.labels == label).sum() for part in (train, val) for label in (0, 1)] == [6, 6, 2, 2]
    assert {*train.paths} | {*val.paths} == {*images.paths}
    assert not {*train.paths} & {*val.paths}
    again = hold_out(images, 0.25)
    assert [part.paths for part in again] == [train.paths, val.paths]


def test_at_least_one_image_of_each_class_is_held_out(tmp_path):
    _, val = hold_out(make_classes(tmp_path, few=2, many=100, some=4), 0.1)
    assert np.bincount(val.labels).tolist() == [1, 10, 1]


def test_a_class_of_one_image_cannot_be_divided(tmp_path):
    with pytest.raises(InputError, match=r"0\.25 of each class cannot be held out: single has one image"):
        hold_out(make_classes(tmp_path, many=9, single=1), 0.25)


def test_images_to_test_on_are_given_once(tmp_path):
    for split in ("train", "val"):
        make_classes(tmp_path / split, a=2, b=3)
    with pytest.raises(InputError, match="leave --hold-out away"):
        open_train_and_val(tmp_path, None, 0.25)
    train, val = open_train_and_val(tmp_path)
    assert (train.folder, val.folder) == (tmp_path / "train", tmp_path / "val")
    assert shared_images(train, val) == 0
    assert open_train_and_val(tmp_path / "train")[1] is None
    train, val = open_train_and_val(tmp_path, tmp_path / "train")
    assert shared_images(train, val) == 5
