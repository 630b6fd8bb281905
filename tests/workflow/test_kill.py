"""Nano for real: the whole DAG runs, and killed at ten random moments and started again it ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from checkouts import Checkout, copy_repository

ARGUMENTS = ("--cores", "2", "--ignore-incomplete", "--nolock", "--configfile", "config/nano.yaml")
KILLS = {"pretrain": 3, "train": 4, "evaluate": 3}
"""How often, while a stage of this kind is at work."""
SEED = 20260


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, subprocess.CompletedProcess]:
    """A checkout in which nano ran in one go."""
    made = copy_repository(tmp_path_factory.mktemp("undisturbed") / "repository")
    command = [sys.executable, "-m", "snakemake", *ARGUMENTS]
    done = subprocess.run(command, cwd=made.root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return made, done


def test_a_run_ends_with_the_table_the_figures_and_the_report(undisturbed) -> None:
    checkout, done = undisturbed
    latest = checkout.path("results/nano/latest")
    for name in ("tables/main.csv", "tables/main.tex", "figures/frontier.pdf", "figures/steps.png", "report.html"):
        assert (latest / name).stat().st_size > 0
    assert all(word in done.stdout for word in ("accuracy %", "lightningrl", "grpo-traj", "supervised", "report.html"))


def test_a_finished_run_asked_again_does_nothing(undisturbed) -> None:
    checkout, _ = undisturbed
    assert checkout.would_run() == set()
    assert checkout.would_run("figure_frontier") == set()


def test_killed_ten_times_it_goes_on_and_ends_byte_equal(undisturbed, tmp_path: Path) -> None:
    expected = contents(undisturbed[0].path("results/nano"))
    seconds = seconds_of_work(undisturbed[0].path("results/nano"))
    checkout = copy_repository(tmp_path / "repository", of=undisturbed[0].root)
    draw, killed = random.Random(SEED), Counter()
    for kind, count in KILLS.items():
        for _ in range(count):
            killed[kind] += kill_while_working(checkout, kind, draw.uniform(0.0, seconds[kind]))
    assert killed.total() == sum(KILLS.values())
    command = [sys.executable, "-m", "snakemake", *ARGUMENTS]
    done = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = contents(checkout.path("results/nano"))
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert starts(checkout.path("results/nano")) > starts(undisturbed[0].path("results/nano"))


def kill_while_working(checkout: Checkout, kind: str, after_s: float) -> int:
    """Start Snakemake; once a stage of this kind is at work, wait `after_s` seconds, then kill the whole group.

    1 if Snakemake was killed at work; 0 if it had ended before.
    """
    folder = checkout.path(f"results/nano/{kind}")
    log = open(checkout.path("kill.log"), "ab")
    command = [sys.executable, "-m", "snakemake", *ARGUMENTS]
    process = subprocess.Popen(command, cwd=checkout.root, stdout=log, stderr=log, start_new_session=True)
    try:
        began = {path: size(path) for path in folder.rglob("state/timing.jsonl")}
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any(size(path) > began.get(path, 0) for path in folder.rglob("state/timing.jsonl")):
                break
            time.sleep(0.02)
        stop = time.monotonic() + after_s
        while process.poll() is None and time.monotonic() < stop:
            time.sleep(0.02)
        ended = process.poll()
        assert ended in (None, 0), checkout.path("kill.log").read_text()[-6000:]
        return int(ended is None)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the stage finished
        return 0


def contents(results: Path) -> dict[str, bytes | dict]:
    """Every result by its path; of manifests what does not differ from run to run."""
    found: dict[str, bytes | dict] = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if not path.is_file() or path.name in ("timing.jsonl", "report.html") or "cache/" in name or "latest" in name:
            continue
        assert "/state/" not in name and not name.endswith(".tmp"), f"left behind: {name}"
        found[name] = path.read_bytes()
        if path.name == "manifest.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "run"}
    return found


def manifests(results: Path, kind: str = "*") -> list[dict]:
    return [json.loads(path.read_text()) for path in results.glob(f"{kind}/**/manifest.json")]


def seconds_of_work(results: Path) -> dict[str, float]:
    """Mean seconds of a stage of each kind."""
    found = {}
    for kind in KILLS:
        all_of_them = [each["run"]["seconds_of_last_start"] for each in manifests(results, kind)]
        found[kind] = sum(all_of_them) / len(all_of_them)
    return found


def starts(results: Path) -> int:
    return sum(len(each["run"]["starts"]) for each in manifests(results))
