"""Losses of distillation over scored positions, the head a few positions at a time (models/head.py).

`certainty_loss` is dParallel's (arXiv 2509.26488, section 3) and, scaled, d3LLM's; `teacher_loss` is D2F's (arXiv
2508.09192, section 4). Sums are over units; a unit's means are over its own tokens, so that what shares a forward
changes nothing.

Shapes: n scored positions; V vocabulary; H hidden size; G groups, two views of each unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.adapters import adapters_off
from lightningrl.models.head import in_chunks
from lightningrl.models.packing import Packed, scored_hidden
from lightningrl.models.transformer import Transformer

if TYPE_CHECKING:
    from lightningrl.training.distillation.states import Views

EPSILON = 1e-12
"""Added to the probabilities whose logarithm is taken in the published entropy."""


def certainty_terms(
    log_probs_nV: Tensor, sharp_nV: Tensor, target_n: Tensor, compat: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (n,) each: the cross-entropy, the entropy of the sharpened distribution, both in nats and differentiable,
    and whether the likeliest token is the target (0 or 1), through which no gradient flows.

    compat: the published entropy, whose logarithm is of p + 1e-12.
    """
    cross_n = -log_probs_nV.gather(-1, target_n[:, None]).squeeze(-1)
    p_nV = sharp_nV.exp()
    log_nV = (p_nV + EPSILON).log() if compat else sharp_nV.clamp(min=-1e4)
    correct_n = (log_probs_nV.detach().argmax(dim=-1) == target_n).to(cross_n)
    return cross_n, -(p_nV * log_nV).sum(dim=-1), correct_n


def group_means(values_n: Tensor, weight_n: Tensor, group_n: Tensor, groups: int) -> Tensor:
    """Returns (G,) the weighted mean of each group's values; 0 of a group without any weight."""
    sums, weights = (values_n.new_zeros(groups).index_add(0, group_n, each) for each in (values_n * weight_n, weight_n))
    return sums / weights.clamp(min=1)


def groups_of(units: Sequence[Views], like: Tensor) -> tuple[Tensor, int]:
    """Returns (n,) int64, the group of each scored token (two views a unit), and how many groups there are."""
    numbered = [2 * number + unit.view_n for number, unit in enumerate(units)]
    return torch.from_numpy(np.concatenate(numbered).astype(np.int64)).to(like.device), 2 * len(units)


def certainty_loss(
    model: Transformer, packed: Packed, units: Sequence[Views], weight: float, temperature: float, bans: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the sum over units of CE + CE' + weight (H + H'), and sums over tokens to log, detached.

    CE is a view's mean cross-entropy at temperature 1, H the mean entropy at `temperature` over its positions whose
    likeliest token is the target, 0 without any. bans: whether the mask token and vocabulary rows without a token have
    probability 0, as wherever this package decodes; in the published code they do not.
    """

    def reduce(hidden_cH: Tensor, target_c: Tensor) -> tuple[Tensor, ...]:
        plain, sharp = (model.log_probs(hidden_cH, each, bans) for each in (1.0, temperature))
        return certainty_terms(plain, sharp, target_c, compat=not bans)

    def compute(model: Transformer) -> tuple[Tensor, ...]:
        return in_chunks(reduce, model.config.vocab_size, (scored_hidden(model, packed), packed.target_n))

    cross_n, entropy_n, correct_n = model(compute)
    group_n, groups = groups_of(units, cross_n)
    loss = certainty_of(cross_n, entropy_n, correct_n, group_n, groups, weight)
    sums = {
        "targets": torch.tensor(float(len(cross_n))),
        "correct": correct_n.sum(),
        "cross_entropy": cross_n.detach().sum(),
        "entropy": (entropy_n.detach() * correct_n).sum(),
    }
    return loss, sums


def certainty_of(
    cross_n: Tensor, entropy_n: Tensor, correct_n: Tensor, group_n: Tensor, groups: int, weight: float
) -> Tensor:
    """Returns the sum over the groups of CE + weight H; see `certainty_loss`.

    >>> cross, entropy = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.5, 0.1, 0.7])
    >>> round(float(certainty_of(cross, entropy, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1]), 2, 2.0)), 4)
    9.4
    """
    ones_n = torch.ones_like(cross_n)
    of_G = group_means(cross_n, ones_n, group_n, groups) + weight * group_means(entropy_n, correct_n, group_n, groups)
    return of_G.sum()


@torch.no_grad()
def teacher_log_probs(teacher: Transformer, packed: Packed, bans: bool = True) -> Tensor:
    """Returns (n, V) the log-probabilities of a model with its adapters off; a table of n V numbers is held."""

    def compute(model: Transformer) -> Tensor:
        return model.log_probs(scored_hidden(model, packed), bans=bans)

    with adapters_off(teacher):
        return teacher(compute)


def teacher_loss(
    model: Transformer, packed: Packed, units: Sequence[Views], teacher_nV: Tensor | None, bans: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the sum over units of the mean over their masked positions of the cross-entropy with the teacher, each
    divided by its block's mask rate, and sums to log. teacher_nV: log-probabilities; None: the data's tokens instead.
    """

    def reduce(hidden_cH: Tensor, target_c: Tensor) -> tuple[Tensor, ...]:
        log_probs_cV = model.log_probs(hidden_cH, bans=bans)
        if target_c.ndim == 1:
            cross_c = -log_probs_cV.gather(-1, target_c[:, None]).squeeze(-1)
        else:  # where the teacher gives no probability, -inf of a banned token counts 0
            cross_c = -(target_c.exp() * log_probs_cV.clamp(min=-1e4)).sum(dim=-1)
        return (cross_c,)

    def compute(model: Transformer) -> tuple[Tensor, ...]:
        target = packed.target_n if teacher_nV is None else teacher_nV
        return in_chunks(reduce, model.config.vocab_size, (scored_hidden(model, packed), target))

    (cross_n,) = model(compute)
    group_n, groups = groups_of(units, cross_n)
    weights = [unit.weight_n for unit in units]
    assert all(weight is not None for weight in weights)
    weight_n = torch.from_numpy(np.concatenate([np.asarray(weight) for weight in weights])).to(cross_n)
    loss = group_means(cross_n * weight_n, torch.ones_like(cross_n), group_n, groups).sum()
    sums = {"targets": torch.tensor(float(len(cross_n))), "cross_entropy": cross_n.detach().sum()}
    return loss, sums
