"""Weights on uniform grids: codes of b bits, a scale (and, where the grid is asymmetric, a zero) for each group.

A group is an output row, or each run of g inputs within one. The value of a code is scale * (code - zero). Two grids:

- symmetric: scale = max|w| / (2^(b-1) - 1), zero = 2^(b-1), codes from 1 to 2^b - 1. max|w| itself is on the grid, so
  quantising what is quantised changes no code.
- asymmetric: from min(w, 0) to max(w, 0), scale = (high - low) / (2^b - 1), zero = round(-low / scale), so that 0 is on
  the grid (GPTQ's grid, arXiv 2210.17323).

Rounding is half to even. Either way a weight moves by at most half a step. Shapes: O outputs, I inputs, G groups a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightningrl.errors import CheckpointError, ConfigError

BITS = range(2, 9)


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

    @property
    def bits_per_weight(self) -> float:
        """The bits that are stored for each weight, scales (32 bits) and zeros (8 bits, asymmetric grids) included."""
        extra = 32 if self.symmetric else 40
        return self.bits + extra * self.scale_OG.numel() / self.codes_OI.numel()

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (O, I) the weights that the codes stand for, computed in float32 and rounded once."""
        rows, groups = self.scale_OG.shape
        steps = self.codes_OI.view(rows, groups, -1).float() - self.zero_OG.float().unsqueeze(-1)
        return (steps * self.scale_OG.unsqueeze(-1)).view(rows, -1).to(dtype)


def check_group(group: int, inputs: int) -> None:
    """Raises ConfigError unless a layer's inputs divide into groups."""
    if group and inputs % group:
        raise ConfigError(f"group is {group}, but a layer has {inputs} inputs, which do not divide into such groups")


def quantize_weight(weight_OI: Tensor, bits: int, group: int = 0, symmetric: bool = True) -> QuantizedWeight:
    """Rounds each weight to the nearest value of its group's grid.

    group: inputs of a group; 0: a whole row. Raises ConfigError where rows do not divide into groups, CheckpointError
    for weights that are not finite, or so large that the step between their codes is not.
    """
    rows, inputs = weight_OI.shape
    check_group(group, inputs)
    weight_OGI = weight_OI.detach().float().reshape(rows, -1, group or inputs)
    top, least = 2**bits - 1, 1 if symmetric else 0
    low_OG1 = weight_OGI.amin(-1, keepdim=True).clamp(max=0)
    high_OG1 = weight_OGI.amax(-1, keepdim=True).clamp(min=0)
    if symmetric:
        scale_OG1 = torch.maximum(-low_OG1, high_OG1) / (2 ** (bits - 1) - 1)
    else:
        scale_OG1 = (high_OG1 - low_OG1) / top
    if (bad := ~scale_OG1.flatten(1).isfinite().all(1)).any():
        row = int(bad.nonzero()[0])
        raise CheckpointError(
            f"row {row} of its weights goes from {float(low_OG1[row].min())} to {float(high_OG1[row].max())}, expected "
            "finite numbers whose range is one too. Restore the checkpoint, or take an earlier one: this one is broken."
        )
    scale_OG1 = torch.where(scale_OG1 > 0, scale_OG1, 1.0)  # a group of zeros
    middle_OG1 = torch.full_like(scale_OG1, 2 ** (bits - 1))
    zero_OG1 = middle_OG1 if symmetric else (-low_OG1 / scale_OG1).round().clamp(0, top)
    codes_OGI = ((weight_OGI / scale_OG1).round() + zero_OG1).clamp(least, top)
    codes_OI = codes_OGI.to(torch.uint8).reshape(rows, inputs)
    return QuantizedWeight(codes_OI, scale_OG1.squeeze(-1), zero_OG1.squeeze(-1).to(torch.uint8), bits, symmetric)


def attach(layer: nn.Linear, quantized: QuantizedWeight) -> None:
    """Gives a layer quantised weights: their values, and the codes beside them."""
    weight = layer.weight
    layer.weight = nn.Parameter(quantized.values(weight.dtype).to(weight.device), requires_grad=weight.requires_grad)
    layer.quantized = quantized  # type: ignore[assignment]


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
