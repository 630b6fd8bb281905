"""The rerun matrix: for each edit, exactly the stages that run again, as `snakemake -n` lists them."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

NANO = "config/nano.yaml"
RUNS = {
    "lightningrl": "gsm-mini",
    "grpo-traj": "gsm-mini",
    "supervised": "gsm-mini",
    "lightningrl-code": "code-mini",
}
TABLES = {"table/main", "table/frontier"}
FIGURES = {"figure/frontier", "figure/rewards", "figure/steps", "figure/collapse"}
RELEASE = {"release/release"}
REPLAY = {"replay/lightningrl"}
LATER = {"collect/frontier"} | TABLES | FIGURES | RELEASE
BASE_EVALUATIONS = {"evaluate/base/gsm-mini", "evaluate/base/code-mini"}
TRAINED_EVALUATIONS = {f"evaluate/{run}/{benchmark}" for run, benchmark in RUNS.items()}
EVALUATIONS = BASE_EVALUATIONS | TRAINED_EVALUATIONS
TRAININGS = {f"train/{run}" for run in RUNS}
NOTHING: set[str] = set()


def of_runs(*runs: str) -> set[str]:
    """These runs, their evaluations, and what follows."""
    made = {f"train/{run}" for run in runs} | {f"evaluate/{run}/{RUNS[run]}" for run in runs}
    return made | LATER | (REPLAY if "lightningrl" in runs else set())


def add_code(name: str) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.append(f"lightningrl/{name}", "\nEDITED = 1\n")


def comments_and_docstrings(checkout: Checkout) -> None:
    changed = 0
    for path in checkout.path("lightningrl").rglob("*.py"):
        text = path.read_text()
        if text.startswith('"""'):
            text = '"""Told otherwise. ' + text[3:]
            changed += 1
        path.write_text("# A new comment.\n\n" + text + "\n\n# The end.\n")
    assert changed > 30


def touch_everything(checkout: Checkout) -> None:
    for path in checkout.root.rglob("*"):
        if path.is_file() and not {"results", ".snakemake"} & set(path.relative_to(checkout.root).parts):
            os.utime(path)


def resources(checkout: Checkout) -> None:
    checkout.append(NANO, "resources: {pretrain_threads: 1, train_threads: 2, judge_workers: 2, max_minutes: 9}\n")


def other_key_order(checkout: Checkout) -> None:
    def reverse(value: object) -> object:
        if isinstance(value, dict):
            return {key: reverse(item) for key, item in reversed(value.items())}
        return [reverse(item) for item in value] if isinstance(value, list) else value

    tree = yaml.safe_load(checkout.path(NANO).read_text())
    checkout.path(NANO).write_text(yaml.safe_dump(reverse(tree), sort_keys=False))


def edit_and_revert(checkout: Checkout) -> None:
    path = checkout.path("lightningrl/pipeline/stages/train.py")
    before = path.read_bytes()
    add_code("pipeline/stages/train.py")(checkout)
    assert checkout.would_run() == of_runs(*RUNS)
    path.write_bytes(before)


def lose_metadata_and_times(checkout: Checkout) -> None:
    shutil.rmtree(checkout.path(".snakemake"))
    draw = random.Random(0)
    for path in checkout.root.rglob("*"):
        when = time.time() - draw.uniform(0, 1e7)
        os.utime(path, (when, when), follow_symlinks=False)


def config_edit(old: str, new: str) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.edit(NANO, old, new)


def both(*edits: Callable[[Checkout], None]) -> Callable[[Checkout], None]:
    def edit(checkout: Checkout) -> None:
        for each in edits:
            each(checkout)

    return edit


def leave(checkout: Checkout) -> None:
    """No edit."""


GRPO = "name: grpo-traj, role: rival, algorithm: grpo_traj"
CODE = "{name: code-mini, train: 200, validation: 4, test: 8, max_new_tokens: 24"

