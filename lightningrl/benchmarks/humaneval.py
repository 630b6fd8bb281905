"""HumanEval: complete a Python function from its signature and docstring; one `check(candidate)` a problem. Test only.

The paper's file has the wording; the authors' file has entry points, checks and reference programs. Rows are joined by
position and must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import wordings
from lightningrl.benchmarks.protocol import NO_ROWS, PromptOptions, question_text
from lightningrl.benchmarks.published import Splits, take
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class HumanEval:
    """The benchmark object; see the module's docstring."""

    name = "humaneval"
    licence = "MIT"
    citation = "Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374, 2021."
    judge = "lightningrl.judges.code.judge:CodeJudge"
    styles = ("default",)
    shots = (0,)
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

    def load(
        self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS
    ) -> dict[str, list[Example]]:
        """See `Benchmark.load`; there is a test split only."""
        if len(rows["test"]) != len(rows["tasks"]):
            raise BenchmarkError(f"humaneval: {len(rows['test'])} worded tasks and {len(rows['tasks'])} programs")
        pairs = zip(rows["test"], rows["tasks"], strict=True)
        test = [_example(number, worded, task) for number, (worded, task) in enumerate(pairs)]
        return take(self.name, Splits({"train": [], "validation": [], "test": test}), sizes)

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        return wordings.functions(example, prompt)

    def signature(self, example: Example) -> str:
        return question_text(example)


def _example(number: int, worded: Row, task: Row) -> Example:
    """The prompt is the tests' setup: the helpers that some checks call are the task's, not the candidate's."""
    asked = f"You need to complete this code:\n{task['prompt']}\n"
    begun = f"{wordings.COMPLETED}\n{task['prompt']}\n"
    if (worded["question"], worded["prefix"]) != (asked, begun):
        raise BenchmarkError(f"humaneval: row {number} of the paper's file is not {task['task_id']} of the authors'")
    gold = {
        "entry_point": task["entry_point"],
        "setup": task["prompt"],
        "tests": list(worded["test_list"]),
        "time_limit_s": worded["test_time_limit"],
    }
    messages = (wordings.user(asked), wordings.assistant(begun))
    return Example(f"humaneval/test/{number:05d}", messages, gold, f"{task['canonical_solution']}\n```")


HUMANEVAL = HumanEval()
