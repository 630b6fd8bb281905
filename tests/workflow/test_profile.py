"""`snakemake --profile slurm` in a clone, and workflow files without a lint."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

ROOT = Path(__file__).resolve().parents[2]
PAPER, NANO = "results/paper/release-", "results/nano/release-"


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
    dry = ("--profile", "slurm", "--dry-run")
    paper = checkout.snakemake(*dry, config=None)
    assert PAPER in paper.stdout + paper.stderr and NANO not in paper.stdout + paper.stderr
    nano = checkout.snakemake(*dry, config="config/nano.yaml")
    assert NANO in nano.stdout + nano.stderr and PAPER not in nano.stdout + nano.stderr


def test_an_overlay_gives_a_sites_facts_and_takes_nothing_else(checkout: Checkout) -> None:
    example = ROOT / "workflow/profiles/my-site.example.yaml"
    facts = "\n".join(line.removeprefix("# ") for line in example.read_text().splitlines() if line.startswith("# "))
    facts = facts[facts.index("default-resources:") :]
    checkout.path("my-site.yaml").write_text(facts)
    assert set(yaml.safe_load(facts)) == {"default-resources", "set-resources"}
    said = checkout.snakemake(
        "train_lightningrl-gsm8k", "--profile", "slurm", "--profile", "my-site.yaml", "-n", config=None
    )
    text = said.stdout + said.stderr
    assert said.returncode == 0, text
    train = next(block for block in text.split("\n\n") if "\nrule train:" in block or block.startswith("rule train:"))
    for word in (
        "slurm_partition=gpu",
        "slurm_account=my-account",
        "gpu=8",
        "gpu_model=h100",
        "mem_mb=400000",
        "runtime=1440",
    ):
        assert word in train


@pytest.mark.parametrize(("size", "processes"), [("lightningrl-gsm8k", 8), ("lightningrl-1_7b-b32-gsm8k", 4)])
def test_a_training_has_a_process_on_each_gpu_of_its_job(checkout: Checkout, size: str, processes: int) -> None:
    said = checkout.snakemake(f"train_{size}", "--profile", "slurm", "--dry-run", "--printshellcmds", config=None)
    commands = [shlex.split(line) for line in said.stdout.splitlines() if " train --config " in line]
    [command] = [command for command in commands if size in command]
    assert command[command.index("--nproc-per-node") + 1] == str(processes)
    assert "--max-minutes" not in command, "only a job has a time limit"


@pytest.mark.parametrize("config", ["nano", "paper"])
def test_the_workflow_has_no_lints(checkout: Checkout, config: str) -> None:
    done = checkout.snakemake("--lint", config=f"config/{config}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_lost_logs_and_benchmarks_make_nothing_run_again(finished: Checkout) -> None:
    import shutil

    for folder in ("logs", "benchmarks"):
        assert any(finished.path(folder).rglob("*.*"))
        shutil.rmtree(finished.path(folder))
    assert finished.would_run() == set()
