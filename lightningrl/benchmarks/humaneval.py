"""HumanEval: complete a Python function from its signature and docstring; tested by `check(candidate)`. Test only.

The paper's file has the prompts; the authors' file has entry points, checks and reference programs. Rows are joined by
position and must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import prompts
from lightningrl.benchmarks.published import PublishedBenchmark, Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class HumanEval(PublishedBenchmark):
    """The benchmark; see the module's docstring."""

    name = "humaneval"
    licence = "MIT"
    citation = "Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374, 2021."
    judge = "lightningrl.judges.code.judge:CodeJudge"
    splits = ("test",)
    sources = (
        Source(
            "test", "SJTU-DENG-Lab/HumanEval", ("test/HumanEval.json",), "protocol/HumanEval.json", 164,
            ("question", "test_list", "test_time_limit", "test_method", "prefix"),
            mirror_sha256="e29c164598c4438466770646984174b2f6c0eb651720a9eede6c62f91d93f3e0",
            content_sha256="e43f24ccac6b194f981259b5399d50ecfa807e47c21f1db1b6539e472820a2ba",
        ),
        Source(
            "tasks", "openai/openai_humaneval", ("openai_humaneval/test-00000-of-00001.parquet",),
            "human_eval/HumanEval.jsonl.gz", 164, ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
            mirror_sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
            content_sha256="3c3148615a7e25da87784ec03b5f3bc3d168e8b129d72dcbfe05380056182f53",
        ),
    )  # fmt: skip

    render = staticmethod(prompts.function_prompt)

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        if len(rows["test"]) != len(rows["tasks"]):
            raise BenchmarkError(f"humaneval: {len(rows['test'])} prompts but {len(rows['tasks'])} programs")
        pairs = enumerate(zip(rows["test"], rows["tasks"], strict=True))
        return Splits({"test": [_example(number, published, task) for number, (published, task) in pairs]})


def _example(number: int, published: Row, task: Row) -> Example:
    """Returns a problem whose tests run after its prompt: some checks call the helpers that the prompt defines."""
    question = f"You need to complete this code:\n{task['prompt']}\n"
    prefill = f"{prompts.COMPLETED}\n{task['prompt']}\n"
    if (published["question"], published["prefix"]) != (question, prefill):
        raise BenchmarkError(f"humaneval: row {number} of the paper's file is not {task['task_id']} of the authors'")
    gold = {
        "entry_point": task["entry_point"],
        "setup": task["prompt"],
        "tests": list(published["test_list"]),
        "time_limit_s": published["test_time_limit"],
    }
    messages = (prompts.user(question), prompts.assistant(prefill))
    return Example(f"humaneval/test/{number:05d}", messages, gold, f"{task['canonical_solution']}\n```")


HUMANEVAL = HumanEval()
