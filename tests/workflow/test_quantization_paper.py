"""config/quantization-paper.yaml from data to its tables and figures, with random checkpoints of a few thousand weights
and a handful of rows: every family, every setting, every task. Its numbers mean nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.every_stage import run_every_stage
from fixtures.small_benchmarks import MIRROR
from fixtures.small_choices import write_mirror

from lightningrl.config.experiment import load
from lightningrl.inference.likelihood import encode_continuation, log_likelihoods
from lightningrl.inference.llm import LLM
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.quantization.protocol import make_quantizer
from lightningrl.quantization.registry import QUANTIZERS

ROOT = PACKAGE.parent
CONFIG = ROOT / "config" / "quantization-paper.yaml"
SHAPES: dict[str, dict[str, Any]] = {
    "sdar": {},
    "llada": {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5},
    "dream": {"family": "Dream", "attention": "full", "block_size": 1, "head_dim": 4, "logit_shift": True,
              "qk_norm": False, "qkv_bias": True},
}  # fmt: skip
CHOICES = ("piqa", "winogrande", "arc-easy", "arc-challenge", "hellaswag", "mmlu")
EVERY = ("base", "llada-instruct", "dream")
"""Policies that are evaluated on every benchmark and have every setting; others on one or two, as stages cost time."""
FEW = ("base", "llada-instruct", "lightningrl-math")
"""The policies of entries that name several."""


def small(tree: dict, folder: Path) -> dict:
    """The config with checkpoints, problems and groups of a test's size; names, settings and tasks are its own."""
    sdar, llada, dream = (
        save_byte_checkpoint(folder / "models" / name, seed=n, max_position_embeddings=4096, **shape)
        for n, (name, shape) in enumerate(SHAPES.items())
    )
    mask = json.loads((sdar / "config.json").read_text()).get("mask_token_id")
    for policy in (tree["base"], *tree["checkpoints"]):
        name = policy.get("name", "base")
        policy |= {"size": "8b", "checkpoint": str({"l": llada, "d": dream}.get(name[0] * (name[:5] != "light"), sdar))}
        if "mask_token_id" in policy:
            policy |= {"mask_token_id": mask, "block_size": 4}
    for benchmark in tree["benchmarks"]:
        splits = ("train", "validation") if benchmark["name"] not in ("humaneval", *CHOICES) else ()
        benchmark |= {"name": f"small-{benchmark['name']}", "test": 1, "max_new_tokens": 4} | dict.fromkeys(splits, 0)
    tree["benchmarks"][0] |= {"train": 3, "validation": 1}
    for policy in tree["checkpoints"]:
        if "evaluate_on" in policy:
            policy["evaluate_on"] = [f"small-{name}" for name in policy["evaluate_on"]][:2]
    for system in tree["systems"]:
        if "policies" in system:
            system["policies"] = [policy for policy in system["policies"] if policy in FEW]
        if system["name"] not in EVERY:
            system["evaluate_on"] = ["small-gsm8k"] if "quantizer" in system else ["small-gsm8k", "small-piqa"]
        if system.get("policies") == ["lightningrl-math"]:
            system["evaluate_on"] = ["small-math500"]
        if quantizer := system.get("quantizer"):
            sized = {"group": 8} if quantizer.get("group") else {"block": 8} if quantizer["name"] == "duquant" else {}
            system["quantizer"] = quantizer | sized
        if "thresholds" in system:
            system |= {"thresholds": [4], "primary_threshold": 4}
    tree["evaluation"] |= {"thresholds": [0.9], "likelihood": {"samples": 4}}
    tree["decoding"] |= {"rows": 8, "memory_mb": 50}
    tree["report"]["bootstrap"] = 20
    return tree | {"plugins": ["fixtures.small_choices"], "resources": {}, "data": {"mirror": str(folder / "mirror")}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantization-paper")
    shutil.copytree(MIRROR, folder / "mirror")
    write_mirror(folder / "mirror")
    tree = small(yaml.safe_load(CONFIG.read_text()), folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run_every_stage("small.yaml", folder)
    return folder


def stage(folder: Path, name: str) -> Path:
    [found] = (folder / "results" / "quantization-paper").glob(f"{name}-????????")
    return found


def test_every_setting_of_every_model_has_a_row_and_every_published_number_a_line(folder: Path) -> None:
    tables = folder / "results" / "quantization-paper" / "latest" / "tables"
    main = pd.read_csv(tables / "main.csv")
    known, systems = yaml.safe_load(CONFIG.read_text()), load(folder / "small.yaml").all_systems()
    assert {each.name for each in systems} == set(main["policy"]) and len(systems) > 75
    assert set(main[main["policy"] == "base"]["benchmark"]) == {f"small-{b['name']}" for b in known["benchmarks"]}
    published = pd.read_csv(tables / "published_quantization.csv")
    assert len(published) == 15 and "Dream-7B-Instruct GPTQ" in set(published["row"])


def test_every_setting_is_compared_with_its_float_weights_on_their_states(folder: Path) -> None:
    latest = folder / "results" / "quantization-paper" / "latest"
    table = pd.read_csv(latest / "tables" / "quantization.csv")
    here = table[(table["benchmark"] == "small-gsm8k") & (table["setting"] != "float")].set_index("policy")
    assert not here[["kl", "accuracy_difference", "tpf_ratio"]].isna().any(axis=None) and len(here) > 65
    for policy in EVERY:
        kl = here.loc[[f"{policy}-w{bits}" for bits in (8, 4, 3, 2)], "kl"].tolist()
        assert 0 < kl[0] < kl[1] < kl[2] < kl[3]
    assert here.loc["llada-instruct-w4a4-quarot-published", "kv_bits"] == 4
    assert (latest / "tables" / "bought_back.csv").is_file()
    for figure in ("bits", "outliers", "surface", "calibrations"):
        assert (latest / "figures" / f"{figure}.png").stat().st_size > 5000


def test_what_stands_for_a_published_row_is_made_as_published() -> None:
    """By the published variant on clean text; and settings are compared on one grid."""
    systems = {each.name: each for each in load(CONFIG).all_systems()}
    rows = {name: each for name, each in systems.items() if each.published and each.quantizer}
    assert len(rows) == 8 and all(name.endswith("-published") for name in rows)
    for name, each in rows.items():
        options = each.quantizer.options
        assert each.quantizer.calibration.source == "clean", name
        assert options.get("compat", False) == name.startswith("llada")  # on Dream no name is missed
        assert options.get("kv_bits", 4) == 4 and options.get("symmetric", True)
    for policy in ("base", "llada-base", "dream"):
        nearest, gptq, noise = (
            make_quantizer(QUANTIZERS[each.name], each.options)
            for each in (systems[f"{policy}-{name}"].quantizer for name in ("w2", "w2-gptq", "noise-w2"))
        )
        assert nearest.grid == gptq.grid == noise.grid and nearest.group == gptq.group == noise.group == 128
    paper, miniature = (
        {each.name.removeprefix("base-"): each.quantizer.name for each in load(path).all_systems()
         if each.policy == "base" and each.quantizer}
        for path in (CONFIG, CONFIG.with_name("quantization.yaml"))
    )  # fmt: skip
    assert miniature.items() <= paper.items()


@pytest.mark.parametrize("policy", EVERY)
def test_choices_are_those_of_the_likelihoods(folder: Path, policy: str) -> None:
    made = stage(folder, f"evaluate/{policy}/small-winogrande")
    [row] = [json.loads(line) for line in (made / "choices.jsonl").read_text().splitlines()]
    [record] = [json.loads(line) for line in (made / "records.jsonl").read_text().splitlines()]
    name = {"base": "sdar", "llada-instruct": "llada", "dream": "dream"}[policy]
    llm = LLM(folder / "models" / name, block_size=4 if name == "sdar" else None)
    pairs = [
        encode_continuation(llm.tokenizer, f"Ann passed the pot to Eva, for {who}", " was hungry.")
        for who in ("Ann", "Eva")
    ]
    ours = [each.logp for each in log_likelihoods(llm.model, pairs, samples=4)]
    assert row["logp"] == pytest.approx(ours, abs=1e-3) and row["tokens"] == [len(pairs[0].target_ids)] * 2
    assert record["correct"] == (ours[1] > ours[0]) and record["denoise_forwards"] is None
    summary = json.loads((made / "summary.json").read_text())[0]
    assert summary["accuracy_pct"] == summary["accuracy_by_sum_pct"] and summary["tpf"] is None


def test_the_real_size_is_planned_whole() -> None:
    planned = plan(load(CONFIG))
    evaluated = [each for each in planned if each.kind == "evaluate"]
    assert len(evaluated) > 700 and sum(each.spec.outside.endswith("likelihood") for each in evaluated) > 400
