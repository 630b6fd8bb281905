"""Groups of judged responses, one group a prompt, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightningrl.answering import Answer
    from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Groups:
    """N groups of G answers."""

    answers: list[list[Answer]]
    graded: bool = False
    """The judge's value is a fraction (of tests passed), not only right or wrong."""
    wrong_from: int | None = None
    """Responses of this many tokens or more count as wrong, whatever the judge says; None where it grades."""

    def table(self, cell: Callable[[Answer], float], dtype: type = float) -> np.ndarray:
        """Returns (N, G): a number of each answer."""
        return np.array([[cell(a) for a in group] for group in self.answers], dtype)

    @property
    def correct_NG(self) -> np.ndarray:
        correct_NG = self.table(lambda a: a.verdict.correct, bool)
        return correct_NG if self.wrong_from is None else correct_NG & (self.length_NG < self.wrong_from)

    @property
    def value_NG(self) -> np.ndarray:
        """The judge's value of each response, 0 where it gave none."""
        return self.table(lambda a: a.verdict.value or 0.0)

    @property
    def is_any_right_N(self) -> np.ndarray:
        """(N,) bool: a correct response; where the judge grades, one that is worth anything."""
        right_NG = self.value_NG > 0 if self.graded else self.correct_NG
        return np.asarray(right_NG.any(axis=1))

    @property
    def tpf_NG(self) -> np.ndarray:
        """Tokens per forward of each response."""
        return self.table(lambda a: a.trajectory.stats.tpf)

    @property
    def length_NG(self) -> np.ndarray:
        """Response tokens."""
        return self.table(lambda a: a.trajectory.response_len, int)

    def chosen(self, groups: Sequence[int]) -> Groups:
        """Returns some of the groups, in the order asked for."""
        return replace(self, answers=[self.answers[index] for index in groups])

    @property
    def trajectories(self) -> list[Trajectory]:
        """Group by group."""
        return [a.trajectory for group in self.answers for a in group]
