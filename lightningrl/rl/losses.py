"""The loss of Equations 3, 9 and 10: clipped surrogate, KL (k3), NLL on a set of trajectories; and the value model's.

Each term has its own mean, over sequences of token means or over tokens; the paper's is Seq-Tok-Tok. All means are over
the optimiser update's whole batch, to which a micro-batch contributes its share. Shapes: n actions of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 10.0
"""exp is taken of log-ratios clamped to +-10, as published."""


@dataclass(frozen=True, slots=True)
class Normalisers:
    """Denominators of one optimiser update over a set of trajectories."""

    sequences: int
    tokens: int
    longest: int
    """Response tokens of the longest."""

    @staticmethod
    def of(lengths: Sequence[int]) -> Normalisers:
        return Normalisers(len(lengths), int(sum(lengths)), int(max(lengths, default=0)))

    def mean(self, values_n: Tensor, length_n: Tensor, how: str) -> Tensor:
        """Returns this micro-batch's share of a mean. how: `seq`, `tok` or `longest` (the key `reduction`)."""
        if how == "tok":
            return values_n.sum() / max(1, self.tokens)
        if how == "seq":
            return (values_n / length_n).sum() / max(1, self.sequences)
        return values_n.sum() / max(1, self.sequences * self.longest)


@dataclass(frozen=True, slots=True)
class Sums:
    """The normalisers of an update: of all trajectories, and of those in the NLL set."""

    all: Normalisers
    nll: Normalisers
    actions: int = 0
    """Actions of all states, whatever part of them is trained on; tokens behind a stop token among them where those are
    actions."""


@dataclass(slots=True, eq=False)
class Actions:
    """What the loss needs of each action besides its current log-probability."""

    old_logp_n: Tensor
    """At the rollout, nats."""
    ref_logp_n: Tensor
    """Log-probabilities under the policy that the KL term holds to, nats."""
    advantage_n: Tensor
    length_n: Tensor
    """Response tokens of the action's trajectory."""
    in_nll_n: Tensor
    """bool: the trajectory is in the NLL set."""
    weight_n: Tensor | None = None
    """How often each action counts: the inverse of its state's probability to be taken. None: all states are taken."""

    def weighted(self, values_n: Tensor) -> Tensor:
        """Returns a value of each action as often as it counts; a loss sums nothing else over actions."""
        return values_n if self.weight_n is None else values_n * self.weight_n


def surrogate(log_ratio_n: Tensor, advantage_n: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r) A) and whether the clip made the difference (Eq. 3)."""
    ratio_n = log_ratio_n.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    free_n = ratio_n * advantage_n
    clipped_n = ratio_n.clamp(1 - clip_low, 1 + clip_high) * advantage_n
    return torch.minimum(free_n, clipped_n), clipped_n < free_n


def kl_k3(logp_n: Tensor, ref_logp_n: Tensor) -> Tensor:
    """exp(ref - logp) - 1 - (ref - logp) >= 0: an unbiased estimate of KL(policy || reference), nats."""
    gap_n = ref_logp_n - logp_n
    return gap_n.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() - 1 - gap_n


def policy_loss(
    logp_n: Tensor, actions: Actions, sums: Sums, *,
    clip: tuple[float, float], kl: float, nll: float, reduction: str = "seq-tok-tok",
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Returns this micro-batch's share of the update's loss, and of its logged means (detached; add them up).

    clip: below and above 1; kl, nll: weights; reduction: the means of the policy, KL and NLL terms.
    """
    policy_mean, kl_mean, nll_mean = reduction.split("-")
    weighted = actions.weighted
    log_ratio_n = logp_n - actions.old_logp_n
    surrogate_n, clipped_n = surrogate(log_ratio_n, actions.advantage_n, *clip)
    terms = {
        "policy_loss": -sums.all.mean(weighted(surrogate_n), actions.length_n, policy_mean),
        "kl": sums.all.mean(weighted(kl_k3(logp_n, actions.ref_logp_n)), actions.length_n, kl_mean),
        "nll": -sums.nll.mean(weighted(logp_n * actions.in_nll_n), actions.length_n, nll_mean),
    }
    loss = terms["policy_loss"] + kl * terms["kl"] + nll * terms["nll"]
    share = 1.0 / sums.all.tokens
    logged = {"loss": loss, **terms, "ratio": weighted(log_ratio_n.exp()).sum() * share}
    logged["clip_fraction"] = weighted(clipped_n.to(logp_n.dtype)).sum() * share
    return loss, {name: value.detach() for name, value in logged.items()}


def value_loss(
    value_n: Tensor, old_value_n: Tensor, return_n: Tensor, clip: float, tokens: int, actions: Actions | None = None
) -> Tensor:
    """Returns this micro-batch's share of the mean over tokens of max((V - R)^2, (clip(V) - R)^2) / 2 (TraceRL).

    actions: how often each counts; default: once.
    """
    clipped_n = old_value_n + (value_n - old_value_n).clamp(-clip, clip)
    worse_n = torch.maximum((value_n - return_n).square(), (clipped_n - return_n).square())
    return 0.5 * (actions.weighted(worse_n) if actions else worse_n).sum() / tokens
