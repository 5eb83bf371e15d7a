"""The command predict: detection in photos and videos, printed, drawn and written to files."""

import csv
import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from command import call, words

from sppnet.cli.photos import write_picture
from sppnet.common.errors import InputError
from sppnet.data import load_voc, read_image
from sppnet.detection.detector import Detector
from sppnet.eval import evaluate_voc, read_voc_detections
from sppnet.proposals import ImportedBoxes

MODEL = ("--model", "runs/tiny/model")


@pytest.fixture
def photo(tiny_voc):
    return tiny_voc / "JPEGImages" / "1000.png"


@pytest.fixture
def photos(done, tiny_voc):
    """A folder with a PNG, a JPEG and, deeper, a WebP; their names are not UTF-8, with a blank, and plain."""
    folder = done / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate((os.fsdecode(b"b\xe9.png"), "my photo.jpeg", "deeper/c.webp")):
        image = cv2.imread(str(tiny_voc / "JPEGImages" / f"100{number}.png"))
        _, content = cv2.imencode(os.path.splitext(name)[1], image)
        (folder / name).write_bytes(content.tobytes())
    return folder


@pytest.fixture
def clip(done, tiny_voc):
    """A video of seven frames, in a file whose name is not UTF-8."""
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (110, 80))
    for number in range(7):
        writer.write(cv2.imread(str(tiny_voc / "JPEGImages" / f"100{number % 3}.png")))
    writer.release()
    path = done / os.fsdecode(b"cl\xefp.avi")
    (done / "clip.avi").rename(path)
    return path


def test_a_line_for_each_photo_and_totals(done, photos):
    detector = Detector.load("runs/tiny/model")
    result = call("predict", photos, *MODEL, "--min-score", 0.1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    files = [photos / os.fsdecode(b"b\xe9.png"), photos / "deeper" / "c.webp", photos / "my photo.jpeg"]
    total = 0
    for line, file in zip(lines[:3], files, strict=True):
        detections = detector.predict(file, 0.1)
        total += len(detections)
        scores = sorted(detections.scores, reverse=True)
        title = str(file).encode("utf-8", "backslashreplace").decode()
        assert line.startswith(f"{title}: ")
        assert f"{scores[0]:.2f}" in line
        for label, name in enumerate(("bar", "square")):
            count = int((detections.labels == label).sum())
            if count:
                assert f"{count} {name}{'s' if count > 1 else ''} " in line
    assert lines[3].startswith(f"total: 3 photos, {total} objects (")
    assert lines[3].endswith(" seconds a photo")
    assert len(lines) == 4


def test_the_threshold_of_each_class_is_the_detectors(done, photos):
    detector = Detector.load("runs/tiny/model")
    for choice, arguments in (
        ("f1", ()),
        ("precision:0.5", ("--precision", 0.5)),
        (0.3, ("--min-score", 0.3)),
    ):
        assert call("predict", photos, *MODEL, *arguments, "--json", "a.json").exit_code == 0
        for entry in json.loads((done / "a.json").read_text())["photos"]:
            expected = detector.shown(detector.predict(entry["photo"]), choice)
            scores = [detection["score"] for detection in entry["detections"]]
            np.testing.assert_allclose(scores, np.sort(expected.scores)[::-1], rtol=1e-4)
    result = call("predict", photos, *MODEL, "--min-score", 0.3, "--precision", 0.5)
    assert result.exit_code == 2
    assert "give one of them" in result.output


def test_a_photo_without_detections_names_the_best_below(done, photo):
    detections = Detector.load("runs/tiny/model").predict(photo)
    best = detections[int(np.argmax(detections.scores))]
    (name,) = best.names()
    result = call("predict", photo, *MODEL, "--min-score", 1)
    assert f"{photo}: nothing found; the best is {name} {best.scores[0]:.2f}\n" in result.output
    assert "total: 1 photo, 0 objects, " in result.output


def test_a_detector_without_calibration_has_raw_scores(done, photo):
    detector = replace(Detector.load("runs/tiny/model"), calibration=None)
    detector.save(done / "raw")
    result = call("predict", photo, "--model", "raw", "--min-score", -1.2)
    assert "warning: trained without calibration: scores are margins" in result.output
    assert f"{detector.detect(photo).scores.max():.2f}" in result.output
    result = call("predict", photo, "--model", "raw", "--precision", 0.9)
    assert result.exit_code == 2
    assert "no calibration; train it again" in result.output


def test_pictures_keep_the_names_and_formats_of_photos(done, photos):
    result = call("predict", photos, *MODEL, "--draw", "out", "--min-score", 0)
    assert result.exit_code == 0, result.output
    assert "written: out\n" in result.output
    for name, start in ((os.fsdecode(b"b\xe9.png"), b"\x89PNG"), ("my photo.jpeg", b"\xff\xd8")):
        assert (done / "out" / name).read_bytes().startswith(start)
    assert (done / "out" / "deeper" / "c.webp").read_bytes()[8:12] == b"WEBP"
    assert len([path for path in (done / "out").rglob("*") if path.is_file()]) == 3
    drawn, photo = read_image(done / "out" / "deeper" / "c.webp"), read_image(photos / "deeper" / "c.webp")
    assert drawn.shape == photo.shape
    assert (np.abs(drawn.astype(int) - photo) > 60).any()


def test_other_formats_are_drawn_as_png(done, photo):
    (done / "grey.pgm").write_bytes(b"P5 60 50 255 " + bytes(3000))
    assert call("predict", "grey.pgm", *MODEL, "--draw", "out").exit_code == 0
    assert (done / "out" / "grey.pgm.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a.JPG", "a.tiff", "deeper/a.bmp"])
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path, name):
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[..., 0] = 200
    write_picture(tmp_path / name, picture)
    np.testing.assert_allclose(read_image(tmp_path / name), picture, atol=3)


