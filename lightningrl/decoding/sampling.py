"""Token, confidence and log-probability at masked positions. Greedy is a branch of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(log_probs_nV: Tensor, temperature: float, uniform_n: Tensor | None) -> tuple[Tensor, Tensor]:
    """The drawn token and its log-probability (nats) at n positions.

    log_probs are log softmax(logits / T) (T = 1 when greedy) with banned tokens at -inf; the exponential of the
    returned log-probability is the confidence, before any top-k or top-p. uniform_n, in [0, 1), is not read when
    greedy: argmax then. Sampling inverts the cumulative distribution in float64.
    """
    if temperature == 0.0:
        logp_n, token_n = log_probs_nV.max(dim=-1)
        return token_n, logp_n
    assert uniform_n is not None, "sampling needs one uniform a position"
    cumulative_nV = log_probs_nV.double().exp().cumsum(dim=-1)
    target_n1 = (uniform_n * cumulative_nV[:, -1]).unsqueeze(-1)
    # right=True: the first token whose cumulative exceeds the target, so one of probability 0 is never chosen.
    token_n1 = torch.searchsorted(cumulative_nV, target_n1, right=True)
    # A target that rounds up to the total would fall off the end: the last token with mass takes it.
    last_n1 = (cumulative_nV < cumulative_nV[:, -1:]).sum(dim=-1, keepdim=True)
    token_n1 = token_n1.minimum(last_n1)
    return token_n1.squeeze(-1), log_probs_nV.gather(-1, token_n1).squeeze(-1)
