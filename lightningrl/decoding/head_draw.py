"""From the head's logits to the token drawn at each position, its log-probability and its entropy, in one kernel.

It is one program a position: a pass over the logits finds the likeliest token, the sum of the weights and the entropy;
where a token is sampled, a second pass inverts the cumulative distribution at the position's keyed uniform
(decoding/rng.py). The twin is the sampler's own code.

The kernel's uniform is the twin's bit for bit. Its greedy token is the twin's, unless logits tie after rounding; its
sampled token is the twin's unless the uniform lies within about 1e-6 of the boundary between two tokens' shares of the
cumulative distribution, for weights are float32 and their sums float64, while the twin's weights are exponentials in
float64 of float32 log-probabilities. Log-probabilities and entropies differ by some 1e-6 nats.

Experimental: run in Triton's interpreter and compiled for sm_90; no run on a GPU is on record.
Shapes: B rows; K positions of a block; n = B K positions; V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightningrl.decoding.rng import uniform
from lightningrl.decoding.sampler import draw
from lightningrl.models.head import entropy
from lightningrl.models.kernels.jit import constexpr, jit, operator, tl
from lightningrl.models.transformer import log_probs_of

BLOCK = 2048
"""Logits that a program looks at together."""


def twin(
    logits_nV: Tensor,
    key_B: Tensor,
    forward_B: Tensor,
    temperature_B: Tensor,
    position_n: Tensor,
    usable: int,
    mask: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns token (int64), log-probability and entropy at every position.

    key_B, forward_B, temperature_B (float64; 0: greedy) are those of the row of each K positions. Ids from `usable` on
    and the id `mask` are never drawn.
    """
    each = len(position_n) // len(key_B)
    key_n, forward_n, temperature_n = (c.repeat_interleave(each) for c in (key_B, forward_B, temperature_B))
    wide = torch.float64 if logits_nV.dtype == torch.float64 else torch.float32
    divisor_n1 = torch.where(temperature_n > 0, temperature_n, 1.0).to(wide)[:, None]
    log_probs_nV = log_probs_of(logits_nV, divisor_n1, usable, mask)
    sampled_m = temperature_n.nonzero().squeeze(-1)
    uniform_m = uniform(key_n[sampled_m], position_n[sampled_m], forward_n[sampled_m])
    token_n, logp_n = draw(log_probs_nV, sampled_m, uniform_m, None, None)
    return token_n, logp_n, entropy(log_probs_nV)


@jit
def mix(value):
    """SplitMix64's finaliser on uint64, as `rng._mix`."""
    value = value + 0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@jit
def scaled(logits_ptr, at, usable, mask, divisor):
    """The logits at some ids over the temperature, -inf where an id is not to be drawn."""
    allowed = (at < usable) & (at != mask)
    return tl.load(logits_ptr + at, mask=allowed, other=float("-inf")).to(tl.float32) / divisor, allowed


