"""SmoothQuant (Xiao et al., arXiv 2211.10438): part of the range of inputs is moved into the weights.

s = a^alpha / w^(1 - alpha) by input (its equation 4), a the greatest |x| over the calibration, w the greatest |weight|
over the linear layers that read it; inputs are divided and columns multiplied by it. The division is folded into the
norm before, for queries, keys and values, and for gate and up. With alpha = 0.5 both have the same range then.

Weights per row and tokens are rounded symmetrically. Shapes: I inputs.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lightningrl.models.transformer import Layer, Transformer
from lightningrl.quantization.folding import divide_rows, multiply_inputs
from lightningrl.quantization.inputs import Divide, add_steps
from lightningrl.quantization.layerwise import GROUPS, LayerWalk, layer_by_layer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import Grid
from lightningrl.quantization.weights_and_inputs import WeightsAndInputs


class SmoothQuant(WeightsAndInputs, frozen=True, strict=True):
    """See the module and `WeightsAndInputs`.

    alpha: the share of the range that goes to the weights. compat: as "Quantization Meets dLLMs" has it
    (docs/defects.md): the scale is of the first linear layer's weights alone, values to the output projection and up to
    down are smoothed too, both grids are asymmetric, and queries, keys and values have `activation_bits`.
    """

    alpha: float = Field(default=0.5, ge=0, le=1)

    needs_calibration: ClassVar[bool] = True

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with its layers smoothed and quantised.

        Raises CheckpointError naming a layer whose weights are not finite.
        """
        layer_by_layer(model, calibration, self._layer, prepare=self._smooth, inputs="exact")
        self.round_attended(model, symmetric=not self.compat, queries=self.compat)
        return model

    def _layer(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        self.round_layer(layer, name, Grid(bits=self.bits, kind="asymmetric" if self.compat else "symmetric"))
        self.round_inputs(layer, symmetric=not self.compat)

    def _smooth(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        smooth(walk, layer, self.alpha, everywhere=self.compat)


def smooth(walk: LayerWalk, layer: Layer, alpha: float, everywhere: bool) -> None:
    """Moves ranges of inputs into a layer's weights; its function stays what it was.

    everywhere: the inputs of the output and down projections too, and by the first linear layer of a group alone. Where
    heads share keys, the output projection's inputs are divided when they are computed.
    """
    groups = GROUPS if everywhere else (GROUPS[0], GROUPS[2])
    most = {names[0]: Greatest() for names in groups}
    walk.observe(layer, {name: each.observe for name, each in most.items()})
    attention, mlp = layer.self_attn, layer.mlp
    before = dict(zip(GROUPS, (layer.input_layernorm, attention.v_proj, layer.post_attention_layernorm, mlp.up_proj),
                      strict=True))  # fmt: skip
    for names in groups:
        linears = [layer.get_submodule(name) for name in names]
        seen = linears[:1] if everywhere else linears
        weights = torch.stack([linear.weight.abs().amax(0) for linear in seen]).amax(0)  # type: ignore[union-attr]
        scale_I = smoothing_scale(most[names[0]].of_input, weights, alpha)
        previous = before[names]
        assert isinstance(previous, nn.Module)
        if names == GROUPS[1] and attention.v_proj.out_features != attention.o_proj.in_features:
            add_steps(layer, names[0], [Divide(scale_I)])
        else:
            divide_rows(previous, scale_I)
        for name in names:
            multiply_inputs(layer.get_submodule(name), scale_I)


def smoothing_scale(greatest_I: Tensor, weights_I: Tensor, alpha: float) -> Tensor:
    """Returns (I,) the scale of inputs whose greatest sizes, and whose weights' greatest sizes, are given.

    >>> smoothing_scale(torch.tensor([16.0, 1.0]), torch.tensor([0.25, 1.0]), 0.5).tolist()
    [8.0, 1.0]
    """
    weights_I = weights_I.float().clamp(min=1e-5)
    return (greatest_I.float().pow(alpha) / weights_I.pow(1 - alpha)).clamp(min=1e-5)


class Greatest:
    """The greatest |x| of each input."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def observe(self, x_NI: Tensor) -> None:
        most_I = x_NI.abs().amax(0).float()
        self._found = most_I if self._found is None else torch.maximum(self._found, most_I)

    @property
    def of_input(self) -> Tensor:
        """(I,)."""
        assert self._found is not None
        return self._found
