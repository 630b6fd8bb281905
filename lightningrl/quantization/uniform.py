"""Weights on uniform grids: codes of b bits, a scale (and, where the grid is asymmetric, a zero) for each group.

A group is an output row, or each run of g inputs within one. The value of a code is scale * (code - zero). Where a grid
lies is a `Grid`; published methods use four, which must not be mixed:

- `symmetric`: scale = max|w| / (2^(b-1) - 1), zero = 2^(b-1), codes from 1 to 2^b - 1. max|w| itself is on the grid, so
  quantising what is quantised changes no code (SmoothQuant's, and QuaRot's, which has the code 0 too).
- `asymmetric`: from min(w, 0) to max(w, 0), scale = (high - low) / (2^b - 1), zero = round(-low / scale), so that 0 is
  on the grid (GPTQ's, arXiv 2210.17323).
- `wide`: symmetric about 0 with 2^b codes, scale = 2 max|w| / (2^b - 1), zero = 2^(b-1): what GPTQ's code and engines
  call symmetric. The greatest weight is half a step outside.
- `shifted`: from min(w) to max(w), whatever their signs, with the zero held within the codes (AWQ, arXiv 2306.00978).

Rounding is half to even. On the first two a weight moves by at most half a step. Shapes: O outputs, I inputs, G groups
a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError

Kind = Literal["symmetric", "asymmetric", "wide", "shifted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the values of codes lie."""

    bits: int
    kind: Kind = "symmetric"
    lowest: bool = False
    """A `symmetric` grid has the code 0 too, whose value is one step below minus the greatest."""
    clip: float = 1.0
    """The share of the range that the codes cover."""
    search: bool = False
    """Shrink each group's range to the best of 80 shares from 1 down to 0.21, by the sum of |error|^2.4 (GPTQ's `mse`,
    QuaRot's `w_clip`)."""

    @property
    def is_symmetric(self) -> bool:
        """Whether the zero is the same for all groups."""
        return self.kind in ("symmetric", "wide")

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the greatest code."""
        return int(self.kind == "symmetric" and not self.lowest), 2**self.bits - 1


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A matrix of weights as codes with their scales; a layer has it as `quantized` beside the weights themselves."""

    codes_OI: Tensor
    """uint8, within 0 .. 2^bits - 1."""
    scale_OG: Tensor
    """float32, above 0."""
    zero_OG: Tensor
    """uint8: the code whose value is 0."""
    bits: int
    symmetric: bool
    order_I: Tensor | None = None
    """int32: the input that each column of codes is of, where groups are no runs of inputs; None: as they come."""

    @property
    def bits_per_weight(self) -> float:
        """The bits that are stored for each weight, scales (32 bits) and zeros (8 bits, asymmetric grids) included."""
        return self._bits(32, 8)

    @property
    def effective_bits(self) -> float:
        """The bits that an engine needs for each weight: codes, scales of 16 bits, and zeros of as many bits as codes.

        >>> codes, scales = torch.zeros(1, 128, dtype=torch.uint8), torch.ones(1, 1)
        >>> QuantizedWeight(codes, scales, scales.to(torch.uint8), 4, symmetric=False).effective_bits
        4.15625
        """
        return self._bits(16, self.bits)

    def on_host(self) -> QuantizedWeight:
        """Returns the same in the host's memory."""
        order_I = None if self.order_I is None else self.order_I.cpu()
        return replace(
            self, codes_OI=self.codes_OI.cpu(), scale_OG=self.scale_OG.cpu(), zero_OG=self.zero_OG.cpu(),
            order_I=order_I,
        )  # fmt: skip

    def _bits(self, scale: int, zero: int) -> float:
        extra = (scale + zero * (not self.symmetric)) * self.scale_OG.numel()
        extra += 0 if self.order_I is None else 32 * len(self.order_I)
        return self.bits + extra / self.codes_OI.numel()

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (O, I) the weights that the codes stand for, computed in float32 and rounded once."""
        rows, groups = self.scale_OG.shape
        steps = self.codes_OI.view(rows, groups, -1).float() - self.zero_OG.float().unsqueeze(-1)
        values_OI = (steps * self.scale_OG.unsqueeze(-1)).view(rows, -1).to(dtype)
        if self.order_I is None:
            return values_OI
        return values_OI[:, torch.argsort(self.order_I)]


def check_group(group: int, inputs: int) -> None:
    """Raises ConfigError unless a layer's inputs divide into groups."""
    if group and inputs % group:
        raise ConfigError(f"group is {group}, but a layer has {inputs} inputs, which do not divide into such groups")


def quantize_weight(weight_OI: Tensor, bits: int, group: int = 0, symmetric: bool = True) -> QuantizedWeight:
    """Rounds each weight to the nearest value of its group's grid, `symmetric` or `asymmetric`; see `on_grid`."""
    return on_grid(weight_OI, Grid(bits=bits, kind="symmetric" if symmetric else "asymmetric"), group)


