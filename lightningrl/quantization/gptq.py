"""GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after another, and what is not rounded yet makes up.

With H the second moments of a layer's inputs and U the upper Cholesky factor of H^-1, rounding column i by the error e
changes every later column j by -e U_ij / U_ii, which is the change that keeps sum |(W - Q) x|^2 least (its algorithm 1,
blocks of 128 columns). Rows do not depend on each other.

As in the authors' code, the parameters of a group are read when its first column is due, from weights that within a
block of columns are not yet changed; and with `activation_order` groups are runs in the order of the columns' second
moments unless they are static.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.transformer import Layer, Transformer
from lightningrl.quantization.layerwise import GROUPS, Gram, LayerWalk, grams, layer_by_layer
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.uniform import (
    Grid,
    QuantizedWeight,
    attach,
    check_group,
    decode,
    encode,
    on_grid,
    scale_and_zero,
)
from lightningrl.quantization.values import UNROUNDED, Bits

BLOCK = 128
"""Columns whose effect on the others is applied at once; another number gives other groups' parameters."""


class GPTQ(BaseModel, frozen=True, strict=True):
    """The weights of the linear layers inside the transformer's layers, in the order of the forward.

    group: inputs that share a scale; 0: a whole row. symmetric: the code's symmetric grid (`wide`), as published, or
    the asymmetric one. search: each group's range by least error. activation_order: the columns with the greatest
    second moments first. static_groups: groups are runs of inputs, with parameters from the weights as they were.
    damping: what is added to the diagonal of H, in shares of its mean. sequential: a linear layer sees the inputs that
    the quantised ones before it in its layer leave; else one pass a layer is enough. compat: leave queries, keys and
    values as they are, as the published code does on LLaDA (docs/defects.md).
    """

    bits: Bits = 4
    group: int = Field(default=128, ge=0)
    symmetric: bool = True
    search: bool = False
    activation_order: bool = False
    static_groups: bool = False
    damping: float = Field(default=0.01, gt=0)
    sequential: bool = True
    compat: bool = False

    needs_calibration: ClassVar[bool] = True

    @property
    def grid(self) -> Grid:
        return Grid(bits=self.bits, kind="wide" if self.symmetric else "asymmetric", search=self.search)

    def check_inputs(self, inputs: int) -> None:
        check_group(self.group, inputs)

    def quantize(self, model: Transformer, calibration: Calibration) -> Transformer:
        """Returns the model with its layers quantised.

        Raises ConfigError where `group` does not fit a layer, or the calibration has too few rows to tell what a layer
        may change; CheckpointError naming a layer whose weights are not finite.
        """
        if self.bits != UNROUNDED:
            layer_by_layer(
                model, calibration, lambda walk, layer, name: self.quantize_layer(walk, layer, f"gptq: {name}")
            )
        return model

    def quantize_layer(self, walk: LayerWalk, layer: Layer, name: str, grid: Grid | None = None) -> None:
        """Quantises a layer's linear layers, group by group. name: of the method and the layer, for messages. grid:
        another one than that of the options.

        Raises ConfigError and CheckpointError as `quantize` does.
        """
        groups = GROUPS[1:] if self.compat else GROUPS
        once = {} if self.sequential else grams(walk, layer, groups)
        for names in groups:
            gram = once[names[0]] if names[0] in once else grams(walk, layer, [names])[names[0]]
            for each in names:
                linear = layer.get_submodule(each)
                assert isinstance(linear, nn.Linear)
                try:
                    self._round(linear, gram, grid or self.grid)
                except (ConfigError, CheckpointError) as error:
                    raise type(error)(f"{name}.{each}: {error}") from None

    def _round(self, linear: nn.Linear, gram: Gram, grid: Grid) -> None:
        check_rows(gram)
        check_group(self.group, linear.in_features)
        found = gptq(
            linear.weight, gram.hessian_II, grid, self.group, activation_order=self.activation_order,
            static_groups=self.static_groups, damping=self.damping,
        )  # fmt: skip
        nearest = on_grid(linear.weight, grid, self.group)
        attach(linear, found, output_nearest=output_error(nearest, linear.weight, gram.sum_II))


