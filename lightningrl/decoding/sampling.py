"""Token and log-probability at open positions. Greedy is a branch of its own.

Shapes: n positions; V vocabulary; m sampled positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    log_probs_nV: Tensor, sampled_m: Tensor, uniform_m: Tensor, top_k_m: Tensor | None, top_p_m: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The drawn token and its log-probability (nats) at n positions.

    log_probs are log softmax(logits / T) (T = 1 when greedy) with banned tokens at -inf; the exponential of the
    returned log-probability is the confidence, before any top-k or top-p. sampled_m are the indices of the positions
    to sample, uniform_m in [0, 1) their uniforms; the other positions get their likeliest token. top_k (0: all) and
    top_p (1: all) may be None when no position has any.
    """
    logp_n, token_n = log_probs_nV.max(dim=-1)
    if len(sampled_m):
        own_mV = log_probs_nV[sampled_m] if len(sampled_m) < len(log_probs_nV) else log_probs_nV
        token_m = sample(keep_likeliest(own_mV, top_k_m, top_p_m), uniform_m)
        token_n[sampled_m] = token_m
        logp_n[sampled_m] = own_mV.gather(-1, token_m[:, None]).squeeze(-1)
    return token_n, logp_n


def sample(log_weights_mV: Tensor, uniform_m: Tensor) -> Tensor:
    """Invert the cumulative distribution, in float64; the weights need not add up to 1."""
    cumulative_mV = log_weights_mV.double().exp().cumsum(dim=-1)
    target_m1 = (uniform_m * cumulative_mV[:, -1]).unsqueeze(-1)
    # right=True: the first token whose cumulative exceeds the target, so one of probability 0 is never chosen.
    token_m1 = torch.searchsorted(cumulative_mV, target_m1, right=True)
    # A target that rounds up to the total would fall off the end: the last token with mass takes it.
    last_m1 = (cumulative_mV < cumulative_mV[:, -1:]).sum(dim=-1, keepdim=True)
    return token_m1.minimum(last_m1).squeeze(-1)


def keep_likeliest(log_probs_mV: Tensor, top_k_m: Tensor | None, top_p_m: Tensor | None) -> Tensor:
    """The log-probabilities with -inf outside the top k, then outside the nucleus of what is left.

    top-k keeps the tokens at least as likely as the k-th. The nucleus is the smallest set of likeliest tokens, equals
    by id, that together reach top_p; never empty.
    """
    if top_k_m is not None:
        vocabulary = log_probs_mV.shape[-1]
        place_m1 = torch.where(top_k_m > 0, top_k_m, vocabulary).clamp(max=vocabulary)[:, None] - 1
        kth_m1 = log_probs_mV.sort(dim=-1, descending=True).values.gather(-1, place_m1)
        log_probs_mV = log_probs_mV.masked_fill(log_probs_mV < kth_m1, float("-inf"))
    if top_p_m is not None:
        ordered_mV, order_mV = log_probs_mV.double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        before_mV = ordered_mV.cumsum(dim=-1) - ordered_mV
        outside_mV = (before_mV >= top_p_m.double()[:, None]) & (top_p_m[:, None] < 1.0)
        outside_mV[:, 0] = False
        log_probs_mV = log_probs_mV.masked_fill(outside_mV.gather(-1, order_mV.argsort(dim=-1)), float("-inf"))
    return log_probs_mV
