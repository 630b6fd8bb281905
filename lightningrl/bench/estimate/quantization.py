"""What quantising takes: bytes on one device and seconds, from formulas; rough, and every assumption is here.

Of T calibration positions (`calibration.tokens`, or fewer where the problems give fewer), a model of L layers, hidden
size H, and the inputs I of each linear layer (N D for the output projection, the intermediate size for down):

- bytes: the weights; hidden states between two layers, in, out and exact, 3 T H numbers; one layer's weights again, in
  float32 and before they are rounded, 8 bytes each. GPTQ and QuaRot: 4 matrices of the largest I^2 float32 numbers
  (sums, H, its factor, an intermediate). AWQ: the inputs and outputs that its searches keep, T (4 H + I + N D) numbers.
- seconds: forwards of each layer over the T positions (`quantization.registry.PASSES`) at the share of the device's
  arithmetic that a forward reaches; sums of outer products, 2 T I^2 for each group's input, and for GPTQ the update of
  O x I weights by I columns, O I^2, and 2 I^3 for the factors, at a fifteenth of the device's arithmetic (float32); a
  column costs at least the launch of its operators. Under `decode` the decoding of the problems comes before.

The embedding of tokens, the search of ranges and DuQuant's rotations are left out: they are small beside these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightningrl.bench import costs
from lightningrl.bench.costs import decoding_work, operations_of, prefill_work, work_of
from lightningrl.config.systems import System
from lightningrl.quantization.registry import PASSES, SECOND_MOMENTS

if TYPE_CHECKING:
    from lightningrl.bench.estimate.budget import Estimate

FLOAT32_SHARE = 1 / 15
"""Arithmetic in float32 of what a GPU has in bfloat16: 67 of 989 TFLOP/s on an H100."""
COLUMN_S = 2e-4
"""Seconds of one column's operators in GPTQ, which Python launches (assumed: twenty of ten microseconds)."""
HOUR_S = 3600.0


def quantizations(estimate: Estimate) -> dict[str, dict[str, Any]]:
    """Returns the bytes and the seconds of each system that is quantised, by its name."""
    return {each.name: quantization(estimate, each) for each in estimate.experiment.all_systems() if each.quantizer}


def quantization(estimate: Estimate, system: System) -> dict[str, Any]:
    """Returns bytes and seconds of one system's quantizer. One from outside has a single pass and no sums."""
    quantizer, shape, device = system.quantizer, estimate.shape_of(system.policy), estimate.device
    assert quantizer is not None
    number, passes, positions, decoding_s = device.compute_bytes, PASSES.get(quantizer.name, 1), 0.0, 0.0
    weights = shape.parameters * number
    layer = shape.trunk_matrices // shape.num_hidden_layers
    points: dict[str, float] = {"weights": weights, "one layer again": 8 * layer}
    if (calibration := quantizer.calibration) is not None:
        benchmark = estimate.experiment.benchmark(calibration.benchmark)
        lengths = estimate.lengths(benchmark.name, system.policy)
        each = prefill_work(lengths, shape.block_size) + decoding_work(lengths, shape.block_size)
        if calibration.source == "clean":
            each = work_of(lengths.prompt_tokens + lengths.response_tokens, 0, lengths.prompt_tokens)
        positions = min(float(calibration.tokens), calibration.problems * float(each[0]))
        if calibration.source == "decode":
            rows = estimate.kv(system.asked(benchmark), shape)[1]
            decoding_s = costs.decoding_cost(
                shape, device, estimate.shares, lengths, calibration.problems, rows, "calibration"
            ).seconds
        points["hidden states"] = 3 * positions * shape.hidden_size * number
    operations = passes * operations_of(work_of(positions, 0, 0), shape)
    seconds = operations / (device.operations_per_s * estimate.shares.reference) + decoding_s
    widths = (shape.hidden_size, shape.query_numbers, shape.hidden_size, shape.intermediate_size)
    if quantizer.name in SECOND_MOMENTS:
        points["second moments"] = 4 * 4 * max(widths) ** 2
        sums = sum(2 * positions * width**2 for width in widths)
        outputs = (shape.query_numbers + 2 * shape.key_numbers, shape.hidden_size, 2 * shape.intermediate_size,
                   shape.hidden_size)  # fmt: skip
        updates = sum(count * width**2 + 2 * width**3 for width, count in zip(widths, outputs, strict=True))
        share = 1.0 if number == 4 else FLOAT32_SHARE
        columns = 3 * widths[0] + widths[1] + 2 * widths[2] + widths[3]
        seconds += shape.num_hidden_layers * ((sums + updates) / (device.operations_per_s * share) + columns * COLUMN_S)
    if quantizer.name == "awq":
        kept = 4 * shape.hidden_size + shape.intermediate_size + shape.query_numbers
        points["inputs and outputs"] = positions * kept * number
    total = sum(points.values())
    return {
        "quantizer": quantizer.name, "tokens": positions, "points": points, "bytes": total, "seconds": seconds,
        "fits": total <= device.memory_bytes * (1 - estimate.shares.reserve), "gpu_hours": seconds / HOUR_S,
    }  # fmt: skip
