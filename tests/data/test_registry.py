"""Data sets by name."""

import shutil
import subprocess
import sys

import exports
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import default_train_split, load_dataset


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 2, "test": 1})


@pytest.fixture
def devkit(tmp_path, tiny_voc):
    """A devkit that holds the tiny data set as VOC2007."""
    shutil.copytree(tiny_voc, tmp_path / "devkit" / "VOC2007")
    return tmp_path / "devkit"


def test_sample_in_a_folder_given(small_sample, tmp_path):
    for root in (tmp_path / "sample", str(tmp_path / "sample")):
        assert len(load_dataset("sample", "test", root)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_sample_in_its_default_folder(small_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_dataset("sample").split == "train"
    assert (tmp_path / "datasets" / "sample" / "classes.txt").is_file()


def test_folder_in_vocs_layout(tiny_voc):
    for name in (tiny_voc, str(tiny_voc)):
        dataset = load_dataset(name)
        assert (dataset.name, dataset.split, len(dataset)) == ("tiny", "train", 6)


def test_limit(tiny_voc):
    assert len(load_dataset(tiny_voc, "train", limit=2)) == 2
    assert len(load_dataset(tiny_voc, "train", limit=99)) == 6


@pytest.mark.parametrize("folder", [".", "VOC2007"])
def test_voc_in_a_devkit_or_its_own_folder(devkit, folder):
    dataset = load_dataset("voc2007", "train", devkit / folder)
    assert (dataset.name, len(dataset)) == ("VOC2007", 6)


def test_voc_in_its_default_folder(devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOC_ROOT", str(devkit))
    assert len(load_dataset("voc2007", "test")) == 3
    monkeypatch.delenv("VOC_ROOT")
    with pytest.raises(
        InputError, match=r"datasets.VOCdevkit: no such folder; voc2007 needs a VOC devkit: set"
    ):
        load_dataset("voc2007", "test")
    devkit.rename(tmp_path / "VOCdevkit")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "VOCdevkit").rename(tmp_path / "datasets" / "VOCdevkit")
    assert len(load_dataset("voc2007", "test")) == 3


def test_missing_devkit_and_other_year(devkit, tmp_path):
    with pytest.raises(InputError, match="voc2007 needs a VOC devkit: set VOC_ROOT or run 'sppnet data"):
        load_dataset("voc2007", "train", tmp_path / "none")
    with pytest.raises(InputError, match="VOC2007: is not voc2012"):
        load_dataset("voc2012", "train", devkit / "VOC2007")
    with pytest.raises(InputError, match="holds neither VOC2012 nor ImageSets"):
        load_dataset("voc2012", "train", devkit)


def test_trainval_stands_in_for_a_missing_train(devkit):
    lists = devkit / "VOC2007" / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "test.txt").read_text())
    for name, root in (("voc2007", devkit), (devkit / "VOC2007", None)):
        assert (load_dataset(name, "train", root).split, len(load_dataset(name, "train", root))) == (
            "train",
            6,
        )
    (lists / "train.txt").unlink()
    for name, root in (("voc2007", devkit), (devkit / "VOC2007", None)):
        dataset = load_dataset(name, "train", root)
        assert (dataset.split, len(dataset)) == ("trainval", 9)
    with pytest.raises(InputError, match=r"val\.txt: no such split; there are: trainval, test"):
        load_dataset("voc2007", "val", devkit)


def test_default_split_to_train_on(devkit, tmp_path):
    names = {"voc2007": devkit, str(devkit / "VOC2007"): None}
    for name, root in names.items():
        assert default_train_split(name, root) == "train"
    lists = devkit / "VOC2007" / "ImageSets" / "Main"
    shutil.copy(lists / "train.txt", lists / "trainval.txt")
    for name, root in names.items():
        assert default_train_split(name, root) == "trainval"
        assert default_train_split(name, root, test_split="val") == "train"
    assert default_train_split("voc2007", tmp_path / "none") == "train"
    assert default_train_split("sample") == "train"


def test_coco(tiny_voc, tmp_path):
    (tmp_path / "test.json").write_text(
        '{"images": [{"id": 1, "file_name": "1000.png", "width": 110, "height": 80}],'
        ' "categories": [{"id": 1, "name": "ball"}], "annotations": []}'
    )
    image = next((tiny_voc / "JPEGImages").iterdir())
    shutil.copy(image, tmp_path / "1000.png")
    dataset = load_dataset(f"coco:{tmp_path}/{{split}}.json:{tmp_path}", "test")
    assert (dataset.split, dataset.classes, len(dataset)) == ("test", ("ball",), 1)


def test_ilsvrc(tmp_path):
    with pytest.raises(InputError, match="has no ImageSets/DET"):
        load_dataset(f"ilsvrc:{tmp_path}", "val")


def test_images_with_faults_are_skipped_on_request(tiny_voc, tmp_path):
    folder = tmp_path / "faulty"
    shutil.copytree(tiny_voc, folder)
    next((folder / "JPEGImages").glob("0*.png")).unlink()
    with pytest.raises(InputError, match=r"no \.jpg, \.jpeg or \.png"):
        load_dataset(folder)
    assert len(load_dataset(folder, on_error="skip")) == 5
    with pytest.raises(InputError, match="on_error 'ignore': choose raise or skip"):
        load_dataset(folder, on_error="ignore")


LAYOUTS = [
    exports.voc, exports.label_studio_voc, exports.labelimg_voc, exports.roboflow_coco, exports.standard_coco
]  # fmt: skip


@pytest.mark.parametrize("write", LAYOUTS)
def test_images_need_not_be_there_for_scoring(write, tmp_path):
    write(tmp_path / "set")
    with_images = load_dataset(tmp_path / "set", "train")
    for path in (tmp_path / "set").rglob("*"):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            path.unlink()
    with pytest.raises(InputError):
        load_dataset(tmp_path / "set", "train")
    without = load_dataset(tmp_path / "set", "train", need_images=False)
    assert [example.image_id for example in without] == [example.image_id for example in with_images]
    for example, other in zip(without, with_images, strict=True):
        np.testing.assert_array_equal(example.boxes, other.boxes)


@pytest.mark.parametrize(("name", "hint"), [("voc207", "mean 'voc2007'"), ("qqqq", "Give one of voc2007")])
def test_unknown_names(name, hint):
    with pytest.raises(InputError, match=f"no data set '{name}'.*{hint}"):
        load_dataset(name)


def test_no_torch_is_needed():
    """Reading data is quick only as long as it does not import torch."""
    code = "import sys, sppnet.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
