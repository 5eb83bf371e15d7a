"""The loop of a training that can be stopped at any moment and continues from its last snapshot."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sppnet.common.checkpoint import Arrays, Checkpoint, load_optimiser, optimiser_tensors, part
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import InputError
from sppnet.common.progress import Progress, quiet

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# A stopped training loses at most the work of this many seconds, and the step that was running.
CHECKPOINT_SECONDS = 240.0
# The format of the snapshots; a snapshot of another format is not read.
_FORMAT = 1

# The parts of a training that its steps change.
Stateful = nn.Module | torch.optim.Optimizer | Tensor
Batch = TypeVar("Batch")
Record = TypeVar("Record", bound="DataclassInstance")


class PeriodicCheckpoint:
    """Writes a checkpoint whenever some time has passed since the last one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        seconds: float = CHECKPOINT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts to count the time.

        Args:
            checkpoint: receives the snapshots.
            seconds: least time between two snapshots; 0: every call of `save_if_due` writes.
            clock: gives the time in seconds.
        """
        self._checkpoint, self._seconds, self._clock = checkpoint, seconds, clock
        self._saved = clock()

    def save_if_due(self, arrays: Callable[[], Arrays]) -> None:
        """Writes a snapshot if the time has come.

        Args:
            arrays: gives the arrays of the snapshot; called only if one is written.

        Raises:
            OSError: the disk is full.
        """
        if self._clock() - self._saved >= self._seconds:
            self._checkpoint.save(arrays())
            self._saved = self._clock()


class ResumableLoop(Generic[Record]):
    """The steps of a training, with snapshots from which a stopped training continues.

    A trainer passes the state that changes from step to step, a function that makes a step, and a function
    that validates. The loop counts the steps and writes the snapshots; its constructor reads the last one. If
    each random choice follows from a seed and the step, a training that was stopped and continued gives the
    same result, bit by bit, as an uninterrupted training.

    Attributes:
        step: steps made so far, including the steps before a stop.
        history: records of the validations, in order; the trainer appends to it.
        group: the processes of the training. The first one writes the snapshots.

    Example:
        >>> import dataclasses, tempfile
        >>> @dataclasses.dataclass
        ... class Sum:
        ...     step: int
        ...     value: float
        >>> def train(folder, steps):
        ...     total = torch.zeros(())
        ...     loop = ResumableLoop(folder, {"task": "sum"}, {"total": total}, Sum, checkpoint_seconds=0)
        ...     print("from step", loop.step)
        ...     loop.run(
        ...         range(loop.step, steps), total.add_, steps, stage="adding",
        ...         validate=lambda: loop.history.append(Sum(loop.step, float(total))), validate_every=2,
        ...     )
        ...     return loop.history
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(Path(folder), 3)
        ...     train(Path(folder), 4)
        from step 0
        from step 3
        [Sum(step=2, value=1.0), Sum(step=3, value=3.0), Sum(step=4, value=6.0)]
    """

    def __init__(
        self,
        work: Path,
        purpose: Mapping[str, Any],
        state: Mapping[str, Stateful],
        record: type[Record],
        *,
        group: Group = ALONE,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Restores the last snapshot, if there is one.

        Args:
            work: folder for snapshots, the same for all processes; the caller removes it.
            purpose: JSON values that name the training; a snapshot of another purpose is not used.
            state: name to module, optimiser or tensor: all that the steps change. The snapshot is restored
                into these objects, in place.
            record: the dataclass of the records in ``history``. Its fields are JSON values and tuples.
            group: the processes of the training.
            checkpoint_seconds: time between two snapshots; 0: a snapshot after each step.
            clock: gives the time in seconds.

        Raises:
            InputError: the processes do not see the same snapshot.
        """
        self.group, self._state = group, state
        self._checkpoint = Checkpoint(work, {"format of the loop": _FORMAT} | dict(purpose))
        self._checkpoint_seconds, self._clock = checkpoint_seconds, clock
        snapshot = self._checkpoint.load()
        position: dict[str, Any] = {"step": 0, "seconds": 0.0, "history": []}
        if snapshot is not None:
            position = json.loads(snapshot["position"].tobytes())
        self.step: int = position["step"]
        # All processes must have read the same snapshot before the first one writes a new one.
        if not group.agree(self.step):
            raise InputError(f"{work}: the processes see different checkpoints there; they must share it")
        self.history: list[Record] = [record(**_with_tuples(values)) for values in position["history"]]
        self._seconds_before: float = position["seconds"]
        self._begun: float | None = None
        if snapshot is not None:
            for name, target in state.items():
                _restore(target, name, snapshot)

    @property
    def seconds(self) -> float:
        """Time spent in `run`, in seconds, including the time before a stop."""
        running = 0.0 if self._begun is None else self._clock() - self._begun
        return self._seconds_before + running

    def seed_torch(self, seed: int) -> None:
        """Seeds torch's global generator from a seed, the step and the rank of the process."""
        numbers = np.random.SeedSequence((seed, self.step, self.group.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(numbers[0]))

    def run(
        self,
        batches: Iterable[Batch],
        learn: Callable[[Batch], object],
        total: int,
        *,
        validate: Callable[[], object],
        validate_every: int,
        stage: str,
        progress: Progress = quiet,
    ) -> None:
        """Makes the remaining steps, one for each batch.

        While ``learn`` runs, ``step`` does not count the present step; afterwards it does. After each step
        come the validation, if it is due, then ``progress``, then the snapshot, if it is due.

        Args:
            batches: the batches from the present step on.
            learn: makes a step with a batch.
            total: number of steps of the whole training.
            validate: called after every ``validate_every`` steps, and after the last one.
            validate_every: number of steps from one validation to the next.
            stage: name of the training for ``progress``.
            progress: called after each step.

        Raises:
            OSError: the disk is full.
        """
        self._begun = self._clock()
        checkpoint = PeriodicCheckpoint(self._checkpoint, self._checkpoint_seconds, self._clock)
        for batch in batches:
            learn(batch)
            self.step += 1
            if self.step % validate_every == 0 or self.step == total:
                validate()
            progress(stage, self.step, total)
            if self.group.rank == 0:
                checkpoint.save_if_due(self._snapshot)
        self._seconds_before, self._begun = self.seconds, None

    def _snapshot(self) -> dict[str, NDArray[Any]]:
        history = [asdict(record) for record in self.history]
        position = {"step": self.step, "seconds": self.seconds, "history": history}
        arrays: dict[str, NDArray[Any]] = {"position": np.frombuffer(json.dumps(position).encode(), np.uint8)}
        for name, source in self._state.items():
            if isinstance(source, Tensor):
                arrays[name] = source.numpy()
            else:
                tensors = source.state_dict() if isinstance(source, nn.Module) else optimiser_tensors(source)
                arrays |= {f"{name}.{key}": tensor.numpy() for key, tensor in tensors.items()}
        return arrays


def _restore(target: Stateful, name: str, snapshot: Arrays) -> None:
    if isinstance(target, Tensor):
        target.copy_(torch.from_numpy(np.array(snapshot[name])))
        return
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in part(snapshot, f"{name}.").items()}
    if isinstance(target, nn.Module):
        target.load_state_dict(tensors)
    else:
        load_optimiser(target, tensors)


def _with_tuples(value: Any) -> Any:
    """Replaces the lists in JSON values with tuples."""
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return value
