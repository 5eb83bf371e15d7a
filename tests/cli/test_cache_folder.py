"""The folder of proposals and feature maps: --cache and SPPNET_CACHE."""

import errno
import os
from pathlib import Path

import pytest
from command import QUICK, call

from sppnet.cli.job import open_run
from sppnet.cli.options import RunOptions
from sppnet.detection.training.presets import make_settings


def test_the_flag_goes_before_the_variable(work, tiny_voc, monkeypatch):
    monkeypatch.setenv("SPPNET_CACHE", "other/disk")
    data = ("--dataset", tiny_voc, *QUICK[-2:])
    result = call("proposals", *data, "--split", "test", "--jobs", 1)
    assert result.output.splitlines()[-1] == "written: other/disk/proposals.sqlite"
    assert "boxes of 3 images written" in call("proposals-export", "boxes.npz", *data).output
    result = call("proposals-export", "boxes.npz", *data, "--cache", "empty")
    assert result.exit_code == 2
    result = call(
        "proposals-import", "boxes.npz", "--name", "mine", "--dataset", tiny_voc, "--cache", "third"
    )
    assert result.output.splitlines()[-1] == "written: third/proposals.sqlite"
    assert not (work / "cache").exists()


def test_proposals_and_maps_of_a_run(work):
    run = open_run(make_settings("default"), RunOptions(run="name", cache=Path("elsewhere")))
    assert run.maps == Path("elsewhere/maps")
    assert run.cache.path == Path("elsewhere/proposals.sqlite")
    assert not (work / "cache").exists()


@pytest.mark.parametrize(
    "command",
    [
        "train", "detect", "eval", "finetune", "compare", "combine", "distill", "proposals",
        "proposals-import", "proposals-export", "eval-proposals",
    ],
)  # fmt: skip
def test_the_commands_that_have_it(command):
    assert "--cache" in call(command, "--help").output


def test_the_variable_is_no_flag_of_a_run(work, tiny_voc, monkeypatch):
    monkeypatch.setenv("SPPNET_CACHE", "other")
    (work / "results").mkdir()
    result = call("eval", "--dataset", tiny_voc, "--detections", "results")
    assert "leave out the flags of a run" not in result.output


def test_a_disk_without_locks(work, tiny_voc, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", fail)
    result = call("proposals", "--dataset", tiny_voc, "--jobs", 1, "--cache", "nfs")
    assert result.exit_code == 2
    assert "nfs: this file system has no file locks" in result.output
    assert "--cache or SPPNET_CACHE" in result.output
