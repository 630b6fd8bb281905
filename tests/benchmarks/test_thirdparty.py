"""A package of somebody else's adds names of its own to the registries, and ours is not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fixtures import killing
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import HANG_S

from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.models.families import registry
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.results.folders import stage_folders

THIRD_PARTY = Path(__file__).parents[1] / "fixtures" / "thirdparty"
CONFIG = str(THIRD_PARTY / "experiment.yaml")
KINDS = ("data", "selfcheck", "tokenizer", "pretrain", "train", "quantize", "evaluate", "collect")


def test_an_experiment_of_outside_parts_runs_from_data_to_collected_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(THIRD_PARTY)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    planned = plan(load(CONFIG))
    for kind in KINDS:
        for stage in planned.of(kind):
            assert runner.run_stage(planned, stage)
    results = tmp_path / "results" / "colours"
    manifest = json.loads(next(results.glob("train/frugal-*/manifest.json")).read_text())
    outside = {"plug-in colourbench.frugal", "plug-in colourbench.gap", "plug-in colourbench.sums"}
    assert outside <= set(manifest["preimage"]["code"])
    assert manifest["after"]["selfcheck/sums"]["found"]["selfcheck.json"]["official"]["pct"] == 100.0
    records = next(results.glob("evaluate/frugal/*/records.jsonl")).read_text().splitlines()
    assert [json.loads(line)["threshold"] for line in records] == [0.0] * 6 + [0.2] * 6
    quantized = json.loads(next(results.glob("quantize/signs-*/quantization.json")).read_text())
    assert quantized["calibration_problems"] == 8 and list(quantized["layers"]) == ["model.layers.0.mlp.up_proj"]
    manifest = json.loads(next(results.glob("quantize/signs-*/manifest.json")).read_text())
    assert {"plug-in colourbench.signs", "plug-in colourbench.sums"} <= set(manifest["preimage"]["code"])
    headline = next(results.glob("collect/frontier-*/headline.csv")).read_text()
    assert "signs" in headline and "frugal" in headline
    _check_kind(tmp_path)


def test_one_part_of_every_kind_from_outside_runs_from_data_to_a_row_of_its_table(tmp_path, monkeypatch):
    """Family, schedule, selector, algorithm, quantizer, benchmark, table and kind of stage."""
    monkeypatch.setitem(registry.PLUGGED, "tint", "colourbench.tint:Tint")
    monkeypatch.syspath_prepend(THIRD_PARTY)
    shape = {"block_size": 16, "family": "tint", "attention": "full", "qk_norm": False}
    save_byte_checkpoint(tmp_path / "tint-checkpoint", **shape)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    planned = plan(load(str(THIRD_PARTY / "tint.yaml")))
    for stage in planned.stages:  # upstream first
        assert runner.run_stage(planned, stage)
    results = tmp_path / "results" / "tint"
    rows = pd.read_csv(next(results.glob("table/spread-*/spread.csv")))
    assert list(rows.policy) == ["base", "denoise", "signs"] and (rows["min"] >= 1).all()
    assert (rows["max"] <= 4).all(), "the window's width"
    evaluated = json.loads(next(results.glob("evaluate/signs/*/manifest.json")).read_text())
    parts = ("tint", "window", "gap", "sums")
    assert {f"plug-in colourbench.{part}" for part in parts} <= set(evaluated["preimage"]["code"])
    trained = json.loads(next(results.glob("train/denoise-*/manifest.json")).read_text())
    assert "plug-in colourbench.denoise" in trained["preimage"]["code"]
    assert trained["run"]["plugins"] == ["colourbench.names"], "which a tool that cannot read its weights names"
    steps = [json.loads(line) for line in next(results.glob("train/denoise-*/metrics.jsonl")).read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2] and all(row["loss"] > 0 for row in steps)
    counted = next(results.glob("histogram/signs/sums-*/histogram.csv")).read_text()
    assert counted.startswith("tokens,responses")
    assert (results / "latest/histograms/signs/sums/histogram.csv").read_text() == counted, "its kind is released"
    assert (results / "latest/tables/spread.csv").is_file()
    for inputs, said in (
        ({"spread": ("frontier", "specs")}, "expected a tuple of some of frontier, headline"),
        ({}, "spread is called with frontier, but it does not take that: missing a required"),
    ):
        monkeypatch.setattr("colourbench.spread.INPUTS", inputs)
        with pytest.raises(ConfigError, match=said):
            plan(load(str(THIRD_PARTY / "tint.yaml")))


def _check_kind(root):
    """A kind of stage from outside is planned, made, listed and explained as the package's own kinds are."""

    def run(*arguments, config=("--config", CONFIG)):
        done = killing.run(root, *arguments, *config, path=[THIRD_PARTY])
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "OK" in run("validate")
    helped = run("histogram", "--help")
    assert "Count how many responses of an evaluation have each length." in helped and "evaluation.samples" in helped
    assert sum(" histogram " in line for line in run("stages").splitlines()) == 3
    run("histogram", "--name", "base/sums")
    variables = os.environ | {"PYTHONPATH": str(THIRD_PARTY)}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PACKAGE.parent / "Snakefile"), "--cores", "1"]
    command += ["histogram_signs_sums", "histogram_base_sums", "--configfile", CONFIG]
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("rule histogram:") == 1, "that of the base was there, and so was all upstream"
    folder = next((root / "results/colours/histogram/signs").iterdir())
    records = next((root / "results/colours/evaluate/signs").glob("*/records.jsonl")).read_text().splitlines()
    lengths = [json.loads(line)["response_tokens"] // 4 * 4 for line in records]
    counted = [f"{length},{lengths.count(length)}" for length in sorted(set(lengths))]
    assert (folder / "histogram.csv").read_text().splitlines() == ["tokens,responses", *counted]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["preimage"]["code"]) == {"plug-in colourbench.histogram"}
    told = run("explain", str(folder), config=())
    chain = [line.split()[0] for line in told.splitlines() if line and line[0] != " "]
    assert chain[:4] == ["histogram", "evaluate", "quantize", "train"]
    assert set(chain[4:]) == {"pretrain", "tokenizer", "selfcheck", "data"}
    assert folder in stage_folders(root / "results/colours"), "so that versions and prune know it"
    assert "width:" in told
