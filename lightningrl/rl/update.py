"""One optimiser update over trajectories: exact means whatever the micro-batches, on one process or several.

A trajectory whose row alone is too long for a forward goes through several, some of its states in each, with the clean
blocks they see. The loss is a sum over actions, so its gradient is the same, to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightningrl.models.packing import ALL
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import OnlineAlgorithm, StateGrouping
from lightningrl.rl.likelihood import ActionIndex, Copies, index_actions, trajectory_row
from lightningrl.rl.losses import Actions, Normalisers, Sums
from lightningrl.rl.state_sampling import StateSampling, taken_count
from lightningrl.training.shards import full, reshard
from lightningrl.training.world import World
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatchPlan:
    """One forward over several trajectories, or over a part of one."""

    index_B: np.ndarray
    """Which trajectories."""
    copies: Copies
    """Which of their states (`PackedRow.copy_block`), in time: all, those of each that are taken, or where there is
    one trajectory a part of either."""
    positions: int
    """Token positions."""
    actions: int
    """Actions of these states."""


def forwards_of(
    trajectories: Sequence[Trajectory], states: StateGrouping, size: int, positions: int | None, *, by_cost: bool,
    sampling: StateSampling | None = None,
) -> list[MicroBatchPlan]:  # fmt: skip
    """Returns forwards of at most `size` trajectories and `positions` positions, but at least one state of one.

    by_cost: sorted, so that neighbours cost about the same; otherwise in the order given. Parts of a trajectory follow
    each other in time. sampling: which states are taken; None: all.
    """
    limit = sys.maxsize if positions is None else positions
    rows = [trajectory_row(trajectory, 0, states) for trajectory in trajectories]
    taken: list[np.ndarray] = []
    if sampling:
        taken = [sampling.taken(one, len(row.copy_block)) for one, row in zip(trajectories, rows, strict=True)]
        rows = [row.part(own) for row, own in zip(rows, taken, strict=True)]
    costs = [row.num_tokens for row in rows]
    found = []
    for index_B in cut(np.argsort(costs, kind="stable") if by_cost else np.arange(len(costs)), costs, size, limit):
        total = sum(costs[index] for index in index_B)
        row = rows[index_B[0]]
        for part in [ALL] if total <= limit else row.split(limit):
            copies = [taken[index][part] for index in index_B] if taken else part
            forward = [rows[index] if part == ALL else row.part(part) for index in index_B]
            computed, actions = sum(one.num_tokens for one in forward), sum(one.num_scored for one in forward)
            found.append(MicroBatchPlan(index_B, copies, computed, actions))
    return found


def cut(order: np.ndarray, costs: Sequence[int], size: int, limit: int) -> list[np.ndarray]:
    """Returns consecutive pieces of `order`: as many as fit, at least one each."""
    pieces, start, total = [], 0, 0
    for end, index in enumerate(order):
        if end > start and (end - start == size or total + costs[index] > limit):
            pieces.append(order[start:end])
            start, total = end, 0
        total += costs[index]
    return [*pieces, order[start:]]


@dataclass(slots=True, eq=False)
class MicroBatch:
    """Trajectories that share a forward, and what is known of their actions, in `score_tokens`' order."""

    trajectories: list[Trajectory]
    plan: MicroBatchPlan
    actions: Actions
    weight: float
    """0: a repeat, so that every process has equally many forwards; it counts for nothing. Otherwise 1."""
    targets: Any = None
    """What a model of the algorithm's own is trained towards here."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """All trajectories of one optimiser update, in micro-batches of similar cost; of these, this process's."""

    micro: list[MicroBatch]
    sums: Sums
    first: list[Trajectory]
    """The cheapest, as many as are in a micro-batch at most: the same in every process."""
    forwards: list[MicroBatchPlan]
    """The forwards of all processes, dealt out in turns, without repeats of weight 0."""
    advantage_B: np.ndarray
    """The advantages of all its trajectories, before any value model."""
    trajectories: Sequence[Trajectory]
    whole: list[MicroBatchPlan]
    """Where only some states are trained on but a value model needs all: the forwards over all; otherwise none."""

    @property
    def positions(self) -> int:
        """Token positions of these forwards; a clean part counts in each that it is in."""
        return sum(forward.positions for forward in self.forwards)

    @property
    def actions(self) -> int:
        """Actions of the states that are trained on, whatever each counts."""
        return sum(forward.actions for forward in self.forwards)

    @property
    def untrained_positions(self) -> int:
        """Token positions that a value model's estimate computes beyond those that are trained on."""
        return sum(forward.positions for forward in self.whole) - self.positions if self.whole else 0

    @staticmethod
    @torch.no_grad()
    def build(
        algorithm: OnlineAlgorithm, trajectories: Sequence[Trajectory], advantage_B: np.ndarray, in_nll_B: np.ndarray,
        policy: Transformer, reference: Transformer, size: int,
        world: World = World(), positions: int | None = None, sampling: StateSampling | None = None,  # noqa: B008 (frozen)
    ) -> Batch:  # fmt: skip
        """Sort by cost, cut into micro-batches of at most `size` trajectories and `positions` token positions (a
        longer trajectory into several), share them out, score them. sampling: which states are trained on; None: all.

        Old log-probabilities are the decoder's; in other states than happened, the policy's as it is now.
        """
        states, device, micro = algorithm.states, policy.device, []
        forwards = forwards_of(trajectories, states, size, positions, by_cost=True, sampling=sampling)
        whole: list[MicroBatchPlan] = []
        if sampling and algorithm.has_value_model:
            whole = forwards_of(trajectories, states, size, positions, by_cost=True)
        length_B = np.array([trajectory.response_len for trajectory in trajectories])
        for plan, weight in world.turns(forwards):
            rows = [trajectories[index] for index in plan.index_B]
            index = index_actions(rows, states, plan.copies)
            if states.happened:
                old_logp_n = algorithm.behaviour(rows, index).to(device, policy.lm_head.weight.dtype)
            else:
                old_logp_n = algorithm.score(policy, rows, plan.copies).logp_n
            ref_logp_n = old_logp_n
            if algorithm.needs_reference:
                ref_logp_n = algorithm.score(reference, rows, plan.copies).logp_n
            of_n = plan.index_B[index.row_n.numpy()]
            advantage_n = torch.from_numpy(advantage_B[of_n]).to(old_logp_n)
            length_n, in_nll_n = (torch.from_numpy(values_B[of_n]).to(device) for values_B in (length_B, in_nll_B))
            actions = Actions(old_logp_n, ref_logp_n, advantage_n, length_n, in_nll_n)
            if sampling:
                actions.weight_n = _weights(rows, index, states, sampling).to(old_logp_n)
            micro.append(MicroBatch(rows, plan, actions, weight))
        reshard(reference)
        every = forwards_of(trajectories, states, size, positions, by_cost=True) if sampling else forwards
        actions = sum(forward.actions for forward in every)
        sums = Sums(Normalisers.of(length_B.tolist()), Normalisers.of(length_B[in_nll_B].tolist()), actions)
        in_order = dict.fromkeys(np.concatenate([forward.index_B for forward in forwards]).tolist())
        first = [trajectories[index] for index in list(in_order)[:size]]
        return Batch(micro, sums, first, forwards, advantage_B, trajectories, whole)


