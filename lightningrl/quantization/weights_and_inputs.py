"""What methods that quantise weights and activations have in common: options, and the rounding of a layer.

Weights are rounded per output row; the inputs of every linear layer inside the transformer's layers token by token,
over each token's own range; keys and values, where they are to be, head by head. Embedding, norms, head and softmax
stay.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, model_validator
from torch import nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Layer, Transformer
from lightningrl.quantization.attended import AttentionGrids, round_attention
from lightningrl.quantization.inputs import TokenGrid, add_steps
from lightningrl.quantization.layerwise import NAMES
from lightningrl.quantization.uniform import Grid, attach, on_grid
from lightningrl.quantization.values import UNROUNDED, Bits


class WeightsAndInputs(BaseModel, frozen=True, strict=True):
    """The options that these quantizers share; 16 bits means "not quantised"."""

    bits: Bits = 8
    """Bits of the weights."""
    activation_bits: Bits = 8
    """Bits of the linear layers' inputs."""
    kv_bits: Bits = UNROUNDED
    """Bits of keys and values."""
    compat: bool = False
    """As "Quantization Meets dLLMs" has it (docs/defects.md); keys and values then have `activation_bits`."""

    @model_validator(mode="after")
    def _check_compat(self) -> Self:
        if self.compat and "kv_bits" in self.model_fields_set and self.kv_bits != self.activation_bits:
            raise ValueError(
                f"kv_bits is {self.kv_bits}, but with compat keys and values have the {self.activation_bits} bits of "
                "activation_bits: leave kv_bits out, or compat"
            )
        return self

    def round_layer(self, layer: Layer, name: str, grid: Grid) -> None:
        """Gives every linear layer codes by rounding to nearest."""
        if grid.bits == UNROUNDED:
            return
        for each in NAMES:
            linear = layer.get_submodule(each)
            assert isinstance(linear, nn.Linear)
            try:
                attach(linear, on_grid(linear.weight, grid))
            except (CheckpointError, ConfigError) as error:
                raise type(error)(f"{name}.{each}: {error}") from None

    def round_inputs(self, layer: Layer, symmetric: bool, clip: float = 1.0) -> None:
        """Puts a grid behind whatever changes a linear layer's inputs."""
        if self.activation_bits == UNROUNDED:
            return
        for each in NAMES:
            add_steps(layer, each, [TokenGrid(self.activation_bits, symmetric, clip)])

    def round_attended(
        self, model: Transformer, symmetric: bool, rotated: bool = False, queries: bool = False,
        whole_tokens: bool = False,
    ) -> None:  # fmt: skip
        """Rounds keys and values, and queries where a published variant does. The published variants give them the
        bits of the inputs."""
        bits = self.activation_bits if self.compat else self.kv_bits
        round_attention(model, AttentionGrids(
            query_bits=bits if queries else UNROUNDED, key_bits=bits, value_bits=bits,
            symmetric=symmetric, rotated=rotated, whole_tokens=whole_tokens,
        ))  # fmt: skip
