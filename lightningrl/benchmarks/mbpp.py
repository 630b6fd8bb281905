"""MBPP: short Python functions from a sentence and a test. Test is the 500 tasks 11 to 510, train the 374 from 601 on.

The paper's file has the prompts and the tests of the test split; the authors' file has the reference programs, the
setup code of some tests, and the other tasks. Tasks that both files contain must agree, except for `CLEANED`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import prompts
from lightningrl.benchmarks.published import PublishedBenchmark, Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

TEST_TASKS, VALIDATION_TASKS, TRAIN_TASKS = range(11, 511), range(511, 601), range(601, 975)
"""The task ids of the published splits; 1 to 10 are for prompts."""
CLEANED = (118,)
"""Tasks whose text begins with the remains of a link in the authors' file but not in the paper's."""
TIME_LIMIT_S = 1


class Mbpp(PublishedBenchmark):
    """The benchmark; see the module's docstring. The numbers of its uids are the task ids."""

    name = "mbpp"
    licence = "CC-BY-4.0"
    citation = "Austin et al., Program Synthesis with Large Language Models, arXiv 2108.07732, 2021."
    judge = "lightningrl.judges.code.judge:CodeJudge"
    shots = (0, 3)
    sources = (
        Source(
            "test", "SJTU-DENG-Lab/MBPP", ("test/MBPP.json",), "protocol/MBPP.json", 500,
            ("question", "test_list", "test_time_limit", "test_method", "prefix"),
            mirror_sha256="e8d146a725ef74fd52261d6762e973f333b90bd3959577e2f244614412d79683",
            content_sha256="dd7c45ba55a0d807ef60ec6021abe9507ef3978284c5915313d8c4d1cbaebe65",
        ),
        Source(
            "tasks", "google-research-datasets/mbpp",
            tuple(f"full/{split}-00000-of-00001.parquet" for split in ("prompt", "test", "validation", "train")),
            "mbpp/mbpp.jsonl", 974, ("task_id", "text", "code", "test_setup_code", "test_list"),
            mirror_sha256="ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
            content_sha256="e3f45af54c8923849d795cba78c5c94b88c09db89a5dcc9ac538696485b099cf", order_by="task_id",
        ),
    )  # fmt: skip

    render = staticmethod(prompts.function_prompt)

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        tasks = {row["task_id"]: row for row in rows["tasks"]}
        published = {_task_id(row, tasks): row for row in rows["test"]}
        tested = {_description(tasks[number]) for number in published}
        splits = {"test": [_example("test", tasks[number], published[number]) for number in sorted(published)]}
        dropped = {}
        for split, numbers in (("validation", VALIDATION_TASKS), ("train", TRAIN_TASKS)):
            every = [tasks[number] for number in numbers if number in tasks]
            untested = [task for task in every if _description(task) not in tested]
            splits[split] = [_example(split, task) for task in untested]
            if len(untested) < len(every):
                dropped[f"{split} problems that describe a test problem"] = len(every) - len(untested)
        return Splits(splits, dropped)


def _description(task: Row) -> str:
    """Returns what a task asks for, without the test that its prompt shows."""
    return " ".join(task["text"].casefold().split())


def _task_id(row: Row, tasks: Mapping[int, Row]) -> int:
    """Returns the id of the task that has the tests and the question of a row of the paper's file."""
    for number in TEST_TASKS:
        task = tasks.get(number)
        if task is not None and task["test_list"] == row["test_list"]:
            question = prompts.mbpp_question(task["text"], task["test_list"][0])
            if row["question"] == question or number in CLEANED:
                return number
    raise BenchmarkError(f"mbpp: the two files do not match: no task has the question {row['question'][:80]!r}")


def _example(split: str, task: Row, published: Row | None = None) -> Example:
    question = published["question"] if published else prompts.mbpp_question(task["text"], task["test_list"][0])
    code = task["code"].replace("\r\n", "\n")
    gold = {
        "entry_point": entry_point(task["test_list"][0], code),
        "setup": task["test_setup_code"].replace("\r\n", "\n"),
        "tests": list(task["test_list"]),
        "time_limit_s": published["test_time_limit"] if published else TIME_LIMIT_S,
    }
    prefill = prompts.assistant(published["prefix"] if published else prompts.COMPLETED)
    uid = f"mbpp/{split}/{task['task_id']:05d}"
    return Example(uid, (prompts.user(question), prefill), gold, f"\n{code}\n```")


def entry_point(test: str, code: str) -> str:
    """Returns the function that a test calls and the reference program defines (it may have a builtin's name).

    >>> entry_point("assert set(f((1, 2))) == {1}", "def f(x): ...")
    'f'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of escapes in the strings of some programs
        trees = ast.parse(code), ast.parse(test.strip())
    defined = {node.name for node in trees[0].body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    called = [
        node.func.id for node in ast.walk(trees[1])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]  # fmt: skip
    found = next((name for name in called if name in defined), None)
    if found is None:
        raise BenchmarkError(f"mbpp: a test calls nothing that its reference program defines: {test!r}")
    return found


MBPP = Mbpp()
