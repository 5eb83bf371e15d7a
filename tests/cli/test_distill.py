"""The command distill: weights that a network takes, and names of runs."""

import json

import torch
from command import call
from safetensors.torch import load_file

from sppnet.detection.backbones import build_network


def test_the_command_writes_weights_that_a_network_takes(tiny_voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (
        "distill", "--dataset", tiny_voc, "--run", "taught", "--teacher", "alexnet=random 96",
        "--set", "crop = 90", "--set", "scales = [96]", "--set", "border = 0", "--set", "steps = 4",
        "--set", "batch = 1", "--set", "snapshot_every = 2",
    )  # fmt: skip
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert "maps explained" in result.output
    file = tmp_path / "runs/taught/zf5.safetensors"
    assert all(tensor.dtype == torch.float16 for tensor in load_file(file).values())
    build_network("zf5", file)
    history = json.loads((tmp_path / "runs/taught/history.json").read_text())
    assert [point["step"] for point in history["points"]] == [2, 4]
    assert (tmp_path / "runs/taught/snapshots/000002.safetensors").exists()
    # The same command trains nothing again; with other settings it is refused.
    before = file.stat()
    again = call(*command)
    assert (again.exit_code, file.stat()) == (0, before)
    assert "(trained before)" in again.output
    refused = call(*command, "--set", "seed = 3")
    assert refused.exit_code == 2


def test_a_job_that_cannot_be_trained_takes_no_run_name(tiny_voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in (
        ("--teacher", "alexnet=random"),
        ("--teacher", "nonet 1 2 3"),
        ("--set", "start = 'absent.pth'"),
    ):
        result = call("distill", "--dataset", tiny_voc, *options)
        assert result.exit_code == 2, result.output
    assert not (tmp_path / "runs").exists()
