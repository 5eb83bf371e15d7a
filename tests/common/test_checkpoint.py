"""Snapshots of a training: which one is read, and the effect of damage."""

import os
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


def altered(content, damage):
    """The bytes of a file after damage: a part of its length at which a bit flips, or a name."""
    if isinstance(damage, float):
        position = int(damage * (len(content) - 1))
        return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
    nested = b"[" * 100_000
    others = {
        "empty": b"",
        "other": b"no array",
        "cut": content[:-2],
        "longer": content + b"\0",
        "nested": nested,
    }
    return others[damage]


@pytest.mark.parametrize(
    "damage", ["empty", "other", "cut", "longer", "nested", "gone", *np.linspace(0, 1, 30).tolist()]
)
@pytest.mark.parametrize("name", ["x.npy", "y.z.npy", "manifest.json"])
def test_damage_of_any_file_is_noticed(tmp_path, caplog, name, damage):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save(FIRST)
    (file,) = tmp_path.rglob(name)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(altered(file.read_bytes(), damage))
    assert checkpoint.load() is None
    # Without a manifest it looks like one that was never completed.
    if (name, damage) != ("manifest.json", "gone"):
        (message,) = caplog.messages
        assert "damaged" in message
        assert "starts again from the beginning" in message
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


@pytest.fixture
def two_snapshots(tmp_path, monkeypatch):
    """A folder with a snapshot of `FIRST` and the later one of `SECOND`, as a kill may leave it."""
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(FIRST)
    with monkeypatch.context() as patch:
        patch.setattr("sppnet.common.checkpoint.shutil.rmtree", lambda *_, **__: None)
        checkpoint.save(SECOND)
    assert len(list(tmp_path.iterdir())) == 2
    return tmp_path


@pytest.mark.parametrize("name", ["x.npy", "manifest.json"])
def test_the_older_snapshot_is_taken_and_kept(two_snapshots, caplog, monkeypatch, name):
    later = next(two_snapshots.rglob("other.npy")).parent
    (later / name).write_bytes(b"damaged")
    checkpoint = Checkpoint(two_snapshots, {})
    check_arrays(checkpoint.load(), FIRST)
    (message,) = caplog.messages
    assert f"{later}: damaged" in message
    assert "goes on from an older one" in message
    # A kill while the next snapshot is written leaves the whole one, not the damaged one.
    save_halfway(checkpoint, monkeypatch)
    check_arrays(Checkpoint(two_snapshots, {}).load(), FIRST)
    checkpoint.save(SECOND)
    check_arrays(Checkpoint(two_snapshots, {}).load(), SECOND)
    assert len(list(two_snapshots.iterdir())) == 1


def test_two_damaged_snapshots_are_one_warning(two_snapshots, caplog):
    for file in two_snapshots.rglob("*.npy"):
        file.write_bytes(b"")
    assert Checkpoint(two_snapshots, {}).load() is None
    (message,) = caplog.messages
    assert message.count(": damaged") == 2
    assert "starts again from the beginning" in message


def test_a_clock_that_was_set_back_does_not_choose_the_older_snapshot(two_snapshots):
    for folder in two_snapshots.iterdir():
        for path in (*folder.iterdir(), folder):
            os.utime(path, (1000, 1000) if (folder / "other.npy").exists() else (2000, 2000))
    check_arrays(Checkpoint(two_snapshots, {}).load(), SECOND)
    # The numbers go on from the later one.
    Checkpoint(two_snapshots, {}).save({"third": np.array(3)})
    check_arrays(Checkpoint(two_snapshots, {}).load(), {"third": np.array(3)})


def test_removed_snapshots(two_snapshots):
    Checkpoint(two_snapshots, {}).remove()
    assert Checkpoint(two_snapshots, {}).load() is None
    assert list(two_snapshots.iterdir()) == []


def test_a_snapshot_is_on_the_disk_before_the_previous_one_goes(tmp_path, monkeypatch):
    checkpoint, calls, rmtree = Checkpoint(tmp_path, {}), [], shutil.rmtree
    checkpoint.save(FIRST)

    def remove(folder, **options):
        if folder.exists():
            calls.append("removed")
        rmtree(folder, **options)

    monkeypatch.setattr(os, "fsync", lambda file: calls.append("synced"))
    monkeypatch.setattr("sppnet.common.checkpoint.shutil.rmtree", remove)
    checkpoint.save(SECOND)
    # The folder's name, two arrays, the manifest and its name.
    assert calls == ["synced"] * 5 + ["removed"]


def test_a_snapshot_of_version_0_1_0_is_read_and_replaced(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(FIRST)
    (folder,) = tmp_path.iterdir()
    (folder / "manifest.json").unlink()
    (folder / "done").touch()
    check_arrays(checkpoint.load(), FIRST)
    checkpoint.save(SECOND)
    check_arrays(checkpoint.load(), SECOND)
    assert len(list(tmp_path.iterdir())) == 1


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
