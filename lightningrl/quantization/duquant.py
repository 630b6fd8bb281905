"""DuQuant (Lin et al., arXiv 2406.01721): rotations within blocks of inputs, about their outliers, and a zigzag order.

A layer is smoothed first (SmoothQuant's scales, everywhere). Then the inputs of each group of linear layers are rotated
block by block, put into an order that deals the largest channels to the blocks in a zigzag, and rotated again; weights
are changed alike, so that products stay what they were. A rotation is a product of steps: a fixed orthogonal matrix
whose first axis is uniform, mixed at random in the others, its first axis moved to where the extreme value is. Of that
value 1 / sqrt(n) stays there, and the rest is spread over the others at random, not evenly. Of all prefixes of the
steps the one with the least max - min is taken.

Inputs and weights are then rounded asymmetrically, with a share of their ranges. The axis is the extreme value's
channel; the published code takes its row, so that there the search is a search over random rotations (`compat`).
Shapes: I inputs; n the size of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Layer, Transformer
from lightningrl.quantization.inputs import Permute, RotateBlocks, Step, add_steps
from lightningrl.quantization.layerwise import GROUPS, LayerWalk, SampledRows, layer_by_layer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.smoothquant import smooth
from lightningrl.quantization.uniform import Grid
from lightningrl.quantization.values import UNROUNDED
from lightningrl.quantization.weights_and_inputs import WeightsAndInputs

SEARCHED_ROWS = 2048
"""Rows of inputs that rotations are chosen by: evenly spaced ones of the calibration."""


class DuQuant(WeightsAndInputs, frozen=True, strict=True):
    """See the module and `WeightsAndInputs`.

    block: inputs that are rotated together. steps: of the search. activation_clip, weight_clip: the share of the range
    that codes cover. alpha: of the smoothing. compat: as published (docs/defects.md): the axis is the row's number
    modulo the block, and queries, keys and values have `activation_bits`, queries and keys rotated.
    """

    block: int = Field(default=128, ge=2)
    steps: int = Field(default=256, ge=1)
    activation_clip: float = Field(default=0.9, gt=0, le=1)
    weight_clip: float = Field(default=0.8, gt=0, le=1)
    alpha: float = Field(default=0.5, ge=0, le=1)

    needs_calibration: ClassVar[bool] = True

    def check_inputs(self, inputs: int) -> None:
        if inputs % self.block:
            raise ConfigError(
                f"block is {self.block}, but a layer has {inputs} inputs, which do not divide into such blocks"
            )

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with its layers smoothed, rotated and quantised.

        Raises ConfigError where `block` does not divide a layer's inputs, CheckpointError naming a layer whose weights
        are not finite.
        """
        for name, layer in model.model.layers[0].named_modules():
            if isinstance(layer, nn.Linear):
                try:
                    self.check_inputs(layer.in_features)
                except ConfigError as error:
                    raise ConfigError(f"duquant: model.layers.0.{name}: {error}") from None
        generator = torch.Generator().manual_seed(calibration.seed)

        def turn(walk: LayerWalk, layer: Layer, name: str) -> None:
            smooth(walk, layer, self.alpha, everywhere=True)
            if min(self.bits, self.activation_bits) < UNROUNDED:
                self._rotate(walk, layer, generator)

        layer_by_layer(model, calibration, self._layer, prepare=turn)
        self.round_attended(model, symmetric=False, rotated=True, queries=self.compat)
        return model

    def _layer(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        self.round_layer(layer, name, Grid(bits=self.bits, kind="asymmetric", clip=self.weight_clip))
        self.round_inputs(layer, symmetric=False, clip=self.activation_clip)

    def _rotate(self, walk: LayerWalk, layer: Layer, generator: torch.Generator) -> None:
        every = max(1, walk.calibration.tokens // SEARCHED_ROWS)
        samples = {names[0]: SampledRows(every) for names in GROUPS}
        walk.observe(layer, {name: each.observe for name, each in samples.items()})
        for names in GROUPS:
            steps = find_steps(samples[names[0]].rows.float(), self.block, self.steps, generator, by_row=self.compat)
            for name in names:
                linear = layer.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                weight_OI = linear.weight.float()
                for step in steps:
                    weight_OI = step(weight_OI)
                linear.weight.copy_(weight_OI)
                add_steps(layer, name, steps)


@torch.no_grad()
def find_steps(
    x_NI: Tensor, block: int, steps: int, generator: torch.Generator, by_row: bool = False
) -> Sequence[Step]:  # fmt: skip
    """Returns rotation, order and rotation for inputs like these."""
    first_nn = find_rotation(x_NI, block, steps, generator, by_row)
    x_NI = RotateBlocks(first_nn)(x_NI)
    order = Permute(zigzag(x_NI.abs().amax(0), block))
    second_nn = find_rotation(order(x_NI), block, steps, generator, by_row)
    return RotateBlocks(first_nn), order, RotateBlocks(second_nn)


def find_rotation(
    x_NI: Tensor, block: int, steps: int, generator: torch.Generator, by_row: bool = False
) -> Tensor:  # fmt: skip
    """Returns (n, n) the orthogonal matrix of the search, one for all blocks. by_row: the published axis."""
    x_Rn = x_NI.reshape(-1, block)
    base_nn = base_rotation(block).to(x_Rn)
    found_nn = best_nn = torch.eye(block).to(x_Rn)
    least = float("inf")
    for _ in range(steps):
        high, low = x_Rn.max(), x_Rn.min()
        place = int(x_Rn.argmax() if high > -low else x_Rn.argmin())
        axis = (place // block if by_row else place) % block
        mixed_nn = torch.eye(block)
        mixed_nn[1:, 1:] = _random_orthogonal(block - 1, generator)
        step_nn = base_nn @ mixed_nn.to(x_Rn)
        swap = torch.arange(block)
        swap[0], swap[axis] = axis, 0
        step_nn = step_nn[swap][:, swap]
        x_Rn = x_Rn @ step_nn
        found_nn = found_nn @ step_nn
        if (spread := float(x_Rn.max() - x_Rn.min())) < least:
            least, best_nn = spread, found_nn
    return best_nn


def base_rotation(size: int) -> Tensor:
    """Returns (n, n) an orthogonal matrix whose first row is uniform: a product of n - 1 Givens rotations.

    >>> base_rotation(4)[0].tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    found = torch.eye(size, dtype=torch.float64)
    for at in range(size - 1):
        cos, sin = (1 / (at + 2)) ** 0.5, ((at + 1) / (at + 2)) ** 0.5
        first, second = found[at].clone(), found[at + 1].clone()
        found[at], found[at + 1] = cos * first - sin * second, sin * first + cos * second
    swap = torch.arange(size)
    swap[0], swap[-1] = size - 1, 0
    return found[swap][:, swap].float()


def _random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]


def zigzag(size_I: Tensor, block: int) -> Tensor:
    """Returns (I,) the order of channels that deals them to blocks by size: 0, 1, .., k - 1, k - 1, .., 0, 0, ...

    >>> zigzag(torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1]), 4).tolist()
    [0, 3, 4, 7, 1, 2, 5, 6]
    """
    blocks = len(size_I) // block
    by_size = torch.argsort(size_I, descending=True, stable=True)
    turns = by_size.view(block, blocks).clone()
    turns[1::2] = turns[1::2].flip(1)
    return turns.T.flatten()
