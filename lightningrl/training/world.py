"""The processes of one training run: every process knows every answer, and computes its share of the forwards.

`World()` is one process alone; `join()` joins the processes that a launcher started (utils/launch.py). They exchange
answers (plain objects) and sums here; the sharded model exchanges weights and gradients (training/shards.py).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from lightningrl.errors import ConfigError, TrainingError
from lightningrl.utils.launch import process

T = TypeVar("T")
_log = logging.getLogger(__name__)
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: rollouts of one share may take much longer than those of another."""


@dataclass(frozen=True, slots=True)
class World:
    """One of `size` processes that train together."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Returns this process's items: every size-th."""
        return items[self.rank :: self.size]

    def turns(self, items: Sequence[T]) -> list[tuple[T, float]]:
        """Returns this process's items with weight 1, and items again with weight 0 so that each process has as many:
        forwards and backwards of a sharded model are taken by all together.

        >>> World(1, 2).turns(["a", "b", "c"])
        [('b', 1.0), ('a', 0.0)]
        """
        rounds = -(-len(items) // self.size)
        mine = range(self.rank, rounds * self.size, self.size)
        return [(items[number % len(items)], float(number < len(items))) for number in mine]

    def gather(self, mine: Sequence[T], count: int) -> list[T]:
        """Returns all `count` items in their order from the processes' shares; they must be picklable.

        Raises TrainingError when another process has ended, or does not come within PATIENCE.
        """
        if self.size == 1:
            return list(mine)
        shares: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(shares, list(mine))
        except RuntimeError as error:  # what the backends raise, as DistBackendError or bare
            raise TrainingError(
                f"process {self.rank} of {self.size} lost the others: one has ended, or did not answer within "
                f"{PATIENCE}. Look at what it says itself, then run the same command again: it resumes from the last "
                "saved state"
            ) from error
        return [shares[index % self.size][index // self.size] for index in range(count)]

    def totals(self, values: dict[str, float]) -> dict[str, float]:
        """Returns each value summed over the processes, in the order of their ranks."""
        shares = self.gather([values], self.size)
        return {name: sum(share[name] for share in shares) for name in values}

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process, for what all must decide alike, such as stopping."""
        return any(self.gather([flag], self.size))

    def barrier(self) -> None:
        """Waits for all processes."""
        self.gather([None], self.size)

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all have computed."""
        return self.rank == 0


@contextmanager
def join(is_sharded: bool = False) -> Iterator[World]:
    """Yields the world of this process for as long as it trains. is_sharded: whether even one process needs a group."""
    world = World(*process())
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world.size > 1 and missing:
        raise ConfigError(f"WORLD_SIZE is {world.size}, but {' and '.join(missing)} not set: start it with torchrun")
    if dist.is_initialized() or (world.size == 1 and not is_sharded):
        yield world
        return
    # There is nothing to save yet, so a SIGTERM ends the process while it waits. Only the main thread sets handlers.
    is_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL) if is_main_thread else None
    if world.size > 1 and world.is_first:
        _log.info("waiting for %d processes at %s", world.size, os.environ["MASTER_ADDR"])
    alone: dict[str, Any] = {"store": HashStore(), "rank": 0, "world_size": 1} if world.size == 1 else {}
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # objects and tensors on a CPU: gloo
    dist.init_process_group(backend, timeout=PATIENCE, **alone)
    if before is not None:
        signal.signal(signal.SIGTERM, before)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def device_of(kind: str) -> torch.device:
    """Returns this process's device, on CUDA that of its local rank. Raises ConfigError where there is none."""
    if kind != "cuda":
        return torch.device(kind)
    if not torch.cuda.is_available():
        raise ConfigError("resources.device is cuda, but torch finds no CUDA device here; say cpu, or run where one is")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
