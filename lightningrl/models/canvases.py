"""Whole canvases one behind another in one forward, for models in which every position sees its whole canvas.

A state of such a model is all of a prompt and its response, masks included, so it has no clean part that states could
share, as packed blocks do (models/packed_layout.py). Neighbours of one length are computed as one batch; nothing is
padded and nothing masked.

Shapes: C canvases of L positions each; Q positions of the forward; N, M query and key/value heads; D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CanvasLayout:
    """Where the canvases of a forward lie.

    >>> CanvasLayout((5, 5, 7)).runs
    [(0, 2, 5), (10, 1, 7)]
    """

    lengths: tuple[int, ...]
    """Of each canvas, in order."""

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """(start, canvases, L) of neighbours of one length."""
        found, start = [], 0
        for length, members in groupby(self.lengths):
            found.append((start, count := len(list(members)), length))
            start += count * length
        return found


class CanvasAttention:
    """An `Attend` (models/transformer.py): every position sees every position of its own canvas, and no other."""

    def __init__(self, layout: CanvasLayout):
        self.runs = layout.runs

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        is_grouped = q_BNQD.shape[1] != k_BMQD.shape[1]
        mixed = []
        for start, count, length in self.runs:
            q, k, v = (
                each[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)
                for each in (q_BNQD, k_BMQD, v_BMQD)
            )
            mixed_CNLD = F.scaled_dot_product_attention(q, k, v, enable_gqa=is_grouped)
            mixed.append(mixed_CNLD.transpose(0, 1).flatten(1, 2))
        return torch.cat(mixed, dim=1)[None]


Plan = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`Transformer.plan`."""


def planned(plan: Plan, hidden_QH: Tensor, layout: CanvasLayout, timestep_C: Tensor, open_Q: Tensor) -> Tensor:
    """(Q,) the planner's logits at every position of the canvases; differentiable. timestep: of each canvas; open:
    bool."""
    found, first = [], 0
    for start, count, length in layout.runs:
        here = slice(start, start + count * length)
        hidden_CLH, open_CL = hidden_QH[here].unflatten(0, (count, length)), open_Q[here].view(count, length)
        found.append(plan(hidden_CLH, timestep_C[first : first + count], open_CL).flatten())
        first += count
    return torch.cat(found)
