"""The trunk for decoding in few kernels: nine a layer, four of them products of matrices.

It is `Transformer.hidden` over the same weights, joined (models/joined_weights.py) and with what lies between the
products fused (models/kernels/). On the CPU the kernels' plain twins run: the same numbers but for the products, which
other shapes may round differently.

Shapes: N positions; H hidden size; A, M query and key heads; D head size; S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedKV
from lightningrl.models.joined_weights import JoinedLinear
from lightningrl.models.kernels.add_norm import add_norm
from lightningrl.models.kernels.norm_rope_write import norm_rope_write
from lightningrl.models.kernels.silu_mul import silu_mul
from lightningrl.models.transformer import Transformer

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention: queries (N, A, D), and a layer's keys and values (S, M, D), these positions' among them -> (N, A, D)."""


class FusedTrunk:
    """The layers of a model with joined weights. Raises DecodeError for sharded ones, and where keys are rounded."""

    def __init__(self, model: Transformer):
        self.model = model
        self._layers: list[Any] = list(model.model.layers)
        if any(layer.self_attn.rounding is not None for layer in self._layers):
            raise DecodeError(
                "the model's keys and values are quantised, which the fused kernels do not do: decode with "
                "forwards='spans'"
            )
        self._joined = [
            (
                JoinedLinear([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                JoinedLinear([layer.mlp.gate_proj, layer.mlp.up_proj]),
            )
            for layer in self._layers
        ]

    @property
    def is_current(self) -> bool:
        """Whether the model still has the weights that were joined: else a new trunk is due."""
        return all(qkv.is_current and both.is_current for qkv, both in self._joined)

    def hidden(self, ids_N: Tensor, position_N: Tensor, slot_N: Tensor, cache: PagedKV, mix: Mix) -> Tensor:
        """Final hidden states (N, H); keys and values are in the cache's slots before a layer attends to them."""
        trunk, eps = self.model.model, self.model.config.rms_norm_eps
        x_NH = F.embedding(ids_N, trunk.embed_tokens.weight)
        cos_TD, sin_TD = self.model.rotations(x_NH.dtype, x_NH.device)
        layers = self._layers
        after = [*(layer.input_layernorm.weight for layer in layers[1:]), trunk.norm.weight]
        y_NH = layers[0].input_layernorm(x_NH)
        for index, (layer, (qkv, both), next_H) in enumerate(zip(layers, self._joined, after, strict=True)):
            mine, keys_SMD, values_SMD = layer.self_attn, cache.keys[index], cache.values[index]
            norms = [getattr(norm, "weight", None) for norm in (mine.q_norm, mine.k_norm)]
            q_NAD = norm_rope_write(
                qkv(y_NH), *norms, eps, cos_TD, sin_TD, position_N, slot_N, keys_SMD, values_SMD
            )  # fmt: skip
            mixed_NH = mine.o_proj(mix(q_NAD, keys_SMD, values_SMD).flatten(1))
            x_NH, y_NH = add_norm(x_NH, mixed_NH, layer.post_attention_layernorm.weight, eps)
            x_NH, y_NH = add_norm(x_NH, layer.mlp.down_proj(silu_mul(both(y_NH))), next_H, eps)
        return y_NH
