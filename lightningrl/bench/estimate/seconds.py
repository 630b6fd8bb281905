"""Expected seconds of decoding and training on one device.

A forward takes its arithmetic at a share of the peak, or reading the weights at a share of the bandwidth, whichever is
longer. Not included: judging, communication (assumed hidden), loading, compilation.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.bench.estimate.device import Device, Shares
from lightningrl.bench.estimate.memory import weight_bytes
from lightningrl.bench.estimate.work import Lengths, Work, decoding_work, prefill_work
from lightningrl.bench.model_shape import Shape

OPTIMISER_BYTES = 28
"""Bytes per parameter that an update moves: fp32 gradient, master and two moments in, the last three out."""


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase of a step on one device."""

    name: str
    seconds: float
    positions: float
    operations: float
    bound: str
    """`arithmetic` or `bandwidth`."""


def decoding(
    shape: Shape,
    device: Device,
    shares: Shares,
    lengths: Lengths,
    responses: float,
    rows: int,
    name: str = "rollout",
) -> PhaseCost:
    """Returns the phase of decoding `responses` responses, at most `rows` together."""
    one, prefill = decoding_work(lengths, shape.block_size), prefill_work(lengths, shape.block_size)
    busy = max(1.0, shares.rows_busy * min(rows, responses))
    forwards = responses * lengths.forwards / busy
    each = one.times(busy / lengths.forwards)
    read = weight_bytes(shape, device.compute_bytes) + busy * each.context * shape.kv_numbers * device.compute_bytes
    arithmetic_s = each.operations(shape) / (shares.rollout * device.operations_per_s)
    bandwidth_s = read / (shares.bandwidth * device.bytes_per_s)
    prompts = prefill.times(responses)
    prefill_s = prompts.operations(shape) / (shares.reference * device.operations_per_s)
    work = one.times(responses) + prompts
    return PhaseCost(
        name, forwards * max(arithmetic_s, bandwidth_s) + prefill_s, work.positions, work.operations(shape),
        "arithmetic" if arithmetic_s >= bandwidth_s else "bandwidth",
    )  # fmt: skip


def reference(shape: Shape, device: Device, shares: Shares, work: Work) -> PhaseCost:
    """Returns the phase of one forward over the update's rows."""
    operations = work.operations(shape)
    seconds = operations / (shares.reference * device.operations_per_s)
    return PhaseCost("reference", seconds, work.positions, operations, "arithmetic")


def update(
    shape: Shape, device: Device, shares: Shares, work: Work, updates: int, devices: int, checkpointed: bool
) -> PhaseCost:
    """Returns the phase of forward and backward (3 forwards, or 4 if checkpointed) and the optimiser's pass over its
    shard.
    """
    operations = work.operations(shape) * (4 if checkpointed else 3)
    arithmetic_s = operations / (shares.update * device.operations_per_s)
    moved = updates * OPTIMISER_BYTES * shape.parameters / devices
    seconds = arithmetic_s + moved / (shares.bandwidth * device.bytes_per_s)
    return PhaseCost("update", seconds, work.positions, operations, "arithmetic")
