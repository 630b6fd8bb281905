"""What can be asked of Snakemake by name, which config and profile it takes, and what it refuses before it runs."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkouts import NANO, Checkout, with_upstream

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

ROOT = PACKAGE.parent
DATA = {"data/gsm-mini", "data/code-mini", "selfcheck/gsm-mini", "selfcheck/code-mini"}
BASE = DATA | {"tokenizer/tokenizer", "pretrain/base"}
NEEDED = {
    "selfcheck_code-mini": {"data/code-mini", "selfcheck/code-mini"},
    "train_grpo-traj": BASE | {"train/grpo-traj"},
    "train_supervised": BASE | {"train/lightningrl", "train/supervised"},
    "evaluate_base_gsm-mini": BASE | {"evaluate/base/gsm-mini"},
    "evaluate_lightningrl_gsm-mini": BASE | {"train/lightningrl", "evaluate/lightningrl/gsm-mini"},
}


def test_a_name_makes_just_what_it_needs(bare: Checkout) -> None:
    """Planned, and as Snakemake lists it for all together; a table or figure leaves the others alone."""
    stages = {stage.target: stage for stage in plan(load(ROOT / "config/nano.yaml"))}
    assert {target: with_upstream(stages[target]) for target in NEEDED} == NEEDED
    for target in ("table_main", "figure_frontier"):
        drawn = {job for job in with_upstream(stages[target]) if job.startswith(("table", "figure", "release"))}
        assert drawn == {target.replace("_", "/")}
    assert bare.would_run("train_grpo-traj", "figure_frontier") == with_upstream(stages["figure_frontier"])
    assert bare.would_run("train_supervised") == NEEDED["train_supervised"]
    everything = bare.would_run()
    assert len(everything) == 25 and "release/release" in everything
    assert bare.would_run("nano") == everything


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config").glob("*.yaml")))
def test_an_experiment_is_asked_for_by_its_files_name(bare: Checkout, name: str) -> None:
    runs = {stage.label for stage in plan(load(ROOT / f"config/{name}.yaml")) if stage.kind == "train"}
    assert {job for job in bare.would_run(name, config=None) if job.startswith("train/")} == runs


def test_only_a_target_names_an_experiment(bare: Checkout) -> None:
    bare.path("study").mkdir()
    said = bare.asks("data_gsm-mini", "--directory", "study", config=None)
    assert "results/miniature/data/gsm-mini-" in said, "without a config file it is the miniature"
    shutil.rmtree(bare.path("study"))
    assert "no target 'figure_frontir'. Did you mean `figure_frontier`?" in bare.refuses("figure_frontir")
    assert "no target 'main_table_typo'. Did you mean `table_main`?" in bare.refuses("main_table_typo")
    assert "no target 'qqq'. `lightningrl stages`" in bare.refuses("qqq")
    assert "no target 'tabel_main'. Did" in bare.refuses(f"--configfile={NANO}", "tabel_main", config=None)
    assert bare.would_run(f"--configfile={NANO}", "train_supervised", config=None) == NEEDED["train_supervised"]
    assert "one experiment at a time: found nano and study" in bare.refuses("study", "nano", config=None)


OTHER_KEY = "results/miniature/train/lightningrl-00000000/manifest.json"
REFUSED = {
    "--config is not supported": ("--config", "seed=1"),
    "Found config/nano.yaml, config/config.yaml: all words after `--configfile` are files": (
        "--configfile",
        "config/nano.yaml",
        "config/config.yaml",
    ),
    "00000000 is not the key of today's config and code": (OTHER_KEY,),
    "--sdm conda or --sdm apptainer, not both": ("--sdm", "conda", "apptainer"),
    "build it, as the head of lightningrl.def": ("--sdm", "apptainer"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_asked_for_is_refused(bare: Checkout, reason: str) -> None:
    assert reason in bare.refuses(*REFUSED[reason], config=None)


def test_a_config_error_is_told_before_anything_runs(checkout: Checkout) -> None:
    checkout.edit("config/nano.yaml", "[0.02, 0.9]", "[0.02, 0.9, 1.3]")
    done = checkout.snakemake("--cores", "2")
    assert done.returncode != 0
    assert "evaluation.thresholds.2: a threshold is a probability within (0, 1], found 1.3" in done.stderr
    assert "Traceback" not in done.stderr and not checkout.path("results").exists()


def test_it_runs_in_another_folder(bare: Checkout, tmp_path: Path) -> None:
    arguments = ("--snakefile", str(bare.path("Snakefile")), "--directory", str(tmp_path / "elsewhere"))
    assert len(bare.would_run(*arguments)) == 25


def test_with_a_checkpoint_as_the_base_it_is_imported_and_nothing_is_pretrained(tmp_path: Path, monkeypatch) -> None:
    tree = yaml.safe_load((ROOT / "config/nano.yaml").read_text())
    tree |= {"base": {"checkpoint": "models/tiny", "block_size": 8, "mask_token_id": 96}}
    del tree["model"], tree["pretrain"]
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(tree))
    stages = plan(load(tmp_path / "given.yaml"))
    jobs = {f"{stage.kind}/{stage.name}" for stage in stages}
    assert len(jobs) == 24 and "checkpoint/base" in jobs
    assert not any(job.startswith(("pretrain", "tokenizer")) for job in jobs)
    [only] = [stage for stage in stages if stage.target == "evaluate_base_gsm-mini"]
    assert with_upstream(only) == {
        "data/gsm-mini", "selfcheck/gsm-mini", "checkpoint/base", "evaluate/base/gsm-mini",
    }  # fmt: skip


def test_asked_again_there_is_nothing_to_do_even_without_logs_and_benchmarks(finished: Checkout) -> None:
    for folder in ("logs", "benchmarks"):
        assert any(finished.path(folder).rglob("*.*"))
        shutil.rmtree(finished.path(folder))
    assert finished.would_run() == set() == finished.would_run("figure_frontier")
    next(finished.root.glob("results/nano/figure/steps-*/steps.pdf")).unlink()
    assert finished.would_run("figure_steps") == {"figure/steps"}, "a deleted figure is drawn again"


def test_after_a_kill_everything_unfinished_is_made(finished: Checkout) -> None:
    """Killed when a training had just ended, but Snakemake had not noted it: its outputs count as incomplete."""
    notes = finished.path(".snakemake/incomplete")
    notes.mkdir(exist_ok=True)
    folder = next(finished.root.glob("results/nano/train/grpo-traj-*"))
    for path in folder.iterdir():
        if path.name != "timing.jsonl":
            name = base64.b64encode(path.relative_to(finished.root).as_posix().encode()).decode()
            (notes / name).write_text('{"external_jobid": null}')
    for kind in ("evaluate", "collect", "table", "figure"):
        shutil.rmtree(finished.path(f"results/nano/{kind}"))
    shutil.rmtree(next(finished.root.glob("results/nano/release-*")))
    for how in ((), ("--ignore-incomplete",), ("--rerun-incomplete",)):
        jobs = finished.would_run(*how)
        assert "train/grpo-traj" not in jobs, "its folder has a manifest: it is whole"
        assert len(jobs) == 14


def test_the_report_has_captions_and_works_offline(finished: Checkout) -> None:
    finished.run("--report", "workflow.html", "--cores", "1")
    page = finished.path("workflow.html").read_text()
    assert not re.search(r"<(?:script|img)[^>]+src=[\"']https?:", page)
    assert not re.search(r"<link[^>]+href=[\"']https?:", page)
    for words in ("Accuracy against tokens per forward", "Tokens revealed at each decoding step", "The headline"):
        assert words in page
    assert '"Figures"' in page and '"Tables"' in page


def test_the_slurm_profile_is_found_in_a_clone_and_runs_the_paper_unless_told_otherwise(bare: Checkout) -> None:
    """No profile is taken by itself."""
    assert bare.path("slurm").is_symlink() and bare.path("slurm/config.yaml").is_file()
    code = "import sys, snakemake.cli as c\nfor words in ([], sys.argv[1:]):\n    a = c.parse_args(words)[1]"
    code += "; print(a.executor, a.retries, a.configfile)"
    command = [sys.executable, "-c", code, "--profile", "slurm"]
    said = subprocess.run(command, cwd=bare.root, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("None ") and said[1].startswith("slurm 3 ") and "config/paper.yaml" in said[1]
    assert not any((ROOT / name).exists() for name in ("profiles", "workflow/profiles/default", "default"))
    own = bare.asks("--profile", "slurm", "--quiet", "rules")
    assert "config/nano.yaml" in own and "config/paper.yaml" not in own and "pretrain" in own


def test_the_papers_jobs_ask_for_what_the_config_and_the_sites_overlay_say(bare: Checkout) -> None:
    overlay = "workflow/profiles/my-site.example.yaml"
    asked = {"lightningrl-gsm8k": (8, 400000, 1440), "lightningrl-1_7b-b32-gsm8k": (4, 150000, 960)}
    options = ("--profile", "slurm", "--profile", overlay, "--printshellcmds")
    said = bare.asks(*(f"train_{name}" for name in asked), *options, config=None)
    for name, (gpus, memory_mb, minutes) in asked.items():
        [job] = [part for part in said.split("\nrule ")[1:] if part.startswith("train:") and f"name={name}," in part]
        facts = (f"gpu={gpus}", f"mem_mb={memory_mb}", f"runtime={minutes}")
        for fact in (*facts, "slurm_partition=gpu", "slurm_account=my-account", "gpu_model=h100"):
            assert fact in job
        assert f"--nproc-per-node {gpus} -m lightningrl train " in job, "a process on each GPU"
        assert "--max-minutes" not in job, "only a running job has a time limit"


@pytest.mark.parametrize("config", ["nano", "paper"])
def test_the_workflow_has_no_lints(bare: Checkout, config: str) -> None:
    bare.asks("--lint", config=f"config/{config}.yaml")
