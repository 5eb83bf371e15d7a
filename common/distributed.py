"""Several processes that train one network, started by ``torchrun``."""

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
        rank: number of this one; 0 writes files and reports.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def add(self, tensor: Tensor) -> None:
        """Puts the sum over all processes in place of ``tensor``."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def agree(self, number: int) -> bool:
        """Whether all processes have the same number; all must call it."""
        least, greatest = torch.tensor([number]), torch.tensor([-number])
        if self.size > 1:
            dist.all_reduce(least, dist.ReduceOp.MIN)
            dist.all_reduce(greatest, dist.ReduceOp.MIN)
        return bool(least == -greatest)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


@contextmanager
def join_group() -> Iterator[Group]:
    """The processes that ``torchrun`` started, connected over TCP (gloo, on CPUs); else this one alone.

    Raises:
        InputError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        # One may wait long for another that has more windows to pool.
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"torchrun: the processes do not find each other ({error}); check --rdzv-endpoint and the network"
        ) from error
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
