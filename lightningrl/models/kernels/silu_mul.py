"""`silu*mul`: SwiGLU's product of the gate and the other half, which one matrix has made beside each other.

Shapes: N positions; I intermediate size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightningrl.models.kernels.jit import constexpr, jit, operator, tl

BLOCK = 1024


def twin(both_N2I: Tensor) -> Tensor:
    """Returns silu(gate) * up, (N, I); the gate comes first."""
    gate_NI, up_NI = both_N2I.chunk(2, dim=-1)
    return F.silu(gate_NI) * up_NI


@jit
def kernel(both_ptr, out_ptr, width, BLOCK: constexpr):
    """One program for `BLOCK` numbers of a position. The gate is rounded before the product, as the twin's is."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(both_ptr + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    gated = (gate / (1.0 + tl.exp(-gate))).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * width + at, (gated * up).to(out_ptr.dtype.element_ty), mask=inside)


def launch(both_N2I: Tensor) -> Tensor:
    """The kernel; to rounding it is the twin."""
    rows, width = both_N2I.shape[0], both_N2I.shape[1] // 2
    out_NI = both_N2I.new_empty(rows, width)
    kernel[(rows, -(-width // BLOCK))](both_N2I.contiguous(), out_NI, width, BLOCK=BLOCK, num_warps=4)
    return out_NI


def _fake(both_N2I: Tensor) -> Tensor:
    return both_N2I.new_empty(both_N2I.shape[0], both_N2I.shape[1] // 2)


def for_sm_90() -> tuple[dict[str, str], dict[str, int]]:
    """The types and constants that the kernel has at the 8B shape, to compile it without a GPU."""
    return {"both_ptr": "*bf16", "out_ptr": "*bf16", "width": "i32"}, {"BLOCK": BLOCK, "num_warps": 4}


silu_mul = operator("silu_mul", launch, twin, _fake)
