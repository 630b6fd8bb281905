"""Exact attention over a packed row (models/packed_layout.py), tile by tile, in bounded memory.

A tile is some queries of one segment with the keys they see: all copies of one block share one prefix of clean keys,
and blocks next to each other share a tile as long as little is computed that is hidden. Short segments are padded to
one shape and share a tile of their clean positions and one of their copies. Scores are not kept for the backward pass
but computed again, so that neither pass ever holds more than one tile's. This is plain matrix products: made for the
CPU, where the other way (models/packed_flex.py) has no backward pass; it runs on any device.

Shapes: N, M query and key/value heads; G = N / M query heads that share a key head; D head size; Q positions of the
row, P with its pads; U = P * G queries by key head, those of one position side by side; B segments of a tile; R
queries of each in it; T clean keys of each; C copies of each; K block size.
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
SHORT_TOKENS = 128
"""Clean positions of a segment that is padded to its neighbours' shape, at most: about half of the scores of its clean
queries are hidden."""


class PackedBlocks:
    """An `Attend` (models/transformer.py) for one forward of a packed row: q (1, N, Q, D), k and v (1, M, Q, D)."""

    def __init__(
        self,
        layout: PackedLayout,
        span_tokens: int = SPAN_TOKENS,
        most_scores: int = MOST_SCORES,
        short_tokens: int = SHORT_TOKENS,
    ):
        self.layout, self.span_tokens, self.most_scores = layout, span_tokens, most_scores
        self.short_tokens = short_tokens
        self._cut: _Cut | None = None

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        if self._cut is None:  # the same for all layers
            self._cut = self._cut_for(q_BNQD[0].detach(), k_BMQD.shape[1])
        mixed = _TiledAttention.apply(q_BNQD[0], k_BMQD[0], v_BMQD[0], self._cut)
        assert isinstance(mixed, Tensor)
        return mixed.unsqueeze(0)

    def _cut_for(self, q_NQD: Tensor, kv_heads: int) -> _Cut:
        most_pairs = self.most_scores // len(q_NQD)
        runs = self.layout.runs(self.short_tokens, most_pairs)
        tiles = self.layout.tiles(self.span_tokens, most_pairs, runs)
        pieces = [piece for tile in tiles for piece in self._pieces(tile, q_NQD, kv_heads)]
        padding = self.layout.padding(runs) or (None, None)
        return _Cut(pieces, *(None if at is None else torch.from_numpy(at).to(q_NQD.device) for at in padding))

    def _pieces(self, tile: Tile, q_NQD: Tensor, kv_heads: int) -> Iterator[_Piece]:
        size, heads = self.layout.block_size, len(q_NQD)
        group, bias = heads // kv_heads, None
        if tile.seen_by_all < tile.keys:
            # One line per position, or a copy: all of a copy's positions see the same past.
            limit = torch.from_numpy(tile.limit[:, :: size if tile.copies else 1]).to(q_NQD.device)
            hidden = torch.arange(tile.seen_by_all, tile.keys, device=limit.device) >= limit[:, :, None, None]
            bias = q_NQD.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        one_head = group * tile.limit.size * (tile.keys + size * tile.copies)
        together = max(1, min(kv_heads, self.most_scores // one_head))
        for head in range(0, kv_heads, together):
            yield _Piece(tile, slice(head, head + together), bias, group, size)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What a row is cut into, and its padded form: `PackedLayout.padding`."""

    pieces: list[_Piece]
    at_P: Tensor | None
    back_Q: Tensor | None

    def padded(self, x_XQD: Tensor) -> Tensor:
        """(X, P, D), pads 0; not a copy where nothing is padded."""
        if self.at_P is None:
            return x_XQD
        with_pad = torch.cat([x_XQD, x_XQD.new_zeros(len(x_XQD), 1, x_XQD.shape[-1])], dim=1)
        return with_pad.index_select(1, self.at_P)

    def unpadded(self, x_XPD: Tensor) -> Tensor:
        return x_XPD if self.back_Q is None else x_XPD.index_select(1, self.back_Q)

    def by_key_head(self, x_NQD: Tensor, kv_heads: int) -> Tensor:
        """(M, U, D), a copy: the query heads of one key head stand side by side, so that its keys are read once."""
        heads, length, size = x_NQD.shape
        x_MQX = x_NQD.new_empty(kv_heads, length, heads // kv_heads * size)
        x_MQX.view(kv_heads, length, -1, size).copy_(x_NQD.unflatten(0, (kv_heads, -1)).transpose(1, 2))
        return self.padded(x_MQX).view(kv_heads, -1, size)

    def by_head(self, x_MUD: Tensor, heads: int) -> Tensor:
        """The way back: (N, Q, D), in memory by position, as the linear layers want it."""
        kv_heads, _, size = x_MUD.shape
        x_MQX = self.unpadded(x_MUD.view(kv_heads, -1, heads // kv_heads * size))
        return x_MQX.transpose(0, 1).reshape(x_MQX.shape[1], heads, size).transpose(0, 1)


class _TiledAttention(torch.autograd.Function):
    """softmax(q k / sqrt(D)) v over the pieces; saves q, k and v only."""

    @staticmethod
    def forward(ctx: Any, q_NQD: Tensor, k_MQD: Tensor, v_MQD: Tensor, cut: _Cut) -> Tensor:
        q_MUD = cut.by_key_head(q_NQD, len(k_MQD)).mul_(q_NQD.shape[-1] ** -0.5)
        k_MPD, v_MPD = cut.padded(k_MQD), cut.padded(v_MQD)
        ctx.save_for_backward(q_MUD, k_MPD, v_MPD)
        ctx.cut = cut
        mixed_MUD = torch.empty_like(q_MUD)
        for piece in cut.pieces:
            weights = piece.weights(piece.queries(q_MUD), k_MPD)
            piece.queries(mixed_MUD).copy_(piece.mix(weights, v_MPD))
        return cut.by_head(mixed_MUD, len(q_NQD))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_MUD, k_MPD, v_MPD = ctx.saved_tensors
        [grad_NQD], cut = gradients, ctx.cut
        grad_MUD = cut.by_key_head(grad_NQD, len(k_MPD))
        dq_MUD, dk_MPD, dv_MPD = torch.empty_like(q_MUD), torch.zeros_like(k_MPD), torch.zeros_like(v_MPD)
        for piece in cut.pieces:
            q, grad = piece.queries(q_MUD), piece.queries(grad_MUD)
            weights = piece.weights(q, k_MPD)
            piece.add_to_keys(dv_MPD, weights, grad)
            # Hidden keys have weight 0, so that whatever stands in their place here falls away.
            dweights = piece.products(grad, v_MPD)
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            piece.add_to_keys(dk_MPD, dscores, q)
            piece.queries(dq_MUD).copy_(piece.mix(dscores, k_MPD))
        dq_MUD.mul_(q_MUD.shape[-1] ** -0.5)
        return cut.by_head(dq_MUD, len(grad_NQD)), cut.unpadded(dk_MPD), cut.unpadded(dv_MPD), None


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A tile for some key heads: products of its queries with the clean prefix, and with their own copies."""

    tile: Tile
    head: slice
    """Key heads."""
    bias: Tensor | None
    """(B, positions or copies, 1, keys not seen by all): -inf where hidden, else 0."""
    group: int
    size: int

    def queries(self, x_MUD: Tensor) -> Tensor:
        """(M, B, R, D) view."""
        return self._view(x_MUD, self.tile.start, self.tile.stop, self.group)

    def past(self, x_MPD: Tensor) -> Tensor:
        """(M, B, T, D) view: the clean keys."""
        return self._view(x_MPD, self.tile.key_start, self.tile.key_start + self.tile.keys)

    def own(self, x_MPD: Tensor) -> Tensor:
        """(M, B, C, K, D) view: the copies themselves as keys."""
        return self._view(x_MPD, self.tile.start, self.tile.stop).unflatten(2, (-1, self.size))

    def _view(self, x: Tensor, start: int, stop: int, each: int = 1) -> Tensor:
        rows = len(self.tile.limit)
        if rows == 1:
            return x[self.head, start * each : stop * each].unsqueeze(1)
        lines = x[self.head, self.tile.key_start * each : (self.tile.key_start + rows * self.tile.stride) * each]
        offset = start - self.tile.key_start
        return lines.unflatten(1, (rows, -1))[:, :, offset * each : (offset + stop - start) * each]

    def weights(self, q_MBRD: Tensor, k_MPD: Tensor) -> Tensor:
        """(M, B, R, T) softmax over the clean keys; of copies (M, B, R, T + K), their own behind."""
        scores = self.products(q_MBRD, k_MPD)
        if self.bias is not None:
            by_line = scores.unflatten(2, (self.bias.shape[1], -1))
            by_line[..., self.tile.seen_by_all : self.tile.keys].add_(self.bias)
        return scores.softmax(dim=-1)

    def products(self, rows_MBRD: Tensor, table_MPD: Tensor) -> Tensor:
        """Each query's row times the table's rows at its keys."""
        past = rows_MBRD @ self.past(table_MPD).mT
        if not self.tile.copies:
            return past
        own_MBCKD = self.own(table_MPD)
        own = rows_MBRD.unflatten(2, (own_MBCKD.shape[2], -1)) @ own_MBCKD.mT
        return torch.cat([past, own.flatten(2, 3)], dim=-1)

    def mix(self, weights: Tensor, table_MPD: Tensor) -> Tensor:
        """(M, B, R, D) weighted sums of the table's rows at each query's keys."""
        past_MBRD = weights[..., : self.tile.keys] @ self.past(table_MPD)
        if not self.tile.copies:
            return past_MBRD
        own_MBCKD = self.own(table_MPD)
        own = weights[..., self.tile.keys :].unflatten(2, (own_MBCKD.shape[2], -1)) @ own_MBCKD
        return past_MBRD.add_(own.flatten(2, 3))

    def add_to_keys(self, table_MPD: Tensor, weights: Tensor, rows_MBRD: Tensor) -> None:
        """The transpose of `mix`: add the queries' rows, weighted, to the table's rows at their keys."""
        self.past(table_MPD).add_(weights[..., : self.tile.keys].mT @ rows_MBRD)
        if self.tile.copies:
            own_MBCKD = self.own(table_MPD)
            by_copy = (own_MBCKD.shape[2], -1)
            # No other piece's queries see these keys.
            own = weights[..., self.tile.keys :].unflatten(2, by_copy).mT @ rows_MBRD.unflatten(2, by_copy)
            own_MBCKD.copy_(own)
