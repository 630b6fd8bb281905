"""GSM8K: grade-school word problems with whole-number answers. Test as the paper's evaluation has it (1,319)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import wordings
from lightningrl.benchmarks.protocol import NO_ROWS, PromptOptions, question_text
from lightningrl.benchmarks.published import Splits, carve, separate, take
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

FINAL = "####"
"""What stands before the answer in a worked solution."""


class Gsm8k:
    """The benchmark object; see the module's docstring."""

    name = "gsm8k"
    licence = "MIT"
    citation = "Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168, 2021."
    judge = "lightningrl.judges.math.judge:MathJudge"
    styles = ("default", "system", "think")
    shots = (0,)
    sources = (
        Source(
            "test", "SJTU-DENG-Lab/GSM8K", ("test/GSM8K.json",), "protocol/GSM8K.json", 1319,
            ("question", "ground_truth_answer"),
            mirror_sha256="62ad7a7430b0fa54aa32645bf63fbad41599bf1300178dd325445d9a80e48250",
            content_sha256="bbb61248536e24126cf7457b478d069a0c32739976797b81acf069c8e856d205",
        ),
        Source(
            "train", "openai/gsm8k", ("main/train-00000-of-00001.parquet",), "gsm8k/train.jsonl", 7473,
            ("question", "answer"),
            mirror_sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
            content_sha256="419386f7702aae71e33d2ce12db2170fc893004227b082354443fa5873b378bb",
        ),
    )  # fmt: skip

    def load(
        self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS
    ) -> dict[str, list[Example]]:
        """See `Benchmark.load`; the order is the files'."""
        test = [_test(f"gsm8k/test/{number:05d}", row) for number, row in enumerate(rows["test"])]
        worked = [_worked(f"gsm8k/train/{number:05d}", row) for number, row in enumerate(rows["train"])]
        train, validation = carve(worked)
        return take(self.name, separate(Splits({"train": train, "validation": validation, "test": test})), sizes)

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        return wordings.mathematics(example, prompt)

    def signature(self, example: Example) -> str:
        return question_text(example)


def _test(uid: str, row: Row) -> Example:
    answer = str(row["ground_truth_answer"])
    return Example(uid, (wordings.user(row["question"]),), {"answer": answer}, f"\\boxed{{{answer}}}")


def _worked(uid: str, row: Row) -> Example:
    """The worked solution without its calculator marks (`<<3+4=7>>`), the answer in a box."""
    text, mark, answer = row["answer"].rpartition(FINAL)
    if not mark or not answer.strip():
        raise BenchmarkError(f"{uid}: its worked answer has no `{FINAL} number`; get the file again.")
    solution = re.sub(r"<<[^<>]*>>", "", text).strip() + f"\nThe answer is \\boxed{{{answer.strip()}}}."
    return Example(uid, (wordings.user(row["question"]),), {"answer": answer.strip()}, solution)


GSM8K = Gsm8k()
