"""The order of prompts, and the sampler that draws groups until enough pass the filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.answering import Answer
from lightningrl.rl.groups import Groups
from lightningrl.types import Example


class PromptOrder:
    """Endless order of the training prompts: a new permutation each pass, keyed by (seed, pass)."""

    def __init__(self, size: int, seed: int, cursor: int = 0):
        self.size, self.seed, self.cursor = size, seed, cursor
        self._pass, self._order = -1, np.zeros(0, dtype=np.int64)

    def take(self, count: int) -> list[int]:
        """The next `count` indices; moves the cursor."""
        taken = []
        for position in range(self.cursor, self.cursor + count):
            turn, offset = divmod(position, self.size)
            if turn != self._pass:
                self._pass, self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.size)
            taken.append(int(self._order[offset]))
        self.cursor += count
        return taken


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """What one step's rollouts gave.

    `sampled` holds every group, kept or not; `kept` those to train on; `unscorable` counts groups left out because the
    judge could not score a response.
    """

    sampled: Groups
    kept: Groups
    rounds: int
    unscorable: int


def has_value(answer: Answer) -> bool:
    """Whether the judge could score it: a value, and a number."""
    return answer.verdict.value is not None and math.isfinite(answer.verdict.value)


def draw_groups(
    examples: Sequence[Example],
    order: PromptOrder,
    wanted: int,
    max_rounds: int,
    roll: Callable[[Sequence[Example]], list[list[Answer]]],
    keep: Callable[[Groups], np.ndarray],
    read: Callable[[list[list[Answer]]], Groups],
) -> RolloutBatch:
    """Roll out prompts until `wanted` groups pass the filter, each round asking for as many as are missing.

    Stops after `max_rounds` rounds with what there is. A group is rolled out once: prompts that fail are replaced by
    the next ones in order. keep: (N,) bool of groups; read: makes groups of answers.
    """
    sampled: list[list[Answer]] = []
    kept: list[list[Answer]] = []
    rounds = unscorable = 0
    while len(kept) < wanted and rounds < max_rounds:
        groups = roll([examples[index] for index in order.take(wanted - len(kept))])
        scorable = [group for group in groups if all(has_value(a) for a in group)]
        unscorable += len(groups) - len(scorable)
        sampled += scorable
        if scorable:
            passed = keep(read(scorable))
            kept += [group for group, good in zip(scorable, passed, strict=True) if good]
        rounds += 1
    return RolloutBatch(read(sampled), read(kept), rounds, unscorable)
