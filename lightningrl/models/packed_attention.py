"""Exact attention over a packed row (models/packed_layout.py), tile by tile, in bounded memory.

A tile is some queries of one segment with the keys they see: all copies of one block share one prefix of clean keys,
and blocks next to each other share a tile as long as little is computed that is hidden. Scores are not kept for the
backward pass but computed again, so that neither pass ever holds more than one tile's. This is plain matrix products:
made for the CPU, where the other way (models/packed_flex.py) has no backward pass; it runs on any device.

Shapes: N, M query and key/value heads; G = N / M query heads that share a key head; D head size; Q positions of the
row; U = Q * G queries by key head, those of one position side by side; R of them in a tile; T clean keys of a tile;
C copies of a tile; K block size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightningrl.models.packed_layout import PackedLayout, Tile

SPAN_TOKENS = 64
"""Keys that a tile computes in vain for a query, at most: a few large products instead of many small ones."""
MOST_SCORES = 1 << 19
"""Scores of a tile, all heads together (2 MB in float32, which a core's cache holds); one key head of one copy is never
divided."""


class PackedBlocks:
    """An `Attend` (models/sdar.py) for one forward of a packed row: q (1, N, Q, D), k and v (1, M, Q, D)."""

    def __init__(self, layout: PackedLayout, span_tokens: int = SPAN_TOKENS, most_scores: int = MOST_SCORES):
        self.layout, self.span_tokens, self.most_scores = layout, span_tokens, most_scores
        self._pieces: list[_Piece] = []

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        if not self._pieces:  # the same for all layers
            self._pieces = list(self._cut(q_BNQD[0].detach(), k_BMQD.shape[1]))
        mixed = _TiledAttention.apply(q_BNQD[0], k_BMQD[0], v_BMQD[0], self._pieces)
        assert isinstance(mixed, Tensor)
        return mixed.unsqueeze(0)

    def _cut(self, q_NQD: Tensor, kv_heads: int) -> Iterator[_Piece]:
        size, heads = self.layout.block_size, len(q_NQD)
        group = heads // kv_heads
        for tile in self.layout.tiles(self.span_tokens, self.most_scores // heads):
            bias = None
            if tile.seen_by_all < tile.keys:
                # One line a position, or a copy: all of a copy's positions see the same past.
                limit = torch.from_numpy(tile.limit[:: size if tile.copies else 1]).to(q_NQD.device)
                hidden = torch.arange(tile.seen_by_all, tile.keys, device=limit.device) >= limit[:, None, None]
                bias = q_NQD.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
            one_head = group * len(tile.limit) * (tile.keys + size * tile.copies)
            together = max(1, min(kv_heads, self.most_scores // one_head))
            for head in range(0, kv_heads, together):
                yield _Piece.of(tile, slice(head, head + together), bias, group, size)


class _TiledAttention(torch.autograd.Function):
    """softmax(q k / sqrt(D)) v over the pieces; saves q, k and v only."""

    @staticmethod
    def forward(ctx: Any, q_NQD: Tensor, k_MQD: Tensor, v_MQD: Tensor, pieces: list[_Piece]) -> Tensor:
        q_MUD = _by_key_head(q_NQD, len(k_MQD)).mul_(q_NQD.shape[-1] ** -0.5)
        ctx.save_for_backward(q_MUD, k_MQD, v_MQD)
        ctx.pieces = pieces
        mixed_MUD = torch.empty_like(q_MUD)
        for piece in pieces:
            weights_MRT = piece.weights(q_MUD[piece.queries], k_MQD)
            mixed_MUD[piece.queries] = piece.mix(weights_MRT, v_MQD)
        return _by_head(mixed_MUD, len(q_NQD))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_MUD, k_MQD, v_MQD = ctx.saved_tensors
        [grad_NQD] = gradients
        grad_MUD = _by_key_head(grad_NQD, len(k_MQD))
        dq_MUD, dk_MQD, dv_MQD = torch.empty_like(q_MUD), torch.zeros_like(k_MQD), torch.zeros_like(v_MQD)
        for piece in ctx.pieces:
            q_MRD, grad_MRD = q_MUD[piece.queries], grad_MUD[piece.queries]
            weights_MRT = piece.weights(q_MRD, k_MQD)
            piece.add_to_keys(dv_MQD, weights_MRT, grad_MRD)
            # Hidden keys have weight 0, so that whatever stands in their place here falls away.
            dweights_MRT = piece.products(grad_MRD, v_MQD)
            dscores_MRT = torch.ops.aten._softmax_backward_data(dweights_MRT, weights_MRT, -1, weights_MRT.dtype)
            piece.add_to_keys(dk_MQD, dscores_MRT, q_MRD)
            dq_MUD[piece.queries] = piece.mix(dscores_MRT, k_MQD)
        dq_MUD.mul_(q_MUD.shape[-1] ** -0.5)
        return _by_head(dq_MUD, len(grad_NQD)), dk_MQD, dv_MQD, None


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A tile for some key heads: products of its queries with the clean prefix, and with their own copies."""

    queries: tuple[slice, slice]
    """Key heads, and which of U."""
    prefix: tuple[slice, slice]
    """Key heads, and which of Q."""
    own: tuple[slice, slice] | None
    """Of copies: the same for their own positions."""
    keys: int
    """T."""
    seen_by_all: int
    bias: Tensor | None
    """(positions or copies, 1, keys not seen by all): -inf where hidden, else 0."""
    size: int

    @staticmethod
    def of(tile: Tile, head: slice, bias: Tensor | None, group: int, size: int) -> _Piece:
        queries = head, slice(tile.start * group, tile.stop * group)
        prefix = head, slice(tile.key_start, tile.key_start + tile.keys)
        own = (head, slice(tile.start, tile.stop)) if tile.copies else None
        return _Piece(queries, prefix, own, tile.keys, tile.seen_by_all, bias, size)

    def weights(self, q_MRD: Tensor, k_MQD: Tensor) -> Tensor:
        """(M, R, T) softmax over the clean keys; of copies (M, R, T + K), their own behind."""
        scores = self.products(q_MRD, k_MQD)
        if self.bias is not None:
            by_line = scores.unflatten(1, (len(self.bias), -1))
            by_line[..., self.seen_by_all : self.keys].add_(self.bias)
        return scores.softmax(dim=-1)

    def products(self, rows_MRD: Tensor, table_MQD: Tensor) -> Tensor:
        """Each query's row times the table's rows at its keys."""
        past = rows_MRD @ table_MQD[self.prefix].mT
        if self.own is None:
            return past
        own_MCKD = table_MQD[self.own].unflatten(1, (-1, self.size))
        own = rows_MRD.unflatten(1, (own_MCKD.shape[1], -1)) @ own_MCKD.mT
        return torch.cat([past, own.flatten(1, 2)], dim=-1)

    def mix(self, weights: Tensor, table_MQD: Tensor) -> Tensor:
        """(M, R, D) weighted sums of the table's rows at each query's keys."""
        if self.own is None:
            return weights @ table_MQD[self.prefix]
        past_MRD = weights[..., : self.keys] @ table_MQD[self.prefix]
        own_MCKD = table_MQD[self.own].unflatten(1, (-1, self.size))
        own = weights[..., self.keys :].unflatten(1, (own_MCKD.shape[1], -1)) @ own_MCKD
        return past_MRD.add_(own.flatten(1, 2))

    def add_to_keys(self, table_MQD: Tensor, weights: Tensor, rows_MRD: Tensor) -> None:
        """The transpose of `mix`: add the queries' rows, weighted, to the table's rows at their keys."""
        table_MQD[self.prefix].add_(weights[..., : self.keys].mT @ rows_MRD)
        if self.own is not None:
            own_MCKD = table_MQD[self.own].unflatten(1, (-1, self.size))
            by_copy = (own_MCKD.shape[1], -1)
            # No other piece's queries see these keys.
            own_MCKD.copy_(weights[..., self.keys :].unflatten(1, by_copy).mT @ rows_MRD.unflatten(1, by_copy))


def _by_key_head(x_NQD: Tensor, kv_heads: int) -> Tensor:
    """(M, U, D), a copy: the query heads of one key head stand behind each other, so that its keys are read once."""
    heads, length, size = x_NQD.shape
    x_MUD = x_NQD.new_empty(kv_heads, length * heads // kv_heads, size)
    x_MUD.view(kv_heads, length, -1, size).copy_(x_NQD.unflatten(0, (kv_heads, -1)).transpose(1, 2))
    return x_MUD


def _by_head(x_MUD: Tensor, heads: int) -> Tensor:
    """The way back: (N, Q, D), in memory by position, as the linear layers want it."""
    kv_heads, _, size = x_MUD.shape
    x_MQGD = x_MUD.unflatten(1, (-1, heads // kv_heads))
    return x_MQGD.transpose(0, 1).reshape(x_MQGD.shape[1], heads, size).transpose(0, 1)
