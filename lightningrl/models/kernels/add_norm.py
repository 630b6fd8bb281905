"""`add+norm`: a layer's output is added to the residual stream, and the sum normalised for the next matrix.

Shapes: N positions; H hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.models.kernels.jit import constexpr, jit, operator, power_of_2, tl


def twin(x_NH: Tensor, y_NH: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns x + y, and its RMSNorm; both (N, H)."""
    sum_NH = x_NH + y_NH
    return sum_NH, F.rms_norm(sum_NH, weight_H.shape, weight_H, eps)


@jit
def kernel(x_ptr, y_ptr, weight_ptr, sum_ptr, normed_ptr, eps, width, BLOCK: constexpr):
    """One program a position. The sum is rounded to the tensors' type before it is squared, as the twin's is."""
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(x_ptr + row + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row + at, mask=inside, other=0.0).to(tl.float32)
    rounded = (x + y).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + row + at, rounded, mask=inside)
    both = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(both * both, axis=0) / width + eps)
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed_ptr + row + at, (both * scale * weight).to(normed_ptr.dtype.element_ty), mask=inside)


def launch(x_NH: Tensor, y_NH: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The kernel; to rounding it is the twin."""
    x_NH, y_NH = x_NH.contiguous(), y_NH.contiguous()
    sum_NH, normed_NH, (rows, width) = torch.empty_like(x_NH), torch.empty_like(x_NH), x_NH.shape
    block = power_of_2(width)
    warps = min(16, max(1, block // 512))
    kernel[(rows,)](x_NH, y_NH, weight_H, sum_NH, normed_NH, eps, width, BLOCK=block, num_warps=warps)
    return sum_NH, normed_NH


def _fake(x_NH: Tensor, y_NH: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_NH), torch.empty_like(x_NH)


def for_sm_90() -> tuple[dict[str, str], dict[str, int]]:
    """The types and constants that the kernel has at the 8B shape, to compile it without a GPU."""
    tensors = dict.fromkeys(("x_ptr", "y_ptr", "weight_ptr", "sum_ptr", "normed_ptr"), "*bf16")
    return tensors | {"eps": "fp32", "width": "i32"}, {"BLOCK": 4096, "num_warps": 8}


add_norm = operator("add_norm", launch, twin, _fake)
