"""Runs that begin from runs: weights, budgets, comparisons, and the order in which they are planned."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fixtures.every_stage import run_every_stage
from safetensors.numpy import load_file

from lightningrl.config.experiment import Experiment, load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

NANO = PACKAGE.parent / "config" / "nano.yaml"
SMALL = {
    "name": "first", "role": "ablation", "algorithm": "grpo_traj", "benchmark": "gsm-mini", "steps": 1, "prompts": 2,
    "responses": 2, "updates": 1, "max_rounds": 1, "method": {"filter_all_wrong": False}, "threshold": 0.03,
    "learning_rate": 1.0e-2, "warmup_updates": 0, "validate_every": 1,
}  # fmt: skip
"""One step that moves the weights; validation chooses between it and the base."""
RUNS = [
    {"name": "second", "role": "after", "base": "first", "algorithm": "lightningrl", "match_compute": "long"},
    {"name": "long", "steps": 5},
]


def experiment(folder: Path, runs: list[dict]) -> Path:
    tree = {
        "extends": str(NANO), "experiment": "chained", "runs": [SMALL, *({**SMALL, **run} for run in runs)],
        "evaluation": {"thresholds": [0.9]}, "report": {"replays": ["second"], "figures": [], "bootstrap": 20},
    }  # fmt: skip
    (folder / "chained.yaml").write_text(yaml.safe_dump(tree))
    return folder / "chained.yaml"


def spent(folder: Path) -> list[int]:
    return [json.loads(line)["token_forwards"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chained")
    run_every_stage(experiment(folder, RUNS), folder)
    return folder / "results" / "chained"


def folder_of(results: Path, name: str) -> Path:
    return next(results.glob(f"train/{name}-*"))


def test_a_run_begins_with_the_chosen_weights_of_the_run_before_it(results: Path) -> None:
    first, second = folder_of(results, "first"), folder_of(results, "second")
    manifest = json.loads((second / "manifest.json").read_text())
    assert Path(manifest["inputs"]["base"]["folder"]).name == first.name
    started = json.loads((second / "selection.json").read_text())["base"]
    ended = json.loads((first / "selection.json").read_text())["chosen"]
    assert started["validation_tpf"] == ended["validation_tpf"]
    assert started["validation_accuracy_pct"] == ended["validation_accuracy_pct"]
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert weights[0].keys() == weights[1].keys()


def test_what_was_spent_on_the_way_to_the_base_counts(results: Path) -> None:
    first, second, long = (spent(folder_of(results, name)) for name in ("first", "second", "long"))
    budget = long[-1] - first[-1]
    assert second[-1] >= budget > 0 and all(count < budget for count in second[:-1])
    assert len(second) < 5, "as many steps as `steps` would have said had nothing been matched"


def test_tables_and_replays_compare_with_the_policy_at_the_beginning(results: Path) -> None:
    table = pd.read_csv(results / "latest" / "tables" / "main.csv").set_index("policy")
    paired = table.loc["second", "accuracy_pct"] - table.loc["base", "accuracy_pct"]
    assert table.loc["second", "accuracy_difference"] == pytest.approx(paired)
    manifest = json.loads(next(results.glob("replay/second-*/manifest.json")).read_text())
    assert "pretrain/base-" in manifest["inputs"]["base"]["folder"]


def test_runs_are_planned_behind_those_that_they_wait_for(tmp_path: Path) -> None:
    """The control is listed first, and `second` before the run whose compute it spends."""
    control = {"name": "control", "role": "control", "algorithm": "supervised", "method": {}, "match_compute": "second"}
    found = load(experiment(tmp_path, [*RUNS, control]).rename(tmp_path / "x.yaml"))
    assert [run.name for run in found.runs_in_order()].index("control") > 0
    order = [stage.name for stage in plan(found).of("train")]
    assert order.index("first") < order.index("second") and order.index("long") < order.index("second")
    assert order.index("second") < order.index("control")
    inputs = plan(found).stage("train", "control").inputs
    assert inputs["matched/first"] is not None and inputs["matched"].name == "second"
    assert found.origin("second") == "base" and found.origin("base") == "base"


def test_seeds_of_a_run_begin_from_the_same_seeds_of_its_base(tmp_path: Path) -> None:
    tree = yaml.safe_load(experiment(tmp_path, [RUNS[0] | {"match_compute": None, "seeds": [3, 4]}]).read_text())
    tree["runs"][0]["seeds"] = [3, 4]
    tree["report"]["replays"] = []
    path = tmp_path / "seeds.yaml"
    path.write_text(yaml.safe_dump(tree))
    found: Experiment = load(path)
    assert {run.name: run.base for run in found.runs} == {
        "first-3": "base", "first-4": "base", "second-3": "first-3", "second-4": "first-4",
    }  # fmt: skip
