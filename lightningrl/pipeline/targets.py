"""What each table and figure of an experiment needs before it can be made: runs, evaluations, GPU-hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import Stage


@dataclass(frozen=True, slots=True)
class Target:
    """One name for Snakemake's command line."""

    name: str
    runs: tuple[str, ...]
    """Trainings, in the plan's order."""
    evaluations: int
    """Sweeps of a policy over a benchmark."""
    gpu_hours: float
    """GPU-hours of both and of quantisations, from `Estimate`; what is not estimated counts nothing."""


def targets(plan: Plan, estimate: Mapping[str, Any]) -> list[Target]:
    """Returns a target for each table and figure, and `all`.

    estimate: what `Estimate.to_json` gives for the same experiment.
    """
    order = [*estimate["runs"], *estimate["not_estimated"]]

    def target(name: str, stage: Stage) -> Target:
        needed = plan.upstream(stage)
        runs = sorted((each.name for each in needed if each.kind == "train"), key=order.index)
        evaluations = [each.name for each in needed if each.kind == "evaluate"]
        hours = sum(estimate["runs"].get(run, {"gpu_hours": 0.0})["gpu_hours"] for run in runs)
        hours += sum(estimate["evaluations"][each]["gpu_hours"] for each in evaluations)
        quantized = {each.name for each in needed if each.kind == "quantize"} & estimate["quantizations"].keys()
        hours += sum(estimate["quantizations"][each]["gpu_hours"] for each in quantized)
        return Target(name, tuple(runs), len(evaluations), hours)

    drawn = [target(stage.target, stage) for stage in (*plan.of("table"), *plan.of("figure"))]
    return [*drawn, target("all", plan.release)]


def markdown(found: list[Target], unit: str) -> str:
    """Returns a pipe table, as docs/paper_index.md has it."""
    everything = found[-1].runs
    lines = [f"| target | trainings | sweeps | {unit} |", "| --- | --- | ---: | ---: |"]
    for target in found:
        runs = f"all {len(everything)}" if target.runs == everything else ", ".join(target.runs)
        lines.append(f"| `{target.name}` | {runs or 'none'} | {target.evaluations} | {target.gpu_hours:,.0f} |")
    return "\n".join(lines) + "\n"
