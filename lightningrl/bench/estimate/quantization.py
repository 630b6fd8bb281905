"""What quantising takes: bytes on one device (`bench.quantizing_memory`) and seconds, from formulas; rough, and every
assumption is here.

Positions: of a calibration by `decode` those that the system's own decoder computes at its primary threshold
(`bench.schedule_costs`), of problems that are decoded until there are `tokens`, or where forwards keep nothing of all,
some of which are then taken; of `clean` and `random` those of the texts. Seconds: the decoding; forwards of each layer
over the positions (`quantization.registry.PASSES`), in float32, at the share of the device's arithmetic that a forward
reaches; sums of outer products, 2 T I^2 for each group's input, and for GPTQ the update of O x I weights by I columns,
O I^2, and 2 I^3 for the factors, in float32; a column costs at least the launch of its operators.

The embedding of tokens, the search of ranges and DuQuant's rotations are left out: they are small beside these.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from lightningrl.bench import costs
from lightningrl.bench.costs import FLOAT32_SHARE, MASTER, operations_of, work_of
from lightningrl.bench.memory import OVERHEAD
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.quantizing_memory import QuantizingMemory
from lightningrl.bench.schedule_costs import decoded, fills_canvas
from lightningrl.config.systems import Calibration, System
from lightningrl.quantization.registry import PASSES, SECOND_MOMENTS

if TYPE_CHECKING:
    from lightningrl.bench.estimate.budget import Estimate

HALF = 2
"""Bytes of a weight as published checkpoints, and trainings in bfloat16, store it."""
ROWS = 16
"""Problems that are decoded together (quantization/calibration.py)."""
PREFILL_POSITIONS = 16384
"""Of one forward, at most (decoding/scheduler.py)."""
COLUMN_S = 2e-4
"""Seconds of one column's operators in GPTQ, which Python launches (assumed: twenty of ten microseconds)."""
HOUR_S = 3600.0


class Looked(NamedTuple):
    """What a quantizer looks at."""

    positions: float = 0.0
    forward: float = 0.0
    """Positions of the largest forward."""
    cached: float = 0.0
    """Positions that the cache has pages for."""
    opened: float = 0.0
    """Positions that a forward of the decoder may reveal."""
    seconds: float = 0.0
    """Of decoding."""


def quantizations(estimate: Estimate) -> dict[str, dict[str, Any]]:
    """Returns the bytes and the seconds of each system that is quantised, by its name."""
    return {each.name: quantization(estimate, each) for each in estimate.experiment.all_systems() if each.quantizer}


def quantization(estimate: Estimate, system: System) -> dict[str, Any]:
    """Returns bytes and seconds of one system's quantizer. One from outside has a single pass and no sums."""
    quantizer, shape, device = system.quantizer, estimate.shape_of(system.policy), estimate.device
    assert quantizer is not None
    looked = Looked() if quantizer.calibration is None else _looked(estimate, system, quantizer.calibration)
    is_processor, group = device.compute_bytes == MASTER, quantizer.options.get("group", 0)
    memory = QuantizingMemory(
        shape, quantizer.name, stored_bytes(estimate, system.policy), looked.positions, looked.forward, looked.cached,
        looked.opened, group if isinstance(group, int) else 0, keeps_codes=is_processor,
        overhead=0 if is_processor else OVERHEAD,
    )  # fmt: skip
    arithmetic = device.operations_per_s * (1.0 if is_processor else FLOAT32_SHARE)
    passes = PASSES.get(quantizer.name, 1) * operations_of(work_of(looked.positions, 0, 0), shape)
    seconds = looked.seconds + passes / (arithmetic * estimate.shares.reference)
    if quantizer.name in SECOND_MOMENTS:
        seconds += _rounding_s(shape, looked.positions, arithmetic)
    totals = memory.totals()
    return {
        "quantizer": quantizer.name, "tokens": looked.positions, "points": memory.points(), "point_bytes": totals,
        "bytes": max(totals.values()), "peak_at": max(totals, key=lambda name: totals[name]), "seconds": seconds,
        "fits": max(totals.values()) <= device.memory_bytes * (1 - estimate.shares.reserve),
        "gpu_hours": seconds / HOUR_S,
    }  # fmt: skip


def stored_bytes(estimate: Estimate, policy: str) -> int:
    """Returns the bytes of a weight as a policy's checkpoint stores it."""
    experiment = estimate.experiment
    run = next((run for run in experiment.runs if run.name == policy), None)
    if run is not None:
        return MASTER if run.precision == "float32" else HALF
    return MASTER if experiment.base_named(policy) is None else HALF


def _looked(estimate: Estimate, system: System, calibration: Calibration) -> Looked:
    """Returns what a calibration has."""
    experiment = estimate.experiment
    name = calibration.benchmark or system.trained_on or experiment.benchmarks[0].name
    shape, benchmark, lengths = (
        estimate.shape_of(system.policy), experiment.benchmark(name), estimate.lengths_of(system, name)
    )  # fmt: skip
    base = experiment.base_named(system.policy) if system.policy not in {run.name for run in experiment.runs} else None
    has_blocks, limit = base is None or base.block_size is not None, float(calibration.tokens)
    whole, longest = lengths.prompt_tokens + lengths.response_tokens, lengths.prompt_tokens + benchmark.max_new_tokens
    if calibration.source != "decode":
        again = lengths.response_tokens + shape.block_size / 2 if calibration.source == "random" and has_blocks else 0.0
        each = whole + again
        return Looked(min(limit, calibration.problems * each), longest, longest)
    decoding, length = system.decoding, benchmark.max_new_tokens
    one = decoded(decoding, system.primary_threshold, lengths, length, shape.block_size)
    size = int(decoding.schedule_options.get("block_size") or shape.block_size)
    is_canvas, whole_each = fills_canvas(decoding), max(1.0, one.positions)
    _, rows = estimate.pool(shape, longest, longest if is_canvas else whole, size)
    rows = min(rows, ROWS, calibration.problems)
    problems = float(calibration.problems)
    if decoding.schedule not in ("full_sequence", "whole_sequence", "recompute"):  # else each batch has its share
        problems = min(problems, ROWS * ceil(limit / whole_each / ROWS))
    cost = costs.decoding_cost(
        shape, estimate.device, estimate.shares, lengths, problems, rows, "calibration", 1,
        (one.forwards, one.prefill, one.decode),
    )  # fmt: skip
    forward = (
        rows * longest if is_canvas else max(min(PREFILL_POSITIONS, rows * lengths.prompt_tokens), 2 * rows * size)
    )
    opened = rows * (length if decoding.schedule == "whole_sequence" else size)
    return Looked(min(limit, problems * one.positions), forward, rows * longest, opened, cost.seconds)


def _rounding_s(shape: Shape, positions: float, arithmetic: float) -> float:
    """Returns the seconds of all sums of outer products, and of rounding column by column."""
    widths = (shape.hidden_size, shape.query_numbers, shape.hidden_size, shape.intermediate_size)
    outputs = (shape.query_numbers + 2 * shape.key_numbers, shape.hidden_size, 2 * shape.intermediate_size,
               shape.hidden_size)  # fmt: skip
    sums = sum(2 * positions * width**2 for width in widths)
    updates = sum(count * width**2 + 2 * width**3 for width, count in zip(widths, outputs, strict=True))
    columns = 3 * widths[0] + widths[1] + 2 * widths[2] + widths[3]
    return shape.num_hidden_layers * ((sums + updates) / arithmetic + columns * COLUMN_S)
