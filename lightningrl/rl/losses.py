"""The LightningRL loss (Eq. 3, 9, 10): clipped surrogate, KL to the base (k3), NLL on correct trajectories.

Reductions Seq-Tok-Tok: the policy term is a mean over sequences of token means, KL and NLL are means over tokens. All
means are over the optimiser update's whole batch: `Normalisers` are computed once, a micro-batch contributes its share.
Shapes: n actions of a micro-batch, B its trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 10.0
"""exp is taken of log-ratios clamped to +-10, as published."""


@dataclass(frozen=True, slots=True)
class Normalisers:
    """Denominators of one optimiser update."""

    sequences: int
    tokens: int
    nll_tokens: int
    """Tokens of the trajectories in the NLL set."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Constants of the loss."""

    clip_low: float
    clip_high: float
    kl: float
    nll: float


@dataclass(frozen=True, slots=True, eq=False)
class Actions:
    """What the loss needs of each action besides its current log-probability."""

    old_logp_n: Tensor
    """The decoder's own, nats."""
    ref_logp_n: Tensor
    """The base model's, nats."""
    advantage_n: Tensor
    length_n: Tensor
    """Response tokens of the action's trajectory."""
    in_nll_n: Tensor
    """bool: the trajectory is in the NLL set."""


def surrogate(log_ratio_n: Tensor, advantage_n: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r) A) and whether the clip made the difference (Eq. 3)."""
    ratio_n = log_ratio_n.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    free_n = ratio_n * advantage_n
    clipped_n = ratio_n.clamp(1 - clip_low, 1 + clip_high) * advantage_n
    return torch.minimum(free_n, clipped_n), clipped_n < free_n


def kl_k3(logp_n: Tensor, ref_logp_n: Tensor) -> Tensor:
    """exp(ref - logp) - 1 - (ref - logp) >= 0: an unbiased estimate of KL(policy || base), nats."""
    gap_n = ref_logp_n - logp_n
    return gap_n.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() - 1 - gap_n


def policy_loss(
    logp_n: Tensor, actions: Actions, weights: Weights, sums: Normalisers
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of the update's loss, and of its logged means (detached; add them up)."""
    log_ratio_n = logp_n - actions.old_logp_n
    surrogate_n, clipped_n = surrogate(log_ratio_n, actions.advantage_n, weights.clip_low, weights.clip_high)
    policy = -(surrogate_n / actions.length_n).sum() / sums.sequences
    kl = kl_k3(logp_n, actions.ref_logp_n).sum() / sums.tokens
    nll = -(logp_n * actions.in_nll_n).sum() / max(1, sums.nll_tokens)
    loss = policy + weights.kl * kl + weights.nll * nll
    share = 1.0 / sums.tokens
    logged = {
        "loss": loss,
        "policy_loss": policy,
        "kl": kl,
        "nll": nll,
        "clip_fraction": clipped_n.to(logp_n.dtype).sum() * share,
        "ratio": log_ratio_n.exp().sum() * share,
    }
    return loss, {name: value.detach() for name, value in logged.items()}