def test_a_picture_too_large_for_its_format_is_named(tmp_path):
    # WebP has 14 bits for each side.
    with pytest.raises(InputError, match=r"long\.webp: the picture cannot be written in this format"):
        write_picture(tmp_path / "long.webp", np.zeros((1, 20_000, 3), np.uint8))


def test_photos_are_not_replaced_by_their_pictures(done, photos):
    for folder in ("photos", done / "photos", "photos/deeper/.."):
        result = call("predict", "photos", *MODEL, "--draw", folder)
        assert result.exit_code == 2
        assert "would be replaced by its picture; draw into another folder" in result.output


def test_all_files_are_checked_before_any_work(done, photos, monkeypatch):
    monkeypatch.setattr(Detector, "load", None)
    (photos / "b.jpg").write_bytes(b"no image")
    (photos / "deeper" / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (photos / "notes.txt").write_bytes(b"no image")
    result = call("predict", photos, "gone.png", "*.gif", *MODEL, "--draw", "out")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "error: 4 files cannot be used:"
    starts = ["gone.png", "*.gif", photos / "b.jpg", photos / "deeper" / "d.HEIC"]
    for line, start in zip(lines[1:5], starts, strict=True):
        assert line.startswith(f"  {start}: ")
    assert lines[5] == "Nothing was done. --skip-errors leaves them out."
    assert not (done / "out").exists()


def test_of_many_bad_files_the_first_are_listed(done):
    (done / "bad").mkdir()
    for number in range(25):
        (done / "bad" / f"{number:02d}.jpg").write_bytes(b"no image")
    result = call("predict", "bad", *MODEL, "--skip-errors")
    assert result.exit_code == 2
    assert "error: 25 files cannot be used:" in result.output
    assert "bad/19.jpg" in result.output
    assert "bad/20.jpg" not in result.output
    assert "… and 5 more\nNothing is left." in result.output


def test_bad_files_can_be_left_out(done, photo):
    (done / "in").mkdir()
    shutil.copy(photo, done / "in" / "a.png")
    (done / "in" / "b.jpg").write_bytes(b"no image")
    # A file with a good header, whose pixels are damaged.
    _, content = cv2.imencode(".jpg", read_image(photo))
    (done / "in" / "c.jpg").write_bytes(content.tobytes()[:-500])
    # Files that a file manager leaves are passed over.
    for name in (".DS_Store", "._a.png", "notes.txt"):
        (done / "in" / name).write_bytes(b"no image")
    result = call("predict", "in", *MODEL, "--skip-errors", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert "1 file cannot be used:\n  in/b.jpg: " in result.output
    assert "1 file cannot be used:\n  in/c.jpg: the image is truncated or damaged" in result.output
    assert "total: 1 photo, " in result.output
    assert ", 2 skipped\n" in result.output
    assert len(json.loads((done / "a.json").read_text())["photos"]) == 1


def test_damage_that_shows_late_does_not_cost_the_others(done, photo):
    (done / "in").mkdir()
    shutil.copy(photo, done / "in" / "b.png")
    _, content = cv2.imencode(".jpg", read_image(photo))
    (done / "in" / "a.jpg").write_bytes(content.tobytes()[:-500])
    result = call("predict", "in", *MODEL, "--json", "a.json", "--draw", "out")
    assert result.exit_code == 2
    assert "error: 1 file cannot be used:\n  in/a.jpg: the image is truncated" in result.stderr
    assert "written: out and a.json\n" in result.stdout
    (entry,) = json.loads((done / "a.json").read_text())["photos"]
    assert entry["photo"] == "in/b.png"


def test_photos_of_one_name_do_not_overwrite_each_other(done, tiny_voc):
    for name, source in (("x", "1000"), ("y", "1001")):
        (done / "in" / name).mkdir(parents=True)
        shutil.copy(tiny_voc / "JPEGImages" / f"{source}.png", done / "in" / name / "same.png")
    for given in ("in", "in/*", "in/*/*.png", "in/**"):
        result = call("predict", given, *MODEL, "--draw", "out", "--yolo", "yolo", "--voc", "voc")
        assert result.exit_code == 0, result.output
        assert sorted((done / "out").rglob("*.png")) == [
            done / "out" / name / "same.png" for name in ("x", "y")
        ]
        shutil.rmtree(done / "out")


def test_photos_of_one_name_from_two_folders_are_refused(done, photo):
    for name in ("x", "y"):
        (done / name).mkdir()
        shutil.copy(photo, done / name / "same.png")
    for given in (["x", "y"], ["x/same.png", "y/same.png"]):
        result = call("predict", *given, *MODEL, "--draw", "out")
        assert result.exit_code == 2
        assert "x/same.png and y/same.png: both would be written as out/same.png; rename" in result.output
        result = call("predict", *given, *MODEL, "--yolo", "out")
        assert "x/same.png and y/same.png: VOC and YOLO leave out suffixes: both would" in result.output
        assert not (done / "out").exists()
    assert call("predict", "x", "y", *MODEL, "--json", "a.json", "--coco", "b.json").exit_code == 0


def test_files_for_other_programs(done, photos, clip):
    outputs = ("--json", "o/a.json", "--csv", "o/a.csv", "--coco", "o/coco.json", "--yolo", "o/yolo")
    result = call("predict", photos, clip, "--every", 3, *MODEL, "--min-score", 0.05, *outputs)
    assert result.exit_code == 0, result.output
    assert "written: o/a.json, o/a.csv, o/coco.json and o/yolo\n" in result.output
    titles = [f"{clip}#{number:06d}" for number in (0, 3, 6)]
    entries = json.loads((done / "o" / "a.json").read_text())["photos"]
    assert [entry["photo"] for entry in entries[3:]] == titles
    assert all(entry["detections"] for entry in entries)
    with open(done / "o" / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(entry["detections"]) for entry in entries)
    document = json.loads((done / "o" / "coco.json").read_text())
    assert len(document["images"]) == 6
    assert len(document["annotations"]) == len(rows)
    lines = [path.read_text().splitlines() for path in (done / "o" / "yolo" / "labels").rglob("*.txt")]
    assert len(lines) == 6
    assert sum(map(len, lines)) == len(rows)


def test_voc_files_can_be_scored(done, tiny_voc):
    folder = tiny_voc / "JPEGImages"
    result = call("predict", folder / "1*.png", *MODEL, "--min-score", 0, "--voc", "voc")
    assert result.exit_code == 0, result.output
    test = load_voc(tiny_voc, "test")
    detector = Detector.load("runs/tiny/model")
    detections = read_voc_detections(done / "voc", test.classes)
    assert set(detections) == {example.image_id for example in test}
    expected = evaluate_voc(test, detector.predict(test, raw_scores=True)).map_area
    assert evaluate_voc(test, detections).map_area == pytest.approx(expected)


def test_frames_of_a_video(done, clip):
    result = call("predict", clip, "--every", 2, *MODEL, "--draw", "out", "--jobs", 1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    title = str(clip).encode("utf-8", "backslashreplace").decode()
    assert [line.partition(": ")[0] for line in lines[:4]] == [f"{title}#{n:06d}" for n in (0, 2, 4, 6)]
    assert lines[4].startswith("total: 4 frames, ")
    assert lines[4].endswith(" seconds a frame")
    pictures = sorted(path.name for path in (done / "out").iterdir())
    assert pictures == [f"{clip.name}#{number:06d}.jpg" for number in (0, 2, 4, 6)]


def test_videos_in_folders_are_left_out(done, photos, clip):
    shutil.copy(clip, photos / "clip.avi")
    result = call("predict", photos, *MODEL)
    assert result.exit_code == 0
    assert f"left out: 1 video in folders, such as {photos / 'clip.avi'}; name a video" in result.output
    result = call("predict", photos, photos / "clip.avi", "--every", 5, *MODEL)
    assert "left out" not in result.output
    assert "total: 3 photos, 2 frames, " in result.output
    assert result.output.endswith(" seconds an image\n")


class Camera:
    """A camera that gives the frames of a list; then it raises an error, or gives none any more."""

    def __init__(self, frames, error=None):
        self.frames, self.error = list(frames), error

    def isOpened(self):
        return bool(self.frames)

    def set(self, name, value):
        return True

    def grab(self):
        if self.frames:
            self.frame = self.frames.pop(0)
            return True
        if self.error is not None:
            raise self.error
        return False

    def retrieve(self):
        return True, self.frame

    def release(self):
        pass


@pytest.mark.parametrize(("error", "exit_code"), [(KeyboardInterrupt(), 0), (None, 2)])
def test_a_camera_until_ctrl_c(done, photo, monkeypatch, error, exit_code):
    frames = [cv2.imread(str(photo))] * 3
    # The first is opened for the check.
    cameras = [Camera(frames), Camera(frames, error)]
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: cameras.pop(0))
    result = call("predict", "--camera", 2, "--every", 2, *MODEL, "--min-score", 0, "--json", "a.json")
    assert result.exit_code == exit_code, result.output
    assert ("camera 2: gives no more frames" in result.output) == (error is None)
    assert "total: 2 frames, " in result.output
    entries = json.loads((done / "a.json").read_text())["photos"]
    assert [entry["photo"] for entry in entries] == ["camera2#000000", "camera2#000002"]


def test_a_camera_that_is_not_there(done, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: Camera([]))
    result = call("predict", "--camera", 0, *MODEL)
    assert result.exit_code == 2
    assert "camera 0: cannot be opened; check that it is connected and not in use" in words(result)


def test_after_ctrl_c_what_is_done_is_written(done, photos, monkeypatch):
    detect_all = Detector.detect_all

    def stopped(self, images, workers):
        yield from detect_all(self, images[:2], workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "detect_all", stopped)
    result = call("predict", photos, *MODEL, "--json", "a.json")
    assert result.exit_code == 130
    assert "stopped\ntotal: 2 photos, " in result.output
    assert len(json.loads((done / "a.json").read_text())["photos"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "photos"], "photos: is a folder; give the name of a file"),
        (["--json", "a.json", "--coco", "a.json"], "a.json: is named for two outputs"),
        (["--draw", "file"], "file: is a file; give a folder"),
        (["--csv", "file/a.csv"], "file: is a file; give a folder"),
        (["--yolo", "labelled"], "labelled: holds a data set or labels of another program"),
    ],
)
def test_outputs_are_checked_before_any_work(done, photos, monkeypatch, arguments, message):
    monkeypatch.setattr(Detector, "load", None)
    (done / "file").touch()
    (done / "labelled" / "labels").mkdir(parents=True)
    result = call("predict", "photos", *MODEL, *arguments)
    assert result.exit_code == 2
    assert message in words(result)


