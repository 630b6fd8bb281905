"""The data stage on published problems: canonical files, what was read, and one message where it cannot."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from fixtures.small_benchmarks import MIRROR, NAMES
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage

GSM8K, MATH500, HUMANEVAL = (f"fixtures.small_benchmarks:{name}" for name in ("GSM8K", "MATH500", "HUMANEVAL"))


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of nano with the small benchmarks beside its own, after a change; no run trains on them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    for name, value in (("HF_HUB_OFFLINE", True), ("HF_HUB_CACHE", str(tmp_path / "hub"))):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)

    def make(change=lambda tree, benchmarks: None):
        tree = yaml.safe_load((PACKAGE.parent / "config" / "nano.yaml").read_text())
        for name in NAMES:
            path = f"fixtures.small_benchmarks:{name.upper()}"
            tree["benchmarks"].append({"name": path, "max_new_tokens": 24} | ({"test": 0} if name == NAMES[-1] else {}))
        tree["data"] = {"mirror": str(MIRROR)}
        change(tree, {each["name"]: each for each in tree["benchmarks"]})
        (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(tree))
        return plan(load(tmp_path / "experiment.yaml"))

    return make


@pytest.mark.parametrize("name", NAMES)
def test_the_stage_writes_canonical_problems_and_what_it_read(planned, name):
    of = planned()
    stage = next(stage for stage in of.of("data") if stage.name == f"fixtures-small_benchmarks-{name}")
    assert run_stage(of, stage)
    found = json.loads((stage.folder / "sources.json").read_text())
    assert found["licence"] and found["citation"] and all(s["from"] == "mirror" for s in found["sources"].values())
    assert str(MIRROR) not in json.dumps(found)
    for split, count in found["problems"].items():
        lines = (stage.folder / f"{split}.jsonl").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            row = json.loads(line)
            assert json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False) == line
    assert "sources.json" in json.loads((stage.folder / "manifest.json").read_text())["outputs"]


def test_the_mirror_enters_no_key(planned):
    keys = [
        [stage.key for stage in planned(lambda tree, _, mirror=mirror: tree.update(data={"mirror": mirror}))]
        for mirror in (str(MIRROR), "/elsewhere")
    ]
    assert keys[0] == keys[1]


def test_offline_without_the_file_one_message_says_what_and_where(planned, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    shutil.copytree(MIRROR, mirror)
    (mirror / "gsm8k" / "train.jsonl").unlink()
    monkeypatch.setenv("LIGHTNINGRL_DATA_MIRROR", str(mirror))
    planned()
    name = "fixtures-small_benchmarks-gsm8k"
    done = CliRunner().invoke(app, ["data", "--config", "experiment.yaml", "--name", name])
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    for words in ("main/train-00000-of-00001.parquet of the dataset openai/gsm8k", f"{mirror}/gsm8k/train.jsonl"):
        assert words in done.stderr
    folder = next((tmp_path / "results/nano/data").glob(f"{name}-*"))
    assert not (folder / "manifest.json").exists()


def test_a_benchmark_without_test_problems_is_not_evaluated_and_one_without_train_problems_trains_nothing(planned):
    """HumanEval with its sizes left out has all of its train problems, which is none."""
    of = planned()
    evaluated = [stage.name for stage in of.of("evaluate")]
    assert "base/fixtures-small_benchmarks-gsm8k" in evaluated
    assert not [name for name in evaluated if "primeintellect" in name]
    [base] = of.of("pretrain")
    assert f"data/{HUMANEVAL}" not in base.inputs and f"data/{GSM8K}" in base.inputs


def _trained_on_humaneval(sizes):
    def change(tree, benchmarks):
        tree["runs"][0]["benchmark"] = HUMANEVAL
        benchmarks[HUMANEVAL].update(sizes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_trained_on_humaneval({"train": 0, "validation": 0}), "has `train: 0`, but a run trains on its train"),
        (_trained_on_humaneval({}), "HUMANEVAL has no train or no validation problems"),
        (lambda _, benchmarks: benchmarks[HUMANEVAL].update(train=5), "HUMANEVAL.train: found 5, it has no such"),
        (lambda _, benchmarks: benchmarks["gsm-mini"].pop("train"), "it is generated without end"),
        *(
            (lambda _, benchmarks, prompt=prompt: benchmarks[MATH500].update(prompt=prompt), message)
            for prompt, message in (
                ({"shots": 2}, "prompt.shots: found 2, allowed: 0, 4"),
                ({"style": "loud"}, "allowed: default, system, think"),
                ({"shots": 4, "style": "think"}, "worked examples go with the style `default` only"),
            )
        ),
    ],
)
def test_what_a_benchmark_has_not_is_refused(planned, change, message):
    with pytest.raises(ConfigError) as refused:
        planned(change)
    assert message in str(refused.value)
