"""From hidden states at open positions to the positions revealed: draw, rank, select. All on the model's device.

Greedy decoding is a branch of its own: it draws nothing.

Shapes: B rows; K block size; n open positions; H hidden size; V vocabulary; A alternatives; m sampled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rng import uniform
from lightningrl.models.head import entropy
from lightningrl.models.transformer import Transformer

CHUNK_LOGITS = 1 << 25
"""Logits made at once: 128 MB in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The n open positions at which tokens are to be drawn, row after row: the key of each, and how it is drawn."""

    hidden_nH: Tensor
    key_n: np.ndarray
    position_n: np.ndarray
    forward_n: np.ndarray
    temperature_n: np.ndarray
    top_k_n: np.ndarray
    top_p_n: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class DrawnTokens:
    """What was drawn at n positions, on the device."""

    token_n: Tensor
    logp_n: Tensor
    entropy_n: Tensor
    top_logp_nA: Tensor
    top_ids_nA: Tensor

    def to_host(self, chosen_n: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """token, logp, entropy and the given choice as arrays: one copy from the device."""
        columns = (self.token_n, self.logp_n, self.entropy_n, chosen_n)
        table = torch.stack([column.double() for column in columns]).cpu().numpy()
        return table[0].astype(np.int64), table[1].astype(np.float32), table[2].astype(np.float32), table[3] > 0


def draw_open(model: Transformer, draws: Draws, alternatives: int = 0) -> DrawnTokens:
    """Token, log-probability and entropy at every open position.

    The head is evaluated at these positions only, and never for more than CHUNK_LOGITS logits at once.
    """
    device, chunk = draws.hidden_nH.device, max(1, CHUNK_LOGITS // model.config.vocab_size)
    parts = []
    for start in range(0, len(draws.key_n), chunk):
        here = slice(start, start + chunk)
        temperature_n = draws.temperature_n[here]
        sampled_m = np.flatnonzero(temperature_n)
        log_probs_nV = model.log_probs(draws.hidden_nH[here], _divisor(temperature_n, draws.hidden_nH))
        if len(sampled_m):
            of_sampled = (draws.key_n, draws.position_n, draws.forward_n, draws.top_k_n.astype(np.int64), draws.top_p_n)
            key_m, position_m, forward_m, top_k_m, top_p_m = (
                torch.from_numpy(values[here][sampled_m]).to(device) for values in of_sampled
            )
            token_n, logp_n = draw(
                log_probs_nV,
                torch.from_numpy(sampled_m).to(device),
                uniform(key_m, position_m, forward_m),
                top_k_m if draws.top_k_n.any() else None,
                top_p_m if (draws.top_p_n < 1).any() else None,
            )
        else:
            logp_n, token_n = log_probs_nV.max(dim=-1)
        if alternatives:
            top_logp_nA, top_ids_nA = log_probs_nV.topk(min(alternatives, log_probs_nV.shape[-1]), dim=-1)
        else:
            top_logp_nA, top_ids_nA = log_probs_nV.new_empty(len(token_n), 0), token_n.new_empty(len(token_n), 0)
        parts.append((token_n, logp_n, entropy(log_probs_nV), top_logp_nA, top_ids_nA))
    return DrawnTokens(*(column[0] if len(column) == 1 else torch.cat(column) for column in zip(*parts, strict=True)))


def _divisor(temperature_n: np.ndarray, like: Tensor) -> float | Tensor:
    """What logits are divided by: 1 where greedy; a number when it is the same for all."""
    divisor_n = np.where(temperature_n > 0, temperature_n, 1.0)
    if (divisor_n == divisor_n[0]).all():
        return float(divisor_n[0])
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.from_numpy(divisor_n).to(like.device, dtype)[:, None]


def select(
    drawn: DrawnTokens, open_BK: np.ndarray, step_B: np.ndarray, policies: Sequence[tuple[DecodePolicy, np.ndarray]]
) -> Tensor:
    """(n,) bool: which of the open positions each row's policy reveals. policies: with the indices of their rows."""
    device = drawn.logp_n.device
    opened_BK, steps_B = torch.from_numpy(open_BK).to(device), torch.from_numpy(step_B).to(device)
    at = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(open_BK))
    confidence_BK, entropy_BK = torch.zeros((2, *open_BK.shape), dtype=drawn.logp_n.dtype, device=device)
    confidence_BK[at], entropy_BK[at] = drawn.logp_n.exp(), drawn.entropy_n
    chosen_BK = torch.zeros_like(opened_BK)
    for policy, mine in policies:
        rows = slice(None) if len(mine) == len(open_BK) else torch.from_numpy(mine).to(device)
        given = OpenPositions(opened_BK[rows], confidence_BK[rows], entropy_BK[rows])
        score_BK = policy.ranking.score(given).masked_fill(~given.open_BK, float("-inf"))
        proposals = Proposals(given.open_BK, given.confidence_BK, given.entropy_BK, score_BK, steps_B[rows])
        chosen_BK[rows] = policy.selector.select(proposals) & given.open_BK
    return chosen_BK[at]


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
