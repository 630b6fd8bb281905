"""What an edit concerns in the paper's own config, and what each of its targets needs, as `snakemake -n` lists it.

Cases that do not depend on the config are in `test_rerun_matrix.py` alone. Every stage's files are there, empty: what
runs next depends on their names only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout, copy_repository, jobs_in, with_upstream
from edits import (
    add_code,
    all_of,
    comments_and_docstrings,
    edit_config,
    lose_metadata_and_times,
    other_key_order,
    touch_everything,
)
from fixtures.limits import processor_time

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

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
BY_CONFIDENCE = ("fast-dllm-llada-256", "fast-dllm-dream-256", "fast-dllm-v2")
RIVALS = (
    "llada-256", "dparallel-llada-256", "d3llm-llada-256", "d2f-llada-256", "dream-256", "dparallel-dream-256",
    "d3llm-dream-256", "qwen2_5-7b", *BY_CONFIDENCE,
)  # fmt: skip
"""Table 2's other systems by checkpoints; those behind servers have no address yet."""
OF_RIVALS = {f"evaluate/{rival}/{test}" for rival in RIVALS for test in FOUR}
UNTRAINED |= OF_RIVALS
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
FAST = {f"speed/{rival}/gsm8k" for rival in ("dparallel-llada-256", "d3llm-llada-256", "qwen2_5-7b", "fast-dllm-v2")}
"""The rivals in Table 7."""
OTHERS = {job for job in OF_RIVALS | FAST if job.split("/")[1] not in BY_CONFIDENCE}
"""What decodes with another selector than the paper's."""
REPLAY = {"replay/lightningrl-gsm8k"}
STAGES = {stage.target: stage for stage in plan(load(PACKAGE.parent / PAPER))}
SDAR_4B = "JetLM/SDAR-4B-Chat-b32,"

MATRIX = {
    "1 2 3 4 6 comments, touching, resources, order of keys, times scrambled": (
        all_of(
            comments_and_docstrings,
            touch_everything,
            edit_config(PAPER, "judge_workers: 8", "judge_workers: 7"),
            other_key_order(PAPER),
            lose_metadata_and_times,
        ),
        NOTHING,
    ),
    "7 plotting code": (add_code("report/figures/style.py"), ALL_FIGURES | {"release/release"}),
    "9 evaluation code": (
        add_code("pipeline/stages/evaluate.py"), EVALUATIONS | OF_ALL | drawn(*OF_EVALUATIONS),
    ),
    "11 trainer code": (
        add_code("pipeline/stages/train.py"),
        of_runs(*RUNS) | OF_ALL | drawn(*TABLES, *FIGURES) | {"speed/lightningrl-gsm8k/gsm8k"} | REPLAY,
    ),
    "12 one ablation's config": (
        edit_config(PAPER, "method: {nll: 0}", "method: {nll: 0.01}"),
        of_runs("no-nll") | OF_ALL | drawn("table3", "figure4"),
    ),
    "12 one checkpoint's weights": (
        edit_config(PAPER, SDAR_4B, f"{SDAR_4B} sha256: {64 * 'a'},"),
        {"checkpoint/sdar-4b-b32"} | {f"evaluate/sdar-4b-b32/{test}" for test in FOUR} | OF_ALL | drawn("table6")
        | of_runs(*(f"lightningrl-4b-b32-{on}" for on in SETS)),
    ),
    "13 one benchmark's prompt": (
        edit_config(PAPER, "{name: mbpp, ", "{name: mbpp, prompt: {shots: 3}, "),
        {job for job in EVALUATIONS if job.endswith("/mbpp")} | OF_ALL | drawn("table1", "table2", "table6", "figure1"),
    ),
    "12 one rival's sweep": (
        edit_config(PAPER, "thresholds: [8, 16, 32]", "thresholds: [8, 32]"),
        {f"evaluate/llada-256/{test}" for test in FOUR} | OF_ALL | drawn("table2", "figure1"),
    ),
    "14 one algorithm's file": (
        add_code("rl/algorithms/tracerl.py"),
        of_runs(*(f"tracerl-{on}" for on in SETS)) | OF_ALL | drawn("table1", "figure6", "figure8"),
    ),
    "17 one selector's file": (
        add_code("decoding/selectors/threshold.py"),
        (TRAININGS | EVALUATIONS | OF_ALL | drawn(*TABLES, *FIGURES) | SPEEDS | FAST | REPLAY) - OTHERS,
    ),
}  # fmt: skip


FINISH = """
from lightningrl.config.experiment import load
from lightningrl.pipeline.plan import plan
for stage in plan(load("config/paper.yaml")):
    for name in stage.outputs:
        (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.folder / name).touch()
"""


@pytest.fixture(scope="session")
def _paper_once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = copy_repository(tmp_path_factory.mktemp("paper") / "repository")
    subprocess.run([sys.executable, "-c", FINISH], cwd=made.root, check=True)
    made.path(".snakemake").mkdir()
    return made


@pytest.fixture
def paper(_paper_once: Checkout, tmp_path: Path) -> Checkout:
    """A checkout in which all of the paper has finished."""
    return _paper_once.copied(tmp_path / "repository")


@pytest.mark.parametrize("case", MATRIX)
def test_exactly_what_an_edit_concerns_runs_again(paper: Checkout, case: str) -> None:
    edit, expected = MATRIX[case]
    edit(paper)
    assert paper.would_run(config=PAPER) == expected


OURS = "lightningrl-gsm8k"
ON_SETS = [f"lightningrl-{on}" for on in SETS]
NEEDED = {
    "table1": [f"{method}-{on}" for method in METHODS for on in SETS],
    "table2": ON_SETS,
    "table3": [OURS, "no-nll", "no-decoupling", "no-filter"],
    "table4": [OURS, "seq-seq-seq", "seq-tok-seq", "tok-tok-tok"],
    "table5": [OURS, "with-value"],
    "table6": [*ON_SETS, *(f"lightningrl-{size}-{on}" for size in SIZES for on in SETS)],
    "table7": [OURS],
    "figure1": ON_SETS,
    "figure3": [OURS, "no-decoupling"],
    "figure4": [OURS, "no-nll"],
    "figure5": [OURS, "no-filter"],
    "figure6": [f"{method}-gsm8k" for method in METHODS],
    "figure7": [OURS],
    "figure8": [OURS, "tracerl-gsm8k"],
    "train_no-nll": ["no-nll"],
    "evaluate_released-math_math500": [],
}
"""The trainings of each target."""
WITHOUT_EVALUATIONS = ("table7", "figure3", "figure4", "figure5", "figure6", "train_no-nll")


@pytest.mark.parametrize("target", NEEDED)
def test_a_target_trains_only_what_it_shows(target: str) -> None:
    jobs = with_upstream(STAGES[target])
    assert {job for job in jobs if job.startswith("train/")} == {f"train/{run}" for run in NEEDED[target]}
    assert any(job.startswith("evaluate/") for job in jobs) == (target not in WITHOUT_EVALUATIONS)


def test_snakemake_agrees_and_plans_all_of_the_paper_within_ten_seconds(bare: Checkout) -> None:
    assert bare.would_run("table3", config=PAPER) == with_upstream(STAGES["table3"])
    with processor_time(10):
        jobs = jobs_in(bare.run("all", "--dry-run", "--cores", "2", config=PAPER))
    assert jobs >= TRAININGS | EVALUATIONS | SPEEDS | FAST | {"release/release"}
