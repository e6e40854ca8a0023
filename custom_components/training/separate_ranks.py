"""Run ranks that share nothing but files and a queue: sampling and evaluation.

They have no process group. An engine would take it for its own, its start would wait for ranks that
start none, and its end would destroy the group. What they need, waiting and taking turns, goes
through torchrun's key-value store.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.distributed import Store, rendezvous

from custom_components.runs.processes import die_with_parent
from custom_components.training.distributed import describe, rank_device

POLL = 0.2
"""Seconds between two looks into the store."""


@dataclass
class SeparateRanks:
    """Describe this process among all, without a process group.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        device: Device that this process computes on.
        store: Key-value store of all processes; None for a single one.
    """

    rank: int
    size: int
    device: torch.device
    store: Store | None = None
    _counts: dict[str, int] = field(default_factory=dict)
    _barriers: int = 0

    def describe(self) -> str:
        """Return the number of ranks and their device."""
        return describe(self.size, self.device)

    def barrier(self) -> None:
        """Wait until all ranks are here, however long that takes."""
        if self.store is None:
            return
        self._barriers += 1
        name = f"barrier {self._barriers}"
        if self.store.add(name, 1) == self.size:
            self.store.set(f"{name} passed", "")
        while not self.store.check([f"{name} passed"]):
            time.sleep(POLL)

    def take(self, queue: str) -> int:
        """Return the next number of a queue, from 0; each number goes to one rank.

        Args:
            queue: Name of the queue.
        """
        if self.store is not None:
            return self.store.add(f"queue {queue}", 1) - 1
        self._counts[queue] = self._counts.get(queue, -1) + 1
        return self._counts[queue]


@contextmanager
def separate_ranks(device: str) -> Iterator[SeparateRanks]:
    """Yield this process among those that torchrun started; at the end wait for the others.

    Args:
        device: cpu, cuda, or auto (cuda if torch sees one).

    Raises:
        UserError: See `rank_device`.
    """
    target = rank_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield SeparateRanks(0, 1, target)
        return
    die_with_parent()
    store, rank, size = next(rendezvous("env://"))
    ranks = SeparateRanks(rank, size, target, store)
    yield ranks
    ranks.barrier()  # where torchrun has no store of its own, rank 0 keeps it
