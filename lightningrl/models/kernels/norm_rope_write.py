"""`norm+rope+KV write`: from one matrix' queries, keys and values to rotated queries and a written KV cache.

Shapes: N positions; A heads of queries; M heads of keys; D head size; S slots of the cache; T positions of the tables.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.models.kernels.jit import constexpr, jit, operator, power_of_2, tl


def twin(
    qkv_NX: Tensor,
    q_norm_D: Tensor | None,
    k_norm_D: Tensor | None,
    eps: float,
    cos_TD: Tensor,
    sin_TD: Tensor,
    position_N: Tensor,
    slot_N: Tensor,
    keys_SMD: Tensor,
    values_SMD: Tensor,
) -> Tensor:
    """Returns the queries (N, A, D); keys and values are written to their slots, which are all different.

    X is (A + 2M) D: queries, keys, values. The norms are None where the family has none.
    """
    kv_heads, size = keys_SMD.shape[1:]
    heads = qkv_NX.shape[1] // size - 2 * kv_heads
    q_NAD, k_NMD, v_NMD = qkv_NX.unflatten(-1, (-1, size)).split([heads, kv_heads, kv_heads], dim=1)
    cos_N1D, sin_N1D = cos_TD[position_N].unsqueeze(1), sin_TD[position_N].unsqueeze(1)

    def rotated(x: Tensor, norm_D: Tensor | None) -> Tensor:
        x = x if norm_D is None else F.rms_norm(x, norm_D.shape, norm_D, eps)
        first, second = x.chunk(2, dim=-1)
        return x * cos_N1D + torch.cat([-second, first], dim=-1) * sin_N1D

    keys_SMD.index_copy_(0, slot_N, rotated(k_NMD, k_norm_D))
    values_SMD.index_copy_(0, slot_N, v_NMD)
    return rotated(q_NAD, q_norm_D)


@jit
def kernel(
    qkv_ptr, q_norm_ptr, k_norm_ptr, eps, cos_ptr, sin_ptr, position_ptr, slot_ptr, keys_ptr, values_ptr, q_ptr,
    heads, kv_heads, NORM: constexpr, SIZE: constexpr, BLOCK: constexpr,
):  # fmt: skip
    """One program for one head of one position; the halves of a head, which RoPE mixes, are two vectors."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = SIZE // 2
    at = tl.arange(0, BLOCK)
    inside = at < half
    source = qkv_ptr + (row * (heads + 2 * kv_heads) + head) * SIZE
    first = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half + at, mask=inside, other=0.0).to(tl.float32)
    slot = tl.load(slot_ptr + row)
    kind = q_ptr.dtype.element_ty
    if head < heads + kv_heads:
        is_query = head < heads
        if NORM:
            scale = tl.rsqrt((tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / SIZE + eps)
            queries, keys = inside & is_query, inside & (head >= heads)
            weight_1 = tl.load(q_norm_ptr + at, mask=queries, other=0.0) + tl.load(
                k_norm_ptr + at, mask=keys, other=0.0
            )
            q_2 = tl.load(q_norm_ptr + half + at, mask=queries, other=0.0)
            weight_2 = q_2 + tl.load(k_norm_ptr + half + at, mask=keys, other=0.0)
            first, second = first * scale * weight_1.to(tl.float32), second * scale * weight_2.to(tl.float32)
            first, second = first.to(kind).to(tl.float32), second.to(kind).to(tl.float32)
        angle = tl.load(position_ptr + row) * SIZE
        cos_1 = tl.load(cos_ptr + angle + at, mask=inside, other=0.0).to(tl.float32)
        cos_2 = tl.load(cos_ptr + angle + half + at, mask=inside, other=0.0).to(tl.float32)
        sin_1 = tl.load(sin_ptr + angle + at, mask=inside, other=0.0).to(tl.float32)
        sin_2 = tl.load(sin_ptr + angle + half + at, mask=inside, other=0.0).to(tl.float32)
        turned_1, turned_2 = first * cos_1 - second * sin_1, second * cos_2 + first * sin_2
        if is_query:
            target = q_ptr + (row * heads + head) * SIZE
        else:
            target = keys_ptr + (slot * kv_heads + head - heads) * SIZE
        tl.store(target + at, turned_1.to(kind), mask=inside)
        tl.store(target + half + at, turned_2.to(kind), mask=inside)
    else:
        target = values_ptr + (slot * kv_heads + head - heads - kv_heads) * SIZE
        tl.store(target + at, first.to(kind), mask=inside)
        tl.store(target + half + at, second.to(kind), mask=inside)


def launch(
    qkv_NX: Tensor,
    q_norm_D: Tensor | None,
    k_norm_D: Tensor | None,
    eps: float,
    cos_TD: Tensor,
    sin_TD: Tensor,
    position_N: Tensor,
    slot_N: Tensor,
    keys_SMD: Tensor,
    values_SMD: Tensor,
) -> Tensor:
    """The kernel; to rounding it is the twin. Not finite numbers stay in their own positions' slots and queries."""
    kv_heads, size = keys_SMD.shape[1:]
    rows, heads = qkv_NX.shape[0], qkv_NX.shape[1] // size - 2 * kv_heads
    q_NAD = qkv_NX.new_empty(rows, heads, size)
    unused = qkv_NX
    kernel[(rows, heads + 2 * kv_heads)](
        qkv_NX.contiguous(), unused if q_norm_D is None else q_norm_D, unused if k_norm_D is None else k_norm_D, eps,
        cos_TD, sin_TD, position_N, slot_N, keys_SMD, values_SMD, q_NAD, heads, kv_heads,
        NORM=q_norm_D is not None, SIZE=size, BLOCK=power_of_2(size // 2), num_warps=1,
    )  # fmt: skip
    return q_NAD


def _fake(
    qkv_NX: Tensor,
    q_norm_D: Tensor | None,
    k_norm_D: Tensor | None,
    eps: float,
    cos_TD: Tensor,
    sin_TD: Tensor,
    position_N: Tensor,
    slot_N: Tensor,
    keys_SMD: Tensor,
    values_SMD: Tensor,
) -> Tensor:
    kv_heads, size = keys_SMD.shape[1:]
    return qkv_NX.new_empty(qkv_NX.shape[0], qkv_NX.shape[1] // size - 2 * kv_heads, size)


def for_sm_90() -> tuple[dict[str, str], dict[str, int]]:
    """The types and constants that the kernel has at the 8B shape, to compile it without a GPU."""
    tensors = ("qkv_ptr", "q_norm_ptr", "k_norm_ptr", "cos_ptr", "sin_ptr", "keys_ptr", "values_ptr", "q_ptr")
    numbers = {"eps": "fp32", "position_ptr": "*i64", "slot_ptr": "*i64", "heads": "i32", "kv_heads": "i32"}
    return dict.fromkeys(tensors, "*bf16") | numbers, {"NORM": 1, "SIZE": 128, "BLOCK": 64, "num_warps": 1}


norm_rope_write = operator("norm_rope_write", launch, twin, _fake, mutates=["keys_SMD", "values_SMD"])
