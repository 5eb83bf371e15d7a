"""The command sppnet, as a person uses it, in a folder of its own."""

import re
import shutil

import cv2
import numpy as np
import pytest
from command import call

from sppnet.cli import app as cli_module
from sppnet.cli import job as cli_job
from sppnet.data import load_voc
from sppnet.detection.batch import detect_many
from sppnet.detection.detector import Detector
from sppnet.proposals import ImportedBoxes

QUICK = ["--backbone", "alexnet", "--weights", "random", "--preset", "paper-1scale",
         "--set", "features.scales = [96]", "--set", "features.levels = [2, 1]",
         "--set", "proposals.max_proposals = 60"]  # fmt: skip


@pytest.fixture(scope="session")
def finished(tiny_voc, tmp_path_factory):
    """A folder in which the main job was run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("VOC_ROOT", raising=False)
        patch.setattr(cli_module.console, "_width", 250)
        result = call(
            "detect", "--dataset", tiny_voc, "--run", "mine", "--jobs", 1, "--draw", "drawn", *QUICK
        )
    return folder, result


@pytest.fixture
def done(finished, work):
    """A copy of that folder, to work in."""
    shutil.copytree(finished[0], work, dirs_exist_ok=True)
    return work


def figure(output):
    found = re.search(
        r"mAP, 11-point: ([\d.]+); area: [\d.]+\nthe same without box regression: ([\d.]+);", output
    )
    assert found, output
    return found.groups()


def test_the_main_job(finished):
    folder, result = finished
    assert result.exit_code == 0, result.output
    assert "as asked" in result.output.splitlines()[0]
    assert all(0 <= float(one) <= 100 for one in figure(result.output))
    assert "square" in result.output
    assert (folder / "runs" / "mine" / "metrics.json").is_file()
    assert sorted(file.name for file in (folder / "drawn").iterdir()) == ["1000.png", "1001.png", "1002.png"]
    assert cv2.imread(str(folder / "drawn" / "1000.png")) is not None


def test_again_it_computes_no_proposals_and_no_model(finished, done, tiny_voc):
    result = call("detect", "--dataset", tiny_voc, "--run", "mine", "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output
    assert "trained before" in result.output
    assert re.search("test.: 0 images computed .*3 in the cache", result.output), result.output
    assert figure(result.output) == figure(finished[1].output)


def test_eval_of_a_run(finished, done, tiny_voc):
    result = call("eval", "--dataset", tiny_voc, "--run", "mine")
    assert result.exit_code == 0, result.output
    assert figure(result.output) == figure(finished[1].output)


def test_eval_of_a_folder(finished, done, tiny_voc):
    result = call("eval", "--dataset", tiny_voc, "--detections", "runs/mine/detections")
    assert result.exit_code == 0, result.output
    assert f"mAP, 11-point: {figure(finished[1].output)[0]};" in result.output


def test_flags_of_a_run_are_no_flags_of_a_folder(done, tiny_voc):
    for flag in (("--run", "mine"), ("--head", "fc7"), ("--backbone", "zf5"), ("--fc-rank", 8)):
        command = ["eval", "--dataset", tiny_voc, "--detections", "runs/mine/detections", *flag]
        result = call(*command)
        assert result.exit_code == 2, flag
        assert "leave out the flags of a run" in " ".join(result.output.split())


def test_eval_of_perfect_detections(work, tiny_voc):
    from sppnet.data.types import Detections
    from sppnet.eval import write_voc_detections

    test = load_voc(tiny_voc, "test")
    perfect = {one.image_id: Detections(one.boxes, np.ones(2, np.float32), one.labels) for one in test}
    write_voc_detections(work / "perfect", perfect, test.classes, "test", "comp4")
    result = call("eval", "--dataset", tiny_voc, "--detections", "perfect", "--iou", 0.9)
    assert "mAP, 11-point: 100.0; area: 100.0" in result.output


@pytest.mark.parametrize(
    ("line", "named"), [("1000 nan 1 1 10 10", "2"), ("1000 1.0 1 1 10", "2"), ("1000 1.0 a 1 10 10", "2")]
)
def test_eval_of_a_bad_line(done, tiny_voc, line, named):
    file = done / "runs" / "mine" / "detections" / "comp3_det_test_bar.txt"
    file.write_text(f"1000 1.0 1 1 10 10\n{line}\n")
    result = call("eval", "--dataset", tiny_voc, "--detections", "runs/mine/detections")
    assert result.exit_code == 2
    assert re.search(rf"comp3_det_test_bar\.txt\D+{named}\b", result.output), result.output


@pytest.mark.parametrize("iou", [0, -1, 1.5, "nan"])
def test_eval_at_an_impossible_overlap(work, tiny_voc, iou):
    result = call("eval", "--dataset", tiny_voc, "--iou", iou)
    assert result.exit_code == 2
    assert "--iou" in result.output


def test_eval_without_a_run(work, tiny_voc):
    result = call("eval", "--dataset", tiny_voc, "--run", "none")
    assert result.exit_code == 2
    assert "runs/none" in result.output
    result = call("eval", "--dataset", tiny_voc, "--detections", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output


def test_images_with_bad_ones_among_them(finished, done, tiny_voc):
    images = done / "photos"
    (images / "deeper").mkdir(parents=True)
    shutil.copy(tiny_voc / "JPEGImages" / "1000.png", images / "a.png")
    (images / "b.jpg").write_bytes(b"no image")
    shutil.copy(tiny_voc / "JPEGImages" / "1001.png", images / "deeper" / "c.png")
    result = call(
        "detect", "--images", images, "--images", "gone.png", "--model", "runs/mine/model", "--draw", "out"
    )
    assert result.exit_code == 2
    assert "2 of 4 files skipped" in result.output
    assert "b.jpg" in result.output
    pictures = [str(file.relative_to(done / "out")) for file in (done / "out").rglob("*.png")]
    assert sorted(pictures) == ["a.png.png", "deeper/c.png.png"]


def test_images_of_one_name_do_not_overwrite_each_other(done, tiny_voc):
    for name, source in (("x", "1000"), ("y", "1001")):
        (done / "in" / name).mkdir(parents=True)
        shutil.copy(tiny_voc / "JPEGImages" / f"{source}.png", done / "in" / name / "same.png")
    result = call("detect", "--images", "in", "--model", "runs/mine/model", "--draw", "out")
    assert result.exit_code == 0
    assert len(list((done / "out").rglob("*.png"))) == 2


def test_pictures_of_one_name_from_two_folders_are_refused(done, tiny_voc):
    for name in ("x", "y"):
        (done / name).mkdir()
        shutil.copy(tiny_voc / "JPEGImages" / "1000.png", done / name / "same.png")
    for given in (["x", "y"], ["x/same.png", "y/same.png"]):
        result = call("detect", *given, "--model", "runs/mine/model", "--draw", "out")
        assert result.exit_code == 2
        assert re.search("x/same.png and y/same.png: both would be drawn as out/same.png.png", result.output)
        assert not (done / "out").exists()
    assert call("detect", "x", "y", "--model", "runs/mine/model").exit_code == 0


def test_bad_images_can_be_left_out(done, tiny_voc):
    (done / "in").mkdir()
    shutil.copy(tiny_voc / "JPEGImages" / "1000.png", done / "in" / "a.png")
    (done / "in" / "b.jpg").write_bytes(b"no image")
    # What a file manager leaves is not looked at.
    for name in (".DS_Store", "._a.png", "notes.txt"):
        (done / "in" / name).write_bytes(b"no image")
    result = call("detect", "in", "--model", "runs/mine/model", "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "1 of 2 files skipped, the first: in/b.jpg" in result.output


def test_photos_have_no_imported_boxes(done, tiny_voc):
    model = done / "runs" / "mine" / "model"
    detector = Detector.load(model)
    detector.engine = ImportedBoxes("published")
    detector.save(model)
    result = call("detect", tiny_voc / "JPEGImages" / "1000.png", "--model", model)
    assert result.exit_code == 0, result.output
    assert "warning: trained on imported boxes" in result.output


@pytest.mark.parametrize(("jobs", "workers"), [(-1, 0), (1, 1), (3, 3)])
def test_images_at_a_time(done, tiny_voc, monkeypatch, jobs, workers):
    asked = []

    def spy(detector, files, workers):
        asked.append(workers)
        return detect_many(detector, files, workers)

    monkeypatch.setattr("sppnet.cli.run.detect_many", spy)
    path = tiny_voc / "JPEGImages" / "1000.png"
    assert call("detect", path, "--model", "runs/mine/model", "--jobs", jobs).exit_code == 0
    assert asked == [workers]


def test_an_image_that_was_shrunk_after_it_was_annotated(work, tiny_voc):
    shutil.copytree(tiny_voc, work / "own")
    path = work / "own" / "JPEGImages" / "1001.png"
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), cv2.resize(image, None, fx=0.5, fy=0.5))
    command = ["proposals", "--dataset", "own", "--split", "test", "--jobs", 1]
    result = call(*command)
    assert result.exit_code == 2
    height, width = image.shape[:2]
    assert f"1001.png: {width // 2}x{height // 2} pixels, but annotated as {width}x{height}" in result.output
    result = call(*command, "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "1 images left out" in result.output
    assert "2 images computed" in result.output


def test_images_print_what_is_found(done, tiny_voc, monkeypatch):
    # A path is printed whole, however narrow the terminal is.
    monkeypatch.setattr(cli_module.console, "_width", 60)
    path = tiny_voc / "JPEGImages" / "1000.png"
    found = Detector.load("runs/mine/model").detect(path)
    result = call("detect", "--images", path, "--model", "runs/mine/model", "--min-score", -2)
    assert result.exit_code == 0
    for score in found.scores:
        assert f"{score:.2f}" in result.output
    assert f"{path}:\n" in result.output
    result = call("detect", "--images", path, "--model", "runs/mine/model", "--min-score", 1000)
    assert "nothing found" in result.output


def test_images_without_box_regression(done, tiny_voc):
    path = tiny_voc / "JPEGImages" / "1000.png"
    detector = Detector.load("runs/mine/model")
    assert detector.regressors is not None
    moved = call("detect", path, "--model", "runs/mine/model", "--min-score", -2).output
    plain = call("detect", path, "--model", "runs/mine/model", "--min-score", -2, "--no-regression").output
    assert plain != moved
    detector.regressors = None
    for box in detector.detect(path).boxes:
        assert re.search(" │ +".join(f"{edge:.0f} *" for edge in box), plain)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--head", "fc7"], "--head"),
        (["--set", "features.scales = [96]"], "--set"),
        (["--fc-rank", 8], "fc_rank 8"),
    ],
)
def test_flags_that_a_model_cannot_follow(done, tiny_voc, arguments, named):
    path = tiny_voc / "JPEGImages" / "1000.png"
    result = call("detect", path, "--model", "runs/mine/model", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_images_with_the_model_of_a_run(done, tiny_voc):
    path = tiny_voc / "JPEGImages" / "1000.png"
    result = call("detect", "--dataset", tiny_voc, "--run", "mine", "--images", path, "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output
    assert "1000.png" in result.output


def test_a_folder_without_images(done):
    (done / "empty").mkdir()
    result = call("detect", "--images", "empty", "--model", "runs/mine/model")
    assert result.exit_code == 2
    assert "empty" in result.output


@pytest.mark.parametrize(
    "flag",
    [("--limit", 5), ("--backbone", "zf5"), ("--head", "fc7"), ("--run", "mine"), ("--test-split", "val")],
)
def test_flags_of_a_run_are_no_flags_of_a_model(done, tiny_voc, flag):
    photo = tiny_voc / "JPEGImages" / "1000.png"
    result = call("detect", photo, "--model", done / "runs" / "mine" / "model", *flag)
    assert result.exit_code == 2
    assert "leave out the flags of a run" in " ".join(result.output.replace("│", "").split())


def test_a_model_that_is_none(work, tiny_voc):
    result = call("detect", "--images", tiny_voc / "JPEGImages" / "1000.png", "--model", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "papr-1scale"], "paper-1scale"),
        (["--set", "featres.scales = [96]"], "features"),
        (["--set", "features.scale = [96]"], "scales"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--train-split", "trian"], "train"),
        (["--backbone", "alexnett"], "alexnett"),
        (["--weights", "gone.safetensors", "--backbone", "zf5"], "gone.safetensors"),
        (["--dataset", "voc2008"], "voc2007"),
        (["--dataset", "voc2007"], "sppnet data download"),
        (["--set", "training.memory_gb = 0.5"], "memory"),
    ],
    ids=lambda value: value[1].split()[0] if isinstance(value, list) else None,
)
def test_bad_arguments(work, tiny_voc, arguments, named):
    given = ["--jobs", 1, "--set", "proposals.max_proposals = 20", "--set", "features.scales = [64]"]
    for name, value in (("--dataset", tiny_voc), ("--backbone", "alexnet"), ("--weights", "random")):
        if name not in arguments:
            given += [name, value]
    result = call("detect", *given, *arguments)
    assert result.exit_code == 2, result.output
    assert named in result.output
    assert "Traceback" not in result.output


def test_another_run_in_the_same_folder(done, tiny_voc):
    result = call(
        "detect", "--dataset", tiny_voc, "--run", "mine", *QUICK, "--set", "detection.nms_iou = 0.5"
    )
    assert result.exit_code == 2
    assert "nms_iou = 0.3" in result.output


def test_layers_to_start_from_are_read_before_anything_is_computed(work, tiny_voc):
    gone = "finetuning.weights = 'gone.safetensors'"
    result = call("finetune", "--dataset", tiny_voc, "--run", "mine", *QUICK, "--set", gone)
    assert result.exit_code == 2
    assert "gone.safetensors" in result.output
    assert "images computed" not in result.output


def test_an_empty_split(work, tiny_voc):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "ImageSets" / "Main" / "test.txt").write_text("")
    result = call("eval", "--dataset", copy, "--detections", ".")
    assert result.exit_code == 2
    assert "test.txt" in result.output


def test_a_broken_image_in_the_data_set(work, tiny_voc):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "JPEGImages" / "0002.png").write_bytes(b"no image")
    result = call("proposals", "--dataset", copy, "--split", "train", "--jobs", 1)
    assert result.exit_code == 2
    assert "5 images computed" in result.output
    assert "0002.png" in result.output


def test_proposals_then_export_and_import(work, tiny_voc):
    common = ["--dataset", tiny_voc, "--set", "proposals.max_proposals = 30"]
    result = call("proposals", *common, "--split", "test", "--jobs", 1)
    assert re.search("3 images computed .*0 in the cache", result.output)
    assert "boxes of 3 images written" in call("proposals-export", "boxes.mat", *common).output
    result = call("proposals-import", "boxes.mat", "--name", " ", "--dataset", tiny_voc)
    assert result.exit_code == 2
    assert "imported boxes need a name" in result.output
    result = call("proposals-import", "boxes.mat", "--name", "theirs", "--dataset", tiny_voc)
    assert "boxes of 3 images imported" in result.output
    theirs = ["--dataset", tiny_voc, "--set", "boxes = 'theirs'"]
    result = call("proposals", *theirs, "--split", "test", "--jobs", 1)
    assert re.search("0 images computed .*3 in the cache", result.output)
    # None were imported for the training split.
    result = call("proposals", *theirs, "--split", "train", "--jobs", 1)
    assert result.exit_code == 2
    assert "theirs" in result.output
    assert call("proposals-export", "boxes.txt", *common).exit_code == 2


def test_limit(work, tiny_voc):
    result = call(
        "proposals", "--dataset", tiny_voc, "--jobs", 1, "--limit", 2, "--set", "proposals.max_proposals = 30"
    )
    assert re.findall(r"proposals \((\w+)\): (\d)", result.output) == [("train", "2"), ("test", "2")]


def test_ctrl_c_says_how_to_go_on(work, tiny_voc, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_job, "fill_cache", stop)
    result = call("proposals", "--dataset", tiny_voc)
    assert result.exit_code == 130
    assert "goes on from here" in result.output


@pytest.mark.parametrize("stage", ["evaluate_voc", "coco_metrics"])
def test_ctrl_c_while_scoring_loses_nothing(done, tiny_voc, monkeypatch, stage):
    def stop(*_):
        raise KeyboardInterrupt

    def files():
        return {path: path.read_bytes() for path in sorted((done / "runs" / "mine").rglob("*.*"))}

    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(f"sppnet.detection.runs.run.{stage}", stop)
        assert call("eval", "--dataset", tiny_voc, "--run", "mine").exit_code == 130
    assert files() == before
    assert call("eval", "--dataset", tiny_voc, "--run", "mine").exit_code == 0


def test_data_sample(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 2, "test": 1})
    result = call("data", "sample", "here")
    assert result.exit_code == 0
    assert "sample: here" in result.output
    assert len(load_voc(work / "here", "train")) == 2
    (work / "other").mkdir()
    (work / "other" / "mine.txt").write_text("")
    result = call("data", "sample", "other")
    assert result.exit_code == 2
    assert (work / "other" / "mine.txt").exists()


def test_without_voc_it_is_the_sample_and_says_so(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 1, "test": 1})
    result = call("proposals", "--jobs", 1, "--limit", 1, "--set", "proposals.max_proposals = 5")
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[0]
    assert first.startswith("data set: sample (built in")
    assert "VOC_ROOT" in first


def test_with_voc_it_is_voc_and_says_so(work, tiny_voc):
    shutil.copytree(tiny_voc, work / "devkit" / "VOC2007")
    result = call(
        "proposals", "--voc-root", "devkit", "--jobs", 1, "--limit", 1, "--set", "proposals.max_proposals = 5"
    )
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "data set: voc2007 (found in devkit)"


def test_download_of_something_else(work):
    result = call("data", "download", "voc2011")
    assert result.exit_code == 2
    assert "voc2007" in result.output


@pytest.mark.parametrize("arguments", [[], ["--help"], ["detect", "--help"], ["data", "--help"]], ids=str)
def test_help(work, arguments):
    assert "Usage" in call(*arguments).output
