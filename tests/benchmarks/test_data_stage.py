"""`lightningrl data` on published problems: canonical files, what was read, and one message where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fixtures.limits import HANG_S
from fixtures.small_benchmarks import MIRROR, NAMES

from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

TESTS = Path(__file__).parents[1]


def lightningrl(folder, *arguments, **environment):
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LIGHTNINGRL_"))} | environment
    variables |= {"PYTHONPATH": f"{TESTS}:{PACKAGE.parent}", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    command = [sys.executable, "-m", "lightningrl", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=HANG_S)


@pytest.fixture
def config(tmp_path):
    """nano with the small benchmarks beside its own; no run trains on them."""
    tree = yaml.safe_load((PACKAGE.parent / "config" / "nano.yaml").read_text())
    for name in NAMES:
        path = f"fixtures.small_benchmarks:{name.upper()}"
        tree["benchmarks"].append({"name": path, "max_new_tokens": 24} | ({"test": 0} if name == NAMES[-1] else {}))
    tree["data"] = {"mirror": str(MIRROR)}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def names(folder, config, kind):
    listed = lightningrl(folder, "stages", "--config", config.name).stdout.split("\n")
    return [line.split()[3] for line in listed if line and line.split()[2] == kind]


@pytest.mark.parametrize("name", NAMES)
def test_the_stage_writes_canonical_problems_and_what_it_read(tmp_path, config, name):
    stage = f"fixtures-small_benchmarks-{name}"
    done = lightningrl(tmp_path, "data", "--config", config.name, "--name", stage)
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "results/nano/data").glob(f"{stage}-*"))
    found = json.loads((folder / "sources.json").read_text())
    assert found["licence"] and found["citation"] and all(s["from"] == "mirror" for s in found["sources"].values())
    assert str(MIRROR) not in json.dumps(found)
    for split, count in found["problems"].items():
        lines = (folder / f"{split}.jsonl").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            row = json.loads(line)
            assert json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False) == line
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "sources.json" in manifest["outputs"]


def test_the_mirror_enters_no_key(tmp_path, config):
    listed = lightningrl(tmp_path, "stages", "--config", config.name).stdout
    moved = tmp_path / "moved.yaml"
    moved.write_text(config.read_text().replace(str(MIRROR), "/elsewhere") + "\n")
    assert lightningrl(tmp_path, "stages", "--config", moved.name).stdout == listed


def test_offline_without_the_file_one_message_says_what_and_where(tmp_path, config):
    mirror = tmp_path / "mirror"
    shutil.copytree(MIRROR, mirror)
    (mirror / "gsm8k" / "train.jsonl").unlink()
    done = lightningrl(
        tmp_path, "data", "--config", config.name, "--name", "fixtures-small_benchmarks-gsm8k",
        LIGHTNINGRL_DATA_MIRROR=str(mirror),
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for words in ("main/train-00000-of-00001.parquet of the dataset openai/gsm8k", f"{mirror}/gsm8k/train.jsonl"):
        assert words in done.stderr
    folder = next((tmp_path / "results/nano/data").glob("fixtures-small_benchmarks-gsm8k-*"))
    assert not (folder / "manifest.json").exists()


def test_a_benchmark_without_test_problems_is_not_evaluated_and_none_is_trained_without_train_problems(
    tmp_path, config
):
    evaluated = names(tmp_path, config, "evaluate")
    assert "base/fixtures-small_benchmarks-gsm8k" in evaluated
    assert not [name for name in evaluated if "primeintellect" in name]
    tree = yaml.safe_load(config.read_text())
    tree["runs"][0]["benchmark"] = "fixtures.small_benchmarks:HUMANEVAL"
    tree["benchmarks"][-2] |= {"train": 0, "validation": 0}
    config.write_text(yaml.safe_dump(tree))
    done = lightningrl(tmp_path, "validate", "--config", config.name)
    assert done.returncode == 2 and "has `train: 0`, but a run trains on its train problems" in done.stderr


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"shots": 2}, "prompt.shots: found 2, allowed: 0, 4"),
        ({"style": "loud"}, "allowed: default, system, think"),
        ({"shots": 4, "style": "think"}, "found shots 4 and style 'think'"),
    ],
)
def test_an_unknown_style_or_number_of_shots_is_refused_with_the_known_ones(tmp_path, config, prompt, message):
    tree = yaml.safe_load(config.read_text())
    tree["benchmarks"][3]["prompt"] = prompt
    config.write_text(yaml.safe_dump(tree))
    done = lightningrl(tmp_path, "validate", "--config", config.name)
    assert done.returncode == 2 and message in done.stderr


def test_benchmarks_without_train_problems_are_not_trained_on_even_with_sizes_left_out(tmp_path, config):
    """HumanEval with its sizes left out has all of its train problems, which is none."""
    human = "fixtures.small_benchmarks:HUMANEVAL"
    tree = yaml.safe_load(config.read_text())
    base = next(stage for stage in plan(load(config)) if stage.kind == "pretrain")
    assert f"data/{human}" not in base.inputs and "data/fixtures.small_benchmarks:GSM8K" in base.inputs
    tree["runs"][0]["benchmark"] = human
    config.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="HUMANEVAL has no train or no validation problems"):
        plan(load(config))
    tree["runs"][0]["benchmark"] = "gsm-mini"
    tree["benchmarks"][-2]["train"] = 5
    config.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"HUMANEVAL\.train: found 5, it has no such problems"):
        plan(load(config))


def test_a_generated_benchmark_needs_its_sizes(tmp_path, config):
    tree = yaml.safe_load(config.read_text())
    del tree["benchmarks"][0]["train"]
    config.write_text(yaml.safe_dump(tree))
    done = lightningrl(tmp_path, "validate", "--config", config.name)
    assert done.returncode == 2 and "it is generated without end" in done.stderr
