"""The rerun matrix: for each edit, exactly the stages that run again, as `snakemake -n` lists them."""

from __future__ import annotations

import pytest
from checkouts import NANO, Checkout
from edits import (
    add_code,
    all_of,
    comments_and_docstrings,
    edit_and_revert,
    edit_config,
    leave,
    lose_metadata_and_times,
    other_key_order,
    touch_everything,
)

RUNS = dict.fromkeys(("lightningrl", "grpo-traj", "supervised"), "gsm-mini") | {"lightningrl-code": "code-mini"}
FIGURES = {"figure/frontier", "figure/rewards", "figure/steps", "figure/collapse"}
RELEASE = {"release/release"}
REPLAY = {"replay/lightningrl"}
LATER = {"collect/frontier", "table/main", "table/frontier"} | FIGURES | RELEASE
EVALUATIONS = {f"evaluate/{run}/{on}" for run, on in [*RUNS.items(), ("base", "gsm-mini"), ("base", "code-mini")]}
TRAININGS = {f"train/{run}" for run in RUNS}
ALL_OF_A_MODEL = {"pretrain/base"} | TRAININGS | EVALUATIONS | REPLAY | LATER
NOTHING: set[str] = set()


def of_runs(*runs: str) -> set[str]:
    """These runs, their evaluations, and what follows."""
    made = {f"train/{run}" for run in runs} | {f"evaluate/{run}/{RUNS[run]}" for run in runs}
    return made | LATER | (REPLAY if "lightningrl" in runs else set())


PLOT = edit_config(NANO, "bootstrap: 100,", "bootstrap: 100, plot: {smooth_steps: 2},")
RESOURCES = "resources: {pretrain_threads: 1, train_threads: 2, judge_workers: 2, max_minutes: 9}\n"
GRPO = "name: grpo-traj, role: rival, algorithm: grpo_traj"
CODE = "{name: code-mini, train: 200, validation: 4, test: 8, max_new_tokens: 24"
EVALUATE = add_code("pipeline/stages/evaluate.py")

MATRIX = {
    "1 a comment or docstring in any module": (comments_and_docstrings, NOTHING),
    "2 touching every file": (touch_everything, NOTHING),
    "3 resources only": (lambda checkout: checkout.append(NANO, RESOURCES), NOTHING),
    "4 config keys in another order": (other_key_order(NANO), NOTHING),
    "5 reverting an edit": (edit_and_revert(NANO, TRAININGS), NOTHING),
    "6 a copy without .snakemake, times scrambled": (lose_metadata_and_times, NOTHING),
    "7 plotting code": (add_code("report/figures/style.py"), FIGURES | RELEASE),
    "8 a plot option": (PLOT, FIGURES | RELEASE),
    "9 metrics code": (add_code("evaluation/metrics.py"), EVALUATIONS | LATER),
    "9 evaluation code": (EVALUATE, EVALUATIONS | LATER),
    "10 one more threshold": (edit_config(NANO, "[0.02, 0.9]", "[0.02, 0.5, 0.9]"), EVALUATIONS | LATER),
    "11 trainer code": (add_code("pipeline/stages/train.py"), of_runs(*RUNS)),
    "11 trainer code of reinforcement learning": (add_code("rl/trainer.py"), of_runs(*RUNS)),
    "12 one run's training config": (edit_config(NANO, GRPO, GRPO + ", method: {kl: 0.5}"), of_runs("grpo-traj")),
    "13 one benchmark's prompt": (
        edit_config(NANO, CODE, CODE + ", prompt: {suffix: Be brief.}"),
        of_runs("lightningrl-code") | {"evaluate/base/code-mini"},
    ),
    "14 one algorithm's file": (add_code("rl/algorithms/grpo_traj.py"), of_runs("grpo-traj")),
    "15 case 6 and an edit of evaluation code": (all_of(lose_metadata_and_times, EVALUATE), EVALUATIONS | LATER),
    "16 forcing one stage": (leave, EVALUATIONS | LATER, "evaluate"),
    "16 forcing one stage, case 6": (lose_metadata_and_times, FIGURES | RELEASE, "figure"),
    "16 forcing one training": (leave, of_runs("grpo-traj"), "results/nano/train/grpo-traj-*/manifest.json"),
    "17 one selector's file": (add_code("decoding/selectors/threshold.py"), ALL_OF_A_MODEL),
    "17 the family of the checkpoints": (add_code("models/families/sdar.py"), ALL_OF_A_MODEL),
    # A judge is proved again where it changed, and its proof reruns nothing.
    "18 the self-check's code": (add_code("pipeline/stages/selfcheck.py"), NOTHING),
    "18 a judge's code": (add_code("judges/boxed_answer.py"), {"selfcheck/gsm-mini"} | ALL_OF_A_MODEL),
    "18 a benchmark's code": (
        add_code("benchmarks/gsm_mini.py"),
        {"data/gsm-mini", "selfcheck/gsm-mini", "tokenizer/tokenizer"} | ALL_OF_A_MODEL,
    ),
}


@pytest.mark.parametrize("case", MATRIX)
def test_exactly_what_an_edit_concerns_runs_again(finished: Checkout, case: str) -> None:
    edit, expected, *forced = MATRIX[case]
    edit(finished)
    found = [path.relative_to(finished.root) for name in forced for path in finished.root.glob(name)]
    assert finished.would_run(*(["--forcerun", *map(str, found or forced)] if forced else [])) == expected


def test_what_judges_anew_waits_for_todays_proof(finished: Checkout) -> None:
    add_code("pipeline/stages/selfcheck.py")(finished)
    assert finished.would_run("selfcheck_code-mini") == {"selfcheck/code-mini"}
    add_code("rl/algorithms/grpo_traj.py")(finished)
    assert finished.would_run("train_grpo-traj") == {"selfcheck/gsm-mini", "train/grpo-traj"}


def test_all_seventeen_cases_are_there() -> None:
    assert {int(case.split()[0]) for case in MATRIX} >= set(range(1, 18))
