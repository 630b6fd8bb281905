"""A package of somebody else's adds names of its own to the registries, and ours is not touched."""

from __future__ import annotations

import json
from pathlib import Path

from fixtures import killing

THIRD_PARTY = Path(__file__).parents[1] / "fixtures" / "thirdparty"
STAGES = (
    ("data", None), ("selfcheck", None), ("tokenizer", None), ("pretrain", None), ("train", "frugal"),
    ("quantize", "signs"), ("evaluate", "base/sums"), ("evaluate", "frugal/sums"), ("evaluate", "signs/sums"),
    ("collect", None),
)  # fmt: skip


def test_an_experiment_of_outside_parts_runs_from_data_to_collected_numbers(tmp_path):
    config = str(THIRD_PARTY / "experiment.yaml")

    def run(*arguments):
        done = killing.run(tmp_path, *arguments, "--config", config, path=[THIRD_PARTY])
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "OK" in run("validate")
    for kind, name in STAGES:
        run(kind, *(["--name", name] if name else []))
    results = tmp_path / "results" / "colours"
    manifest = json.loads(next(results.glob("train/frugal-*/manifest.json")).read_text())
    code = manifest["preimage"]["code"]
    assert {"plug-in colourbench.frugal", "plug-in colourbench.gap", "plug-in colourbench.sums"} <= set(code)
    assert manifest["after"]["selfcheck/sums"]["found"]["selfcheck.json"]["official"]["pct"] == 100.0
    records = next(results.glob("evaluate/frugal/*/records.jsonl")).read_text().splitlines()
    assert len(records) == 2 * 6
    sure_only = [json.loads(line) for line in records[:6]]
    assert all(record["threshold"] == 0.0 for record in sure_only)
    quantized = json.loads(next(results.glob("quantize/signs-*/quantization.json")).read_text())
    assert quantized["calibration_problems"] == 8 and list(quantized["layers"]) == ["model.layers.0.mlp.up_proj"]
    manifest = json.loads(next(results.glob("quantize/signs-*/manifest.json")).read_text())
    assert {"plug-in colourbench.signs", "plug-in colourbench.sums"} <= set(manifest["preimage"]["code"])
    assert "signs" in next(results.glob("collect/frontier-*/headline.csv")).read_text()
    assert "frugal" in next(results.glob("collect/frontier-*/headline.csv")).read_text()
