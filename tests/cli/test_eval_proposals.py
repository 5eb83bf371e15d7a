"""The command eval-proposals."""

import json
import shutil

import cv2
import numpy as np
import pytest
from command import call

from sppnet.common.errors import InputError
from sppnet.detection.experiments.proposal_evaluation import ENGINES, make_engine
from sppnet.proposals import ProposalCache, exchange, fill_cache


@pytest.fixture
def no_plot(monkeypatch):
    """Draws no plots; each run is a second shorter."""
    monkeypatch.setattr(
        "sppnet.detection.experiments.proposal_evaluation.plot_proposals", lambda path, results: None
    )


def write_ground_truth(path, dataset, shift=0):
    boxes = {
        example.image_id: np.clip(example.boxes + np.float32(shift), 0, [example.width, example.height] * 2)
        for example in dataset
    }
    np.savez(path, **boxes)


def figure(folder, method, curve="MABO", index=-1):
    content = json.loads((folder / "proposals.json").read_text())
    return content["methods"][method]["curves"][curve][index]


def test_engines_and_files_side_by_side(work, tiny_voc, tiny_test):
    write_ground_truth(work / "perfect.npz", tiny_test)
    write_ground_truth(work / "shifted.npz", tiny_test, 3)
    result = call("eval-proposals", "--dataset", tiny_voc, "--jobs", 1, "--engine", "single",
                  "--boxes", "perfect.npz", "--boxes", "shifted.npz")  # fmt: skip
    assert result.exit_code == 0, result.output
    folder = work / "runs" / "proposals-tiny-test"
    assert [figure(folder, "perfect.npz", curve) for curve in ("MABO", "average recall")] == [1, 1]
    assert 0.5 < figure(folder, "shifted.npz") < 1
    assert 0 < figure(folder, "single", index=0) < figure(folder, "single")
    assert "100.0/100.0" in next(
        line for line in result.output.splitlines() if "perfect.npz" in line and "/" in line
    )
    assert cv2.imread(str(folder / "proposals.png")) is not None
    content = json.loads((folder / "proposals.json").read_text())
    assert content["engines"]["single"] == make_engine("single").parameters()
    assert (content["split"], content["difficult"]) == ("test", False)


def test_proposals_are_kept_in_the_cache(work, tiny_voc, tiny_test, monkeypatch, no_plot):
    arguments = (
        "eval-proposals",
        "--dataset",
        tiny_voc,
        "--jobs",
        1,
        "--engine",
        "single",
        "--output",
        "out",
    )
    assert call(*arguments).exit_code == 0
    first = (work / "out" / "proposals.json").read_text()
    engine = make_engine("single")
    with ProposalCache(work / "cache" / "proposals.sqlite", engine) as cache:
        assert fill_cache(tiny_test, engine, cache).cached == 3

    def fail(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(type(engine), "propose", fail)
    assert call(*arguments).exit_code == 0
    assert (work / "out" / "proposals.json").read_text() == first


def test_difficult_objects_and_limit(work, tiny_voc, tiny_test, no_plot):
    write_ground_truth(work / "perfect.npz", tiny_test)
    common = ("eval-proposals", "--dataset", tiny_voc, "--boxes", "perfect.npz", "--output", "out")
    for options, images, objects in (((), 3, 5), (("--difficult",), 3, 6), (("--limit", 1), 1, 2)):
        assert call(*common, *options).exit_code == 0
        method = json.loads((work / "out" / "proposals.json").read_text())["methods"]["perfect.npz"]
        assert (method["images"], method["objects"]) == (images, objects)


def test_max_proposals_and_min_side(work, tiny_voc, no_plot):
    common = ("eval-proposals", "--dataset", tiny_voc, "--engine", "single", "--output", "out", "--jobs", 1)
    means = []
    for options in ((), ("--min-side", 5), ("--max-proposals", 2)):
        assert call(*common, *options).exit_code == 0
        content = json.loads((work / "out" / "proposals.json").read_text())
        means.append(content["methods"]["single"]["mean_windows"])
    assert means[2] == 2 < means[0] < means[1]


def test_bad_arguments(work, tiny_voc, tiny_test):
    write_ground_truth(work / "part.npz", tiny_test.head(2))
    for arguments, named in (
        (("--engine", "fats"), "fast"),
        (("--boxes", "gone.mat"), "gone.mat"),
        (("--boxes", "part.npz"), "'1002'"),
        (("--split", "tset"), "test"),
    ):
        result = call("eval-proposals", "--dataset", tiny_voc, *arguments)
        assert result.exit_code == 2
        assert named in result.output
        assert not (work / "runs").exists()


def test_a_broken_image(work, tiny_voc, no_plot):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "JPEGImages" / "1001.png").write_bytes(b"no image")
    arguments = ("eval-proposals", "--dataset", copy, "--engine", "single", "--jobs", 1)
    result = call(*arguments)
    assert result.exit_code == 2
    assert "1001.png" in result.output
    assert call(*arguments, "--skip-errors").exit_code == 0
    content = json.loads((work / "runs" / "proposals-copy-test" / "proposals.json").read_text())
    assert content["methods"]["single"]["images"] == 2


@pytest.mark.parametrize("name", ENGINES)
def test_all_proposals_begin_with_the_best(name, tiny_test):
    image = cv2.imread(str(tiny_test[0].path))
    all_boxes, best_boxes = make_engine(name, None, 8).propose(image), make_engine(name, 5, 8).propose(image)
    assert len(all_boxes) > 5
    np.testing.assert_array_equal(all_boxes[:5], best_boxes)
    assert (all_boxes[:, 2:] - all_boxes[:, :2] >= 8).all()


def test_boxes_with_fractions_are_read_but_not_cached(tmp_path, tiny_test):
    write_ground_truth(tmp_path / "half.npz", tiny_test, 0.5)
    boxes = exchange.read_boxes(tmp_path / "half.npz", tiny_test)
    np.testing.assert_array_equal(boxes["1000"][:, 0], tiny_test[0].boxes[:, 0] + 0.5)
    with (
        ProposalCache(tmp_path / "c.sqlite", make_engine("single")) as cache,
        pytest.raises(InputError, match=r"half\.npz: image 1000: boxes are not whole"),
    ):
        exchange.import_boxes(tmp_path / "half.npz", tiny_test, cache)
