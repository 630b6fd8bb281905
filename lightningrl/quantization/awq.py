"""AWQ (Lin et al., arXiv 2306.00978): inputs that are large get finer steps, by scales folded into what comes before.

For r = 0, 0.05, ..., 0.95 the weights behind a norm (or behind values, or behind the MLP's product) are multiplied by
s = m^r, m the mean size of each input, rounded, and divided again; the r whose outputs are nearest is taken. Scales go
into the norm's weight or the rows of the linear layer before, so that the model's function stays what it was. Then each
group's range is cut to the share, from 1 down to 0.55, whose partial products are nearest.

Scales of queries, keys and values are judged by the attention's output, those of gate and up by the MLP's. Values to
the output projection are scaled only where both have one shape, so not where heads share keys (GQA).
Shapes: N tokens; O, I outputs and inputs; G groups of g inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Layer, Transformer
from lightningrl.quantization.folding import divide_rows, multiply_inputs
from lightningrl.quantization.layerwise import GROUPS, NAMES, LayerWalk, SampledRows, layer_by_layer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import Grid, attach, check_group, on_grid
from lightningrl.quantization.values import UNROUNDED, Bits

RATIOS = tuple(number / 20 for number in range(20))
SHARES = tuple(1 - number / 20 for number in range(10))
SAMPLED_TOKENS = 512
"""Tokens that ranges are judged by: every (N // 512)-th."""
UNCLIPPED = ("self_attn.q_proj", "self_attn.k_proj")


class AWQ(BaseModel, frozen=True, strict=True):
    """The weights of the linear layers inside the transformer's layers.

    group: inputs that share a scale; 0: a whole row. clip: also search the groups' ranges. compat: judge scales behind
    a norm as the published code for LLaDA does (docs/defects.md): by the whole layer, fed with what is normalised
    already.
    """

    bits: Bits = 4
    group: int = Field(default=128, ge=0)
    clip: bool = True
    compat: bool = False

    needs_calibration: ClassVar[bool] = True

    @property
    def grid(self) -> Grid:
        return Grid(bits=self.bits, kind="shifted")

    def check_inputs(self, inputs: int) -> None:
        check_group(self.group, inputs)

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with its layers quantised.

        Raises ConfigError where `group` does not fit a layer, CheckpointError naming a layer whose weights are not
        finite.
        """
        if self.bits != UNROUNDED:
            layer_by_layer(model, calibration, self._layer, prepare=self._scale, inputs="exact")
        return model

    def _scale(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        try:
            for each in {layer.get_submodule(own).in_features for own in NAMES}:
                check_group(self.group, int(each))  # type: ignore[arg-type]
            self.scale(walk, layer)
        except (ConfigError, CheckpointError) as error:
            raise type(error)(f"awq: {name}: {error}") from None

    def _layer(self, walk: LayerWalk, layer: Layer, name: str) -> None:
        if self.clip:
            self.cut(walk, layer)
        for each in NAMES:
            linear = layer.get_submodule(each)
            assert isinstance(linear, nn.Linear)
            try:
                attach(linear, on_grid(linear.weight, self.grid, self.group))
            except CheckpointError as error:
                raise CheckpointError(f"awq: {name}.{each}: {error}") from None

    def scale(self, walk: LayerWalk, layer: Layer) -> dict[str, tuple[float, Tensor]]:
        """Finds all scales with the weights as they are, then folds them; returns the ratio and the scale (I,) by the
        first linear layer that is scaled. The inputs of one group are held at a time."""
        before = self._before(layer)
        found = {names: self._search(walk, layer, names) for names in before}
        for names, (_, scale_I) in found.items():
            divide_rows(before[names], scale_I)
            for name in names:
                multiply_inputs(layer.get_submodule(name), scale_I)
        return {names[0]: each for names, each in found.items()}

    def _before(self, layer: Layer) -> dict[tuple[str, ...], nn.Module]:
        """Returns what gives the inputs of each group that is scaled."""
        attention, mlp = layer.self_attn, layer.mlp
        found: dict[tuple[str, ...], nn.Module] = {
            GROUPS[0]: layer.input_layernorm, GROUPS[2]: layer.post_attention_layernorm, GROUPS[3]: mlp.up_proj
        }  # fmt: skip
        if attention.v_proj.weight.shape == attention.o_proj.weight.shape:
            found[GROUPS[1]] = attention.v_proj
        return found

    def _outputs(
        self, walk: LayerWalk, layer: Layer, names: Sequence[str], inputs: Sequence[Tensor]
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yields what the scales of a group are judged by, a forward at a time."""
        if names in (GROUPS[0], GROUPS[2]) and self.compat:
            yield from _whole_layer(walk, layer, inputs)
        elif names == GROUPS[0]:
            for _, (x, rotation, attend) in walk.replay():
                yield layer.self_attn(layer.input_layernorm(x), rotation, attend)
        else:
            behind = layer.mlp if names == GROUPS[2] else layer.get_submodule(names[0])
            yield from (behind(x) for x in inputs)

    def _search(self, walk: LayerWalk, layer: Layer, names: Sequence[str]) -> tuple[float, Tensor]:
        """Returns the ratio whose outputs are nearest, the first of equals, and its scale."""
        seen = _Inputs(is_kept=names != GROUPS[0] or self.compat)
        walk.observe(layer, {names[0]: seen.observe})
        mean_I, linears = seen.mean_size, [layer.get_submodule(name) for name in names]
        exact, weights = list(self._outputs(walk, layer, names, seen.kept)), [linear.weight for linear in linears]
        least, best = float("inf"), (0.0, torch.ones_like(mean_I))
        try:
            for ratio in RATIOS:
                scale_I = scale_of(mean_I, ratio)
                for linear, weight in zip(linears, weights, strict=True):
                    assert isinstance(weight, nn.Parameter)
                    scaled = on_grid(weight * scale_I, self.grid, self.group).values(weight.dtype).to(weight.device)
                    linear.weight = nn.Parameter(scaled / scale_I.to(weight.dtype), requires_grad=False)
                outputs = self._outputs(walk, layer, names, seen.kept)
                loss = sum(float((y - z).float().square().sum()) for y, z in zip(exact, outputs, strict=True))
                if loss < least:
                    least, best = loss, (ratio, scale_I)
        finally:
            for linear, weight in zip(linears, weights, strict=True):
                linear.weight = weight
        return best

    def cut(self, walk: LayerWalk, layer: Layer) -> dict[str, Tensor]:
        """Clamps weights to the best ranges; returns the greatest size (O, G) of each linear layer's groups."""
        sampled = {names[0]: SampledRows(max(1, walk.calibration.tokens // SAMPLED_TOKENS)) for names in GROUPS}
        walk.observe(layer, {name: each.observe for name, each in sampled.items()})
        found = {}
        for names in GROUPS:
            for name in (each for each in names if each not in UNCLIPPED):
                linear = layer.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                most_OG1 = self.best_range(linear.weight, sampled[names[0]].rows)
                weight_OGI = linear.weight.detach().view(len(linear.weight), most_OG1.shape[1], -1)
                linear.weight.copy_(weight_OGI.clamp(-most_OG1, most_OG1).view_as(linear.weight))
                found[name] = most_OG1.squeeze(-1)
        return found

    def best_range(self, weight_OI: Tensor, x_NI: Tensor) -> Tensor:
        """Returns (O, G, 1): of each group, the greatest size whose partial products with the inputs are nearest."""
        inputs = weight_OI.shape[1]
        size = self.group or inputs
        x_GNI = x_NI.float().view(len(x_NI), -1, size).transpose(0, 1)
        gram_GII = x_GNI.mT @ x_GNI / len(x_NI)
        weight_OGI = weight_OI.detach().float().view(len(weight_OI), -1, size)
        whole = weight_OGI.abs().amax(-1, keepdim=True)
        least, best = torch.full_like(whole, float("inf")), whole
        for share in SHARES:
            most = whole * share
            cut_OGI = weight_OGI.clamp(-most, most)
            moved_OGI = on_grid(cut_OGI.flatten(1), self.grid, self.group).values().view_as(cut_OGI) - weight_OGI
            products_GOI = moved_OGI.transpose(0, 1) @ gram_GII
            error = (products_GOI.transpose(0, 1) * moved_OGI).sum(-1, keepdim=True)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, most, best)
        return best


class _Inputs:
    """What a search knows of a group's inputs: the mean of their sizes, and where they are needed the inputs."""

    def __init__(self, is_kept: bool):
        self.is_kept, self.kept = is_kept, list[Tensor]()
        self._sums, self._rows = list[Tensor](), 0

    def observe(self, x_NI: Tensor) -> None:
        self._sums.append(x_NI.float().abs().sum(0))
        self._rows += len(x_NI)
        if self.is_kept:
            self.kept.append(x_NI)

    @property
    def mean_size(self) -> Tensor:
        """(I,) the mean of |x| over all rows."""
        return torch.stack(self._sums).sum(0) / self._rows


def _whole_layer(walk: LayerWalk, layer: Layer, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
    """The layer's outputs from other hidden states than its own."""
    for (_, (_, rotation, attend)), x in zip(walk.replay(), inputs, strict=True):
        yield layer(x.unsqueeze(0), rotation, attend)


def scale_of(mean_I: Tensor, ratio: float) -> Tensor:
    """Returns (I,) the scale of a ratio, whose greatest and least are each other's inverses.

    >>> scale_of(torch.tensor([4.0, 1.0]), 0.5).tolist()
    [1.4142135381698608, 0.7071067690849304]
    """
    scale_I = mean_I.pow(ratio).clamp(min=1e-4)
    return scale_I / (scale_I.max() * scale_I.min()).sqrt()
