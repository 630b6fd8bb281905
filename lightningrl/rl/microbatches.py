"""Which trajectories go through a forward together, and which of their states: what bounds a forward's memory.

A trajectory whose row alone is too long goes through several forwards, some of its copies in each, with the clean
blocks they see. An update's loss is a sum over actions, so its gradient is the same, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightningrl.models.packing import ALL
from lightningrl.rl.likelihood import trajectory_row
from lightningrl.rl.states import StateGrouping
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatchPlan:
    """One forward over several trajectories, or over a part of one."""

    index_B: np.ndarray
    """Which trajectories."""
    copies: slice
    """Which of their states (`PackedRow.copy_block`), in time; a part only where there is one trajectory."""
    positions: int
    """Token positions."""


def forwards_of(
    trajectories: Sequence[Trajectory], states: StateGrouping, size: int, positions: int | None, *, by_cost: bool
) -> list[MicroBatchPlan]:
    """At most `size` trajectories and `positions` token positions each, but at least one state of one trajectory.

    by_cost: sorted, so that neighbours cost about the same; otherwise in the order given. Parts of a trajectory follow
    each other in time.
    """
    costs = [trajectory_row(trajectory, 0, states).num_tokens for trajectory in trajectories]
    order = np.argsort(costs, kind="stable") if by_cost else np.arange(len(costs))
    found = []
    for index_B in cut(order, costs, size, positions):
        total = sum(costs[index] for index in index_B)
        if positions is None or total <= positions:
            found.append(MicroBatchPlan(index_B, ALL, total))
            continue
        row = trajectory_row(trajectories[index_B[0]], 0, states)
        found += [MicroBatchPlan(index_B, part, row.part(part).num_tokens) for part in row.split(positions)]
    return found


def cut(order: np.ndarray, costs: Sequence[int], size: int, positions: int | None) -> list[np.ndarray]:
    """Consecutive pieces of `order`: as many as fit, at least one each."""
    pieces, start, total = [], 0, 0
    for end, index in enumerate(order):
        is_full = end - start == size or (positions is not None and total + costs[index] > positions)
        if end > start and is_full:
            pieces.append(order[start:end])
            start, total = end, 0
        total += costs[index]
    return [*pieces, order[start:]]
