"""What two models of one shape say on the same states: how far quantisation moves each distribution by itself.

The states are those that the exact model's decoder visited, so that neither model's choices lead it elsewhere; each
model has the keys of its own, of the tokens that were there. Positions are those that the decoder might reveal after a
forward, each by the state that predicts it; where that state is of an earlier forward the position is left out. The
distributions are the models' own, without guidance. Shapes: N positions of a forward, n of them that may be revealed,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.attention import PagedAttention, PagedKV
from lightningrl.models.head import CHUNK_LOGITS
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.protocol import Calibration, Copied, Forward


class Moved(NamedTuple):
    """Means over positions that may be revealed, of the exact model and of the other one, and between them."""

    positions: int
    revealed: int
    """Positions that the exact model's decoder reveals."""
    over_threshold: tuple[float, float]
    """The share whose likeliest token is likelier than the threshold."""
    confidence: tuple[float, float]
    """The probability of the likeliest token."""
    entropy: tuple[float, float]
    """Nats."""
    kl: float
    """KL(exact || other), nats."""
    flips: float
    """The share of the positions revealed whose likeliest token is another."""
    flips_all: float
    """The share of all positions whose likeliest token is another."""


@torch.no_grad()
def moved(exact: Transformer, other: Transformer, visited: Calibration, threshold: float) -> Moved | None:
    """Returns what replaying the visited states says; None where nothing of theirs may be revealed.

    Full distributions, in float64, are of `models.head.CHUNK_LOGITS` logits at a time.
    """
    sums, positions, revealed = np.zeros(9), 0, 0
    size = max(1, CHUNK_LOGITS // exact.config.vocab_size)
    for (forward, mine), (_, theirs) in zip(_replayed(exact, visited), _replayed(other, visited), strict=True):
        if forward.opened is None:
            continue
        at_n, revealed_n = (torch.from_numpy(each).to(mine.device) for each in forward.opened)
        for at_c, taken_c in zip(at_n.split(size), revealed_n.split(size), strict=True):
            sums += _sums(exact, other, mine[at_c], theirs[at_c], taken_c, threshold)
        positions, revealed = positions + len(at_n), revealed + int(revealed_n.sum())
    if not positions:
        return None
    means = sums / positions
    return Moved(
        positions, revealed, (means[0], means[1]), (means[2], means[3]), (means[4], means[5]), means[6],
        sums[7] / max(1, revealed), means[8],
    )  # fmt: skip


def _sums(
    exact: Transformer, other: Transformer, mine_cH: Tensor, theirs_cH: Tensor, taken_c: Tensor, threshold: float
) -> np.ndarray:  # fmt: skip
    """Returns [9] the sums over some positions, in the order of `moved`'s means."""
    p, q = (model.log_probs(hidden).double() for model, hidden in ((exact, mine_cH), (other, theirs_cH)))
    sure = [each.amax(-1).exp() for each in (p, q)]
    differs = p.argmax(-1) != q.argmax(-1)
    gap = torch.where(p.isfinite(), p.exp() * (p - q), 0.0).sum(-1)
    parts = [*(each > threshold for each in sure), *sure, *map(_entropy, (p, q)), gap, differs & taken_c, differs]
    return np.array([float(part.double().sum()) for part in parts])


def _entropy(logp_nV: Tensor) -> Tensor:
    return -torch.where(logp_nV.isfinite(), logp_nV.exp() * logp_nV, 0.0).sum(-1)


def _replayed(model: Transformer, visited: Calibration) -> Iterator[tuple[Forward, Tensor]]:
    """Yields each forward with the final hidden states (N, H) that the model has in it."""
    config = model.config
    cache = PagedKV(
        config.num_hidden_layers, visited.pages, visited.page_tokens, config.num_key_value_heads, config.head_dim,
        model.lm_head.weight,
    )  # fmt: skip
    for event in visited.forwards:
        if isinstance(event, Copied):
            cache.copy(event.sources_N, event.targets_N)
            continue
        ids, positions = (torch.from_numpy(each).to(model.device)[None] for each in (event.ids_N, event.positions_N))
        yield event, model.hidden(ids, positions, PagedAttention(cache, event.spans))[0]
