"""What the commands on a run share: names, splits that belong together, lists of images."""

import shutil
from dataclasses import replace

import pytest

from sppnet.cli.job import Job, file_name, with_detections
from sppnet.common.errors import InputError
from sppnet.data import default_train_split, open_dataset


@pytest.fixture
def job(work, tiny_voc):
    return Job(str(tiny_voc), work)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("voc2007", "voc2007"),
        ("some/where/mine", "mine"),
        ("ilsvrc:some/where", "where"),
        ("coco:ann/instances_{split}2017.json:img/{split}", "instances_2017"),
        ("coco:boats/instances_{split}.json:boats/images", "instances"),
        ("coco:boats/{split}.json:boats/images", "coco"),
    ],
)
def test_runs_are_named_by_the_data_set(dataset, name):
    assert file_name(dataset) == name


def test_what_is_tested_on_is_not_trained_on_by_default(tmp_path):
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    assert default_train_split(str(tmp_path), None) == "train"
    (lists / "trainval.txt").touch()
    assert default_train_split(str(tmp_path), None) == "trainval"
    assert default_train_split(str(tmp_path), None, "val") == "train"
    assert Job(str(tmp_path), tmp_path, test_split="val").train_split == "train"


def test_the_year_s_own_folder_is_as_good_as_the_devkit(tmp_path, tiny_voc):
    shutil.copytree(tiny_voc, tmp_path / "VOC2007")
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    shutil.copy(lists / "train.txt", lists / "trainval.txt")
    for root in (tmp_path, tmp_path / "VOC2007"):
        assert default_train_split("voc2007", root) == "trainval"
        assert len(open_dataset("voc2007", "trainval", root, tmp_path)) > 0
    with pytest.raises(InputError, match="VOC2007: is not voc2012"):
        open_dataset("voc2012", "trainval", tmp_path / "VOC2007", tmp_path)


def test_a_test_without_objects_is_warned_of(job, tiny_train, tiny_test, capsys):
    bare = [replace(one, boxes=one.boxes[:0], labels=one.labels[:0]) for one in tiny_test]
    job.check_test(replace(tiny_test, examples=tuple(bare)), tiny_train)
    assert "warning: no object is annotated in test" in capsys.readouterr().out


def test_images_trained_on_and_tested_on_alike_are_warned_of(job, tiny_train, tiny_test, capsys):
    job.check_test(tiny_test, tiny_train)
    assert "warning" not in capsys.readouterr().out
    job.check_test(replace(tiny_test, examples=(*tiny_test, tiny_train[0])), tiny_train)
    assert "warning: 1 of the 4 images of test are among those trained on (train)" in capsys.readouterr().out


def test_what_could_not_be_tested_on_shows_before_the_training(job, tiny_train, tiny_test):
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'circle'"):
        job.check_test(replace(tiny_test, classes=("bar", "circle")), tiny_train)
    with pytest.raises(InputError, match="test and train differ in their classes, such as 'the order'"):
        job.check_test(replace(tiny_test, classes=tiny_test.classes[::-1]), tiny_train)
    slashed = [replace(one, classes=("bar", "cup/mug")) for one in (tiny_test, tiny_train)]
    with pytest.raises(InputError, match="rename the class or split without slashes"):
        job.check_test(*slashed)
    blank = replace(tiny_test, examples=(replace(tiny_test[0], image_id="a b"),))
    with pytest.raises(InputError, match="image id 'a b' has blanks"):
        job.check_test(blank, tiny_train)


def test_the_images_of_a_list(tiny_test, tmp_path):
    assert with_detections(tiny_test, tmp_path) is tiny_test
    (tmp_path / "images.txt").write_text(f"{tiny_test[2].image_id}\n{tiny_test[0].image_id}\n")
    assert [one.image_id for one in with_detections(tiny_test, tmp_path)] == [
        tiny_test[0].image_id, tiny_test[2].image_id,
    ]  # fmt: skip