def check_rows(gram: Gram) -> None:
    """Raises ConfigError where inputs cannot span their space: H would be singular but for its damping."""
    if gram.rows < len(gram.sum_II):
        raise ConfigError(
            f"the calibration has {gram.rows} rows for {len(gram.sum_II)} inputs, so nothing holds some of its "
            "directions (H is singular): give `calibration` more problems, or its `tokens` more"
        )


def output_error(quantized: QuantizedWeight, weight_OI: Tensor, gram_II: Tensor) -> float:
    """Returns sum |(W - Q) x|^2 / sum |W x|^2 over the rows that were summed."""
    exact_OI = weight_OI.detach().float()
    error_OI = quantized.values().to(exact_OI.device) - exact_OI
    size = float((exact_OI @ gram_II * exact_OI).sum())
    return float((error_OI @ gram_II * error_OI).sum()) / size if size else 0.0


@torch.no_grad()
def gptq(
    weight_OI: Tensor, hessian_II: Tensor, grid: Grid, group: int = 0, *, activation_order: bool = False,
    static_groups: bool = False, damping: float = 0.01, block: int = BLOCK,
) -> QuantizedWeight:  # fmt: skip
    """Returns the quantised weights.

    group: inputs of a group; 0: a whole row. Raises ConfigError where H with its damping cannot be inverted,
    CheckpointError like `on_grid`.
    """
    w_OI, h_II = weight_OI.detach().float().clone(), hessian_II.float().clone()
    rows, inputs = w_OI.shape
    size = group or inputs
    dead = h_II.diagonal() == 0
    h_II.diagonal()[dead] = 1
    w_OI[:, dead] = 0
    fixed = scale_and_zero(w_OI.view(rows, -1, size), grid) if static_groups or not group else None
    order_I = torch.arange(inputs, device=w_OI.device)
    if activation_order:
        order_I = torch.argsort(h_II.diagonal(), descending=True)
        w_OI, h_II = w_OI[:, order_I], h_II[order_I][:, order_I]
    factor_II = _factor(h_II, damping)
    codes_OI, scales, zeros = torch.empty_like(w_OI), [], []
    scale_O1 = zero_O1 = w_OI[:, :1]
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        block_OB, errors_OB = w_OI[:, start:stop].clone(), torch.empty_like(w_OI[:, start:stop])
        for at in range(start, stop):
            column_O1 = block_OB[:, at - start, None]
            if fixed is not None:
                number = int(order_I[at]) // size
                scale_O1, zero_O1 = fixed[0][:, number], fixed[1][:, number]
            elif at % size == 0:
                found = scale_and_zero(w_OI[:, at : at + size].unsqueeze(1), grid)
                scale_O1, zero_O1 = found[0][:, 0], found[1][:, 0]
                scales.append(scale_O1)
                zeros.append(zero_O1)
            code_O1 = encode(column_O1, scale_O1, zero_O1, grid)
            codes_OI[:, at] = code_O1[:, 0]
            error_O1 = (column_O1 - decode(code_O1, scale_O1, zero_O1)) / factor_II[at, at]
            block_OB[:, at - start :] -= error_O1 @ factor_II[at, None, at:stop]
            errors_OB[:, at - start] = error_O1[:, 0]
        w_OI[:, stop:] -= errors_OB @ factor_II[start:stop, stop:]
    back = None
    if fixed is not None:
        scale_OG, zero_OG = fixed[0].squeeze(-1), fixed[1].squeeze(-1)
        codes_OI = codes_OI[:, torch.argsort(order_I)]
    else:
        scale_OG, zero_OG = torch.cat(scales, 1), torch.cat(zeros, 1)
        back = order_I.to(torch.int32) if activation_order else None
    codes_OI = codes_OI.to(torch.uint8).contiguous()
    return QuantizedWeight(
        codes_OI, scale_OG.contiguous(), zero_OG.to(torch.uint8).contiguous(), grid.bits, grid.is_symmetric, back
    )


def _factor(h_II: Tensor, damping: float) -> Tensor:
    """Returns the upper Cholesky factor of (H + damping)^-1."""
    h_II.diagonal().add_(damping * h_II.diagonal().mean())
    try:
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(h_II))
        return torch.linalg.cholesky(inverse_II, upper=True)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise ConfigError(
            f"the second moments of its {len(h_II)} inputs are singular in spite of the damping of {damping}: give "
            "`calibration` more problems, or raise `damping`"
        ) from None
