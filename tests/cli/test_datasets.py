"""The choice of a data set: its name, the message about it, its splits, and the runs named after it."""

import shutil

import pytest
from command import call

from sppnet.cli.datasets import ChosenDataset, short_name
from sppnet.cli.options import DataOptions
from sppnet.common.errors import InputError
from sppnet.data import default_train_split, load_dataset


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
def test_runs_are_named_after_the_data_set(dataset, name):
    assert short_name(dataset) == name


def test_the_test_set_is_not_trained_on_by_default(tmp_path):
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    assert default_train_split(str(tmp_path), None) == "train"
    (lists / "trainval.txt").touch()
    assert default_train_split(str(tmp_path), None) == "trainval"
    assert default_train_split(str(tmp_path), None, "val") == "train"
    assert ChosenDataset(DataOptions(str(tmp_path), test_split="val")).train_split == "train"
    assert ChosenDataset(DataOptions(str(tmp_path), train_split="val")).train_split == "val"


def test_the_folder_of_one_year_can_replace_the_devkit(tmp_path, tiny_voc):
    shutil.copytree(tiny_voc, tmp_path / "VOC2007")
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    shutil.copy(lists / "train.txt", lists / "trainval.txt")
    for root in (tmp_path, tmp_path / "VOC2007"):
        assert default_train_split("voc2007", root) == "trainval"
        assert len(load_dataset("voc2007", "trainval", root)) > 0
    with pytest.raises(InputError, match="VOC2007: is not voc2012"):
        load_dataset("voc2012", "trainval", tmp_path / "VOC2007")


def test_without_voc_the_sample_is_used_and_named(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 1, "test": 1})
    result = call("proposals", "--jobs", 1, "--limit", 1, "--set", "proposals.max_proposals = 5")
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[0]
    assert first.startswith("data set: sample (built in")
    assert "VOC_ROOT" in first


def test_with_voc_it_is_used_and_named(work, tiny_voc):
    shutil.copytree(tiny_voc, work / "devkit" / "VOC2007")
    result = call(
        "proposals", "--voc-root", "devkit", "--jobs", 1, "--limit", 1, "--set", "proposals.max_proposals = 5"
    )
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "data set: voc2007 (found in devkit)"


def test_the_folder_of_a_url(work):
    source = ChosenDataset(DataOptions("coco:a/{split}.json:a/{split}")).image_source("val", "s3://b")
    assert (str(source.folder), source.url) == ("a/val", "s3://b")
    source = ChosenDataset(DataOptions("voc2007", work)).image_source("test", "s3://b")
    assert source.folder == work
    assert ChosenDataset(DataOptions("sample")).image_source("test", "") is None
