"""Nano for real: the whole DAG runs, and killed at random moments and started again it ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from checkouts import NANO, Checkout, copy_repository
from fixtures.limits import wait_for

ARGUMENTS = ("--cores", "2", "--ignore-incomplete", "--nolock")
KILLS = ("pretrain", "train", "train", "evaluate"), ("pretrain",) * 3 + ("train",) * 4 + ("evaluate",) * 3
"""A stage of which kind is to be at work; where all of them have ended, one of the next kind."""
SEED = 20260


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A checkout in which nano ran in one go, and what Snakemake said."""
    made = copy_repository(tmp_path_factory.mktemp("undisturbed") / "repository")
    return made, made.run(*ARGUMENTS)


def test_a_run_ends_with_the_table_the_figures_and_the_report_and_does_nothing_when_asked_again(undisturbed) -> None:
    checkout, said = undisturbed
    latest = checkout.path("results/nano/latest")
    for name in ("tables/main.csv", "tables/main.tex", "figures/frontier.pdf", "figures/steps.png", "report.html"):
        assert (latest / name).stat().st_size > 0
    assert all(word in said for word in ("accuracy %", "lightningrl", "grpo-traj", "supervised", "report.html"))
    assert checkout.would_run() == set()


@pytest.mark.parametrize("kills", [KILLS[0], pytest.param(KILLS[1], marks=pytest.mark.slow)], ids=len)
def test_killed_again_and_again_it_goes_on_and_ends_byte_equal(undisturbed, tmp_path: Path, kills) -> None:
    whole = undisturbed[0].path("results/nano")
    checkout = copy_repository(tmp_path / "repository", of=undisturbed[0].root)
    results, draw, killed = checkout.path("results/nano"), random.Random(SEED), Counter()
    for kind in ("data", "selfcheck", "tokenizer"):  # which are not killed
        shutil.copytree(whole / kind, results / kind)
    for wanted in kills:
        kinds = ("pretrain", "train", "evaluate")[("pretrain", "train", "evaluate").index(wanted) :]
        left = [kind for kind in kinds if len(manifests(results, kind)) < len(manifests(whole, kind))]
        if not left:  # all evaluations have ended before the last kill: some are made once more
            forget_evaluations(results)
        kind = left[0] if left else "evaluate"
        if kind == "evaluate":  # it has no steps, so no rows: some seconds after its start
            killed[kind] += kill_while_working(checkout, kind, rows=1, then_s=draw.uniform(0.3, 2.5))
        else:
            killed[kind] += kill_while_working(checkout, kind, rows=draw.randint(1, 3), then_s=draw.uniform(0.0, 0.3))
    assert killed.total() > len(kills) // 2, killed
    checkout.run(*ARGUMENTS)
    found, expected = contents(results), contents(whole)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert starts(results) >= starts(whole) + killed.total()  # each of them cut a stage short


def test_an_evaluation_in_parts_gathers_to_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    """Three jobs for two shards of problems: one finds nothing to do. The evaluation itself loads no model."""
    whole = undisturbed[0].path("results/nano")
    checkout = copy_repository(tmp_path / "repository", of=undisturbed[0].root)
    results = checkout.path("results/nano")
    shutil.copytree(whole, results, symlinks=True)
    shutil.rmtree(results / "cache")
    shutil.rmtree(results / "evaluate" / "base")
    checkout.path("config/parts.yaml").write_text("extends: nano.yaml\nresources: {evaluate_parts: 3}\n")
    said = checkout.run("evaluate_base_gsm-mini", "--cores", "2", config="config/parts.yaml")
    assert [said.count(f"part {index} of 3 is done") for index in (1, 2, 3)] == [1, 1, 1]
    folder = next((results / "evaluate" / "base").glob("gsm-mini-*"))
    for name in ("records.jsonl", "summary.json"):
        assert (folder / name).read_bytes() == (whole / "evaluate" / "base" / folder.name / name).read_bytes()
    assert '"event":"shard"' not in (folder / "timing.jsonl").read_text()
    parts = sorted(path.relative_to(results).as_posix() for path in results.glob("cache/evaluate/**/threshold-*.jsonl"))
    assert [path.split("/")[-2:] for path in parts] == [
        [f"part-{index}-of-3", f"threshold-{threshold}.jsonl"] for index in (1, 2) for threshold in ("0.02", "0.9")
    ]


def kill_while_working(checkout: Checkout, kind: str, rows: int, then_s: float) -> bool:
    """Start Snakemake, and kill the whole process group while a stage of this kind is at work: `then_s` seconds after
    one has written that many rows of timing (its start is the first, then one per step) since. False when all of them
    had ended before that."""
    results = checkout.path("results/nano")
    command = [sys.executable, "-m", "snakemake", *ARGUMENTS, "--configfile", NANO]
    before = {path: lines(path) for path in results.glob(f"{kind}/**/timing.jsonl")}

    def at_work() -> list[Path]:
        # Not `**`: it would look into states that are being renamed.
        found = [path for depth in ("*", "*/*") for path in results.glob(f"{kind}/{depth}/state/timing.jsonl")]
        return [path for path in found if lines(path) - before.get(path, 0) >= rows and not is_finished(path)]

    with open(checkout.path("kill.log"), "ab") as log:
        process = subprocess.Popen(command, cwd=checkout.root, stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            wait_for(lambda: at_work() or process.poll() is not None, f"{kind} at work")
            time.sleep(then_s)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGSTOP)  # so that what is seen now is so when it is killed
                time.sleep(0.05)
                if at_work():
                    os.killpg(process.pid, signal.SIGKILL)
                    return True
                os.killpg(process.pid, signal.SIGCONT)
        assert process.returncode == 0, checkout.path("kill.log").read_text()[-6000:]
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_finished(timing: Path) -> bool:
    return (timing.parents[1] / "manifest.json").exists()


def forget_evaluations(results: Path) -> None:
    """Remove the evaluations of one policy, with what they cached and all that was made of them."""
    for path in (results / "evaluate" / "lightningrl", *results.glob("cache"), *results.glob("release-*")):
        shutil.rmtree(path, ignore_errors=True)
    for kind in ("collect", "table", "figure"):
        shutil.rmtree(results / kind, ignore_errors=True)


def lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:  # the stage has just ended
        return 0


def contents(results: Path) -> dict[str, bytes | dict]:
    """Every result by its path; of manifests what does not differ from run to run."""
    found: dict[str, bytes | dict] = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if not path.is_file() or path.name in ("timing.jsonl", "workflow.html") or "cache/" in name or "latest" in name:
            continue
        assert "/state/" not in name and not name.endswith(".tmp"), f"left behind: {name}"
        found[name] = path.read_bytes()
        if path.name == "manifest.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "run"}
    return found


def manifests(results: Path, kind: str = "*") -> list[dict]:
    return [json.loads(path.read_text()) for path in results.glob(f"{kind}/**/manifest.json")]


def starts(results: Path) -> int:
    return sum(len(each["run"]["starts"]) for each in manifests(results))
