"""config/rivals-trained.yaml in nano's size, made from the file itself: every training and every system, from data to
its table and figure."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fixtures.every_stage import run_every_stage

from lightningrl.config.experiment import load
from lightningrl.config.reading import read_tree
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

CONFIG = PACKAGE.parent / "config" / "rivals-trained.yaml"
NANO = {
    "experiment": "trained-nano", "tokenizer": {"texts_per_benchmark": 60},
    "benchmarks": [
        {"name": "gsm-mini", "train": 60, "validation": 2, "test": 3, "max_new_tokens": 24},
        {"name": "code-mini", "train": 60, "validation": 1, "test": 0, "max_new_tokens": 24},
    ],
}  # fmt: skip
SMALL = {"prompts": 2, "responses": 2, "updates": 1, "max_rounds": 1, "sequences": 2, "validate_every": 50}


def nano() -> dict:
    """The experiment with all its runs and systems, and sizes at which it takes a minute. Answers are kept whether they
    are correct or not, because a model of this size has no correct ones."""
    tree = read_tree(CONFIG) | NANO
    tree["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
    tree["pretrain"] |= {"validate_every": 2}
    tree["pretrain"]["autoregressive"] |= {"steps": 2, "sequences": 4}
    tree["pretrain"]["diffusion"] |= {"steps": 4, "sequences": 4}
    tree["speed"] |= {"prompts": 2, "warmup": 0, "repeats": 1}
    tree["report"] |= {"bootstrap": 20}
    for run in tree["runs"]:
        run |= SMALL | {"steps": 8 if run["name"] == "lightningrl" else 2}
        method = run["method"] = json.loads(json.dumps(run.get("method", {})))
        if "data" in method:
            method["data"] |= {"problems": 2, "keep": "all"}
        if run["algorithm"] in ("lightningrl", "lightningrl_plus", "grpo_traj"):
            method["filter_all_wrong"] = False
        if run["algorithm"] == "tracerl":
            method["filter_accuracy"] = [0, 1]
        if run["algorithm"] == "planner_pretraining":
            method["length"] = 64
    for system in tree["systems"]:
        system["thresholds"] = [system["primary_threshold"]]
    return tree


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "nano.yaml").write_text(yaml.safe_dump(nano()))
    run_every_stage("nano.yaml", folder)
    return folder / "results" / "trained-nano"


@pytest.fixture(scope="module")
def table(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / "latest" / "tables" / "trained.csv").set_index("policy")


def spent(results: Path, name: str) -> list[int]:
    [folder] = results.glob(f"train/{name}-????????")
    return [json.loads(line)["token_forwards"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_training_spends_what_the_anchor_spends_and_no_step_more(results: Path) -> None:
    anchor = spent(results, "lightningrl")[-1]
    runs = [run for run in load(CONFIG).runs if run.match_compute]
    assert len(runs) == 14
    for run in runs:
        counts = spent(results, run.name)
        earlier = spent(results, run.base)[-1] if run.base == "llada-planner" else 0
        assert counts[-1] + earlier >= anchor, run.name
        assert len(counts) == 1 or counts[-2] + earlier < anchor, run.name


def test_the_table_has_every_system_with_its_compute(results: Path, table: pd.DataFrame) -> None:
    experiment = load(CONFIG)
    assert set(table.index) == {system.name for system in experiment.all_systems()}
    assert not table[["accuracy_pct", "tpf", "positions_per_token", "keys_per_token", "aup"]].isna().any(axis=None)
    runs = {run.name for run in experiment.runs}
    assert set(table.index[table["spent"].notna()]) == runs
    both = spent(results, "llada-planner")[-1] + spent(results, "llada-dultra")[-1]
    assert table.loc["llada-dultra", "spent"] == pytest.approx(both / 1e6)
    text = (results / "latest" / "tables" / "trained.md").read_text()
    assert "is ahead per forward" in text and "per unit of work" in text


def test_each_family_has_its_control_and_everything_is_compared_with_its_own_base(table: pd.DataFrame) -> None:
    experiment = load(CONFIG)
    controls = {experiment.origin(run.base) for run in experiment.runs if run.role == "control"}
    assert controls == {"base", "llada", "dream"}
    for name, base in (("llada-dultra", "llada"), ("dream-d3llm", "dream"), ("dparallel", "base")):
        expected = table.loc[name, "accuracy_pct"] - table.loc[base, "accuracy_pct"]
        assert table.loc[name, "accuracy_difference"] == pytest.approx(expected)


def test_a_seeds_rows_say_of_every_system_how_its_weights_were_made(
    results: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent.parent)
    experiment = load(Path("nano.yaml"))
    weights = {system.name: system.policy for system in experiment.all_systems()}
    found = plan(experiment)
    seeds = runpy.run_path(str(PACKAGE.parent / "workflow" / "seeds.py"))
    rows = seeds["_rows"](found, weights, "headline").set_index("policy")
    assert set(rows.index) == set(table.index)
    assert (rows["seconds"] > 0).all()
    runs = {run.name for run in experiment.runs}
    for name, row in rows.iterrows():
        folder = found.stage("train" if weights[name] in runs else "pretrain", weights[name]).folder
        chosen = folder / "selection.json"
        step = json.loads(chosen.read_text())["chosen"]["step"] if chosen.exists() else None
        assert row["chosen_step"] == step or (step is None and pd.isna(row["chosen_step"])), name
        spent = row["token_forwards"] / 1e6
        assert spent == pytest.approx(table.loc[weights[name], "spent"], nan_ok=True), name
