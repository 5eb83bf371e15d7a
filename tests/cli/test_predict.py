"""The command predict: detection in photos, printed and drawn."""

import os
import re
import shutil
from dataclasses import replace

import pytest
from command import call, words

from sppnet.detection.detector import Detector
from sppnet.proposals import ImportedBoxes

MODEL = ("--model", "runs/tiny/model")


@pytest.fixture
def photo(tiny_voc):
    return tiny_voc / "JPEGImages" / "1000.png"


def test_photos_with_bad_ones_among_them(done, tiny_voc):
    photos = done / "photos"
    (photos / "deeper").mkdir(parents=True)
    shutil.copy(tiny_voc / "JPEGImages" / "1000.png", photos / "a.png")
    (photos / "b.jpg").write_bytes(b"no image")
    shutil.copy(tiny_voc / "JPEGImages" / "1001.png", photos / "deeper" / "c.png")
    result = call("predict", photos, "gone.png", *MODEL, "--draw", "out")
    assert result.exit_code == 2
    assert "2 of 4 files skipped" in result.output
    assert "b.jpg" in result.output
    assert "written: out\n" in result.output
    pictures = [str(file.relative_to(done / "out")) for file in (done / "out").rglob("*.png")]
    assert sorted(pictures) == ["a.png.png", "deeper/c.png.png"]


def test_photos_of_one_name_do_not_overwrite_each_other(done, tiny_voc):
    for name, source in (("x", "1000"), ("y", "1001")):
        (done / "in" / name).mkdir(parents=True)
        shutil.copy(tiny_voc / "JPEGImages" / f"{source}.png", done / "in" / name / "same.png")
    result = call("predict", "in", *MODEL, "--draw", "out")
    assert result.exit_code == 0
    assert len(list((done / "out").rglob("*.png"))) == 2


def test_pictures_of_one_name_from_two_folders_are_refused(done, photo):
    for name in ("x", "y"):
        (done / name).mkdir()
        shutil.copy(photo, done / name / "same.png")
    for given in (["x", "y"], ["x/same.png", "y/same.png"]):
        result = call("predict", *given, *MODEL, "--draw", "out")
        assert result.exit_code == 2
        assert re.search("x/same.png and y/same.png: both would be drawn as out/same.png.png", result.output)
        assert not (done / "out").exists()
    assert call("predict", "x", "y", *MODEL).exit_code == 0


def test_a_name_that_is_not_utf8_is_drawn(done, photo):
    name = os.fsdecode(b"b\xe9.png")
    shutil.copy(photo, done / name)
    result = call("predict", name, *MODEL, "--draw", "out")
    assert result.exit_code == 0, result.output
    assert (done / "out" / f"{name}.png").is_file()


def test_bad_photos_can_be_left_out(done, photo):
    (done / "in").mkdir()
    shutil.copy(photo, done / "in" / "a.png")
    (done / "in" / "b.jpg").write_bytes(b"no image")
    # Files that a file manager leaves are passed over.
    for name in (".DS_Store", "._a.png", "notes.txt"):
        (done / "in" / name).write_bytes(b"no image")
    result = call("predict", "in", *MODEL, "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "1 of 2 files skipped, the first: in/b.jpg" in result.output


def test_photos_have_no_imported_boxes(done, photo):
    model = done / "runs" / "tiny" / "model"
    replace(Detector.load(model), engine=ImportedBoxes("published")).save(model)
    result = call("predict", photo, "--model", model)
    assert result.exit_code == 0, result.output
    assert "warning: trained on imported boxes" in result.output


@pytest.mark.parametrize(("jobs", "workers"), [(-1, 0), (1, 1), (3, 3)])
def test_photos_at_a_time(done, photo, monkeypatch, jobs, workers):
    detect_all = Detector.detect_all
    asked = []

    def counted(self, images, workers):
        asked.append(workers)
        return detect_all(self, images, workers)

    monkeypatch.setattr(Detector, "detect_all", counted)
    assert call("predict", photo, *MODEL, "--jobs", jobs).exit_code == 0
    assert asked == [workers]


def test_detections_are_printed(done, photo):
    detections = Detector.load("runs/tiny/model").detect(photo)
    # A path is printed whole, however narrow the terminal is.
    result = call("predict", photo, *MODEL, "--min-score", -2, columns=60)
    assert result.exit_code == 0
    for score in detections.scores:
        assert f"{score:.2f}" in result.output
    assert f"{photo}:\n" in result.output
    result = call("predict", photo, *MODEL, "--min-score", 1000)
    assert "nothing found" in result.output


def test_photos_without_box_regression(done, photo):
    detector = Detector.load("runs/tiny/model")
    assert detector.regressors is not None
    moved = call("predict", photo, *MODEL, "--min-score", -2).output
    proposed = call("predict", photo, *MODEL, "--min-score", -2, "--no-regression").output
    assert proposed != moved
    for box in replace(detector, regressors=None).detect(photo).boxes:
        assert re.search(" │ +".join(f"{edge:.0f} *" for edge in box), proposed)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--head", "fc7"], "leave out --run and --head"),
        (["--run", "tiny"], "leave out --run and --head"),
        (["--fc-rank", 8], "fc_rank 8"),
        # Options of a run's training and of its data set.
        (["--set", "features.scales = [96]"], "No such option: --set"),
        (["--limit", 5], "No such option: --limit"),
        (["--backbone", "zf5"], "No such option: --backbone"),
        (["--test-split", "val"], "No such option: --test-split"),
    ],
)
def test_options_that_a_model_cannot_follow(done, photo, arguments, named):
    result = call("predict", photo, *MODEL, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_run_in_place_of_a_model(done, photo):
    result = call("predict", photo, "--run", "tiny", "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert result.output == call("predict", photo, *MODEL, "--jobs", 1).output
    assert call("predict", photo, "--run", "tiny", "--head", "pool5").exit_code == 0


def test_nothing_is_trained(done, photo):
    result = call("predict", photo, "--run", "tiny", "--head", "fc7")
    assert result.exit_code == 2
    assert "runs/tiny: has no trained detector with head fc7; there are: --run tiny (pool5)" in words(result)
    result = call("predict", photo, "--run", "none")
    assert result.exit_code == 2
    assert "runs/none: has no trained detector" in result.output


def test_without_a_model_the_trained_runs_are_named(done, photo):
    result = call("predict", photo)
    assert result.exit_code == 2
    assert "no --model and no --run to detect with; there are: --run tiny (pool5)" in words(result)
    shutil.rmtree(done / "runs")
    result = call("predict", photo)
    assert result.exit_code == 2
    assert "train a detector: sppnet train DATASET --run NAME" in words(result)


def test_a_folder_without_photos(done):
    (done / "empty").mkdir()
    result = call("predict", "empty", *MODEL)
    assert result.exit_code == 2
    assert "empty" in result.output


def test_a_model_that_is_none(work, photo):
    result = call("predict", photo, "--model", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output
