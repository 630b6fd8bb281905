"""Queries, keys and values on grids: what attention multiplies, and what the KV cache keeps.

They are rounded behind RoPE, before they are used or kept, each head's numbers of a token over their own range (or all
heads' over one), so that any way of attending and any cache has the same numbers. Scores and the softmax stay as they
are. Where keys are rotated (QuaRot, DuQuant), queries are too, which leaves their products what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Attention, Transformer
from lightningrl.quantization.hadamard import base_order
from lightningrl.quantization.inputs import Hadamard, TokenGrid
from lightningrl.quantization.values import UNROUNDED


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGrids:
    """How many bits each has, 16: as it is."""

    query_bits: int = UNROUNDED
    key_bits: int = UNROUNDED
    value_bits: int = UNROUNDED
    symmetric: bool = True
    clip: float = 1.0
    rotated: bool = False
    """Queries and keys are rotated head by head first."""
    whole_tokens: bool = False
    """All heads of a token have one range, not each its own."""


class RoundAttended(nn.Module):
    """Rounds a layer's queries (B, N, Q, D), keys and values (B, M, Q, D)."""

    def __init__(self, grids: AttentionGrids):
        super().__init__()
        self.grids = grids
        bits = (grids.query_bits, grids.key_bits, grids.value_bits)
        self.steps = nn.ModuleList(
            nn.Identity() if each == UNROUNDED else TokenGrid(each, grids.symmetric, grids.clip) for each in bits
        )
        self.rotate = Hadamard() if grids.rotated else nn.Identity()

    def forward(self, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.rotate(q_BNQD), self.rotate(k_BMQD), v_BMQD
        query, key, value = (self._rounded(step, part) for step, part in zip(self.steps, parts, strict=True))
        return query, key, value

    def _rounded(self, step: nn.Module, x_BNQD: Tensor) -> Tensor:
        if not self.grids.whole_tokens:
            return step(x_BNQD)
        by_token = x_BNQD.transpose(1, 2)
        return step(by_token.flatten(2)).view_as(by_token).transpose(1, 2)


def round_attention(model: Transformer, settings: Mapping[str, Any] | AttentionGrids | None) -> None:
    """Lets every layer round what it attends with; None, or 16 bits of all: as it is.

    Raises TypeError for other keys than those of `AttentionGrids`, ConfigError for heads that cannot be rotated.
    """
    if settings is None:
        return
    grids = settings if isinstance(settings, AttentionGrids) else AttentionGrids(**settings)
    if {grids.query_bits, grids.key_bits, grids.value_bits} == {UNROUNDED}:
        return  # rotations alone change nothing
    if grids.rotated and base_order(model.config.head_dim) > 1:
        raise ConfigError(f"heads of {model.config.head_dim} numbers cannot be rotated: expected a power of 2")
    for layer in model.model.layers:
        attention = layer.self_attn
        assert isinstance(attention, Attention)
        attention.rounding = RoundAttended(grids)


def attention_settings(model: Transformer) -> dict[str, Any] | None:
    """Returns what `round_attention` was given; None where nothing is rounded."""
    attention = model.model.layers[0].self_attn
    rounding = attention.rounding if isinstance(attention, Attention) else None
    return asdict(rounding.grids) if isinstance(rounding, RoundAttended) else None
