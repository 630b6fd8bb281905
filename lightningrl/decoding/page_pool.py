"""The KV cache of a decoder, and what static forwards have set up over it; kept from one stream to the next."""

from __future__ import annotations

from lightningrl.models.attention import PagedKV
from lightningrl.models.static_forward import SegmentForwards, gathered, paged_kernel
from lightningrl.models.transformer import Transformer

FORWARDS = ("spans", "gathered", "segments", "graphs")
"""Kinds of forwards: engine.BlockDecoder says what they are."""


class Pool:
    """At least `pages` pages, for rows of at most `longest`."""

    def __init__(self, model: Transformer, pages: int, longest: int, page_tokens: int, forwards: str):
        config = model.config
        self.pages, self.longest = pages, longest
        spare = spare_pages(forwards)
        self.cache = PagedKV(
            config.num_hidden_layers, pages + spare, page_tokens, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip
        self.forwards = None
        if forwards != "spans":
            kernel = gathered if forwards == "gathered" else paged_kernel()
            self.forwards = SegmentForwards(model, self.cache, longest, kernel, graphs=forwards == "graphs")


def spare_pages(forwards: str) -> int:
    """Pages that no row holds: forwards of static shape write into one what only fills them up."""
    return int(forwards != "spans")
