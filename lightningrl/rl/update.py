"""One optimiser update over trajectories: exact means whatever the micro-batches, on one process or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.likelihood import TokenScores, index_actions
from lightningrl.rl.losses import Actions, Normalisers, Sums
from lightningrl.rl.microbatches import MicroBatchPlan, forwards_of
from lightningrl.rl.states import AS_DECODED
from lightningrl.training.shards import full
from lightningrl.training.world import World
from lightningrl.types import Trajectory


@dataclass(slots=True, eq=False)
class MicroBatch:
    """Trajectories that share a forward, and what is known of their actions (n of them, in `score_tokens`' order).

    Of a trajectory that is too long for one forward: the actions of some of its states.
    """

    trajectories: list[Trajectory]
    index_B: np.ndarray
    """Which of the update's trajectories these are."""
    copies: slice
    """Which of their states."""
    in_nll_B: Tensor
    old_logp_n: Tensor
    """At the rollout, nats."""
    ref_logp_n: Tensor
    """Log-probabilities under the policy that the KL term holds to, nats."""
    advantage_n: Tensor
    weight: float = 1.0
    """0: a repeat, so that every process has equally many forwards; it counts for nothing."""
    targets: Any = None
    """What a model of the algorithm's own is trained towards here."""

    def actions(self, scores: TokenScores) -> Actions:
        length_B = torch.tensor([t.response_len for t in self.trajectories], device=scores.row_n.device)
        return Actions(
            old_logp_n=self.old_logp_n,
            ref_logp_n=self.ref_logp_n,
            advantage_n=self.advantage_n,
            length_n=length_B[scores.row_n],
            in_nll_n=self.in_nll_B[scores.row_n],
        )


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

    @property
    def positions(self) -> int:
        """Token positions of these forwards; a clean part counts in each that it is in."""
        return sum(forward.positions for forward in self.forwards)

    @staticmethod
    def build(
        algorithm: OnlineAlgorithm,
        trajectories: Sequence[Trajectory],
        advantage_B: np.ndarray,
        in_nll_B: np.ndarray,
        policy: Transformer,
        reference: Transformer,
        size: int,
        world: World = World(),  # noqa: B008 (frozen)
        positions: int | None = None,
    ) -> Batch:
        """Sort by cost, cut into micro-batches of at most `size` trajectories and `positions` token positions (a
        longer trajectory into several), share them out, score them.

        Old log-probabilities are the decoder's; in other states than happened, the policy's as it is now.
        """
        forwards = forwards_of(trajectories, algorithm.states, size, positions, by_cost=True)
        shares = -(-len(forwards) // world.size)
        micro = []
        for number in range(world.rank, shares * world.size, world.size):
            forward = forwards[number] if number < len(forwards) else forwards[0]
            chosen, copies = forward.index_B, forward.copies
            rows = [trajectories[index] for index in chosen]
            old_logp_n, ref_logp_n, row_n = _score(algorithm, rows, policy, reference, copies)
            advantage_B1 = torch.from_numpy(advantage_B[chosen]).to(old_logp_n)
            in_nll = torch.from_numpy(in_nll_B[chosen]).to(old_logp_n.device)
            weight = 1.0 if number < len(forwards) else 0.0
            micro.append(MicroBatch(rows, chosen, copies, in_nll, old_logp_n, ref_logp_n, advantage_B1[row_n], weight))
        lengths = np.array([trajectory.response_len for trajectory in trajectories])
        sums = Sums(Normalisers.of(lengths.tolist()), Normalisers.of(lengths[in_nll_B].tolist()))
        in_order = dict.fromkeys(np.concatenate([forward.index_B for forward in forwards]).tolist())
        return Batch(micro, sums, [trajectories[i] for i in list(in_order)[:size]], forwards, advantage_B)


@torch.no_grad()
def _score(
    algorithm: OnlineAlgorithm, rows: list[Trajectory], policy: Transformer, reference: Transformer, copies: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Old and reference log-probabilities of the rows' actions, and each action's row."""
    index, device = index_actions(rows, algorithm.states, copies), policy.device
    if algorithm.states == AS_DECODED:
        old_logp_n = algorithm.behaviour(rows, index).to(device, policy.lm_head.weight.dtype)
    else:
        old_logp_n = algorithm.score(policy, rows, copies).logp_n
    ref_logp_n = algorithm.score(reference, rows, copies).logp_n if algorithm.needs_reference else old_logp_n
    return old_logp_n, ref_logp_n, index.row_n.to(device)


def update(
    algorithm: OnlineAlgorithm,
    model: Transformer,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    max_grad_norm: float,
    world: World = World(),  # noqa: B008 (frozen)
    check: Callable[[float], None] | None = None,
) -> dict[str, float | None]:
    """One step of the optimiser; returns the logged means over the batch's actions, and the gradient norm.

    A batch with a non-finite loss or gradient changes nothing: `skipped` is 1, its means are None, the weights stay.
    check: is given the mean |log-probability - old one| before the step is taken, and may raise.
    """
    totals = gradients(algorithm, model, batch, world)
    if check is not None:
        check(totals["log_ratio_abs_mean"])
    norm = step(optimiser, max_grad_norm, bool(np.isfinite(totals["loss"])))
    if norm is None:
        return dict.fromkeys(totals) | {"grad_norm": None, "skipped": 1.0}
    return {**totals, "grad_norm": norm, "skipped": 0.0}


def gradients(algorithm: OnlineAlgorithm, model: Transformer, batch: Batch, world: World) -> dict[str, float]:
    """Add the gradient of the batch's loss; returns the logged means, of all processes."""
    totals: dict[str, float] = {}
    largest = 0.0
    for micro in batch.micro:
        scores = algorithm.score(model, micro.trajectories, micro.copies)
        loss, logged = algorithm.loss(scores, micro.actions(scores), batch.sums)
        gap_n = (scores.logp_n.detach() - micro.old_logp_n).abs()
        logged["log_ratio_abs_mean"] = gap_n.sum() / batch.sums.all.tokens
        largest = max(largest, float(gap_n.max()))
        (loss * micro.weight if micro.weight != 1.0 else loss).backward()
        logged["entropy"] = scores.entropy_n.sum() / batch.sums.all.tokens
        for name, value in logged.items():
            totals[name] = totals.get(name, 0.0) + float(value) * micro.weight
    return world.totals(totals) | {"log_ratio_abs_max": max(world.gather([largest], world.size))}


def step(optimiser: torch.optim.Optimizer, max_grad_norm: float, is_sound: bool = True) -> float | None:
    """Clip, step and forget the gradients; the norm before clipping, or None when it is not finite (no step then)."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = float(full(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)))
    is_sound = is_sound and bool(np.isfinite(norm))
    if is_sound:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm if is_sound else None
