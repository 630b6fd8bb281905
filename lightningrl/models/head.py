"""The head at scored positions, a few at a time: log-probabilities of given tokens without an (n, V) table.

Each chunk's logits are computed, reduced to two numbers a position, dropped, and computed again in the backward pass
(activation checkpointing), so that the memory of a loss does not grow with n times V.

Shapes: n scored positions; c of a chunk; H hidden size; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightningrl.models.transformer import Transformer

CHUNK_LOGITS = 1 << 24
"""Logits computed together, positions times V (64 MB in float32); at least one position is. Not less on the CPU: glibc
gives blocks below 32 MB back late, and a loss in chunks of that size was measured to peak at 40 of them."""


def token_log_probs(
    model: Transformer, hidden_nH: Tensor, target_n: Tensor, temperature: float = 1.0, chunk_logits: int = CHUNK_LOGITS
) -> tuple[Tensor, Tensor]:
    """(n,) log-probability of each target, differentiable; (n,) entropy of its distribution, detached; nats.

    Both are by `Transformer.log_probs`, which the decoder draws by: float32 at least, the mask token and padding rows
    banned.
    """

    def reduce(hidden_cH: Tensor, target_c: Tensor) -> tuple[Tensor, ...]:
        log_probs_cV = model.log_probs(hidden_cH, temperature)
        logp_c = log_probs_cV.gather(-1, target_c[:, None]).squeeze(-1).clone()  # FSDP2 wants no views
        return logp_c, entropy(log_probs_cV)

    logp_n, entropy_n = in_chunks(reduce, model.config.vocab_size, (hidden_nH, target_n), chunk_logits)
    return logp_n, entropy_n


def in_chunks(
    reduce: Callable[..., tuple[Tensor, ...]], vocab: int, inputs: tuple[Tensor, ...], chunk_logits: int = CHUNK_LOGITS
) -> tuple[Tensor, ...]:
    """Returns what `reduce` makes of the inputs, whose first dimension is n: (n,) tensors, computed for a few positions
    at a time and again in the backward pass. vocab: how many logits a position has."""
    size = max(1, chunk_logits // vocab)
    if len(inputs[0]) <= size:
        return reduce(*inputs)
    chunks = zip(*(each.split(size) for each in inputs), strict=True)
    found = [checkpoint(reduce, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@torch.no_grad()
def entropy(log_probs_nV: Tensor) -> Tensor:
    """(n,) nats. Where a probability is 0 its logarithm is not finite, and 0 times that would be NaN: it is clamped."""
    return -(log_probs_nV.exp().mul_(log_probs_nV.clamp(min=-1e4))).sum(dim=-1)
