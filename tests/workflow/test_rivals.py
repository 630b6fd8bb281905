"""config/rivals-nano.yaml from data to its table and figure: five families trained and saved in their own formats, and
every decoder of config/rivals.yaml on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from fixtures.every_stage import run_every_stage

from lightningrl.config.experiment import load
from lightningrl.decoding.presets import PRESETS
from lightningrl.pipeline.code_digest import PACKAGE

ROOT = PACKAGE.parent
CONFIG = ROOT / "config" / "rivals-nano.yaml"
FAMILIES = {"base": "sdar", "llada": "llada", "dream": "Dream", "fast-dllm-v2": "Fast_dLLM_Qwen", "qwen2": "qwen2"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rivals")
    run_every_stage(CONFIG, folder)
    return folder / "results" / "rivals-nano"


@pytest.fixture(scope="module")
def table(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / "latest" / "tables" / "rivals.csv").set_index("policy")


def test_the_page_names_just_the_presets_that_are_left_out() -> None:
    page = (ROOT / "docs" / "rivals.md").read_text()
    shown = {entry.decoding.preset for entry in load(ROOT / "config" / "rivals.yaml").systems}
    left_out = page[page.index("presets are left out.") : page.index("## The columns")]
    assert set(re.findall(r"`(\w+)`", left_out)) == PRESETS.keys() - shown and shown <= PRESETS.keys()
    assert f"{len(shown)} of the {len(PRESETS)} published decoders" in " ".join(page.split())


def test_bases_are_saved_as_their_families_and_spend_what_the_first_spends(results: Path) -> None:
    spent = {}
    for name, family in FAMILIES.items():
        [folder] = results.glob(f"pretrain/{name}-????????")
        assert json.loads((folder / "config.json").read_text())["model_type"] == family
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        spent[name] = [row["token_forwards"] for row in rows]
        assert "accuracy_pct" in rows[-1]
    for name in FAMILIES.keys() - {"base"}:
        assert spent[name][-2] < spent["base"][-1] <= spent[name][-1], name


def test_every_system_has_a_row_with_all_counts_and_a_speed(results: Path, table: pd.DataFrame) -> None:
    assert set(table.index) == {system.name for system in load(CONFIG).all_systems()}
    counts = ["accuracy_pct", "tpf", "tpf_true", "tpf_paper", "tpf_harness", "tpf_rounds_mean", "aup", "y_max"]
    counts += ["positions_per_token", "keys_per_token", "tokens_per_second", "tokens_per_second_low"]
    assert not table[counts].isna().any(axis=None)
    assert table["y_max"].nunique() == 1
    families = list(dict.fromkeys(table["family"]))
    assert families == list(FAMILIES.values()), "rows stand by family"
    sources = json.loads((results / "latest" / "tables" / "rivals.sources.json").read_text())
    kinds = {source["stage"].split("/")[0] for source in sources["llada-dual/gsm-mini"]}
    assert kinds == {"evaluate", "speed"}
    assert (results / "latest" / "figures" / "work.png").stat().st_size > 5000


def test_counts_follow_from_what_each_decoder_computes(table: pd.DataFrame) -> None:
    """A canvas of 24 in blocks of 8, a token a forward: three refreshes, then 21 forwards over less and less of it."""
    at_once = table.loc["llada", "forwards_per_problem"]
    assert at_once == table.loc["llada-prefix-static", "forwards_per_problem"] == 24
    assert table.loc["dream", "forwards_per_problem"] == 64, "as many as its steps"
    work = table["positions_per_token"]
    assert work["qwen2"] < work["llada-dual-static"] < work["llada-prefix-static"] < work["llada"] < work["dream"]
    prompt = work["llada"] - 24  # positions of a forward, a forward for each of the 24 tokens
    dual = (3 * (prompt + 24) + 21 * 8) / 24
    prefix = (3 * (prompt + 24) + 7 * (24 + 16 + 8)) / 24
    assert work["llada-dual-static"] == pytest.approx(dual) and work["llada-prefix-static"] == pytest.approx(prefix)
    assert (table.loc[["sdar-static", "sdar-dynamic"], "tpf_true"] < table.loc["base", "tpf_true"]).all(), "commits"
