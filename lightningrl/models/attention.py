"""Ways of attending: which positions of a forward see which keys. Each class is one `Attend` (models/sdar.py).

`Masked`       a dense boolean mask: parity tests, small things
`CachedBlocks` decoding: queries of many rows against their KV cache
`PackedBlocks` training: one clean copy of each row and noisy copies of single blocks, without a dense mask

Shapes: B rows; N, M query and key/value heads; D head size; T clean positions; C noisy copies a row; K block size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def block_causal_mask(length: int, block_size: int) -> Tensor:
    """(length, length) bool: position q sees k when k's block is not after q's; the grid starts at position 0."""
    block = torch.arange(length) // block_size
    return block[:, None] >= block[None, :]


@dataclass(frozen=True, slots=True)
class Masked:
    """Dense mask (B or 1, 1, Q, Q), True where a query sees a key."""

    mask_B1QQ: Tensor

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q_BNQD, k_BMQD, v_BMQD, attn_mask=self.mask_B1QQ, enable_gqa=True)


class KVCache:
    """Keys and values of `rows` slots. Positions at and past a row's committed length are scratch."""

    def __init__(self, layers: int, rows: int, length: int, kv_heads: int, head_dim: int, like: Tensor):
        shape = (layers, rows, kv_heads, length, head_dim)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class CachedBlocks:
    """Writes this forward's keys and values at their positions, then attends below each query's `limit`.

    rows_B: cache slot of each row; positions_BQ: absolute positions, a padding query points at the cache's last
    column; limit_BQ: a query sees the keys at positions < limit (>= 1).
    """

    def __init__(self, cache: KVCache, rows_B: Tensor, positions_BQ: Tensor, limit_BQ: Tensor):
        self.cache, self.rows_B, self.positions_BQ = cache, rows_B, positions_BQ
        self.span = int(limit_BQ.max())
        self.mask_B1QT = (torch.arange(self.span, device=limit_BQ.device) < limit_BQ[:, :, None]).unsqueeze(1)

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        at = (self.rows_B[:, None], slice(None), self.positions_BQ)
        keys[at], values[at] = k_BMQD.transpose(1, 2), v_BMQD.transpose(1, 2)
        k_BMTD, v_BMTD = keys[self.rows_B, :, : self.span], values[self.rows_B, :, : self.span]
        return F.scaled_dot_product_attention(q_BNQD, k_BMTD, v_BMTD, attn_mask=self.mask_B1QT, enable_gqa=True)


class PackedBlocks:
    """Attention over `[clean | copies]`: (B, T + C*K) positions, the copies after the clean part.

    A clean position sees the clean positions of its own and earlier blocks; a position of a copy of block b sees the
    clean positions of blocks before b and the positions of its own copy. Nothing sees another copy.
    length: T; copy_block_BC: the block each copy stands for (padding copies: any). Clean positions that pad a row are
    seen by no copy of a real block before them.
    """

    def __init__(self, length: int, block_size: int, copy_block_BC: Tensor):
        self.length, self.block_size = length, block_size
        device = copy_block_BC.device
        self.clean_TT = block_causal_mask(length, block_size).to(device)
        block_T = torch.arange(length, device=device) // block_size
        seen_BCT = block_T < copy_block_BC[:, :, None]
        self.hidden_B1QT = ~seen_BCT.repeat_interleave(block_size, dim=1).unsqueeze(1)

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        split, size = self.length, self.block_size
        k_clean, v_clean = k_BMQD[:, :, :split], v_BMQD[:, :, :split]
        clean = F.scaled_dot_product_attention(
            q_BNQD[:, :, :split], k_clean, v_clean, attn_mask=self.clean_TT, enable_gqa=True
        )
        group = q_BNQD.shape[1] // k_BMQD.shape[1]
        k_clean, v_clean = k_clean.repeat_interleave(group, 1), v_clean.repeat_interleave(group, 1)
        rows, heads, _, head_dim = q_BNQD.shape
        by_copy = (rows, heads, -1, size, head_dim)
        q_BNCKD = (q_BNQD[:, :, split:] * head_dim**-0.5).reshape(by_copy)
        k_BNCKD = k_BMQD[:, :, split:].repeat_interleave(group, 1).reshape(by_copy)
        v_BNCKD = v_BMQD[:, :, split:].repeat_interleave(group, 1).reshape(by_copy)
        past_BNQT = (q_BNCKD.flatten(2, 3) @ k_clean.mT).masked_fill(self.hidden_B1QT, float("-inf"))
        own_BNQK = (q_BNCKD @ k_BNCKD.mT).flatten(2, 3)
        weights = torch.cat([past_BNQT, own_BNQK], dim=-1).softmax(dim=-1)
        past, own = weights[..., :split], weights[..., split:]
        copies = past @ v_clean + (own.unflatten(2, (-1, size)) @ v_BNCKD).flatten(2, 3)
        return torch.cat([clean, copies], dim=2)
