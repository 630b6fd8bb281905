"""The rerun matrix over the paper's own config, and what each of its targets needs, as `snakemake -n` lists them.

Every stage's files are there, empty: what runs next depends on their names only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from checkouts import IGNORED, Checkout, copy_repository
from fixtures.limits import processor_time
from test_rerun_matrix import (
    add_code,
    both,
    comments_and_docstrings,
    leave,
    lose_metadata_and_times,
    touch_everything,
)

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stage import Stage

PAPER = "config/paper.yaml"
FOUR = ("gsm8k", "math500", "mbpp", "humaneval")
SETS = {"gsm8k": ("gsm8k",), "math": ("math500",), "code": ("mbpp", "humaneval")}
METHODS = ("lightningrl", "grpo-traj", "tracerl")
SIZES = ("1_7b-b32", "4b-b32", "8b-b8", "8b-b4")
ABLATIONS = ("no-nll", "no-decoupling", "no-filter", "seq-seq-seq", "seq-tok-seq", "tok-tok-tok", "with-value")
RELEASED = {"gsm8k": "gsm8k", "math": "math500", "mbpp": "mbpp", "humaneval": "humaneval"}

RUNS = {f"{method}-{on}": tests for method in METHODS for on, tests in SETS.items()}
RUNS |= dict.fromkeys(ABLATIONS, ("gsm8k",))
RUNS |= {f"lightningrl-{size}-{on}": tests for size in SIZES for on, tests in SETS.items()}
TRAININGS = {f"train/{run}" for run in RUNS}
UNTRAINED = {f"evaluate/{policy}/{test}" for policy in ("base", *(f"sdar-{s}" for s in SIZES)) for test in FOUR}
UNTRAINED |= {f"evaluate/released-{name}/{test}" for name, test in RELEASED.items()}
EVALUATIONS = UNTRAINED | {f"evaluate/{run}/{test}" for run, tests in RUNS.items() for test in tests}
TABLES = tuple(f"table{number}" for number in range(1, 8))
FIGURES = tuple(f"figure{number}" for number in (1, 3, 4, 5, 6, 7, 8))
OF_ALL = {"collect/frontier", "table/main", "table/frontier", "figure/frontier", "release/release"}
"""What changes with any evaluation."""
NOTHING: set[str] = set()


def drawn(*names: str) -> set[str]:
    """Tables and figures with what is collected for them."""
    kinds = {name: "table" if name.startswith("table") else "figure" for name in names}
    return {f"collect/{name}" for name in names} | {f"{kind}/{name}" for name, kind in kinds.items()}


def of_runs(*runs: str) -> set[str]:
    return {f"train/{run}" for run in runs} | {f"evaluate/{run}/{test}" for run in runs for test in RUNS[run]}


ALL_FIGURES = {f"figure/{name}" for name in (*FIGURES, "frontier")}
OF_EVALUATIONS = ("figure1", "figure7", "figure8", *TABLES[:6])
SPEEDS = {"speed/base/gsm8k", "speed/lightningrl-gsm8k/gsm8k", "speed/released-gsm8k/gsm8k"}
REPLAY = {"replay/lightningrl-gsm8k"}


def edit_config(old: str, new: str) -> Callable[[Checkout], None]:
    return lambda checkout: checkout.edit(PAPER, old, new)


def other_key_order(checkout: Checkout) -> None:
    tree = yaml.safe_load(checkout.path(PAPER).read_text())
    checkout.path(PAPER).write_text(yaml.safe_dump(dict(reversed(tree.items())), sort_keys=False))


def edit_and_revert(checkout: Checkout) -> None:
    path = checkout.path("lightningrl/pipeline/stages/train.py")
    before = path.read_bytes()
    add_code("pipeline/stages/train.py")(checkout)
    assert checkout.would_run(config=PAPER) > TRAININGS
    path.write_bytes(before)


STAGES = {stage.target: stage for stage in plan(load(PACKAGE.parent / PAPER))}

MATRIX = {
    "1 2 3 4 6 comments, touching, resources, order of keys, times scrambled": (
        both(
            comments_and_docstrings,
            touch_everything,
            edit_config("judge_workers: 8", "judge_workers: 7"),
            other_key_order,
            lose_metadata_and_times,
        ),
        (),
        NOTHING,
    ),
    "5 reverting an edit": (edit_and_revert, (), NOTHING),
    "7 plotting code": (add_code("report/figures/style.py"), (), ALL_FIGURES | {"release/release"}),
    "8 a plot option": (
        edit_config("bootstrap: 1000", "bootstrap: 1000\n  plot: {smooth_steps: 9}"),
        (),
        ALL_FIGURES | {"release/release"},
    ),
    "9 evaluation code": (add_code("pipeline/stages/evaluate.py"), (), EVALUATIONS | OF_ALL | drawn(*OF_EVALUATIONS)),
    "10 one more threshold": (
        edit_config("[0.5, 0.6,", "[0.4, 0.5, 0.6,"),
        (),
        EVALUATIONS | OF_ALL | drawn(*OF_EVALUATIONS),
    ),
    "11 trainer code": (
        add_code("pipeline/stages/train.py"),
        (),
        of_runs(*RUNS) | OF_ALL | drawn(*TABLES, *FIGURES) | {"speed/lightningrl-gsm8k/gsm8k"} | REPLAY,
    ),
    "12 one ablation's config": (
        edit_config("method: {nll: 0}", "method: {nll: 0.01}"),
        (),
        of_runs("no-nll") | OF_ALL | drawn("table3", "figure4"),
    ),
    "12 one checkpoint's weights": (
        edit_config("JetLM/SDAR-4B-Chat-b32,", "JetLM/SDAR-4B-Chat-b32, sha256: " + 64 * "a" + ","),
        (),
        {"checkpoint/sdar-4b-b32"} | {f"evaluate/sdar-4b-b32/{test}" for test in FOUR} | OF_ALL | drawn("table6")
        | of_runs(*(f"lightningrl-4b-b32-{on}" for on in SETS)),
    ),
    "13 one benchmark's prompt": (
        edit_config("{name: mbpp, ", "{name: mbpp, prompt: {shots: 3}, "),
        (),
        {job for job in EVALUATIONS if job.endswith("/mbpp")} | OF_ALL | drawn("table1", "table2", "table6", "figure1"),
    ),
    "14 one algorithm's file": (
        add_code("rl/algorithms/tracerl.py"),
        (),
        of_runs(*(f"tracerl-{on}" for on in SETS)) | OF_ALL | drawn("table1", "figure6", "figure8"),
    ),
    "15 case 6 and an edit of evaluation code": (
        both(lose_metadata_and_times, add_code("pipeline/stages/evaluate.py")),
        (),
        EVALUATIONS | OF_ALL | drawn(*OF_EVALUATIONS),
    ),
    "16 forcing one stage": (leave, ("--forcerun", "evaluate"), EVALUATIONS | OF_ALL | drawn(*OF_EVALUATIONS)),
    "17 one selector's file": (
        add_code("decoding/selectors/threshold.py"),
        (),
        TRAININGS | EVALUATIONS | OF_ALL | drawn(*TABLES, *FIGURES) | SPEEDS | REPLAY,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def _paper_once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = copy_repository(tmp_path_factory.mktemp("paper") / "repository")
    finish = """
        from lightningrl.config.experiment import load
        from lightningrl.pipeline.plan import plan
        for stage in plan(load("config/paper.yaml")):
            for name in stage.outputs:
                (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage.folder / name).touch()
    """
    program = "\n".join(line[8:] for line in finish.splitlines())
    subprocess.run([sys.executable, "-c", program], cwd=made.root, check=True)
    return made


@pytest.fixture
def paper(_paper_once: Checkout, tmp_path: Path) -> Checkout:
    """A checkout in which all of the paper has finished."""
    root = tmp_path / "repository"
    shutil.copytree(_paper_once.root, root, symlinks=True, ignore=IGNORED)
    (root / ".snakemake").mkdir(exist_ok=True)
    return Checkout(root)


@pytest.mark.parametrize("case", MATRIX)
def test_exactly_what_an_edit_concerns_runs_again(paper: Checkout, case: str) -> None:
    edit, arguments, expected = MATRIX[case]
    edit(paper)
    assert paper.would_run(*arguments, config=PAPER) == expected


def test_all_seventeen_cases_are_there() -> None:
    named = [takewhile(str.isdigit, case.split()) for case in MATRIX]
    assert {int(word) for words in named for word in words} == set(range(1, 18))


NEEDED = {
    "table1": {f"train/{method}-{on}" for method in METHODS for on in SETS},
    "table2": {f"train/lightningrl-{on}" for on in SETS},
    "table3": {"train/lightningrl-gsm8k", "train/no-nll", "train/no-decoupling", "train/no-filter"},
    "table4": {"train/lightningrl-gsm8k", "train/seq-seq-seq", "train/seq-tok-seq", "train/tok-tok-tok"},
    "table5": {"train/lightningrl-gsm8k", "train/with-value"},
    "table6": {f"train/lightningrl-{on}" for on in SETS}
    | {f"train/lightningrl-{size}-{on}" for size in SIZES for on in SETS},
    "table7": {"train/lightningrl-gsm8k"},
    "figure1": {f"train/lightningrl-{on}" for on in SETS},
    "figure3": {"train/lightningrl-gsm8k", "train/no-decoupling"},
    "figure4": {"train/lightningrl-gsm8k", "train/no-nll"},
    "figure5": {"train/lightningrl-gsm8k", "train/no-filter"},
    "figure6": {f"train/{method}-gsm8k" for method in METHODS},
    "figure7": {"train/lightningrl-gsm8k"},
    "figure8": {"train/lightningrl-gsm8k", "train/tracerl-gsm8k"},
    "train_no-nll": {"train/no-nll"},
    "evaluate_released-math_math500": set(),
}


def upstream(stage: Stage) -> set[str]:
    """`<kind>/<name>` of everything that a stage needs."""
    return {f"{each.kind}/{each.name}" for each in stage.upstream}.union(*(upstream(each) for each in stage.upstream))


@pytest.mark.parametrize("target", NEEDED)
def test_a_target_trains_only_what_it_shows(target: str) -> None:
    jobs = upstream(STAGES[target]) | {f"{STAGES[target].kind}/{STAGES[target].name}"}
    assert {job for job in jobs if job.startswith("train/")} == NEEDED[target]
    assert any(job.startswith("evaluate/") for job in jobs) == (
        target not in ("table7", "figure3", "figure4", "figure5", "figure6", "train_no-nll")
    )


@pytest.mark.parametrize("target", ["table3", "figure6"])
def test_snakemake_agrees(checkout: Checkout, target: str) -> None:
    stage = STAGES[target]
    assert checkout.would_run(target, config=PAPER) == upstream(stage) | {f"{stage.kind}/{stage.name}"}


def test_all_of_the_paper_is_planned_within_ten_seconds(checkout: Checkout) -> None:
    with processor_time(10):
        jobs = checkout.would_run("all", config=PAPER)
    assert jobs >= TRAININGS | EVALUATIONS | SPEEDS | {"release/release"}
