"""What can be asked of Snakemake by name, which config it takes, and what it refuses before anything runs."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

DATA = {"data/gsm-mini", "data/code-mini", "selfcheck/gsm-mini", "selfcheck/code-mini"}
BASE = DATA | {"tokenizer/tokenizer", "pretrain/base"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("selfcheck_code-mini", {"data/code-mini", "selfcheck/code-mini"}),
        ("train_grpo-traj", BASE | {"train/grpo-traj"}),
        ("train_supervised", BASE | {"train/lightningrl", "train/supervised"}),
        ("evaluate_base_gsm-mini", BASE | {"evaluate/base/gsm-mini"}),
        ("evaluate_lightningrl_gsm-mini", BASE | {"train/lightningrl", "evaluate/lightningrl/gsm-mini"}),
    ],
)
def test_a_name_makes_just_what_it_needs(checkout: Checkout, target: str, expected: set[str]) -> None:
    assert checkout.would_run(target) == expected


@pytest.mark.parametrize("target", ["table_main", "figure_frontier"])
def test_one_table_or_figure_leaves_the_others_alone(checkout: Checkout, target: str) -> None:
    drawn = {job for job in checkout.would_run(target) if job.startswith(("table", "figure", "release"))}
    assert drawn == {target.replace("_", "/")}


def test_the_default_is_everything(checkout: Checkout) -> None:
    jobs = checkout.would_run()
    assert len(jobs) == 25
    assert "release/release" in jobs


@pytest.mark.parametrize("name", sorted(path.stem for path in (PACKAGE.parent / "config").glob("*.yaml")))
def test_an_experiment_is_asked_for_by_its_files_name(checkout: Checkout, name: str) -> None:
    runs = {stage.label for stage in plan(load(PACKAGE.parent / f"config/{name}.yaml")) if stage.kind == "train"}
    assert {job for job in checkout.would_run(name, config=None) if job.startswith("train/")} == runs


def test_only_a_target_names_an_experiment(checkout: Checkout) -> None:
    assert checkout.would_run("nano", config="config/nano.yaml") == checkout.would_run()
    checkout.path("study").mkdir()
    assert "train/lightningrl-code" in checkout.would_run("--directory", "study", config=None)
    done = checkout.snakemake("study", "nano", "-n", "--cores", "1", config=None)
    assert done.returncode != 0 and "one experiment at a time: found nano and study" in done.stdout + done.stderr


def test_asked_again_there_is_nothing_to_do(finished: Checkout) -> None:
    assert finished.would_run() == set()
    assert finished.would_run("figure_frontier") == set()


@pytest.mark.parametrize("how", [(), ("--ignore-incomplete",), ("--rerun-incomplete",)])
def test_after_a_kill_everything_unfinished_is_made(finished: Checkout, how: tuple[str, ...]) -> None:
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
    jobs = finished.would_run(*how)
    assert "train/grpo-traj" not in jobs  # its folder has a manifest: it is whole
    assert len(jobs) == 14


def test_a_deleted_figure_is_drawn_again(finished: Checkout) -> None:
    next(finished.root.glob("results/nano/figure/steps-*/steps.pdf")).unlink()
    assert finished.would_run("figure_steps") == {"figure/steps"}


def test_without_a_config_file_it_is_the_miniature(checkout: Checkout) -> None:
    done = checkout.snakemake("data_gsm-mini", "--dry-run", "--cores", "1", config=None)
    assert done.returncode == 0
    assert "results/miniature/data/gsm-mini-" in done.stdout + done.stderr


def test_a_config_error_is_told_before_anything_runs(checkout: Checkout) -> None:
    checkout.edit("config/nano.yaml", "[0.02, 0.9]", "[0.02, 0.9, 1.3]")
    done = checkout.snakemake("--cores", "2")
    assert done.returncode != 0
    assert "evaluation.thresholds.2: a threshold is a probability within (0, 1), found 1.3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not checkout.path("results").exists()


def test_config_on_the_command_line_is_refused(checkout: Checkout) -> None:
    done = checkout.snakemake("--dry-run", "--config", "seed=1")
    assert done.returncode != 0
    assert "--config is not supported" in done.stdout + done.stderr


def test_two_config_files_are_refused(checkout: Checkout) -> None:
    done = checkout.snakemake("--dry-run", "--configfile", "config/nano.yaml", "config/config.yaml", config=None)
    assert done.returncode != 0
    assert "one --configfile at a time" in done.stdout + done.stderr


def test_a_folder_of_another_key_cannot_be_asked_for(checkout: Checkout) -> None:
    done = checkout.snakemake("results/nano/train/lightningrl-00000000/manifest.json", "--dry-run")
    assert done.returncode != 0
    assert "00000000 is not the key of today's config and code" in done.stdout + done.stderr


def test_it_runs_in_another_folder(checkout: Checkout, tmp_path: Path) -> None:
    arguments = ("--snakefile", str(checkout.path("Snakefile")), "--directory", str(tmp_path / "elsewhere"))
    assert len(checkout.would_run(*arguments)) == 25


def test_the_report_has_captions_and_works_offline(finished: Checkout) -> None:
    done = finished.snakemake("--report", "report.html", "--cores", "1")
    assert done.returncode == 0, done.stderr
    page = finished.path("report.html").read_text()
    assert not re.search(r"<(?:script|img)[^>]+src=[\"']https?:", page)
    assert not re.search(r"<link[^>]+href=[\"']https?:", page)
    for words in ("Accuracy against tokens per forward", "Tokens revealed at each decoding step", "The headline"):
        assert words in page
    assert '"Figures"' in page and '"Tables"' in page


def test_with_a_checkpoint_as_the_base_it_is_imported_and_nothing_is_pretrained(checkout: Checkout) -> None:
    tree = yaml.safe_load(checkout.path("config/nano.yaml").read_text())
    tree |= {"base": {"checkpoint": "models/tiny", "block_size": 8, "mask_token_id": 96}}
    del tree["model"], tree["pretrain"]
    checkout.path("config/given.yaml").write_text(yaml.safe_dump(tree))
    jobs = checkout.would_run(config="config/given.yaml")
    assert len(jobs) == 24
    assert "checkpoint/base" in jobs and not any(job.startswith(("pretrain", "tokenizer")) for job in jobs)
    only = checkout.would_run("evaluate_base_gsm-mini", config="config/given.yaml")
    assert only == {"data/gsm-mini", "selfcheck/gsm-mini", "checkpoint/base", "evaluate/base/gsm-mini"}
