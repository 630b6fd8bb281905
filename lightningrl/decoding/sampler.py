"""From hidden states at open positions to the positions revealed: draw, rank, select. All on the model's device.

Greedy decoding is a branch of its own: it draws nothing.

Shapes: B rows; K block size; n open positions; H hidden size; V vocabulary; A alternatives; m sampled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.logits import Logits
from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.protocol import DecodePolicy, decides
from lightningrl.decoding.rng import another, uniform
from lightningrl.models.head import entropy
from lightningrl.models.transformer import Transformer

CHUNK_LOGITS = 1 << 25
"""Logits made at once: 128 MB in float32."""


def shallow(each: Any) -> list[Any]:
    """The values of a dataclass's fields, as they are."""
    return [getattr(each, field.name) for field in fields(each)]


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
    twin_nH: Tensor | None = None
    """Hidden states of the forward whose prompt is all masks, where a policy's `cfg_scale` is above 0."""

    def at(self, here: np.ndarray | slice) -> Draws:
        """Some of the positions."""
        columns: Any = [None if column is None else column[here] for column in shallow(self)]
        return Draws(*columns)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnTokens:
    """What was drawn at n positions, on the device."""

    token_n: Tensor
    logp_n: Tensor
    entropy_n: Tensor
    top_logp_nA: Tensor
    top_ids_nA: Tensor
    margin_nX: Tensor
    """By how much the likeliest token is likelier than the second: one column, or none where nobody asked."""
    confidence_n: Tensor
    """What rankings and selectors go by: the token's probability, unless a policy's `logits` say otherwise."""

    def to_host(self, chosen_n: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """token, logp, entropy and the given choice as arrays: one copy from the device."""
        columns = (self.token_n, self.logp_n, self.entropy_n, chosen_n)
        table = torch.stack([column.double() for column in columns]).cpu().numpy()
        return table[0].astype(np.int64), table[1].astype(np.float32), table[2].astype(np.float32), table[3] > 0


def draw_by_rule(
    model: Transformer,
    draws: Draws,
    rules: Sequence[tuple[Logits, np.ndarray]],
    alternatives: int = 0,
    margins: bool = False,
) -> DrawnTokens:
    """Token, log-probability, entropy and confidence at every open position. rules: with the indices of theirs.
    margins: whether margins are needed."""
    if len(rules) == 1:
        return draw_open(model, draws, rules[0][0], alternatives, margins)
    parts = [draw_open(model, draws.at(here), rule, alternatives, margins) for rule, here in rules]
    order_n = torch.from_numpy(np.argsort(np.concatenate([here for _, here in rules]))).to(draws.hidden_nH.device)
    return DrawnTokens(*(torch.cat(column)[order_n] for column in zip(*map(shallow, parts), strict=True)))


def draw_open(
    model: Transformer, draws: Draws, rule: Logits, alternatives: int = 0, margins: bool = False
) -> DrawnTokens:
    """`draw_by_rule` where one rule holds for all.

    The head is evaluated at these positions only, and never for more than CHUNK_LOGITS logits at once.
    """
    chunk = max(1, CHUNK_LOGITS // model.config.vocab_size)
    parts = []
    for start in range(0, len(draws.key_n), chunk):
        here = draws.at(slice(start, start + chunk))
        temperature = _divisor(here.temperature_n, here.hidden_nH)
        if rule.is_plain:
            log_probs_nV = certain_nV = model.log_probs(here.hidden_nH, temperature)
        else:
            logits_nV = rule.of(model, here.hidden_nH, here.twin_nH)
            log_probs_nV = certain_nV = rule.log_probs(model, logits_nV, temperature)
            if rule.untempered and here.temperature_n.any():
                certain_nV = rule.log_probs(model, logits_nV, 1.0)
        if rule.is_plain:
            token_n, logp_n = _draw_tokens(log_probs_nV, here)
            confidence_n = logp_n.exp()
        else:
            sampled_n = torch.from_numpy(here.temperature_n > 0).to(log_probs_nV.device)
            if rule.narrows(here.temperature_n > 0, here.top_k_n, here.top_p_n):
                limits = (torch.from_numpy(a).to(log_probs_nV.device) for a in (here.top_k_n.astype(int), here.top_p_n))
                certain_nV = rule.narrowed(certain_nV, sampled_n, *limits)
                token_n, _ = _draw_tokens(certain_nV, replace(here, top_k_n=0 * here.top_k_n, top_p_n=here.top_p_n**0))
                logp_n = log_probs_nV.gather(-1, token_n[:, None]).squeeze(-1)
            else:
                token_n, logp_n = _draw_tokens(log_probs_nV, here)
            confidence_n = rule.confidence(certain_nV, token_n, sampled_n)
        pair_n2 = certain_nV.topk(min(2, certain_nV.shape[-1]), dim=-1).values.exp() if margins else certain_nV[:, :0]
        margin_nX = pair_n2[:, :1] - pair_n2[:, 1:].sum(dim=-1, keepdim=True) if margins else pair_n2
        if alternatives:
            top_logp_nA, top_ids_nA = log_probs_nV.topk(min(alternatives, log_probs_nV.shape[-1]), dim=-1)
        else:
            top_logp_nA, top_ids_nA = log_probs_nV.new_empty(len(token_n), 0), token_n.new_empty(len(token_n), 0)
        parts.append((token_n, logp_n, entropy(certain_nV), top_logp_nA, top_ids_nA, margin_nX, confidence_n))
    return DrawnTokens(*(column[0] if len(column) == 1 else torch.cat(column) for column in zip(*parts, strict=True)))


def _draw_tokens(log_probs_nV: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Token and log-probability at every position, each by its own temperature."""
    sampled_m, device = np.flatnonzero(draws.temperature_n), log_probs_nV.device
    if not len(sampled_m):
        logp_n, token_n = log_probs_nV.max(dim=-1)
        return token_n, logp_n
    of_sampled = (draws.key_n, draws.position_n, draws.forward_n, draws.top_k_n.astype(np.int64), draws.top_p_n)
    key_m, position_m, forward_m, top_k_m, top_p_m = (
        torch.from_numpy(values[sampled_m]).to(device) for values in of_sampled
    )
    return draw(
        log_probs_nV,
        torch.from_numpy(sampled_m).to(device),
        uniform(key_m, position_m, forward_m),
        top_k_m if draws.top_k_n.any() else None,
        top_p_m if (draws.top_p_n < 1).any() else None,
    )


def _divisor(temperature_n: np.ndarray, like: Tensor) -> float | Tensor:
    """What logits are divided by: 1 where greedy; a number when it is the same for all."""
    divisor_n = np.where(temperature_n > 0, temperature_n, 1.0)
    if (divisor_n == divisor_n[0]).all():
        return float(divisor_n[0])
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.from_numpy(divisor_n).to(like.device, dtype)[:, None]


class Selection(NamedTuple):
    """What `select` found."""

    chosen_n: Tensor
    """bool: revealed, of the open positions."""
    decision_B: Tensor | None
    """float64: the log-probability of each row's choice, nats; 0 where the policy's selector has none, and None where
    no policy's has."""


def select(
    drawn: DrawnTokens,
    draws: Draws,
    open_BK: np.ndarray,
    step_B: np.ndarray,
    policies: Sequence[tuple[DecodePolicy, np.ndarray]],
    must_B: np.ndarray | None = None,
    row_B: np.ndarray | None = None,
    planner_BK: Tensor | None = None,
) -> Selection:
    """Which of the open positions each row's policy reveals. policies: with the indices of their rows.

    Where a row may have several lines, must is `Proposals.must_B`, and row the number of each line's row. planner: its
    logits, where a ranking asks for them.
    """
    device = drawn.logp_n.device
    opened_BK, steps_B = torch.from_numpy(open_BK).to(device), torch.from_numpy(step_B).to(device)
    at = tuple(torch.from_numpy(index).to(device) for index in np.nonzero(open_BK))
    confidence_BK, entropy_BK = torch.zeros((2, *open_BK.shape), dtype=drawn.logp_n.dtype, device=device)
    confidence_BK[at], entropy_BK[at] = drawn.confidence_n, drawn.entropy_n
    noise_BK = margin_BK = None
    if drawn.margin_nX.shape[1]:
        margin_BK = torch.zeros_like(confidence_BK)
        margin_BK[at] = drawn.margin_nX[:, 0]
    if any(getattr(p, "uses_noise", False) for policy, _ in policies for p in (policy.ranking, policy.selector)):
        key_n, *keys = (torch.from_numpy(a).to(device) for a in (draws.key_n, draws.position_n, draws.forward_n))
        noise_BK = torch.zeros(open_BK.shape, dtype=torch.float64, device=device)
        noise_BK[at] = uniform(another(key_n), *keys)
    chosen_BK, decision_B = torch.zeros_like(opened_BK), None
    if any(decides(policy) for policy, _ in policies):
        decision_B = torch.zeros(len(open_BK), dtype=torch.float64, device=device)
    for policy, mine in policies:
        rows = slice(None) if len(mine) == len(open_BK) else torch.from_numpy(mine).to(device)
        columns = {"noise_BK": noise_BK, "margin_BK": margin_BK, "planner_BK": planner_BK}
        asked: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        given = OpenPositions(opened_BK[rows], confidence_BK[rows], entropy_BK[rows], **asked)
        score_BK = policy.ranking.score(given).masked_fill(~given.open_BK, float("-inf"))
        must = None if must_B is None else torch.from_numpy(must_B).to(device)[rows]
        if must is not None and row_B is not None and getattr(policy.schedule, "reveals_best", False):
            must = must | leads(score_BK, torch.from_numpy(row_B).to(device)[rows])
        seen = given.open_BK, given.confidence_BK, given.entropy_BK
        proposals = Proposals(*seen, score_BK, steps_B[rows], must, **asked)
        chosen_BK[rows] = policy.selector.select(proposals) & given.open_BK
        if decision_B is not None and decides(policy):
            decision_B[rows] = policy.selector.decision(proposals, chosen_BK[rows]).to(decision_B)  # type: ignore[attr-defined]
    return Selection(chosen_BK[at], decision_B)


def leads(score_BK: Tensor, row_B: Tensor) -> Tensor:
    """(B,) bool: the lines with the best score of their row, the first of equals. row: the number of each line's row.

    >>> leads(torch.tensor([[1.0, 3.0], [3.0, 2.0], [0.0, 0.5]]), torch.tensor([0, 0, 1])).tolist()
    [True, False, True]
    """
    best_B, line_B = score_BK.amax(dim=-1), torch.arange(len(score_BK), device=score_BK.device)
    best_R = best_B.new_full((int(row_B.max()) + 1,), float("-inf")).scatter_reduce(0, row_B, best_B, "amax")
    last = len(line_B)
    leading_B = torch.where(best_B == best_R[row_B], line_B, last)
    first_R = torch.full_like(best_R, last, dtype=torch.int64).scatter_reduce(0, row_B, leading_B, "amin")
    return line_B == first_R[row_B]


def needs_margins(policies: Sequence[DecodePolicy]) -> bool:
    """Whether a ranking among these policies' asks for margins."""
    return any(getattr(policy.ranking, "uses_margin", False) for policy in policies)


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
