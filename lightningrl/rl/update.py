"""One optimiser update over trajectories: exact means whatever the micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.sdar import SDAR
from lightningrl.rl.likelihood import TokenScores, behaviour_of, score_tokens, trajectory_row
from lightningrl.rl.losses import Actions, Normalisers, Weights, policy_loss
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Trajectories that share a forward."""

    trajectories: list[Trajectory]
    advantage_B: Tensor
    in_nll_B: Tensor
    ref_logp_n: Tensor
    """Of the actions, in the order of `score_tokens`; nats."""

    def actions(self, scores: TokenScores) -> Actions:
        length_B = torch.tensor([t.response_len for t in self.trajectories], device=scores.row_n.device)
        return Actions(
            old_logp_n=behaviour_of(self.trajectories, scores),
            ref_logp_n=self.ref_logp_n,
            advantage_n=self.advantage_B[scores.row_n],
            length_n=length_B[scores.row_n],
            in_nll_n=self.in_nll_B[scores.row_n],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """All trajectories of one optimiser update, in micro-batches of similar cost."""

    micro: list[MicroBatch]
    sums: Normalisers
    positions: int
    """Token positions of its forwards, padding not counted."""

    @staticmethod
    def build(
        trajectories: Sequence[Trajectory],
        advantage_B: np.ndarray,
        in_nll_B: np.ndarray,
        reference: SDAR,
        size: int,
    ) -> Batch:
        """Sort by cost, cut into micro-batches of `size` trajectories, score them under the reference."""
        mask_id, weight = reference.config.mask_token_id, reference.lm_head.weight
        costs = [trajectory_row(trajectory, mask_id).num_tokens for trajectory in trajectories]
        order = np.argsort(costs, kind="stable")
        micro = []
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            rows = [trajectories[index] for index in chosen]
            with torch.no_grad():
                ref_logp_n = score_tokens(reference, rows).logp_n
            advantage = torch.from_numpy(advantage_B[chosen]).to(weight)
            micro.append(MicroBatch(rows, advantage, torch.from_numpy(in_nll_B[chosen]).to(weight.device), ref_logp_n))
        lengths = np.array([trajectory.response_len for trajectory in trajectories])
        sums = Normalisers(len(trajectories), int(lengths.sum()), int(lengths[in_nll_B].sum()))
        return Batch(micro, sums, int(sum(costs)))


def update(
    model: SDAR, optimiser: torch.optim.Optimizer, batch: Batch, weights: Weights, max_grad_norm: float
) -> dict[str, float | None]:
    """One step of the optimiser; returns the logged means over the batch's actions, and the gradient norm.

    A batch with a non-finite loss or gradient changes nothing: `skipped` is 1, its means are None, the weights stay.
    """
    totals: dict[str, float] = {}
    for micro in batch.micro:
        scores = score_tokens(model, micro.trajectories)
        loss, logged = policy_loss(scores.logp_n, micro.actions(scores), weights, batch.sums)
        loss.backward()
        logged["entropy"] = scores.entropy_n.sum() / batch.sums.tokens
        for name, value in logged.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    skipped = not (np.isfinite(norm) and np.isfinite(totals["loss"]))
    if not skipped:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if skipped:
        return dict.fromkeys(totals) | {"grad_norm": None, "skipped": 1.0}
    return {**totals, "grad_norm": norm, "skipped": 0.0}
