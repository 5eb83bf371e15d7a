"""The processes that train one network together, started by ``torchrun``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sppnet.common.errors import InputError


@dataclass(frozen=True)
class Group:
    """The processes of one training.

    Attributes:
        rank: the number of this process; 0 writes files and reports.
        size: the number of processes.

    Example:
        >>> ALONE.rank, ALONE.size, ALONE.agree(3)
        (0, 1, True)
    """

    rank: int = 0
    size: int = 1

    def add(self, tensor: Tensor) -> None:
        """Replaces ``tensor`` with its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def agree(self, number: int) -> bool:
        """Returns whether all processes passed the same number; every process must call this method."""
        least, greatest = torch.tensor([number]), torch.tensor([-number])
        if self.size > 1:
            dist.all_reduce(least, dist.ReduceOp.MIN)
            dist.all_reduce(greatest, dist.ReduceOp.MIN)
        return bool(least == -greatest)

    def wait(self) -> None:
        """Waits until all processes have called this method."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


@contextmanager
def join_group() -> Iterator[Group]:
    """Connects the processes that ``torchrun`` started (gloo over TCP, on CPUs).

    Yields `ALONE` if there is only one process.

    Raises:
        InputError: the other processes cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        # A process may wait a long time for another one that has more proposals to pool.
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"torchrun: the processes cannot connect ({error}); check --rdzv-endpoint and the network"
        ) from error
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