def test_classes_and_photos_of_any_name(done, photos):
    detector = Detector.load("runs/tiny/model")
    replace(detector, classes=("$bar$", "a/b")).save(done / "odd")
    outputs = ("--voc", "voc", "--yolo", "yolo", "--draw", "drawn", "--csv", "a.csv", "--coco", "a.json")
    result = call("predict", photos, "--model", "odd", "--min-score", 0, *outputs)
    assert result.exit_code == 0, result.output
    names = {"b\\udce9", "my photo", "deeper/c"}
    assert set(read_voc_detections(done / "voc", ("$bar$", "a/b"))) == names
    replace(detector, classes=("bar", "a\nb")).save(done / "broken")
    result = call("predict", photos, "--model", "broken", "--voc", "voc")
    assert result.exit_code == 2
    assert "the class 'a\\nb' has a control character; rename it" in result.output


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

    def recorded(self, images, workers):
        asked.append(workers)
        return detect_all(self, images, workers)

    monkeypatch.setattr(Detector, "detect_all", recorded)
    assert call("predict", photo, *MODEL, "--jobs", jobs).exit_code == 0
    assert asked == [workers]


def test_photos_without_box_regression(done, photo):
    detector = Detector.load("runs/tiny/model")
    assert detector.regressors is not None
    for part, arguments in ((detector, []), (replace(detector, regressors=None), ["--no-regression"])):
        assert call("predict", photo, *MODEL, *arguments, "--min-score", 0, "--json", "a.json").exit_code == 0
        (entry,) = json.loads((done / "a.json").read_text())["photos"]
        boxes = [[row[edge] for edge in ("xmin", "ymin", "xmax", "ymax")] for row in entry["detections"]]
        expected = part.predict(photo)
        expected = expected[np.argsort(-expected.scores, kind="stable")]
        np.testing.assert_allclose(boxes, expected.boxes, atol=0.01)


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
    def lines(*arguments):
        result = call("predict", photo, *arguments, "--jobs", 1)
        assert result.exit_code == 0, result.output
        # The totals have a time.
        return result.output.splitlines()[:-1]

    assert lines("--run", "tiny") == lines(*MODEL) == lines("--run", "tiny", "--head", "pool5")


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
    assert "empty: the folder has no images" in result.output


def test_nothing_named(done):
    result = call("predict", *MODEL)
    assert result.exit_code == 2
    assert "nothing to detect in: name photos, folders or videos, or give --camera 0" in words(result)


def test_a_model_that_is_none(work, photo):
    result = call("predict", photo, "--model", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output