@jit
def kernel(
    logits_ptr, key_ptr, forward_ptr, temperature_ptr, position_ptr, token_ptr, logp_ptr, entropy_ptr,
    usable, mask, width, each, stride, BLOCK: constexpr,
):  # fmt: skip
    """One program a position."""
    row = tl.program_id(0).to(tl.int64)
    of_row = row // each * stride
    temperature = tl.load(temperature_ptr + of_row)
    divisor = tl.where(temperature > 0, temperature, 1.0).to(tl.float32)
    logits_ptr += row * width
    lanes = tl.arange(0, BLOCK)
    best, token = tl.full((), float("-inf"), tl.float32), tl.full((), 0, tl.int32)
    total, weighted = tl.full((), 0.0, tl.float64), tl.full((), 0.0, tl.float64)
    for start in range(0, usable, BLOCK):
        x, allowed = scaled(logits_ptr, start + lanes, usable, mask, divisor)
        top = tl.max(x, axis=0)
        token = tl.where(top > best, start + tl.argmax(x, axis=0), token).to(tl.int32)
        higher = tl.maximum(best, top)
        lift = tl.where(best == float("-inf"), 0.0, best - higher)
        shrink, offset = tl.exp(lift).to(tl.float64), lift.to(tl.float64)
        below = tl.where(allowed, x - higher, 0.0)
        weight = tl.where(allowed, tl.exp(below), 0.0)
        moment = tl.where(weight > 0, weight * below, 0.0)
        weighted = shrink * (weighted + total * offset) + tl.sum(moment, axis=0).to(tl.float64)
        total = shrink * total + tl.sum(weight, axis=0).to(tl.float64)
        best = higher
    log_total = tl.log(total)
    logp = -log_total
    if temperature > 0:
        forward = tl.load(forward_ptr + of_row).to(tl.uint64)
        position = tl.load(position_ptr + row).to(tl.uint64)
        keyed = tl.load(key_ptr + of_row).to(tl.uint64) + position * 0x9E3779B97F4A7C15
        mixed = mix(mix(keyed) + forward * 0x9E3779B97F4A7C15)
        target = (mixed >> 11).to(tl.float64) * 1.1102230246251565e-16 * total
        start, mass, going = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64), tl.full((), 1, tl.int32)
        while going > 0:
            x, allowed = scaled(logits_ptr, start + lanes, usable, mask, divisor)
            here = tl.sum(tl.where(allowed, tl.exp(x - best), 0.0).to(tl.float64), axis=0)
            going = ((mass + here <= target) & (start + BLOCK < usable)).to(tl.int32)
            mass = tl.where(going > 0, mass + here, mass)
            start = tl.where(going > 0, start + BLOCK, start)
        x, allowed = scaled(logits_ptr, start + lanes, usable, mask, divisor)
        weight = tl.where(allowed, tl.exp(x - best), 0.0).to(tl.float64)
        past = (mass + tl.cumsum(weight, axis=0) > target) & (weight > 0)
        first = tl.min(tl.where(past, start + lanes, width), axis=0)
        last = tl.max(tl.where(weight > 0, start + lanes, -1), axis=0)
        # A target that rounds up to the total falls off the end: the last token with mass takes it.
        token = tl.where(first < width, first, tl.where(last < 0, token, last)).to(tl.int32)
        drawn = tl.load(logits_ptr + token).to(tl.float32) / divisor
        logp = (drawn - best).to(tl.float64) - log_total
    tl.store(token_ptr + row, token.to(tl.int64))
    tl.store(logp_ptr + row, logp.to(tl.float32))
    tl.store(entropy_ptr + row, (log_total - weighted / total).to(tl.float32))


def launch(
    logits_nV: Tensor,
    key_B: Tensor,
    forward_B: Tensor,
    temperature_B: Tensor,
    position_n: Tensor,
    usable: int,
    mask: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel. key_B, forward_B and temperature_B may be columns of one table. Where logits are not finite neither
    is the log-probability."""
    rows, width = logits_nV.shape
    token_n, logp_n, entropy_n = _fake(logits_nV, key_B, forward_B, temperature_B, position_n, usable, mask)
    assert key_B.stride() == forward_B.stride() == temperature_B.stride()
    kernel[(rows,)](
        logits_nV.contiguous(), key_B, forward_B, temperature_B, position_n, token_n, logp_n, entropy_n,
        usable, mask, width, rows // len(key_B), key_B.stride(0), BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return token_n, logp_n, entropy_n


def _fake(
    logits_nV: Tensor,
    key_B: Tensor,
    forward_B: Tensor,
    temperature_B: Tensor,
    position_n: Tensor,
    usable: int,
    mask: int,
) -> tuple[Tensor, Tensor, Tensor]:
    token_n = position_n.new_empty(len(position_n))
    logp_n = logits_nV.new_empty(len(position_n), dtype=torch.promote_types(logits_nV.dtype, torch.float32))
    return token_n, logp_n, torch.empty_like(logp_n)


def for_sm_90() -> tuple[dict[str, str], dict[str, int]]:
    """The types and constants that the kernel has at the 8B shape, to compile it without a GPU."""
    integers = dict.fromkeys(("key_ptr", "forward_ptr", "position_ptr", "token_ptr"), "*i64")
    floats = {"logits_ptr": "*bf16", "temperature_ptr": "*fp64", "logp_ptr": "*fp32", "entropy_ptr": "*fp32"}
    numbers = dict.fromkeys(("usable", "mask", "width", "each", "stride"), "i32")
    return integers | floats | numbers, {"BLOCK": BLOCK, "num_warps": 8}


head_draw = operator("head_draw", launch, twin, _fake)
