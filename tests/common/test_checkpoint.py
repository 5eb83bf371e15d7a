"""Snapshots of a training: which one is read, and the effect of damage."""

import logging
import shutil

import numpy as np
import pytest
import torch

from sppnet.common.checkpoint import Checkpoint, load_optimiser, optimiser_tensors, part

FIRST = {"x": np.arange(6).reshape(2, 3), "y.z": np.array(2.5)}
SECOND = {"x": np.ones((0, 4), np.float32), "other": np.array([True])}


class Killed(BaseException):
    """Stands for a kill at a chosen moment."""


def check_arrays(loaded, expected):
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_the_latest_snapshot_is_read(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    assert checkpoint.load() is None
    for step in range(3):
        checkpoint.save({"step": np.array(step), "weights": np.full((2, 3), step, np.float32)})
    arrays = Checkpoint(tmp_path, {"seed": 0}).load()
    assert sorted(arrays) == ["step", "weights"]
    assert int(arrays["step"]) == 2
    np.testing.assert_array_equal(arrays["weights"], np.full((2, 3), 2, np.float32))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_snapshot_for_another_purpose_is_not_loaded(tmp_path):
    Checkpoint(tmp_path, {"seed": 0}).save({"step": np.array(1)})
    assert Checkpoint(tmp_path, {"seed": 1}).load() is None
    assert Checkpoint(tmp_path, {"seed": 0}).load() is not None


def test_a_purpose_is_compared_by_its_values(tmp_path):
    Checkpoint(tmp_path, {"images": ["a"], "k": 1}).save(FIRST)
    assert Checkpoint(tmp_path, {"images": ["b"], "k": 1}).load() is None
    check_arrays(Checkpoint(tmp_path, {"k": 1, "images": ["a"]}).load(), FIRST)


def test_each_snapshot_may_have_other_arrays(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    for arrays in (FIRST, SECOND, FIRST, SECOND):
        checkpoint.save(arrays)
        check_arrays(checkpoint.load(), arrays)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_loaded_snapshot_outlives_the_next(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(FIRST)
    loaded = checkpoint.load()
    checkpoint.save(loaded)
    checkpoint.save(SECOND)
    check_arrays(loaded, FIRST)


@pytest.mark.parametrize("damage", [b"", b"no array", None], ids=["empty", "other", "cut"])
def test_a_damaged_snapshot_is_reported_and_not_loaded(tmp_path, caplog, damage):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save(FIRST)
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load() is None
    assert "damaged" in caplog.text
    assert "starts again from the beginning" in caplog.text
    checkpoint.save(SECOND)
    check_arrays(checkpoint.load(), SECOND)


def save_halfway(checkpoint, monkeypatch):
    """Saves a snapshot in a process that is killed after the first file."""
    save, saved = np.save, []

    def kill(file, array, **options):
        if saved:
            raise Killed
        saved.append(file)
        save(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", kill)
        with pytest.raises(Killed):
            checkpoint.save(SECOND)


def test_half_a_snapshot_is_not_loaded(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    save_halfway(checkpoint, monkeypatch)
    assert checkpoint.load() is None
    checkpoint.save(FIRST)
    check_arrays(checkpoint.load(), FIRST)


def test_half_a_snapshot_leaves_the_previous_one(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    for _ in range(3):
        checkpoint.save(FIRST)
        save_halfway(checkpoint, monkeypatch)
        check_arrays(checkpoint.load(), FIRST)


def test_a_kill_before_the_previous_snapshot_is_removed(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    for first, second in ((FIRST, SECOND), (SECOND, FIRST)):
        checkpoint.save(first)
        with monkeypatch.context() as patch:
            patch.setattr("sppnet.common.checkpoint.shutil.rmtree", lambda *_, **__: None)
            checkpoint.save(second)
        check_arrays(checkpoint.load(), second)
        # Both snapshots are complete now; a failed write must not destroy the latest one.
        save_halfway(checkpoint, monkeypatch)
        check_arrays(checkpoint.load(), second)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


def test_part_of_a_snapshot():
    assert part({"net.weight": 1, "network": 2, "net.0.bias": 3}, "net.") == {"weight": 1, "0.bias": 3}


def test_an_optimiser_continues():
    def steps(parameter, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            (parameter**2).sum().backward()
            optimiser.step()

    straight, stopped = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimiser = torch.optim.SGD([straight], lr=0.1, momentum=0.9)
    steps(straight, optimiser, 5)
    first = torch.optim.SGD([stopped], lr=0.1, momentum=0.9)
    steps(stopped, first, 2)
    second = torch.optim.SGD([stopped], lr=0.1, momentum=0.9)
    load_optimiser(second, optimiser_tensors(first))
    steps(stopped, second, 3)
    assert torch.equal(straight, stopped)
