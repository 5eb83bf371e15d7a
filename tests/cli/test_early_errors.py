"""What a command cannot do shows before its work: folders, splits, files, images without objects."""

import shutil

import numpy as np
import pytest
from command import QUICK, call, words

from sppnet.detection.experiments.proposal_evaluation import make_engine
from sppnet.proposals import ProposalCache
from sppnet.proposals.selective_search import SelectiveSearch


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Selective Search fails, as the first work of all commands below."""

    def fail(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(SelectiveSearch, "propose", fail)


@pytest.fixture
def taken(work):
    """A file where a folder is to be written."""
    (work / "taken").write_bytes(b"")
    return work / "taken"


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "--draw", "taken", *QUICK),
        ("proposals", "--draw", "taken"),
        ("eval-proposals", "--engine", "single", "--output", "taken"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_output_folder_that_is_a_file(taken, tiny_voc, arguments):
    result = call(*arguments, "--dataset", tiny_voc, "--jobs", 1)
    assert result.exit_code == 2, result.output
    assert "taken: is a file; give a folder to write to" in words(result)


@pytest.mark.parametrize("command", ["train", "detect", "finetune", "compare"])
def test_a_folder_of_runs_that_is_a_file(work, tiny_voc, command):
    (work / "runs").write_bytes(b"")
    result = call(command, "--dataset", tiny_voc, "--jobs", 1, *QUICK)
    assert result.exit_code == 2
    assert "runs" in words(result)


@pytest.mark.parametrize("command", ["classify", "test-classifier"])
def test_an_output_folder_of_classifiers_that_is_a_file(taken, command):
    named = "--images" if command == "classify" else "--labelled"
    result = call(command, "model", named, "photos", "--output", taken)
    assert result.exit_code == 2
    assert "taken: is a file" in words(result)


def test_a_page_that_cannot_be_written(work, tiny_voc):
    result = call("data", "check", tiny_voc, "--html", work)
    assert result.exit_code == 2
    assert "is a folder; give the name of a file to write to" in words(result)


def test_the_second_of_two_splits(work, tiny_voc):
    result = call("proposals", "--dataset", tiny_voc, "--split", "train", "--split", "tset", "--jobs", 1)
    assert result.exit_code == 2
    assert "tset" in words(result)


def test_boxes_of_other_images(work, tiny_voc):
    np.savez(work / "other.npz", other=np.zeros((0, 4), np.float32))
    command = ("eval-proposals", "--dataset", tiny_voc, "--engine", "single", "--boxes", "other.npz")
    result = call(*command, "--jobs", 1)
    assert result.exit_code == 2
    assert "other.npz: has no image of this data set" in words(result)
    with ProposalCache(work / "cache" / "proposals.sqlite", make_engine("single")) as cache:
        assert not cache.present()


@pytest.mark.parametrize("command", ["train", "detect", "finetune", "compare"])
def test_no_object_to_train_on(work, tiny_voc, command):
    shutil.copytree(tiny_voc, work / "bare")
    for file in (work / "bare" / "Annotations").glob("0*.xml"):
        text = file.read_text()
        file.write_text(text[: text.index("<object>")] + "</annotation>")
    # The names of the classes come from the test images.
    result = call(command, "--dataset", "bare", "--jobs", 1, *QUICK)
    assert result.exit_code == 2, result.output
    assert "no annotated object to train on" in words(result)


def test_compare_with_imported_boxes(work, tiny_voc):
    result = call("compare", "--dataset", tiny_voc, *QUICK, "--set", "boxes = 'published'", "--jobs", 1)
    assert result.exit_code == 2
    assert "imported boxes have no bound" in words(result)


def test_linear_svms_of_images_without_objects(work, tiny_voc):
    result = call("classify-svm", "--dataset", tiny_voc, "--backbone", "alexnet", "--weights", "random",
                  "--limit", 3)  # fmt: skip
    assert result.exit_code == 2
    assert "3 training images; linear SVMs need at least 4" in words(result)
    assert not (work / "runs").exists()
