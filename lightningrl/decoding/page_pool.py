"""What forwards run on: the pages of the KV cache, and the set-up of static ones; kept from one stream to the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan
from lightningrl.models.static_forward import SegmentForwards, gathered, paged_kernel
from lightningrl.models.transformer import Transformer

FORWARDS = ("spans", "gathered", "segments", "graphs")
"""Kinds of forwards: engine.BlockDecoder says what they are."""


class Pool:
    """At least `pages` pages, for rows of at most `longest`."""

    def __init__(self, model: Transformer, pages: int, longest: int, page_tokens: int, forwards: str):
        config, self.model, self.pages, self.longest = model.config, model, pages, longest
        self.cache = PagedKV(
            config.num_hidden_layers, pages + spare_pages(forwards), page_tokens, config.num_key_value_heads,
            config.head_dim, model.lm_head.weight,
        )  # fmt: skip
        self.static = None
        if forwards != "spans":
            kernel = gathered if forwards == "gathered" else paged_kernel()
            self.static = SegmentForwards(model, self.cache, longest, kernel, graphs=forwards == "graphs")

    def hidden(self, spans: Sequence[PagedSpan], ids_N: np.ndarray) -> Tensor:
        """(N, H) hidden states at the spans' positions, one span after another, from the tokens there."""
        if self.static is not None:
            return self.static.hidden(spans, ids_N)
        device = self.cache.keys.device
        positions_N = torch.from_numpy(np.concatenate([span.positions_GQ.ravel() for span in spans])).to(device)
        attend = PagedAttention(self.cache, spans)
        return self.model.hidden(torch.from_numpy(ids_N).to(device)[None], positions_N[None], attend)[0]


def spare_pages(forwards: str) -> int:
    """Pages that no row holds: forwards of static shape write into one what only fills them up."""
    return int(forwards != "spans")