def _weights(
    rows: Sequence[Trajectory], index: ActionIndex, states: StateGrouping, sampling: StateSampling
) -> torch.Tensor:
    """Returns (n,) the inverse of the probability with which each action's state is taken."""
    count_B = [len(trajectory_row(trajectory, 0, states).copy_block) for trajectory in rows]
    weight_B = [count / taken_count(count, sampling.share) for count in count_B]
    return torch.tensor(weight_B, dtype=torch.float64)[index.row_n]


def update(
    algorithm: OnlineAlgorithm, model: Transformer, optimiser: torch.optim.Optimizer, batch: Batch,
    max_grad_norm: float, world: World = World(),  # noqa: B008 (frozen)
) -> dict[str, float | None]:  # fmt: skip
    """One step of the optimiser; returns the logged means over the batch's actions, and the gradient norm.

    Where a part of the states is trained on, means are estimates of those over all; the gap to the old
    log-probabilities is that of the actions that were scored, each counted once.

    A batch with a non-finite loss or gradient changes nothing: `skipped` is 1, the weights stay, and its means are None
    but for the gap to the old log-probabilities (`log_ratio_abs_*`).
    """
    means: dict[str, float] = {}
    largest = 0.0
    for micro in batch.micro:
        scores = algorithm.score(model, micro.trajectories, micro.plan.copies)
        loss, logged = algorithm.loss(scores, micro.actions, batch.sums)
        (loss * micro.weight).backward()
        gap_n = (scores.logp_n.detach() - micro.actions.old_logp_n).abs()
        largest = max(largest, float(gap_n.max()))
        logged["log_ratio_abs_mean"] = gap_n.sum() / batch.actions
        logged["entropy"] = micro.actions.weighted(scores.entropy_n).sum() / batch.sums.all.tokens
        for name, value in logged.items():
            means[name] = means.get(name, 0.0) + float(value) * micro.weight
    means = world.totals(means) | {"log_ratio_abs_max": max(world.gather([largest], world.size))}
    norm = step(optimiser, max_grad_norm, bool(np.isfinite(means["loss"])))
    if norm is None:
        gap = {name: means[name] for name in ("log_ratio_abs_mean", "log_ratio_abs_max")}
        return dict.fromkeys(means) | gap | {"grad_norm": None, "skipped": 1.0}
    return {**means, "grad_norm": norm, "skipped": 0.0}


def step(optimiser: torch.optim.Optimizer, max_grad_norm: float, is_sound: bool = True) -> float | None:
    """Clip, step and forget the gradients; the norm before clipping, or None when it is not finite (no step then)."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = float(full(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)))
    is_sound = is_sound and bool(np.isfinite(norm))
    if is_sound:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm if is_sound else None
