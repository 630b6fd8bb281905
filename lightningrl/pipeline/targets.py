"""What each table and figure of an experiment needs before it can be made: runs, evaluations, GPU-hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import Stage


@dataclass(frozen=True, slots=True)
class Target:
    """One name for Snakemake's command line.

    >>> Target("table5", ("lightningrl-gsm8k", "with-value"), 2, 75.5).runs
    ('lightningrl-gsm8k', 'with-value')
    """

    name: str
    runs: tuple[str, ...]
    """Trainings, in the plan's order."""
    evaluations: int
    """Sweeps of a policy over a benchmark."""
    gpu_hours: float
    """GPU-hours of both, from `Estimate`; supervised controls are not estimated and count nothing."""


def targets(plan: Plan, estimate: Mapping[str, Any]) -> list[Target]:
    """Returns a target for each table and figure, and `all`.

    `estimate` is what `Estimate.to_json` gives for the same experiment.
    """
    drawn = [stage for stage in plan if stage.kind in ("table", "figure")]
    found = [_target(stage.target, stage, estimate) for stage in drawn]
    return [*found, _target("all", plan.release, estimate)]


def _target(name: str, stage: Stage, estimate: Mapping[str, Any]) -> Target:
    needed = {each.folder: each for each in _upstream(stage)}.values()
    runs = tuple(sorted({each.name for each in needed if each.kind == "train"}, key=list(_names(estimate)).index))
    evaluations = [each.name for each in needed if each.kind == "evaluate"]
    hours = sum(estimate["runs"].get(run, {"gpu_hours": 0.0})["gpu_hours"] for run in runs)
    hours += sum(estimate["evaluations"][each]["gpu_hours"] for each in evaluations)
    return Target(name, runs, len(evaluations), hours)


def _names(estimate: Mapping[str, Any]) -> Iterator[str]:
    yield from estimate["runs"]
    yield from estimate["not_estimated"]


def _upstream(stage: Stage) -> Iterator[Stage]:
    for source in stage.upstream:
        yield source
        yield from _upstream(source)


def markdown(found: list[Target], unit: str) -> str:
    """A pipe table, as docs/paper_index.md has it."""
    everything = found[-1].runs
    lines = [f"| target | trainings | sweeps | {unit} |", "| --- | --- | ---: | ---: |"]
    for target in found:
        runs = f"all {len(everything)}" if target.runs == everything else ", ".join(target.runs)
        lines.append(f"| `{target.name}` | {runs or 'none'} | {target.evaluations} | {target.gpu_hours:,.0f} |")
    return "\n".join(lines) + "\n"
