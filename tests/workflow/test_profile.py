"""`snakemake --profile slurm` in a clone, and workflow files without a lint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout

ROOT = Path(__file__).resolve().parents[2]


def test_the_slurm_profile_is_found_in_a_clone_and_runs_the_paper(checkout: Checkout) -> None:
    from snakemake.cli import parse_args

    assert checkout.path("slurm").is_symlink() and checkout.path("slurm/config.yaml").is_file()
    code = (
        "import sys, snakemake.cli as c; a = c.parse_args(sys.argv[1:])[1]; print(a.executor, a.retries, a.configfile)"
    )
    command = [sys.executable, "-c", code, "--profile", "slurm"]
    said = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=2)[:2] == ["slurm", "3"] and "config/paper.yaml" in said
    assert parse_args([])[1].executor is None


def test_there_is_no_profile_that_snakemake_takes_by_itself() -> None:
    assert not (ROOT / "profiles").exists() and not (ROOT / "workflow/profiles/default").exists()
    assert not (ROOT / "default").exists()


def test_a_config_file_of_ones_own_replaces_the_profiles(checkout: Checkout) -> None:
    nano = checkout.snakemake("--profile", "slurm", "--dry-run", "--quiet", "rules")
    said = nano.stdout + nano.stderr
    assert "config/nano.yaml" in said and "config/paper.yaml" not in said and "pretrain" in said


def test_the_papers_jobs_ask_for_what_the_config_and_the_sites_overlay_say(checkout: Checkout) -> None:
    example = (ROOT / "workflow/profiles/my-site.example.yaml").read_text()
    checkout.path("my-site.yaml").write_text(example)
    targets = ("train_lightningrl-gsm8k", "train_lightningrl-1_7b-b32-gsm8k")
    options = ("--profile", "slurm", "--profile", "my-site.yaml", "--dry-run", "--printshellcmds")
    done = checkout.snakemake(*targets, *options, config=None)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for name, gpus, memory_mb, minutes in (
        ("lightningrl-gsm8k", 8, 400000, 1440),
        ("lightningrl-1_7b-b32-gsm8k", 4, 150000, 960),
    ):
        [job] = [part for part in said.split("\nrule ")[1:] if part.startswith("train:") and f"name={name}," in part]
        for asked in (f"gpu={gpus}", f"mem_mb={memory_mb}", f"runtime={minutes}"):
            assert asked in job
        for fact in ("slurm_partition=gpu", "slurm_account=my-account", "gpu_model=h100"):
            assert fact in job
        assert f"--nproc-per-node {gpus} -m lightningrl train " in job, "a process on each GPU"
        assert "--max-minutes" not in job, "only a running job has a time limit"


@pytest.mark.parametrize("config", ["nano", "paper"])
def test_the_workflow_has_no_lints(checkout: Checkout, config: str) -> None:
    done = checkout.snakemake("--lint", config=f"config/{config}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_lost_logs_and_benchmarks_make_nothing_run_again(finished: Checkout) -> None:
    for folder in ("logs", "benchmarks"):
        assert any(finished.path(folder).rglob("*.*"))
        shutil.rmtree(finished.path(folder))
    assert finished.would_run() == set()
