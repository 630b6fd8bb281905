"""Triton where it is installed: the kernels of this folder, and the operators that torch knows them by.

A kernel's file has the kernel, the function that launches it, and its plain torch twin, which says what it computes. An
operator runs the kernel on CUDA and the twin elsewhere; under fake tensors and in a count of launches it is one.
Without Triton the modules are importable and the twins run.

Experimental: the kernels were run in Triton's interpreter and compiled for sm_90; no run on a GPU is on record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

triton: Any
tl: Any
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None
if TYPE_CHECKING or tl is None:
    constexpr: TypeAlias = Any
else:
    constexpr = tl.constexpr


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`; without Triton the function itself, which nobody launches."""
    return function if triton is None else triton.jit(function)


def available() -> bool:
    """Whether Triton is installed."""
    return triton is not None


def power_of_2(number: int) -> int:
    """The smallest power of two that is not less: what Triton's vectors are as long as.

    >>> power_of_2(1), power_of_2(96), power_of_2(128)
    (1, 128, 128)
    """
    return 1 << (number - 1).bit_length()


def operator(
    name: str,
    launch: Callable[..., Any],
    twin: Callable[..., Any],
    fake: Callable[..., Any],
    mutates: Sequence[str] = (),
) -> Any:
    """Returns the torch operator `lightningrl::<name>`: `launch` on CUDA, `twin` on the CPU, `fake` for shapes alone.

    mutates: the arguments that it writes to. It has no derivative.
    """
    made = torch.library.custom_op(f"lightningrl::{name}", launch, mutates_args=tuple(mutates), device_types="cuda")
    made.register_kernel("cpu")(twin)
    made.register_fake(fake)
    return made
