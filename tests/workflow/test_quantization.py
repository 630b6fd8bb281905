"""config/quantization-nano.yaml from data to its tables and figures: every setting of the study on both policies."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from fixtures.every_stage import run_every_stage

from lightningrl.config.counterparts import FLOAT, counterparts
from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE

ROOT = PACKAGE.parent
CONFIG = ROOT / "config" / "quantization-nano.yaml"


@pytest.fixture(scope="module")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantization")
    run_every_stage(CONFIG, folder)
    return folder / "results" / "quantization-nano" / "latest"


@pytest.fixture(scope="module")
def table(latest: Path) -> pd.DataFrame:
    return pd.read_csv(latest / "tables" / "quantization.csv").set_index("policy")


def test_every_system_has_a_row_with_all_numbers(latest: Path, table: pd.DataFrame) -> None:
    assert set(table.index) == {system.name for system in load(CONFIG).all_systems()}
    counts = ["accuracy_pct", "accuracy_difference", "tpf", "tpf_ratio_low", "tpf_true", "tpf_paper", "tpf_harness"]
    assert not table[[*counts, "tpf_rounds_mean", "response_tokens_difference", "aup_difference"]].isna().any(axis=None)
    quantised, trained = table["setting"] != FLOAT, table["weights"] == "lightningrl"
    beyond = table[["accuracy_difference_beyond", "tpf_ratio_beyond", "aup_difference_beyond"]]
    assert (beyond.notna().all(axis=1) == (quantised & trained)).all()
    assert (table["effective_bits"].notna() == (quantised & (table["quantizer"] != "noise"))).all()
    sources = json.loads((latest / "tables" / "quantization.sources.json").read_text())
    behind = {each["stage"] for each in sources["lightningrl-w3/gsm-mini"]}
    assert behind == {"evaluate/lightningrl-w3/gsm-mini", "probe/lightningrl-w3/gsm-mini"}


def test_on_the_float_weights_states_less_bits_move_more(table: pd.DataFrame) -> None:
    for policy in ("base", "lightningrl"):
        kl = table.loc[[f"{policy}-w{bits}" for bits in (8, 4, 3, 2)], "kl"].tolist()
        assert 0 < kl[0] < kl[1] < kl[2] < kl[3]
        assert table.loc[f"{policy}-w2-gptq", "kl"] < table.loc[f"{policy}-w2", "kl"]
        assert table.loc[f"{policy}-w8a8", "kl"] < table.loc[f"{policy}-w4a4", "kl"]
    assert table.loc[["base", "lightningrl"], "kl"].isna().all()


def test_the_figures_are_there_and_the_other_table(latest: Path) -> None:
    for figure in ("bits", "outliers", "surface", "calibrations"):
        assert (latest / "figures" / f"{figure}.png").stat().st_size > 5000
    again = pd.read_csv(latest / "tables" / "bought_back.csv")
    assert not again["accuracy_difference_to_primary"].isna().any()
    assert set(pd.read_csv(latest / "figures" / "surface.csv")["policy"]) == {"base", "lightningrl"}


def test_what_is_compared_with_what_follows_from_weights_quantizer_and_decoder() -> None:
    experiment = load(ROOT / "config" / "quantization-full.yaml")
    found = counterparts(experiment.all_systems(), experiment.benchmarks)
    told = found["lightningrl-plus-w3-gptq"]
    assert (told["exact"], told["counterpart"], told["setting"]) == ("lightningrl-plus", "base-w3-gptq", "w3-gptq")
    told = found["lightningrl-code-w3-gptq"]
    assert (told["exact"], told["counterpart"]) == ("lightningrl-code", ""), "the base's was calibrated on gsm-mini"
    assert found["lightningrl-code-w3"]["counterpart"] == "base-w3", "which looks at no data"
    told = found["llada-w3-gptq"]
    assert (told["exact"], told["counterpart"], told["bits"], told["calibration"]) == ("llada", "", 3, "decode")
    assert found["base"]["setting"] == FLOAT and found["base-w8a8-quarot"]["activation_bits"] == 8
    assert found["base-w8a8kv4-quarot"]["kv_bits"] == 4
