"""Several processes that train one adapter together, as torchrun starts them: NCCL between GPUs, else gloo."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from tuner.machine import choose_device

_LONGEST_WAIT = timedelta(hours=12)
"""While the first process works alone (synthesis); a process that dies is noticed at once all the same."""

T = TypeVar("T")


class ParallelError(ValueError):
    """Processes that cannot train together; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together: this one's place among them, and their number."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of `items`; all parts together are the whole."""
        return list(items[self.rank :: self.size])

    def add_up(self, tensor: Tensor) -> Tensor:
        """Every process gets the sum of all, bit for bit the same; `tensor` is changed."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum(self, number: float) -> float:
        """The sum of every process's number."""
        if self.size == 1:
            return number
        return float(self.add_up(torch.tensor(float(number), dtype=torch.float64, device=choose_device())))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return self.sum(here) > 0

    def require_same(self, number: int, what: str) -> None:
        """Raise ParallelError unless all processes have the same number."""
        if self.any(self.sum(number) != number * self.size):
            raise ParallelError(
                f"the processes do not agree on {what} (here: {number}); give all of them the same workspace folder"
            )

    def meet(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The block is run by the first process, then by the others: they find what it has put into caches."""
        if not self.leads:
            self.meet()
        yield
        if self.leads:
            self.meet()


ALONE = Group()


@contextmanager
def training_group() -> Iterator[Group]:
    """The processes that torchrun has started, or this one alone. Raises ParallelError."""
    size = _processes()
    if size == 1:
        yield ALONE
        return
    gpu = torch.cuda.is_available()
    if gpu:
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise ParallelError(f"torchrun has started more processes than this machine's {gpus} GPUs")
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield Group(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def require_one_process(what: str) -> None:
    """Raise ParallelError under torchrun."""
    if (size := _processes()) > 1:
        raise ParallelError(
            f"{what} works in one process, and torchrun has started {size}; run it without torchrun"
        )


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
