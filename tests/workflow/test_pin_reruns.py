"""Pinned code: a refactoring reruns nothing that is pinned, and what is made under a pin says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import NANO, Checkout

from lightningrl.utils.files import canonical_json, sha256_text

PIN = "config/nano.pin.json"
REFACTORED = "\nREFACTORED = 1\n"
PINNED = "code: {pin: nano.pin.json}\n"


def lightningrl(checkout: Checkout, *arguments: str) -> str:
    """A verb's whole output, run on the checkout's own code."""
    environment = os.environ | {"PYTHONPATH": str(checkout.root)}
    command = [sys.executable, "-m", "lightningrl", *arguments, "--config", NANO]
    done = subprocess.run(command, cwd=checkout.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def trainings(jobs: set[str]) -> set[str]:
    return {job for job in jobs if job.startswith("train/")}


@pytest.fixture
def pinned(finished: Checkout) -> Checkout:
    finished.append(NANO, PINNED)
    lightningrl(finished, "pin")
    return finished


def test_an_edit_of_pinned_code_reruns_nothing_until_the_pin_is_taken_back(pinned: Checkout) -> None:
    assert pinned.would_run() == set()
    for name in ("pipeline/stages/train.py", "rl/trainer.py", "pipeline/stages/evaluate.py", "benchmarks/gsm_mini.py"):
        pinned.append(f"lightningrl/{name}", REFACTORED)
    said = pinned.asks()
    assert "Nothing to be done" in said and "stages pinned by" in said
    assert "today's code is another for data/gsm-mini" in said
    assert "stages pinned by" not in pinned.asks("--mode", "remote"), "as in a cluster's job"
    said = lightningrl(pinned, "stages")
    assert "stages pinned by config/nano.pin.json; today's code is another for data/gsm-mini" in said
    rows = [line.split() for line in said.splitlines() if "results/" in line]
    assert [row[2:4] for row in rows if row[0] != "done"] == [["selfcheck", "gsm-mini"]]
    assert next(row for row in rows if row[0] != "done")[0] == "missing"

    tree = json.loads(pinned.path(PIN).read_text())
    del tree["pinned"]["train/grpo-traj"]
    pinned.path(PIN).write_text(json.dumps(tree))
    rerun = pinned.would_run()
    assert trainings(rerun) == {"train/grpo-traj"}
    assert {name for name in rerun if name.startswith("evaluate/")} == {"evaluate/grpo-traj/gsm-mini"}
    pinned.edit(NANO, PINNED, "")
    assert trainings(pinned.would_run()) == {
        "train/lightningrl", "train/grpo-traj", "train/supervised", "train/lightningrl-code",
    }  # fmt: skip


def test_code_edited_already_is_pinned_from_a_releases_manifests_and_config_still_counts(finished: Checkout) -> None:
    finished.append("lightningrl/pipeline/stages/train.py", REFACTORED)
    finished.append(NANO, PINNED)
    said = lightningrl(finished, "pin", "--release", "latest")
    assert "pinned      train/lightningrl" in said and "not finished" not in said
    assert finished.would_run() == set()
    finished.edit(NANO, "algorithm: grpo_traj", "algorithm: grpo_traj, method: {kl: 0.5}")
    assert trainings(finished.would_run()) == {"train/grpo-traj"}


def test_what_is_made_under_a_pin_says_pinned_and_live(pinned: Checkout, tmp_path: Path) -> None:
    pinned.append("lightningrl/pipeline/stages/data.py", REFACTORED)
    [folder] = pinned.path("results/nano/data").glob("code-mini-*")
    (folder / "manifest.json").unlink()
    target = f"results/nano/data/{folder.name}/manifest.json"
    said = pinned.run_fakes(tmp_path / "fakes", "--cores", "1", target)
    assert said.count("stages pinned by") == 1, said
    made = json.loads((folder / "manifest.json").read_text())
    assert made["code"]["pinned"] is True
    assert made["code"]["digest"] == json.loads(pinned.path(PIN).read_text())["pinned"]["data/code-mini"]
    assert made["code"]["live"] == sha256_text(canonical_json(made["preimage"]["code"])) != made["code"]["digest"]
    assert pinned.would_run() == set()
    pinned.edit("lightningrl/pipeline/stages/data.py", REFACTORED, "")
    pinned.edit(NANO, PINNED, "")
    said = pinned.refuses()
    assert f"results/nano/data/{folder.name} was made under a pin by other code" in said and "Traceback" not in said
    other = next(pinned.path("results/nano/data").glob("gsm-mini-*/manifest.json"))
    code = json.loads(other.read_text())["code"]
    assert code["pinned"] is False and code["live"] == code["digest"]
