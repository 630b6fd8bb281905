"""QuaRot (Ashkboos et al., arXiv 2404.00456): Hadamard rotations spread outliers over all channels.

The weights of norms are fused into the linear layers behind them. Then the hidden states are rotated by Q = diag(+-1) H
(random signs), folded into embedding, projections and head: the norms, weightless, do not see it. Values are rotated
head by head, folded into their projection and the output projection's columns. What no weight can take in is done when
it is computed: the transform of down's inputs, and across heads that of the output projection's; queries and keys are
rotated head by head behind RoPE where keys are quantised. None of it changes what the model computes, up to rounding.

Weights are rounded per row by GPTQ with searched ranges, or to nearest; tokens symmetrically. The published code also
subtracts the mean of each embedding, which is right for LayerNorm and not for RMSNorm; here nothing is subtracted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Layer, ModelConfig, Transformer
from lightningrl.quantization.folding import check_untied, fuse_norm
from lightningrl.quantization.gptq import GPTQ
from lightningrl.quantization.hadamard import base_order, hadamard, transposed_hadamard
from lightningrl.quantization.inputs import Hadamard, add_steps
from lightningrl.quantization.layerwise import LayerWalk, layer_by_layer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import Grid
from lightningrl.quantization.values import UNROUNDED
from lightningrl.quantization.weights_and_inputs import WeightsAndInputs


class QuaRot(WeightsAndInputs, frozen=True, strict=True):
    """See the module and `WeightsAndInputs`. weights: how they are rounded. clip: the share of a token's range that its
    codes cover. compat: as published (docs/defects.md): the embeddings' means are subtracted, and keys and values have
    `activation_bits` over the range of a whole token, all heads together."""

    weights: Literal["gptq", "nearest"] = "gptq"
    clip: float = Field(default=1.0, gt=0, le=1)

    needs_calibration: ClassVar[bool] = True

    def check_shape(self, config: ModelConfig) -> None:
        check_untied(config.tie_word_embeddings, "quarot")
        if base_order(config.head_dim) > 1:
            raise ConfigError(f"quarot: heads of {config.head_dim} numbers cannot be rotated: expected a power of 2")
        for size in (config.hidden_size, config.intermediate_size, config.num_attention_heads):
            base_order(size)

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model, rotated and quantised.

        Raises ConfigError for shapes that cannot be rotated, or a calibration with too few rows.
        """
        self.check_shape(model.config)
        signs_H = random_signs(model, calibration.seed)
        rotate_ends(model, signs_H, subtract_means=self.compat)
        layer_by_layer(model, calibration, self._layer, prepare=lambda walk, layer, name: rotate_layer(layer, signs_H))
        self.round_attended(model, symmetric=True, rotated=True, whole_tokens=self.compat)
        return model

    def _layer(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        grid = Grid(bits=self.bits, lowest=True, search=True)
        if self.weights == "gptq" and self.bits != UNROUNDED:
            GPTQ(bits=self.bits, group=0).quantize_layer(walk, layer, f"quarot: {name}", grid)
        else:
            self.round_layer(layer, f"quarot: {name}", grid)
        self.round_inputs(layer, symmetric=True, clip=self.clip)


def random_signs(model: Transformer, seed: int) -> Tensor:
    """Returns (H,) the signs of Q, drawn by the seed, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (model.config.hidden_size,), generator=generator).to(model.device) * 2.0 - 1


@torch.no_grad()
def rotate_ends(model: Transformer, signs_H: Tensor, subtract_means: bool = False) -> None:
    """Rotates embedding and head in place, in the dtype that they have."""
    trunk = model.model
    if subtract_means:
        trunk.embed_tokens.weight.sub_(trunk.embed_tokens.weight.mean(-1, keepdim=True))
    _write(trunk.embed_tokens, rotated(trunk.embed_tokens.weight, signs_H))
    fuse_norm(trunk.norm, model.lm_head)
    _write(model.lm_head, rotated(model.lm_head.weight, signs_H))


@torch.no_grad()
def rotate_layer(layer: Layer, signs_H: Tensor) -> None:
    """Rotates a layer in place; see the module."""
    attention, mlp = layer.self_attn, layer.mlp
    fuse_norm(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
    fuse_norm(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        _write(linear, rotated(linear.weight, signs_H))
    for linear in (attention.o_proj, mlp.down_proj):
        _write(linear, rotated(linear.weight.T, signs_H).T)
    _rotate_values(attention.v_proj, attention.head_dim)
    _write(attention.o_proj, hadamard(attention.o_proj.weight.float()))
    _write(mlp.down_proj, hadamard(mlp.down_proj.weight.float()))
    add_steps(layer, "self_attn.o_proj", [Hadamard(inner=attention.head_dim)])
    add_steps(layer, "mlp.down_proj", [Hadamard()])


def rotated(x: Tensor, signs_H: Tensor) -> Tensor:
    """Returns x Q by rows, Q = diag(signs) H, in float32."""
    return transposed_hadamard(x.float() * signs_H)


def _rotate_values(linear: nn.Linear, head_dim: int) -> None:
    """Rotates what each head's values are, their bias included."""
    by_head = hadamard(linear.weight.float().unflatten(0, (-1, head_dim)).mT).mT.flatten(0, 1)
    _write(linear, by_head)
    if linear.bias is not None:
        linear.bias.copy_(hadamard(linear.bias.float().unflatten(0, (-1, head_dim))).flatten())


def _write(module: nn.Module, weight: Tensor) -> None:
    module.weight.copy_(weight)  # type: ignore[operator, union-attr]
