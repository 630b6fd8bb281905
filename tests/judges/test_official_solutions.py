"""Whole benchmarks: official solutions right, empty and `exit()` answers wrong. Asked for with -m mirror."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightningrl.benchmarks import mbpp
from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.evaluation.selfcheck import self_check
from lightningrl.judges.code.judge import CodeJudge
from lightningrl.judges.math.judge import MathJudge

pytestmark = pytest.mark.mirror


def rows_of(benchmark):
    origins = Origins(Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]), Path("none"))
    return {source.key: obtain(source, origins).rows for source in benchmark.sources}


def everything(name):
    benchmark = get_benchmark(name)
    splits = benchmark.load({"train": None, "validation": None, "test": None}, 0, rows_of(benchmark))
    return [example for examples in splits.values() for example in examples]


def test_humaneval(jail_level):
    judge = CodeJudge(workers=2)
    found = self_check("humaneval", everything("humaneval"), judge)
    judge.close()
    assert found["official"] == {"judged": 164, "correct": 164, "pct": 100.0}
    assert found["empty"]["correct"] == found["exit"]["correct"] == 0


def test_mbpp_with_the_tasks_of_no_split(jail_level):
    """All 974 of the authors' file, as the benchmark makes examples of them; no list of exceptions."""
    examples = [mbpp._example("test", task) for task in rows_of(mbpp.MBPP)["tasks"]]
    judge = CodeJudge(workers=2)
    found = self_check("mbpp", examples, judge)
    judge.close()
    assert found["official"] == {"judged": 974, "correct": 974, "pct": 100.0}
    assert found["empty"]["correct"] == found["exit"]["correct"] == 0


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 1319 + 7473), ("math500", 500 + 8519)])
def test_mathematics(name, count):
    judge = MathJudge(workers=2)
    found = self_check(name, everything(name), judge)
    judge.close()
    assert found["official"] == {"judged": count, "correct": count, "pct": 100.0}
    assert found["empty"]["correct"] == found["exit"]["correct"] == 0
