"""Experiments in nano's size, for real: a study (seeds, probes, a search on validation problems), and one policy with
two decoders and two quantizers, each from data to its tables and figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow


def test_a_study_runs_and_a_search_shares_its_trainings(checkout: Checkout) -> None:
    study, search = checkout.take_config("study"), checkout.take_config("search")
    checkout.run("--cores", "2", config=study)
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
    assert checkout.would_run(config=study) == set()
    searched = checkout.would_run(config=search)
    kinds = {job.split("/")[0] for job in searched}
    assert kinds == {"evaluate", "collect", "table", "figure", "release"}  # the same trainings, other problems
    checkout.run("--cores", "2", config=search)
    shown = pd.read_csv(checkout.path("results/nano/latest/tables/study.csv")).set_index(["benchmark", "series"])
    assert shown.loc[("gsm-mini", "base"), "n_problems"] == 8  # nano's validation problems


SYSTEMS_IN_TABLE = ["base", "lightningrl", "base-static", "entropy-bounded", "w8", "w4"]


def test_decoders_and_quantizers_of_one_policy_are_rows_of_one_table(checkout: Checkout) -> None:
    checkout.run("--cores", "2", config=checkout.take_config("systems"))
    latest = checkout.path("results/nano/latest")
    main = pd.read_csv(latest / "tables/main.csv").set_index("policy")
    assert list(main.index) == SYSTEMS_IN_TABLE
    assert main["threshold"].to_dict() == dict.fromkeys(main.index, 0.9) | {"base-static": 8.0, "entropy-bounded": 0.35}
    assert set(main["base"]) == {"base"} and main["accuracy_difference"].isna().to_list() == [True] + [False] * 5
    frontier = pd.read_csv(latest / "tables/frontier.csv")
    swept = frontier.groupby("policy", sort=False)["threshold"].apply(list).to_dict()
    assert swept["base-static"] == [2.0, 8.0] and swept["entropy-bounded"] == [0.35] and swept["w4"] == [0.02, 0.9]
    assert frontier[frontier["is_primary"]].set_index("policy")["threshold"].to_dict() == main["threshold"].to_dict()
    assert "8 (base-static)" in (latest / "tables/main.md").read_text()
    _check_decoders(checkout)
    _check_weights(checkout)
    _check_explained(checkout)
    assert (latest / "replays/w4-1.html").is_file()
    probes = pd.read_csv(next(checkout.path("results/nano/collect").glob("frontier-*/probes.csv")))
    assert set(probes["policy"]) == {"w4", "base-static"}


def _check_decoders(checkout: Checkout) -> None:
    """Eight steps of a block of eight are a token a forward, two are up to four."""
    path = next(checkout.path("results/nano/evaluate/base-static").glob("gsm-mini-*/records.jsonl"))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    most = {steps: max(max(row["tokens_by_step"]) for row in records if row["threshold"] == steps) for steps in (2, 8)}
    assert most == {2: 4, 8: 1}
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["preimage"]["members"]["selector"].endswith("quota:Quota")


def _check_weights(checkout: Checkout) -> None:
    folders = {name: next(checkout.path("results/nano/quantize").glob(f"{name}-*")) for name in ("w8", "w4")}
    noted = {name: json.loads((folder / "quantization.json").read_text()) for name, folder in folders.items()}
    assert noted["w4"]["options"] == {"bits": 4, "group": 16, "symmetric": False}
    assert {layer["bits"] for layer in noted["w8"]["layers"].values()} == {8}
    assert 4 < noted["w4"]["bits_per_weight"] < 8 < noted["w8"]["bits_per_weight"] < 10
    sizes = {name: (folder / "model.safetensors").stat().st_size for name, folder in folders.items()}
    plain = next(checkout.path("results/nano/train").glob("lightningrl-*/model.safetensors")).stat().st_size
    assert sizes["w4"] < sizes["w8"] < plain


def _check_explained(checkout: Checkout) -> None:
    """A cell leads back through the quantizer to the training, and is found again from the records."""
    command = [sys.executable, "-m", "lightningrl", "explain", "main", "--cell", "w4/gsm-mini:tpf"]
    done = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = re.findall(r"results/nano/(\w+)/", done.stdout)
    assert [kind for kind in dict.fromkeys(kinds) if kind in ("evaluate", "quantize", "train", "pretrain")] == [
        "evaluate", "quantize", "train", "pretrain",
    ]  # fmt: skip
