"""Groups of judged responses as arrays, and the sampler that draws groups until enough pass the filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.answering import Answer
from lightningrl.rl.filters import keep_groups
from lightningrl.types import Example, Trajectory


@dataclass(frozen=True, slots=True)
class Groups:
    """N groups of G answers.

    >>> Groups([[]]).answers
    [[]]
    """

    answers: list[list[Answer]]

    @property
    def correct_NG(self) -> np.ndarray:
        return np.array([[a.verdict.correct for a in group] for group in self.answers], dtype=bool)

    @property
    def tpf_NG(self) -> np.ndarray:
        """Tokens per forward of each response."""
        return np.array([[a.trajectory.stats.tpf for a in group] for group in self.answers])

    @property
    def length_NG(self) -> np.ndarray:
        """Response tokens."""
        return np.array([[a.trajectory.response_len for a in group] for group in self.answers])

    def accuracy_reward(self, graded: bool) -> np.ndarray:
        """(N, G): +1 or -1; the judge's value within 0..1 where it is graded (fraction of tests passed)."""
        if not graded:
            return np.where(self.correct_NG, 1.0, -1.0)
        return np.array([[float(a.verdict.value or 0.0) for a in group] for group in self.answers])

    def trajectories(self, groups: Sequence[int]) -> list[Trajectory]:
        """All trajectories of the chosen groups, group by group."""
        return [a.trajectory for index in groups for a in self.answers[index]]


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
class Drawn:
    """What one step's rollouts gave.

    `sampled` holds every group, kept or not; `kept` those to train on; `unscorable` counts groups left out because the
    judge could not score a response.
    """

    sampled: Groups
    kept: Groups
    rounds: int
    unscorable: int


def draw_groups(
    examples: Sequence[Example],
    order: PromptOrder,
    wanted: int,
    max_rounds: int,
    roll: Callable[[Sequence[Example]], list[list[Answer]]],
    min_tpf_range: float,
    drop_all_wrong: bool,
) -> Drawn:
    """Roll out prompts until `wanted` groups pass the filter, each round asking for as many as are missing.

    Stops after `max_rounds` rounds with what there is. A group is rolled out once: prompts that fail are replaced by
    the next ones in order.
    """
    sampled: list[list[Answer]] = []
    kept: list[list[Answer]] = []
    rounds = unscorable = 0
    while len(kept) < wanted and rounds < max_rounds:
        groups = roll([examples[index] for index in order.take(wanted - len(kept))])
        scorable = [group for group in groups if all(a.verdict.value is not None for a in group)]
        unscorable += len(groups) - len(scorable)
        sampled += scorable
        if scorable:
            table = Groups(scorable)
            passed = keep_groups(table.tpf_NG, table.correct_NG, min_tpf_range, drop_all_wrong)
            kept += [group for group, good in zip(scorable, passed, strict=True) if good]
        rounds += 1
    return Drawn(Groups(sampled), Groups(kept), rounds, unscorable)
