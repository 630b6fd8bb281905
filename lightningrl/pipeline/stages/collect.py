"""Collect evaluations, training curves, measured speeds and probes into nine tables, from which everything is drawn.

`frontier.csv` has a row a (policy, benchmark, threshold), `headline.csv` a row a (policy, benchmark) with AUP and
paired intervals, `pooled.csv` a row a (series of runs, benchmark, threshold), `curves.csv` a row a training step,
`steps.csv` a row a decoding step, `speed.csv` a row a measured speed, `probes.csv` what was found in policies,
`quantized.csv` a row a (quantised system, benchmark, threshold), `trainings.csv` a row a run: what it spent. All are
always written, with their headers where an experiment has nothing for them. The statistics are those of
`report.frontier`, `report.pooled`, `report.series` and `report.quantized`; nothing is drawn here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lightningrl.pipeline.stages.context import StageContext
from lightningrl.report import series
from lightningrl.report.formats import csv_text
from lightningrl.report.frontier import Evaluation, collect, groups
from lightningrl.report.pooled import pooled
from lightningrl.report.quantized import quantized
from lightningrl.types import EvalRecord
from lightningrl.utils.files import read_json, read_jsonl, write_text

REWARD = "reward_total_mean"
"""What a metrics row has when its step was one of reinforcement learning."""
PROBES = ("policy", "series", "role", "benchmark", "measure", "label", "count", "value")
"""Columns of `probes.csv`: `pipeline.stages.probe`."""

TRAININGS = ("run", "algorithm", "base", "token_forwards", "earlier_token_forwards", "steps", "chosen_step")
"""Columns of `trainings.csv`. `token_forwards` are those of the whole run, rollouts, a teacher and the making of its
data included, a backward counted as two; `earlier_token_forwards` what the runs spent through which its base came to
be; `base` is where that chain begins."""


def run(context: StageContext) -> None:
    """Write the tables."""
    config = context.config
    evaluations = list(_evaluations(context))
    benchmarks = groups(evaluations, config["primary_threshold"], config["bootstrap"], config["seed"])
    tables = collect(benchmarks, config["experiment"])
    written = {
        "frontier": tables.frontier,
        "headline": tables.headline,
        "pooled": pooled(benchmarks),
        "curves": series.curves(_training_rows(context)),
        "steps": series.steps(benchmarks),
        "speed": series.speeds(_speeds(context)),
        "probes": _probes(context),
        "trainings": pd.DataFrame(_trainings(context), columns=list(TRAININGS)),
        "quantized": quantized(benchmarks, tables.frontier, config["counterparts"], *_quantizations(context)),
    }
    for name, table in written.items():
        write_text(context.folder / f"{name}.csv", csv_text(table))
        context.report(f"{name}.csv: {len(table)} rows")


def _made(context: StageContext, kind: str) -> Iterator[tuple[dict[str, Any], str, Path]]:
    """Yields (policy, benchmark, folder) of what was made of a kind, by benchmark, then policy, in the experiment's
    order: that of the rows in every table."""
    for benchmark in context.config["benchmarks"]:
        for policy in context.config["policies"]:
            folder = context.inputs.get(f"{kind}/{policy['name']}/{benchmark}")
            if folder is not None:
                yield policy, benchmark, folder


def _evaluations(context: StageContext) -> Iterator[Evaluation]:
    for policy, benchmark, folder in _made(context, "evaluate"):
        base = policy.get("base") or None
        if base and f"evaluate/{base}/{benchmark}" not in context.inputs:
            base = ""  # it is compared with none
        yield Evaluation(
            policy["name"],
            policy["role"],
            policy["algorithm"],
            benchmark,
            [EvalRecord.from_json(row) for row in read_jsonl(folder / "records.jsonl")],
            base,
            policy.get("published") or "",
            policy.get("series") or "",
            policy.get("seed"),
            policy.get("primary_threshold"),
        )


def _training_rows(context: StageContext) -> Iterator[dict[str, Any]]:
    """Metrics by (run, step), what was logged of one step in several rows put together; supervised runs left out."""
    for policy in context.config["policies"]:
        folder = context.inputs.get(f"train/{policy['name']}")
        if folder is None:
            continue
        rows: dict[int, dict[str, Any]] = {}
        for row in read_jsonl(folder / "metrics.jsonl"):
            if "step" in row:
                rows.setdefault(row["step"], {}).update(row)
        what = {key: policy.get(key) for key in series.TEXT_COLUMNS}
        yield from ({**row, **what, "run": policy["name"]} for row in rows.values() if REWARD in row)


def _trainings(context: StageContext) -> Iterator[tuple[Any, ...]]:
    for policy in context.config["policies"]:
        folder = context.inputs.get(f"train/{policy['name']}")
        if folder is not None:
            last = list(read_jsonl(folder / "metrics.jsonl"))[-1]
            earlier = sum(_spent(context.inputs[f"train/{name}"]) for name in policy.get("earlier", ()))
            chosen = read_json(folder / "selection.json")["chosen"]["step"]
            what = policy["name"], policy["algorithm"], policy.get("base")
            yield (*what, last.get("token_forwards"), earlier, last["step"], chosen)


def _spent(folder: Path) -> int:
    return list(read_jsonl(folder / "metrics.jsonl"))[-1]["token_forwards"]


def _speeds(context: StageContext) -> Iterator[dict[str, Any]]:
    """Yields what was measured of each (policy, benchmark)."""
    for policy, _, folder in _made(context, "speed"):
        yield read_json(folder / "speed.json") | {key: policy.get(key) or "" for key in ("published", "role")}


def _quantizations(context: StageContext) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the bits a weight, scales included, of each system whose weights have codes, and the options of each that
    is quantised, as JSON."""
    roles = {name: f"quantize/{name}" for name in context.config["counterparts"]}
    found = {name: read_json(context.inputs[role] / "quantization.json") for name, role in roles.items()
             if role in context.inputs}  # fmt: skip
    bits = {name: said["effective_bits"] for name, said in found.items() if "effective_bits" in said}
    return bits, {name: json.dumps(said.get("options", {}), sort_keys=True) for name, said in found.items()}


def _probes(context: StageContext) -> pd.DataFrame:
    """Returns all probes under each other, with what each is of."""
    tables = []
    for policy, benchmark, folder in _made(context, "probe"):
        what = {"policy": policy["name"], "role": policy["role"], "benchmark": benchmark}
        what["series"] = policy.get("series") or policy["name"]
        tables.append(pd.read_csv(folder / "probe.csv", dtype={"label": str}).assign(**what))
    return pd.concat(tables)[list(PROBES)] if tables else pd.DataFrame(columns=list(PROBES))