def on_grid(weight_OI: Tensor, grid: Grid, group: int = 0) -> QuantizedWeight:
    """Rounds each weight to the nearest value of its group's grid.

    group: inputs of a group; 0: a whole row. Raises ConfigError where rows do not divide into groups, CheckpointError
    for weights that are not finite, or so large that the step between their codes is not.
    """
    rows, inputs = weight_OI.shape
    check_group(group, inputs)
    weight_OGI = weight_OI.detach().float().reshape(rows, -1, group or inputs)
    scale_OG1, zero_OG1 = scale_and_zero(weight_OGI, grid)
    codes_OI = encode(weight_OGI, scale_OG1, zero_OG1, grid).to(torch.uint8).reshape(rows, inputs)
    zero_OG = zero_OG1.squeeze(-1).to(torch.uint8)
    return QuantizedWeight(codes_OI, scale_OG1.squeeze(-1), zero_OG, grid.bits, grid.is_symmetric)


def scale_and_zero(weight_OGI: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Returns (O, G, 1) the scale and the zero of each group, both float32. Raises CheckpointError like `on_grid`."""
    low, high = weight_OGI.amin(-1, keepdim=True), weight_OGI.amax(-1, keepdim=True)
    if grid.kind != "shifted":
        low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.is_symmetric:
        high = torch.maximum(-low, high)
        low = -high
    found = _placed(low * grid.clip, high * grid.clip, grid)
    if (bad := ~found[0].flatten(1).isfinite().all(1)).any():
        row = int(bad.nonzero()[0])
        raise CheckpointError(
            f"row {row} of its weights goes from {float(weight_OGI[row].min())} to {float(weight_OGI[row].max())}, "
            "expected finite numbers whose range is one too. Restore the checkpoint, or take an earlier one: this one "
            "is broken."
        )
    if not grid.search:
        return found
    least = torch.full_like(low, float("inf"))
    scale, zero = found
    for step in range(80):
        share = 1 - step / 100
        tried = _placed(share * low, share * high, grid)
        moved = (encode(weight_OGI, *tried, grid) - tried[1]) * tried[0] - weight_OGI
        error = moved.abs_().pow_(2.4).sum(-1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, tried[0], scale), torch.where(better, tried[1], zero)
    return scale, zero


def _placed(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Returns the scale and the zero of ranges; a range of nothing but 0 has some scale."""
    top = 2**grid.bits - 1
    if grid.kind == "shifted":
        scale = (high - low).clamp(min=1e-5) / top
        return scale, (-(low / scale).round()).clamp(0, top)
    if grid.kind == "symmetric":
        scale = high / (2 ** (grid.bits - 1) - 1)
    else:
        empty = (low == 0) & (high == 0)
        scale = torch.where(empty, 2.0, high - low) / top
        low = torch.where(empty, -1.0, low)
    scale = torch.where(scale == 0, 1.0, scale)  # a group of zeros
    if grid.is_symmetric:
        return scale, torch.full_like(scale, 2 ** (grid.bits - 1))
    return scale, (-low / scale).round().clamp(0, top)


def encode(weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Returns the nearest code of each weight, as floating-point numbers of its shape."""
    return ((weight / scale).round() + zero).clamp(*grid.codes)


def decode(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Returns what codes stand for."""
    return (codes - zero) * scale


def attach(layer: nn.Linear, quantized: QuantizedWeight, **errors: float) -> None:
    """Gives a layer quantised weights: their values, and the codes beside them, in the host's memory.

    `layer.errors` says what that changed, for the record: `weight`, the squared error of the weights relative to their
    squares, and what the caller adds.
    """
    weight = layer.weight
    values = quantized.values(weight.dtype).to(weight.device)
    layer.errors = {"weight": relative_error(values, weight.detach()), **errors}  # type: ignore[assignment]
    layer.weight = nn.Parameter(values, requires_grad=weight.requires_grad)
    layer.quantized = quantized.on_host()  # type: ignore[assignment]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Returns |found - exact|^2 / |exact|^2, 0 where both are 0."""
    size = float(exact.float().square().sum())
    return float((found.float() - exact.float()).square().sum()) / size if size else 0.0


def quantized_of(module: nn.Module) -> QuantizedWeight | None:
    """Returns what `attach` gave a layer; None where it has plain weights."""
    found = getattr(module, "quantized", None)
    return found if isinstance(found, QuantizedWeight) else None


def pack(codes: Tensor, bits: int) -> Tensor:
    """Returns the codes one after another in so many bits, as bytes (uint8, 1-D; the last one is filled up with 0).

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
    [18, 48]
    """
    spread = np.unpackbits(codes.cpu().numpy().reshape(-1, 1), axis=1)[:, -bits:]
    return torch.from_numpy(np.packbits(spread.reshape(-1)))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Returns `count` codes (uint8, 1-D) from their packed bytes. Raises ValueError where those are too few or many.

    >>> unpack(torch.tensor([18, 48], dtype=torch.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    if len(packed) != -(-count * bits // 8):
        raise ValueError(f"{count} codes of {bits} bits are {-(-count * bits // 8)} bytes, found {len(packed)}")
    spread = np.unpackbits(packed.cpu().numpy(), count=count * bits).reshape(count, bits)
    return torch.from_numpy(np.packbits(spread, axis=1)[:, 0] >> (8 - bits))
