"""A study in nano's size, for real: seeds, probes, their tables and figures, and a search on validation problems."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow

STUDY = """
extends: nano.yaml
evaluation: {thresholds: [0.02, 0.7, 0.9]}
runs:
  - &rl
    name: lightningrl
    role: after
    algorithm: lightningrl
    benchmark: gsm-mini
    seeds: [0, 1]
    steps: 2
    prompts: 2
    responses: 2
    updates: 1
    max_rounds: 1
    method: {filter_all_wrong: false, filter_tpf_range: 0}
    threshold: 0.03
    learning_rate: 1.0e-4
    validate_every: 2
  - {<<: *rl, name: no-nll, role: ablation, method: {filter_all_wrong: false, filter_tpf_range: 0, nll: 0}}
  - {<<: *rl, name: supervised, role: control, algorithm: supervised, method: {}, match_compute: lightningrl}
report:
  tables: [study, criteria, phrasing]
  figures: [study, ablations, reliability, together]
  replays: []
  probes: [base, lightningrl-0]
  probed_problems: 4
"""
SEARCH = """
extends: study.yaml
evaluation: {split: validation}
report: {tables: [study], figures: [study], probes: []}
"""


def run(checkout: Checkout, *arguments: str, config: str) -> str:
    done = checkout.snakemake(*arguments, "--cores", "2", config=config)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def test_a_study_runs_and_a_search_shares_its_trainings(checkout: Checkout, tmp_path: Path) -> None:
    checkout.path("config/study.yaml").write_text(STUDY)
    checkout.path("config/search.yaml").write_text(SEARCH)
    run(checkout, config="config/study.yaml")
    latest = checkout.path("results/nano/latest")
    table = pd.read_csv(latest / "tables/study.csv")
    of = table[table["benchmark"] == "gsm-mini"].set_index("series")
    assert list(of.index) == ["base", "lightningrl", "no-nll", "supervised"]
    assert of.loc["lightningrl", "seeds"] == "0 1" and len(of.loc["no-nll", "tpf_by_seed"].split()) == 2
    assert set(pd.read_csv(latest / "tables/criteria.csv")["series"]) == {"lightningrl", "no-nll", "supervised"}
    assert {"base", "lightningrl-0"} <= set(pd.read_csv(latest / "tables/phrasing.csv").columns)
    for figure in ("study", "ablations", "reliability", "together"):
        assert (latest / f"figures/{figure}.png").stat().st_size > 5000
    runs = pd.read_csv(next(checkout.path("results/nano/collect").glob("*/curves.csv")))["run"]
    assert set(runs) == {"lightningrl-0", "lightningrl-1", "no-nll-0", "no-nll-1"}
    assert checkout.would_run(config="config/study.yaml") == set()
    searched = checkout.would_run(config="config/search.yaml")
    kinds = {job.split("/")[0] for job in searched}
    assert kinds == {"evaluate", "collect", "table", "figure", "release"}  # the same trainings, other problems
    run(checkout, config="config/search.yaml")
    shown = pd.read_csv(checkout.path("results/nano/latest/tables/study.csv")).set_index(["benchmark", "series"])
    assert shown.loc[("gsm-mini", "base"), "n_problems"] == 8  # nano's validation problems
