"""The resumable loop: order of the calls, snapshots, continuing after a stop."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from sppnet.common.checkpoint import Checkpoint
from sppnet.common.distributed import Group
from sppnet.common.errors import InputError
from sppnet.common.resumable import PeriodicCheckpoint, ResumableLoop

STEPS = 12


class Stopped(Exception):
    pass


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class Record:
    step: int
    loss: float
    nested: tuple[tuple[float, ...], ...] = ((0.1,), (1.0, 2.0))


class Trainer:
    """A small regression with dropout, a sum of its losses, and an average of its weights."""

    def __init__(self, work, optimiser="adamw", purpose="regression", **options):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.loss = torch.zeros((), dtype=torch.float64)
        if optimiser == "adamw":
            self.optimiser = torch.optim.AdamW(self.net.parameters(), 0.01)
        else:
            self.optimiser = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9)
        state = {"net": self.net, "optimiser": self.optimiser, "loss": self.loss}
        options = {"checkpoint_seconds": 0} | options
        self.loop = ResumableLoop(work, {"purpose": purpose}, state, Record, **options)
        self.calls = []

    def learn(self, number):
        self.calls.append(("learn", self.loop.step))
        assert number == self.loop.step
        self.loop.seed_torch(7)
        inputs = torch.from_numpy(np.random.default_rng(number).normal(size=(5, 3)).astype(np.float32))
        loss = (self.net(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.loss += loss.item()

    def validate(self):
        self.calls.append(("validate", self.loop.step))
        self.loop.history.append(Record(self.loop.step, float(self.loss)))

    def run(self, stop=None, total=STEPS):
        def progress(stage, done, total):
            self.calls.append((stage, done))
            if done == stop:
                raise Stopped

        self.loop.run(
            range(self.loop.step, total), self.learn, total,
            validate=self.validate, validate_every=5, stage="training", progress=progress,
        )  # fmt: skip
        return self


def test_order_of_the_calls(tmp_path):
    trainer = Trainer(tmp_path).run(total=6)
    expected = []
    for step in range(6):
        expected += [("learn", step)]
        # At every fifth step and at the last one.
        expected += [("validate", step + 1)] if step in (4, 5) else []
        expected += [("training", step + 1)]
    assert trainer.calls == expected
    assert [record.step for record in trainer.loop.history] == [5, 6]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 5, 12])
def test_a_stopped_training_continues_to_the_same_bits(tmp_path, optimiser, stop):
    straight = Trainer(tmp_path / "straight", optimiser, checkpoint_seconds=1000).run()
    with pytest.raises(Stopped):
        Trainer(tmp_path / "stopped", optimiser).run(stop)
    again = Trainer(tmp_path / "stopped", optimiser)
    # The snapshot does not have the step at which the training was stopped.
    assert again.loop.step == stop - 1
    again.run()
    assert again.loop.history == straight.loop.history
    assert torch.equal(again.loss, straight.loss)
    for name, tensor in straight.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor), name
    # A finished training has nothing left to do.
    finished = Trainer(tmp_path / "stopped", optimiser)
    assert (finished.loop.step, finished.run().calls) == (STEPS, [])
    assert finished.loop.history == straight.loop.history


def test_state_is_restored_in_place(tmp_path):
    Trainer(tmp_path).run(total=3)
    trainer = Trainer(tmp_path)
    assert trainer.loss > 0
    parameters = {id(parameter) for parameter in trainer.net.parameters()}
    assert {id(parameter) for parameter in trainer.optimiser.param_groups[0]["params"]} == parameters


def test_a_snapshot_of_another_purpose_is_not_used(tmp_path):
    Trainer(tmp_path).run(total=3)
    assert Trainer(tmp_path, purpose="other").loop.step == 0
    assert Trainer(tmp_path).loop.step == 3


def test_the_time_between_snapshots(tmp_path):
    clock, saved = Clock(), []
    checkpoint = PeriodicCheckpoint(Checkpoint(tmp_path, {}), seconds=10, clock=clock)
    for clock.now in range(35):
        checkpoint.save_if_due(lambda: saved.append(clock.now) or {"now": np.array(clock.now)})
    assert saved == [10, 20, 30]
    assert int(Checkpoint(tmp_path, {}).load()["now"]) == 30


def test_the_time_to_write_a_snapshot_does_not_count(tmp_path):
    clock, saved = Clock(), []
    checkpoint = PeriodicCheckpoint(Checkpoint(tmp_path, {}), seconds=10, clock=clock)

    def write_slowly():
        saved.append(clock.now)
        clock.now += 7
        return {}

    for clock.now in (10, 20, 26, 27):
        checkpoint.save_if_due(write_slowly)
    assert saved == [10, 27]


def test_seconds_of_training_include_those_before_a_stop(tmp_path):
    clock = Clock()

    def slow_trainer():
        trainer = Trainer(tmp_path, clock=clock)
        learn = trainer.learn

        def take_two_seconds(number):
            learn(number)
            clock.now += 2

        trainer.learn = take_two_seconds
        return trainer

    first = slow_trainer()
    with pytest.raises(Stopped):
        first.run(stop=5)
    # Ten seconds have passed; eight of them are in the snapshot.
    assert first.loop.seconds == 10
    clock.now += 100
    second = slow_trainer()
    assert second.loop.seconds == 8
    second.run()
    clock.now += 100
    assert second.loop.seconds == 8 + 2 * (STEPS - 4)


def test_the_first_process_writes(tmp_path):
    assert Trainer(tmp_path, group=Group(rank=1)).run().loop.step == STEPS
    assert Trainer(tmp_path).loop.step == 0


def test_processes_that_see_different_snapshots(tmp_path):
    class Disagreeing(Group):
        def agree(self, number):
            return False

    with pytest.raises(InputError, match=r"different checkpoints there; they must share it"):
        Trainer(tmp_path, group=Disagreeing())


def test_seeds_differ_by_seed_step_and_process(tmp_path):
    def drawn(seed=1, step=0, rank=0):
        loop = ResumableLoop(tmp_path, {}, {}, Record, group=Group(rank))
        loop.step = step
        loop.seed_torch(seed)
        return float(torch.rand(()))

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=2), drawn(step=1), drawn(rank=1)}) == 4
