"""The commands ``data …``; ``data crops`` is tested beside pretrain."""

import shutil
import subprocess
import sys
from pathlib import Path

import exports
import pytest
from command import call, words
from photos import assert_same_objects

from sppnet.data import VOC2007_URL, load_dataset, load_voc
from sppnet.data.all_splits import load_splits
from sppnet.data.splits import join_splits


def test_the_sample(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 2, "test": 1})
    result = call("data", "sample", "here")
    assert result.exit_code == 0
    assert result.output == "written: here\n"
    assert len(load_voc(work / "here", "train")) == 2
    (work / "other").mkdir()
    (work / "other" / "mine.txt").write_text("")
    result = call("data", "sample", "other")
    assert result.exit_code == 2
    assert (work / "other" / "mine.txt").exists()


def test_download_of_something_else(work):
    result = call("data", "download", "voc2011")
    assert result.exit_code == 2
    assert "voc2007" in result.output


def test_the_download_goes_where_it_is_told(work, monkeypatch):
    calls = []

    def download(root, base_url, *, progress):
        calls.append((root, base_url))
        progress("VOCtest.tar", 5, 5)
        return root / "VOC2007"

    monkeypatch.setattr("sppnet.data.download_voc2007", download)
    result = call("data", "download", "voc2007", "--voc-root", "devkit")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "written: devkit/VOC2007"
    assert call("data", "download", "voc2007", "--base-url", "file:///mirror").exit_code == 0
    assert calls == [(Path("devkit"), VOC2007_URL), (Path("datasets/VOCdevkit"), "file:///mirror")]


class TestCheck:
    def test_clean(self, work, tiny_voc):
        result = call("data", "check", tiny_voc, "--html", "pages/check.html")
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.output.splitlines()]
        assert ["images", "6", "3", "9"] in lines
        assert result.output.splitlines()[-1] == "written: pages/check.html"
        assert (work / "pages/check.html").read_text(encoding="utf-8").count("<figure>") == 9

    def test_problems(self, work, tiny_voc):
        shutil.copytree(tiny_voc, "bad")
        (work / "bad/JPEGImages/0000.png").write_bytes(b"")
        (work / "bad/Annotations/0001.xml").unlink()
        result = call("data", "check", "bad")
        assert result.exit_code == 1
        assert "bad/JPEGImages/0000.png: the file is empty" in result.output
        assert "bad/Annotations/0001.xml: the annotation cannot be read" in result.output
        assert "2 problems" in result.output
        assert call("data", "check", "bad", "--split", "test").exit_code == 0

    def test_no_such_data_set(self, work):
        result = call("data", "check", "nowhere")
        assert result.exit_code == 2
        assert "nowhere" in result.output


class TestSplit:
    def test_in_voc_s_layout(self, work, tiny_voc):
        shutil.copytree(tiny_voc, "set")
        before = sorted(path.name for path in (work / "set/JPEGImages").iterdir())
        result = call("data", "split", "set", "--test", 0.3)
        assert result.exit_code == 2
        assert "is divided already (train, test); give --force" in words(result)
        result = call("data", "split", "set", "--test", 0.3, "--val", 0.2, "--force")
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.output.splitlines()]
        assert ["train", "val", "test", "together"] in lines
        assert ["images", "4", "2", "3", "9"] in lines
        lists = "set/ImageSets/Main"
        assert lines[-1] == f"written: {lists}/train.txt, {lists}/val.txt and {lists}/test.txt".split()
        assert [len(load_dataset("set", split)) for split in ("train", "val", "test")] == [4, 2, 3]
        assert sorted(path.name for path in (work / "set/JPEGImages").iterdir()) == before

    @pytest.mark.parametrize("make", exports.LAYOUTS, ids=lambda make: make.__name__)
    def test_of_every_layout(self, work, make):
        make(work / "set")
        files = {path: path.read_bytes() for path in (work / "set").rglob("*") if path.is_file()}
        result = call("data", "split", "set", "--test", 0.34, "--force")
        assert result.exit_code == 0, result.output
        parts = [load_dataset("set", split) for split in ("train", "test")]
        assert [len(part) for part in parts] == [4, 2]
        assert len({example.path for part in parts for example in part}) == 6
        # The lists of before have another name now.
        after = {path: path.read_bytes() for path in (work / "set").rglob("*") if path.is_file()}
        for path, content in files.items():
            if path.parent.name != "Main":
                assert after[path] == content
        again = call("data", "split", "set", "--test", 0.34)
        assert again.exit_code == 2
        result = call("data", "split", "set", "--test", 0.34, "--force")
        assert result.exit_code == 0
        for part in parts:
            paths = [example.path for example in load_dataset("set", part.split)]
            assert paths == [example.path for example in part]

    @pytest.mark.parametrize("test", [0, 1, "nan"])
    def test_fractions(self, work, tiny_voc, test):
        result = call("data", "split", tiny_voc, "--test", test, "--force")
        assert result.exit_code == 2


class TestConvert:
    @pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
    @pytest.mark.parametrize("make", exports.LAYOUTS, ids=lambda make: make.__name__)
    def test_every_layout_to_every_other(self, work, make, layout):
        make(work / "set")
        result = call("data", "convert", "set", "--to", layout, "--output", "new")
        assert result.exit_code == 0, result.output
        assert result.output.splitlines()[-1] == "written: new"
        before, after = (join_splits(load_splits(name)) for name in ("set", "new"))
        assert_same_objects(after, before, tolerance=1e-4 if layout == "yolo" else 0.5)

    def test_what_is_printed(self, work, tiny_voc):
        result = call("data", "convert", tiny_voc, "--to", "yolo", "--output", "new", "--link")
        assert result.output.splitlines()[-5:] == [
            "train: 6 images, 12 objects",
            "test: 3 images, 6 objects",
            "note: YOLO's labels have no 'difficult': 2 objects became like others",
            "note: there is no split val, without which Ultralytics does not train",
            "written: new",
        ]
        assert (work / "new/images/train/0000.png").is_symlink()
        result = call("data", "convert", tiny_voc, "--to", "yolo", "--output", "new")
        assert result.exit_code == 2
        assert "is there already, and not empty; give a new folder" in result.output

    def test_bad_images(self, work, tiny_voc):
        shutil.copytree(tiny_voc, "bad")
        (work / "bad/Annotations/0001.xml").unlink()
        result = call("data", "convert", "bad", "--to", "coco", "--output", "new")
        assert result.exit_code == 2
        assert "0001.xml" in result.output
        assert not (work / "new").exists()
        result = call("data", "convert", "bad", "--to", "coco", "--output", "new", "--skip-errors")
        assert result.exit_code == 0
        assert "train: 5 images" in result.output


def test_torch_is_not_imported(work, tiny_voc):
    """These commands start at once, and work where torch is not installed."""
    script = """
import sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from sppnet.cli.app import app
for command in (["check", "set", "--html", "check.html"], ["split", "set", "--force"],
                ["convert", "set", "--to", "coco", "--output", "new"]):
    result = CliRunner().invoke(app, ["data", *command])
    assert result.exit_code == 0, (result.output, result.exception)
"""
    shutil.copytree(tiny_voc, "set")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
