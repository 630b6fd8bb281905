"""The memory of a training at each of its points as a Markdown table: three sizes, with and without a value model."""

from __future__ import annotations

from lightningrl.bench.estimate.budget import DEVICES, Estimate
from lightningrl.bench.memory import TrainingMemory
from lightningrl.bench.model_shape import Shape

SIZES = ("1.7b", "4b", "8b")
CARDS = {"80 GB": DEVICES["h100"], "141 GB": DEVICES["h200"]}


def memory_by_size(estimate: Estimate) -> str:
    """Returns GB on each GPU at each point, of trainings in bfloat16 by the experiment's decoding and resources, and
    whether the largest is within a card's memory without the reserve."""
    columns: dict[str, dict[str, float]] = {}
    for size in SIZES:
        for has_value_model in (False, True):
            one = memory_of(estimate, size, has_value_model)
            columns[f"{size.upper()} on {one.devices}{', value model' * has_value_model}"] = one.totals()
    points = max(columns.values(), key=len)
    rows = [["GB at", *columns], ["---", *["---:"] * len(columns)]]
    for point in points:
        cells = (f"{totals[point] / 1e9:.1f}" if point in totals else "" for totals in columns.values())
        rows.append([point, *cells])
    rows.append(["largest", *(f"**{max(totals.values()) / 1e9:.1f}**" for totals in columns.values())])
    for name, card in CARDS.items():
        budget = card.memory_bytes * (1 - estimate.shares.reserve)
        fits = ("fits" if max(totals.values()) <= budget else "does not fit" for totals in columns.values())
        rows.append([f"{name}, {budget / 1e9:.1f} without the reserve", *fits])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def memory_of(estimate: Estimate, size: str, has_value_model: bool) -> TrainingMemory:
    """Returns the training of a size as the experiment's most demanding run in bfloat16 would be on its GPUs."""
    experiment, base = estimate.experiment, estimate.experiment.base
    runs = [run for run in experiment.runs if run.implementation.rolls_out]
    shape = Shape.of_size(size, 32 if base is None else base.block_size or 32)
    devices = estimate.devices or experiment.resources.processes(size)
    found, alike = [], [run for run in runs if run.implementation.has_value_model == has_value_model]
    for run in alike or runs:
        benchmark = experiment.benchmark(run.benchmark)
        pool, _ = estimate.kv(benchmark, shape, 2)
        positions = float(run.microbatch_positions or 32_768)
        found.append(
            TrainingMemory(
                shape, devices, 2, positions, pool, experiment.decoding.rows, has_value_model,
                has_reference=run.implementation.needs_reference, checkpointed=estimate.checkpointed,
            )
        )  # fmt: skip
    return max(found, key=lambda one: max(one.totals().values()))
