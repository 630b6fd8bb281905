"""What the evaluations of an experiment cost: of each system on each benchmark, forwards and positions of a response.

A system's TPF is the one that its published row has; where its selector says the number of forwards itself (steps),
that is taken, for each value of its sweep.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lightningrl.bench import costs
from lightningrl.bench.overheads import judging_cost, tail_s
from lightningrl.bench.schedule_costs import decoded, fills_canvas
from lightningrl.benchmarks.choices import is_choice
from lightningrl.config.systems import System
from lightningrl.config.tasks import Benchmark

if TYPE_CHECKING:
    from lightningrl.bench.estimate.budget import Estimate

HOUR_S = 3600.0


def evaluations(estimate: Estimate) -> dict[str, dict[str, Any]]:
    """Returns each evaluation's sweep on one device. A server's costs nothing here: its `point` is None."""
    experiment, found = estimate.experiment, {}
    split, samples = experiment.evaluation.split, experiment.evaluation.samples
    tested = {
        benchmark.name: benchmark for benchmark in experiment.benchmarks
        if getattr(benchmark, split) != 0 and split in getattr(estimate.benchmark(benchmark.name), "splits", (split,))
    }  # fmt: skip
    for system in experiment.all_systems():
        for name in tested if system.evaluate_on is None else [n for n in system.evaluate_on if n in tested]:
            problems = getattr(tested[name], split) or estimate.problems(name, split)
            row = {"problems": problems, "samples": samples, "thresholds": len(system.thresholds)}
            if system.endpoint is None and is_choice(estimate.benchmark(name)):
                row |= estimate.by_likelihood(system.policy, name, problems)
            elif system.endpoint is None:
                row |= _sweep(estimate, system, tested[name], problems * samples)
            else:  # a server answers, whose hours are not ours
                row |= {"point": None, "gpu_hours": 0.0}
            found[f"{system.name}/{name}"] = row
    return found


def _sweep(estimate: Estimate, system: System, benchmark: Benchmark, responses: int) -> dict[str, Any]:
    """Returns the cost of the primary threshold (`point`), a response's forwards and positions there, and all hours."""
    experiment, name = estimate.experiment, benchmark.name
    shape, lengths = estimate.shape_of(system.policy), estimate.lengths_of(system, name)
    longest, is_canvas = system.longest(benchmark), fills_canvas(system.decoding)
    size = int(system.decoding.schedule_options.get("block_size") or shape.block_size)
    mean = longest if is_canvas else lengths.response_tokens
    device, reach = estimate.evaluating, (lengths.prompt_tokens + longest, lengths.prompt_tokens + mean)
    _, rows = estimate.pool(shape, *reach, size, device.compute_bytes)
    samples = 1 if estimate.overheads.in_rounds or is_canvas else experiment.evaluation.samples
    judged = judging_cost(
        responses, experiment.resources.judge_workers, estimate.is_program(name), estimate.overheads
    ).seconds  # fmt: skip
    tail = 0.0 if is_canvas else tail_s(lengths, longest, estimate.overheads)
    points, ones = {}, {}
    for parameter in system.thresholds:
        one = decoded(system.decoding, parameter, lengths, longest, shape.block_size)
        point = costs.decoding_cost(
            shape, device, estimate.shares, lengths, responses, rows, "evaluation", samples,
            (one.forwards, one.prefill, one.decode),
        )  # fmt: skip
        points[parameter], ones[parameter] = replace(point, seconds=point.seconds + judged + tail), one
    one = ones[system.primary_threshold]
    return {
        "point": asdict(points[system.primary_threshold]),
        "forwards_per_response": float(one.forwards),
        "positions_per_response": one.positions,
        "longest": longest,
        "gpu_hours": sum(point.seconds for point in points.values()) / HOUR_S,
    }