MATRIX = {
    "1 a comment or docstring in any module": (comments_and_docstrings, (), NOTHING),
    "2 touching every file": (touch_everything, (), NOTHING),
    "3 resources only": (resources, (), NOTHING),
    "4 config keys in another order": (other_key_order, (), NOTHING),
    "5 reverting an edit": (edit_and_revert, (), NOTHING),
    "6 a copy without .snakemake, times scrambled": (lose_metadata_and_times, (), NOTHING),
    "7 plotting code": (add_code("report/figures/style.py"), (), FIGURES | RELEASE),
    "8 a plot option": (
        config_edit("bootstrap: 100,", "bootstrap: 100, plot: {smooth_steps: 2},"),
        (),
        FIGURES | RELEASE,
    ),
    "9 metrics code": (add_code("evaluation/metrics.py"), (), EVALUATIONS | LATER),
    "9 evaluation code": (add_code("pipeline/stages/evaluate.py"), (), EVALUATIONS | LATER),
    "10 one more threshold": (config_edit("[0.02, 0.9]", "[0.02, 0.5, 0.9]"), (), EVALUATIONS | LATER),
    "11 trainer code": (add_code("pipeline/stages/train.py"), (), of_runs(*RUNS)),
    "11 trainer code of reinforcement learning": (add_code("rl/trainer.py"), (), of_runs(*RUNS)),
    "12 one run's training config": (config_edit(GRPO, GRPO + ", method: {kl: 0.5}"), (), of_runs("grpo-traj")),
    "13 one benchmark's prompt": (
        config_edit(CODE, CODE + ", prompt: {suffix: Be brief.}"),
        (),
        of_runs("lightningrl-code") | {"evaluate/base/code-mini"},
    ),
    "14 one algorithm's file": (add_code("rl/algorithms/grpo_traj.py"), (), of_runs("grpo-traj")),
    "15 case 6 and an edit of evaluation code": (
        both(lose_metadata_and_times, add_code("pipeline/stages/evaluate.py")),
        (),
        EVALUATIONS | LATER,
    ),
    "16 forcing one stage": (leave, ("--forcerun", "evaluate"), EVALUATIONS | LATER),
    "16 forcing one stage, case 6": (lose_metadata_and_times, ("--forcerun", "figure"), FIGURES | RELEASE),
    "16 forcing one training": (leave, ("--forcerun", "results/nano/train/grpo-traj-*"), of_runs("grpo-traj")),
    "17 one selector's file": (
        add_code("decoding/selectors/threshold.py"),
        (),
        {"pretrain/base"} | TRAININGS | EVALUATIONS | REPLAY | LATER,
    ),
}


@pytest.mark.parametrize("case", MATRIX)
def test_exactly_what_an_edit_concerns_runs_again(finished: Checkout, case: str) -> None:
    edit, arguments, expected = MATRIX[case]
    edit(finished)
    globbed = [
        str(Path(found).relative_to(finished.root) / "manifest.json") if "*" in argument else argument
        for argument in arguments
        for found in (sorted(finished.root.glob(argument)) if "*" in argument else [argument])
    ]
    assert finished.would_run(*globbed) == expected


BEYOND = {
    "the self-check's code": (add_code("pipeline/stages/selfcheck.py"), NOTHING),
    "a judge's code": (
        add_code("judges/boxed_answer.py"),
        {"selfcheck/gsm-mini", "pretrain/base"} | TRAININGS | EVALUATIONS | REPLAY | LATER,
    ),
    "a benchmark's code": (
        add_code("benchmarks/gsm_mini.py"),
        {"data/gsm-mini", "selfcheck/gsm-mini", "tokenizer/tokenizer", "pretrain/base"} | TRAININGS | EVALUATIONS
        | REPLAY | LATER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_a_judge_is_proved_again_where_it_changed_and_its_proof_reruns_nothing(finished: Checkout, case: str) -> None:
    edit, expected = BEYOND[case]
    edit(finished)
    assert finished.would_run() == expected


def test_what_judges_anew_waits_for_todays_proof(finished: Checkout) -> None:
    add_code("pipeline/stages/selfcheck.py")(finished)
    assert finished.would_run("selfcheck_code-mini") == {"selfcheck/code-mini"}
    add_code("rl/algorithms/grpo_traj.py")(finished)
    assert finished.would_run("train_grpo-traj") == {"selfcheck/gsm-mini", "train/grpo-traj"}


def test_all_seventeen_cases_are_there() -> None:
    assert {int(case.split()[0]) for case in MATRIX} == set(range(1, 18))
