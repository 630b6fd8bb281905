"""Training on a random part of each trajectory's states: fewer positions per update, and the same gradient on average.

Of a trajectory's C states m are taken, m being the share of C to the nearest whole number and at least 1. Each is taken
with probability m / C, and its actions count C / m times in the loss, which is a sum over actions; the normalisers stay
those of the whole trajectories. So the expectation of the gradient is the gradient over all states.

The states are equally far apart in time, from a random start: with offset u uniform in 0..C-1, those of numbers
floor((i C + u) / m) for i = 0..m-1. The C offsets are all draws there are, and each state is in m of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class StateSampling:
    """The draws of one optimiser update."""

    share: float
    """The share of a trajectory's states, within (0, 1]."""
    seed: int
    step: int
    update: int
    """The update's number within its step."""

    def taken(self, trajectory: Trajectory, states: int) -> np.ndarray:
        """Returns which of a trajectory's `states` states are trained on, in time.

        They are keyed by seed, step, update, uid and sample, so they are the same in every process and micro-batch.
        """
        key = f"{self.seed}/{self.step}/{self.update}/{trajectory.uid}/{trajectory.sample}/states"
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        return taken_at(number % states, states, taken_count(states, self.share))


def taken_count(states: int, share: float) -> int:
    """Returns m: how many of a trajectory's states are taken.

    >>> [taken_count(states, 1 / 3) for states in (1, 2, 4, 5, 53)]
    [1, 1, 1, 2, 18]
    """
    return max(1, int(states * share + 0.5))


def taken_at(offset: int, states: int, count: int) -> np.ndarray:
    """Returns the `count` states that the offset gives, growing.

    >>> [taken_at(offset, 5, 2).tolist() for offset in range(5)]
    [[0, 2], [0, 3], [1, 3], [1, 4], [2, 4]]
    """
    return (np.arange(count) * states + offset) // count
