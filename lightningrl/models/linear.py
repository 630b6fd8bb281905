"""Linear layers whose large products on a CPU are oneDNN's, where that is faster.

PyTorch gives float32 products to MKL; on an EPYC oneDNN needs about half the time for products of the miniature's
shapes, on an Intel processor more than MKL (docs/benchmarks.md). oneDNN writes code for each new shape, which takes
longer than a product, so rows are padded to few different counts. Where PyTorch was built without oneDNN, on Intel's
processors, on other devices, in other types and for few rows this is `F.linear`. The operator is the one of PyTorch's
own compiler; it has no derivative of its own.

Shapes: R rows; X input features; Y output features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightningrl.utils.machine import processor

ROWS_STEP = 128
"""Rows are padded to a multiple of it: some twenty shapes for all forwards of the miniature."""
LEAST_ROWS = 512
"""Products of fewer rows are left to `F.linear`: padding would be much of them."""


class Linear(nn.Linear):
    """`nn.Linear`, by default without a bias; see the module."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False, **kwargs: Any):
        super().__init__(in_features, out_features, bias=bias, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // max(1, self.in_features)
        if not (FASTER and rows >= LEAST_ROWS and _is_plain(input) and _is_plain(self.weight)):
            return F.linear(input, self.weight, self.bias)
        found = _Product.apply(input, self.weight)
        assert isinstance(found, Tensor)
        return found if self.bias is None else found + self.bias


AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build has the operator."""
FASTER = AVAILABLE and not processor().startswith("Intel")
"""Whether it is used on this processor."""


def _is_plain(tensor: Tensor) -> bool:
    """Float32 on the CPU, and no subclass with arithmetic of its own (a sharded tensor)."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and type(tensor) in (Tensor, nn.Parameter)


def _multiply(x_RX: Tensor, w_YX: Tensor) -> Tensor:
    """(R, Y): x w^T; either may be a transposed view."""
    return torch.ops.mkldnn._linear_pointwise.default(x_RX, w_YX, None, "none", [], "")


def _padded(x_RX: Tensor) -> Tensor:
    """With rows of 0 up to the next multiple of `ROWS_STEP`; contiguous."""
    rows = len(x_RX)
    if rows % ROWS_STEP == 0:
        return x_RX.contiguous()
    padded = x_RX.new_empty(-(-rows // ROWS_STEP) * ROWS_STEP, x_RX.shape[1])
    padded[:rows] = x_RX
    padded[rows:] = 0
    return padded


class _Product(torch.autograd.Function):
    """x w^T and its two gradients, which are products as well. The padded rows are made again for the backward pass:
    what is kept until then is what `F.linear` keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_YX: Tensor) -> Tensor:
        ctx.save_for_backward(x, w_YX)
        x_RX = x.reshape(-1, x.shape[-1])
        return _multiply(_padded(x_RX), w_YX)[: len(x_RX)].view(*x.shape[:-1], len(w_YX))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None]:
        x, w_YX = ctx.saved_tensors
        x_RX, g_RY = x.reshape(-1, x.shape[-1]), gradients[0].reshape(-1, len(w_YX))
        rows, g_RY = len(x_RX), _padded(g_RY)
        of_x = _multiply(g_RY, w_YX.t())[:rows].view(x.shape) if ctx.needs_input_grad[0] else None
        of_w = _multiply(g_RY.t(), _padded(x_RX).t()) if ctx.needs_input_grad[1] else None
        return of_x, of_w
