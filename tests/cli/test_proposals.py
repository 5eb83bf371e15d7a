"""The commands proposals, proposals-import and proposals-export."""

import re
import shutil

import cv2
from command import call

FEW = ("--set", "proposals.max_proposals = 30")


def test_an_image_that_was_shrunk_after_it_was_annotated(work, tiny_voc):
    shutil.copytree(tiny_voc, work / "copy")
    path = work / "copy" / "JPEGImages" / "1001.png"
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), cv2.resize(image, None, fx=0.5, fy=0.5))
    command = ["proposals", "--dataset", "copy", "--split", "test", "--jobs", 1]
    result = call(*command)
    assert result.exit_code == 2
    height, width = image.shape[:2]
    assert f"1001.png: {width // 2}x{height // 2} pixels, but annotated as {width}x{height}" in result.output
    result = call(*command, "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "1 images left out" in result.output
    assert "2 images computed" in result.output


def test_a_broken_image_in_the_data_set(work, tiny_voc):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "JPEGImages" / "0002.png").write_bytes(b"no image")
    result = call("proposals", "--dataset", copy, "--split", "train", "--jobs", 1)
    assert result.exit_code == 2
    assert "5 images computed" in result.output
    assert "0002.png" in result.output


def test_proposals_then_export_and_import(work, tiny_voc):
    common = ["--dataset", tiny_voc, *FEW]
    result = call("proposals", *common, "--split", "test", "--jobs", 1)
    assert re.search("3 images computed .*0 in the cache", result.output)
    assert result.output.splitlines()[-1] == "written: cache/proposals.sqlite"
    assert "boxes of 3 images written" in call("proposals-export", "boxes.mat", *common).output
    result = call("proposals-import", "boxes.mat", "--name", " ", "--dataset", tiny_voc)
    assert result.exit_code == 2
    assert "imported boxes need a name" in result.output
    result = call("proposals-import", "boxes.mat", "--name", "published", "--dataset", tiny_voc)
    assert "boxes of 3 images imported" in result.output
    imported = ["--dataset", tiny_voc, "--set", "boxes = 'published'"]
    result = call("proposals", *imported, "--split", "test", "--jobs", 1)
    assert re.search("0 images computed .*3 in the cache", result.output)
    # No boxes were imported for the training split.
    result = call("proposals", *imported, "--split", "train", "--jobs", 1)
    assert result.exit_code == 2
    assert "published" in result.output
    assert call("proposals-export", "boxes.txt", *common).exit_code == 2


def test_limit(work, tiny_voc):
    result = call("proposals", "--dataset", tiny_voc, "--jobs", 1, "--limit", 2, *FEW)
    assert re.findall(r"proposals \((\w+)\): (\d)", result.output) == [("train", "2"), ("test", "2")]


def test_pictures_of_images_of_any_name(work, tiny_voc):
    """A name is no mathematics, and two images have two pictures."""
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    ids = ["$x^$/b", "$x^$_b"]
    for old, new in zip(["1000", "1001"], ids, strict=True):
        for kind, suffix in (("JPEGImages", ".png"), ("Annotations", ".xml")):
            (copy / kind / f"{new}{suffix}").parent.mkdir(exist_ok=True)
            (copy / kind / f"{old}{suffix}").rename(copy / kind / f"{new}{suffix}")
    (copy / "ImageSets/Main/test.txt").write_text("\n".join(ids))
    result = call("proposals", "--dataset", copy, "--split", "test", "--jobs", 1, "--draw", "drawn", *FEW)
    assert result.exit_code == 0, result.output
    assert all(cv2.imread(str(work / "drawn" / f"{name}.png")) is not None for name in ids)


def test_ctrl_c_says_how_to_continue(work, tiny_voc, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sppnet.detection.runs.proposal_filling.fill_cache", stop)
    result = call("proposals", "--dataset", tiny_voc)
    assert result.exit_code == 130
    assert "goes on from here" in result.output
