"""Pinned code: a refactoring reruns nothing that is pinned, and what is made under a pin says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import FAKE_STAGES, Checkout

from lightningrl.utils.files import canonical_json, sha256_text

NANO = "config/nano.yaml"
PIN = "config/nano.pin.json"
REFACTORED = "\nREFACTORED = 1\n"


def lightningrl(checkout: Checkout, *arguments: str, status: int = 0) -> str:
    """A verb's whole output, run on the checkout's own code."""
    environment = os.environ | {"PYTHONPATH": str(checkout.root)}
    command = [sys.executable, "-m", "lightningrl", *arguments, "--config", NANO]
    done = subprocess.run(command, cwd=checkout.root, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def pinned(finished: Checkout) -> Checkout:
    finished.append(NANO, "code: {pin: nano.pin.json}\n")
    lightningrl(finished, "pin")
    return finished


def test_an_edit_of_pinned_code_reruns_nothing_until_the_pin_is_taken_back(pinned: Checkout) -> None:
    assert pinned.would_run() == set()
    for name in ("pipeline/stages/train.py", "rl/trainer.py", "pipeline/stages/evaluate.py", "benchmarks/gsm_mini.py"):
        pinned.append(f"lightningrl/{name}", REFACTORED)
    assert pinned.would_run() == set()
    done = pinned.snakemake("--dry-run", "--cores", "2")
    assert "stages pinned by" in done.stderr and "today's code is another for data/gsm-mini" in done.stderr
    done = pinned.snakemake("--dry-run", "--cores", "2", "--mode", "remote")  # as in a cluster's job
    assert done.returncode == 0 and "stages pinned by" not in done.stdout + done.stderr
    said = lightningrl(pinned, "stages")
    assert "stages pinned by config/nano.pin.json; today's code is another for data/gsm-mini" in said
    assert said.count("done") == len([line for line in said.splitlines() if "results/" in line]) - 1
    assert next(line for line in said.splitlines() if line.startswith("missing")).split()[2:4] == [
        "selfcheck",
        "gsm-mini",
    ]

    tree = json.loads(pinned.path(PIN).read_text())
    del tree["pinned"]["train/grpo-traj"]
    pinned.path(PIN).write_text(json.dumps(tree))
    rerun = pinned.would_run()
    assert {name for name in rerun if name.startswith(("train/", "evaluate/"))} == {
        "train/grpo-traj",
        "evaluate/grpo-traj/gsm-mini",
    }
    pinned.path(NANO).write_text(pinned.path(NANO).read_text().replace("code: {pin: nano.pin.json}\n", ""))
    assert {name for name in pinned.would_run() if name.startswith("train/")} == {
        "train/lightningrl", "train/grpo-traj", "train/supervised", "train/lightningrl-code",
    }  # fmt: skip


def test_config_still_counts_under_a_pin(pinned: Checkout) -> None:
    pinned.edit(NANO, "algorithm: grpo_traj", "algorithm: grpo_traj, method: {kl: 0.5}")
    assert {name for name in pinned.would_run() if name.startswith("train/")} == {"train/grpo-traj"}


def test_code_edited_already_is_pinned_from_a_releases_manifests(finished: Checkout) -> None:
    finished.append("lightningrl/pipeline/stages/train.py", REFACTORED)
    finished.append(NANO, "code: {pin: nano.pin.json}\n")
    said = lightningrl(finished, "pin", "--release", "latest")
    assert "pinned      train/lightningrl" in said and "not finished" not in said
    assert finished.would_run() == set()


def test_what_is_made_under_a_pin_says_pinned_and_live(pinned: Checkout, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAKE_STAGES)
    path = os.pathsep.join([str(tmp_path), str(pinned.root)])
    pinned.append("lightningrl/pipeline/stages/data.py", REFACTORED)
    [folder] = [path for path in pinned.path("results/nano/data").iterdir() if path.name.startswith("code-mini")]
    (folder / "manifest.json").unlink()
    target = f"results/nano/data/{folder.name}/manifest.json"
    done = pinned.snakemake("--cores", "1", "--no-hooks", target, PYTHONPATH=path)
    assert done.returncode == 0 and (done.stdout + done.stderr).count("stages pinned by") == 1, done.stderr
    made = json.loads((folder / "manifest.json").read_text())
    assert made["code"]["pinned"] is True
    assert made["code"]["digest"] == json.loads(pinned.path(PIN).read_text())["pinned"]["data/code-mini"]
    assert made["code"]["live"] == sha256_text(canonical_json(made["preimage"]["code"])) != made["code"]["digest"]
    done = pinned.snakemake("--dry-run", "--cores", "2")
    assert "Nothing to be done" in done.stdout + done.stderr
    pinned.edit("lightningrl/pipeline/stages/data.py", REFACTORED, "")
    pinned.edit(NANO, "code: {pin: nano.pin.json}\n", "")
    done = pinned.snakemake("--dry-run", "--cores", "2")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    assert f"results/nano/data/{folder.name} was made under a pin by other code" in said
    other = next(pinned.path("results/nano/data").glob("gsm-mini-*/manifest.json"))
    code = json.loads(other.read_text())["code"]
    assert code["pinned"] is False and code["live"] == code["digest"]
