"""The commands detect and eval: the benchmark of a data set, in a folder of its own."""

import re
import shutil

import cv2
import numpy as np
import pytest
from command import QUICK, call, words

from sppnet.data import Detections, load_voc
from sppnet.eval import write_voc_detections


def figures(output):
    """The 11-point mAP that a command printed, with and without box regression."""
    match = re.search(
        r"mAP, 11-point: ([\d.]+); area: [\d.]+\nthe same without box regression: ([\d.]+);", output
    )
    assert match, output
    return match.groups()


def test_the_benchmark(finished):
    folder, result = finished
    assert result.exit_code == 0, result.output
    assert "(VOC, 2 classes, splits train, test)" in result.output.splitlines()[0]
    assert all(0 <= float(figure) <= 100 for figure in figures(result.output))
    assert "square" in result.output
    assert (folder / "runs" / "tiny" / "metrics.json").is_file()
    assert sorted(file.name for file in (folder / "drawn").iterdir()) == ["1000.png", "1001.png", "1002.png"]
    assert cv2.imread(str(folder / "drawn" / "1000.png")) is not None
    assert result.output.splitlines()[-1] == "written: runs/tiny and drawn"


def test_again_it_computes_no_proposals_and_no_model(finished, done, tiny_voc):
    result = call("detect", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output
    assert "trained before" in result.output
    assert re.search("test.: 0 images computed .*3 in the cache", result.output), result.output
    assert figures(result.output) == figures(finished[1].output)


def test_boxes_are_drawn_as_they_were_proposed(done, tiny_voc):
    command = ["detect", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, *QUICK, "--min-score", 0]
    for folder, flags in (("moved", ()), ("proposed", ("--no-regression",))):
        assert call(*command, "--draw", folder, *flags).exit_code == 0
    moved, proposed = ((done / folder / "1000.png").read_bytes() for folder in ("moved", "proposed"))
    assert moved != proposed


def test_eval_of_a_run(finished, done, tiny_voc):
    result = call("eval", "--dataset", tiny_voc, "--run", "tiny")
    assert result.exit_code == 0, result.output
    assert figures(result.output) == figures(finished[1].output)
    paths = "runs/tiny/metrics.json and runs/tiny/precision_recall.png"
    assert result.output.splitlines()[-1] == f"written: {paths}"


def test_eval_of_a_folder(finished, done, tiny_voc):
    result = call("eval", "--dataset", tiny_voc, "--detections", "runs/tiny/detections")
    assert result.exit_code == 0, result.output
    assert f"mAP, 11-point: {figures(finished[1].output)[0]};" in result.output
    assert (done / "runs" / "tiny" / "detections" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (["detect", "--run", "tiny", "--jobs", 1, *QUICK], "sppnet.detection.runs.scoring.coco_metrics"),
        (["eval", "--run", "tiny"], "sppnet.detection.runs.scoring.coco_metrics"),
        (["eval", "--detections", "runs/tiny/detections"], "sppnet.eval.coco_metrics"),
    ],
    ids=["detect", "eval of a run", "eval of a folder"],
)
def test_cocos_figures_are_computed_once(done, tiny_voc, monkeypatch, arguments, function):
    """They take most of the time of scoring."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return dict.fromkeys(("AP", "AP50", "AP75", "AR_100"), 0.125)

    monkeypatch.setattr(function, counted)
    result = call(*arguments, "--dataset", tiny_voc)
    assert result.exit_code == 0, result.output
    assert "AP50 12.5" in result.output
    assert len(calls) == 1


def test_options_of_a_run_are_none_of_a_folder(done, tiny_voc):
    for option in (("--run", "tiny"), ("--head", "fc7"), ("--backbone", "zf5"), ("--fc-rank", 8)):
        command = ["eval", "--dataset", tiny_voc, "--detections", "runs/tiny/detections", *option]
        result = call(*command)
        assert result.exit_code == 2, option
        assert "leave out the flags of a run" in words(result)


def test_eval_of_perfect_detections(work, tiny_voc):
    test = load_voc(tiny_voc, "test")
    perfect = {
        example.image_id: Detections(example.boxes, np.ones(2, np.float32), example.labels)
        for example in test
    }
    write_voc_detections(work / "perfect", perfect, test.classes, "test", "comp4")
    result = call("eval", "--dataset", tiny_voc, "--detections", "perfect", "--iou", 0.9)
    assert "mAP, 11-point: 100.0; area: 100.0" in result.output


@pytest.mark.parametrize(
    ("line", "named"), [("1000 nan 1 1 10 10", "2"), ("1000 1.0 1 1 10", "2"), ("1000 1.0 a 1 10 10", "2")]
)
def test_eval_of_a_bad_line(done, tiny_voc, line, named):
    file = done / "runs" / "tiny" / "detections" / "comp3_det_test_bar.txt"
    file.write_text(f"1000 1.0 1 1 10 10\n{line}\n")
    result = call("eval", "--dataset", tiny_voc, "--detections", "runs/tiny/detections")
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


def test_eval_of_the_images_that_were_detected_in(done, tiny_voc):
    detections = done / "runs" / "tiny" / "detections"
    (detections / "images.txt").write_text("1000\n1001\n")
    for file in detections.rglob("comp*.txt"):
        rows = [row for row in file.read_text().splitlines(keepends=True) if not row.startswith("1002 ")]
        file.write_text("".join(rows))
    assert call("eval", "--dataset", tiny_voc, "--run", "tiny").exit_code == 2
    result = call("eval", "--dataset", tiny_voc, "--run", "tiny", "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "2 images, IoU 0.5" in result.output


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
        "detect", "--dataset", tiny_voc, "--run", "tiny", *QUICK, "--set", "detection.nms_iou = 0.5"
    )
    assert result.exit_code == 2
    assert "nms_iou = 0.3" in result.output


def test_an_empty_split(work, tiny_voc):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "ImageSets" / "Main" / "test.txt").write_text("")
    result = call("eval", "--dataset", copy, "--detections", ".")
    assert result.exit_code == 2
    assert "test.txt" in result.output


def test_blanks_in_names_and_a_test_set_without_ground_truth(done, tiny_voc):
    """Result files are written, read back and scored; without ground truth a line says so."""
    folder = done / "tiny"
    shutil.copytree(tiny_voc, folder)
    for kind in ("JPEGImages", "Annotations"):
        for path in (folder / kind).glob("100*"):
            path.rename(path.with_name(f"IMG ({path.stem}) 1{path.suffix}"))
    ids = [f"IMG (100{number}) 1" for number in range(3)]
    (folder / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    result = call("detect", "--dataset", folder, "--run", "tiny", "--jobs", 1, "--draw", "drawn", *QUICK)
    assert result.exit_code == 0, result.output
    assert (done / "drawn" / f"{ids[0]}.png").is_file()
    again = call("eval", "--dataset", folder, "--run", "tiny")
    assert figures(again.output) == figures(result.output)
    for path in (folder / "Annotations").glob("IMG*"):
        path.unlink()
    result = call("detect", "--dataset", folder, "--run", "tiny", "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output
    assert "nothing to score: no object that counts is annotated in tiny test" in result.output
    assert "nan" not in result.output
    for name in ("comp3_det_test_bar.txt", "coco.json"):
        assert "IMG (1000) 1" in (done / "runs" / "tiny" / "detections" / name).read_text()


@pytest.fixture
def scored(work, tiny_voc):
    """The command of a copy of the tiny data set without images, and perfect detections of its test split."""
    test = load_voc(tiny_voc, "test")
    perfect = {
        example.image_id: Detections(example.boxes, np.ones(2, np.float32), example.labels)
        for example in test
    }
    write_voc_detections(work / "perfect", perfect, test.classes, "test", "comp4")
    shutil.copytree(tiny_voc, work / "set", ignore=shutil.ignore_patterns("JPEGImages"))
    return "eval", "--dataset", work / "set", "--detections", "perfect"


def test_eval_of_a_folder_needs_no_images(scored):
    result = call(*scored)
    assert result.exit_code == 0, result.output
    assert "mAP, 11-point: 100.0" in result.output


def test_eval_of_some_images_of_a_folder(scored, work):
    result = call(*scored, "--limit", 2)
    assert "left out: the detections of 1 image that are not scored" in result.output
    assert "2 images, IoU 0.5" in result.output
    assert "mAP, 11-point: 100.0" in result.output
    (work / "set" / "Annotations" / "1001.xml").write_text("<annotation><object/></annotation>")
    assert call(*scored).exit_code == 2
    result = call(*scored, "--skip-errors")
    assert "left out: the detections of 1 image that are not scored" in result.output
    assert "mAP, 11-point: 100.0" in result.output


@pytest.mark.parametrize("flags", [(), ("--limit", 2), ("--skip-errors",)])
def test_eval_of_a_folder_of_other_images(scored, work, flags):
    with open(work / "perfect" / "comp4_det_test_bar.txt", "a") as file:
        file.write("other image 0.5 1 1 9 9\n")
    result = call(*scored, *flags)
    assert result.exit_code == 2
    assert "perfect: has detections of 1 image that set test lacks, such as 'other image'" in words(result)


@pytest.mark.parametrize("stage", ["evaluate_voc", "coco_metrics"])
def test_ctrl_c_while_scoring_loses_nothing(done, tiny_voc, monkeypatch, stage):
    def stop(*_):
        raise KeyboardInterrupt

    def files():
        return {path: path.read_bytes() for path in sorted((done / "runs" / "tiny").rglob("*.*"))}

    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(f"sppnet.detection.runs.scoring.{stage}", stop)
        assert call("eval", "--dataset", tiny_voc, "--run", "tiny").exit_code == 130
    assert files() == before
    assert call("eval", "--dataset", tiny_voc, "--run", "tiny").exit_code == 0
