"""What two models of one shape say on the same states: how far quantisation moves each distribution by itself.

The states are those that the exact model's decoder visited, so that neither model's choices lead it elsewhere; each
model has the keys of its own, of the tokens that were there. Positions are the masked ones of a forward, each by the
logits that predict it. Shapes: N positions of a forward, n masked ones, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.attention import PagedAttention, PagedKV
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.protocol import Calibration, Copied, Forward


class Moved(NamedTuple):
    """Means over masked positions, of the exact model and of the other one, and between them."""

    positions: int
    revealed: int
    """Positions that the exact model reveals: those over the threshold, of each row its surest one at least."""
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
    """Returns what replaying the visited states says; None where no position of theirs is masked."""
    sums, positions, revealed = np.zeros(9), 0, 0
    for (forward, mine), (_, theirs) in zip(_replayed(exact, visited), _replayed(other, visited), strict=True):
        at_n, predicted_by_n, row_n = masked(exact, forward)
        if not len(at_n):
            continue
        p, q = (model.log_probs(hidden[torch.from_numpy(predicted_by_n).to(hidden.device)]).double()
                for model, hidden in ((exact, mine), (other, theirs)))  # fmt: skip
        sure = [each.exp().amax(-1) for each in (p, q)]
        differs = p.argmax(-1) != q.argmax(-1)
        taken = _surest(sure[0], row_n) | (sure[0] > threshold)
        gap = torch.where(p.isfinite(), p.exp() * (p - q), 0.0).sum(-1)
        parts = [*(each > threshold for each in sure), *sure, *map(_entropy, (p, q)), gap, differs & taken, differs]
        sums += [float(part.double().sum()) for part in parts]
        positions, revealed = positions + len(at_n), revealed + int(taken.sum())
    if not positions:
        return None
    means = sums / positions
    return Moved(
        positions, revealed, (means[0], means[1]), (means[2], means[3]), (means[4], means[5]), means[6],
        sums[7] / revealed, means[8],
    )  # fmt: skip


def masked(model: Transformer, forward: Forward) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns [n] the masked positions of a forward, [n] those whose logits predict them, and [n] their rows.

    Where logits are shifted, a position without one before it in its row's forward is left out.
    """
    shape = [span.positions_GQ.shape for span in forward.spans]
    row_N = np.repeat(np.arange(sum(rows for rows, _ in shape)), [q for rows, q in shape for _ in range(rows)])
    at_n = np.flatnonzero(forward.ids_N == model.config.mask_token_id)
    if not model.config.logit_shift:
        return at_n, at_n, row_N[at_n]
    at_n = at_n[(at_n > 0) & (row_N[at_n] == row_N[at_n - 1])]
    return at_n, at_n - 1, row_N[at_n]


def _surest(sure_n: Tensor, row_n: np.ndarray) -> Tensor:
    """Returns [n] bool: the first position of each row with the row's greatest confidence."""
    order = np.lexsort((-sure_n.cpu().numpy(), row_n))
    firsts = order[np.unique(row_n[order], return_index=True)[1]]
    found = torch.zeros(len(row_n), dtype=torch.bool, device=sure_n.device)
    found[torch.from_numpy(firsts).to(found.device)] = True
    return found


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
