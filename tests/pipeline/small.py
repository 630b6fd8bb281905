"""Finished results of a small experiment, made by the runner: what needs a model is faked, what follows from records is
real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import Experiment, load
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.report import series
from lightningrl.types import EvalRecord
from lightningrl.utils import registry
from lightningrl.utils.files import sha256_file, write_json, write_jsonl, write_text

NANO = PACKAGE.parent / "config" / "nano.yaml"
REAL = ("collect", "table", "figure", "release")
N_PROBLEMS = 8
FORWARDS = {"base": 6, "lightningrl": 3, "grpo-traj": 4, "supervised": 5, "lightningrl-code": 2}
FORWARDS |= {"lightningrl-0": 2, "lightningrl-1": 3}


def run(*arguments: object, status: int = 0):
    """Runs a verb to its end with this exit code."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.stderr
    return done


@cache
def nano_plan() -> Plan:
    return plan(load(NANO))


def small_plan(
    figures: tuple[str, ...] = (), tables: tuple[str, ...] = ("main", "frontier"), **runs: dict[str, Any]
) -> Plan:
    """Nano's plan; runs: name (with `_`) -> keys that are another."""
    tree = load(NANO).model_dump(mode="json", exclude_unset=True)
    for run in tree["runs"]:
        run |= runs.get(run["name"].replace("-", "_"), {})
    tree["report"] = {"bootstrap": 50, "tables": list(tables), "figures": list(figures)}
    tree["speed"] = {"benchmarks": ["gsm-mini"]} if "table7" in tables else {}
    return plan(Experiment.model_validate(tree))


def make(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Runs every stage that is not finished, in the working directory."""
    with monkeypatch.context() as patch:
        patch.setattr(runner.system, "set_thread_environment", lambda threads: None)
        for stage in planned:
            real = f"lightningrl.pipeline.stages.{stage.kind}:run"
            entry = registry.resolve(real) if stage.kind in REAL else fake(stage.files)
            patch.setattr(runner, "resolve", lambda reference, entry=entry: entry)
            run_stage(planned, stage)
    return planned


def fake(files: tuple[str, ...]) -> Callable[[StageContext], None]:
    def run(context: StageContext) -> None:
        config, folder = context.config, context.folder
        for name in files:
            write_text(folder / name, json.dumps(name))
        if "sources.json" in files:
            write_json(folder / "sources.json", {"sources": {}})
        if "selfcheck.json" in files:
            write_json(folder / "selfcheck.json", {"official": {"correct": 8, "judged": 8, "pct": 100.0}})
        if "selection.json" in files:
            steps = config["run"].steps
            write_json(folder / "selection.json", {"chosen": {"step": steps, "validation_tpf": 2.5}, "rule": "-"})
            rows = [{"step": n, "reward_total_mean": 0.1 * n} for n in range(1, steps + 1)]
            write_jsonl(folder / "metrics.jsonl", rows)
            write_text(folder / "model.safetensors", json.dumps(config["run"].science(), sort_keys=True))
        if "speed.json" in files:
            speed = {"tokens_per_second": 100.0 * FORWARDS[config["policy"]], "prefill_included": False}
            names = {name: config[name] for name in ("policy", "benchmark")}
            names |= {"device": "a device", "dtype": "float32"}
            write_json(folder / "speed.json", dict.fromkeys(series.SPEED_COLUMNS, 1.0) | speed | names)
        if "records.jsonl" in files:
            write_jsonl(folder / "records.jsonl", _records(context))
            write_text(context.cache / "points.jsonl", "cached")

    return run


def _records(context: StageContext) -> list[dict[str, Any]]:
    """Policies differ by forwards; a low threshold halves accuracy; a learning rate of 0.5 costs a forward."""
    policy, benchmark = context.config["policy"], context.config["benchmark"]
    slow = '"learning_rate": 0.5' in (context.inputs["policy"] / "model.safetensors").read_text()
    forwards = FORWARDS.get(policy, 4) + slow
    rows = []
    steps = [9 - forwards] + [1] * (forwards - 1)
    for threshold in context.config["sweep"]["thresholds"]:
        for n in range(N_PROBLEMS):
            correct = n % (2 if threshold > 0.5 else 4) == 0
            rows.append(
                EvalRecord(
                    policy, f"{benchmark}/test/{n:05d}", 0, threshold, "h", "4", "4", correct, float(correct),
                    "ok" if correct else "wrong", "", 6, 8, forwards, 0, 0, "eos", steps,
                ).to_json()
            )  # fmt: skip
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def change_json(path: Path) -> Iterator[dict[str, Any]]:
    """Gives the tree of a JSON file, and writes it back."""
    tree = json.loads(path.read_text())
    yield tree
    path.write_text(json.dumps(tree))


def forge(file: Path, text: str) -> None:
    """Writes a file, and its hash into the manifest beside it and into those of what was made from its stage."""
    file.write_text(text)
    for path in Path("results").rglob("manifest.json"):
        with change_json(path) as tree:
            listed = [each["outputs"] for each in tree["inputs"].values() if Path(each["folder"]) == file.parent]
            for outputs in [*listed, *([tree["outputs"]] if path.parent == file.parent else [])]:
                outputs[file.name]["sha256"] = sha256_file(file)


def never(context):
    pytest.fail("ran")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def config_of(path: Path, learning_rate: float | None) -> Path:
    """A config file whose plan is one of the two versions'."""
    runs: dict[str, Any] = {} if learning_rate is None else {"grpo_traj": {"learning_rate": learning_rate}}
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(small_plan(**runs).experiment.model_dump(mode="json", exclude_unset=True)))
    return path


def moved_to_another_disk(folder: Path, disk: Path) -> None:
    disk.mkdir()
    shutil.move(folder, disk / folder.name)
    folder.symlink_to((disk / folder.name).absolute())
