"""GSM8K: grade-school word problems with whole-number answers. Test is the paper's file of 1,319 problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.prompts import math_prompt, user
from lightningrl.benchmarks.published import PublishedBenchmark, Splits, answered
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

FINAL = "####"
"""The mark before the answer in a worked solution."""


class Gsm8k(PublishedBenchmark):
    """The benchmark; see the module's docstring."""

    name = "gsm8k"
    licence = "MIT"
    citation = "Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168, 2021."
    judge = "lightningrl.judges.math.judge:MathJudge"
    styles = ("default", "system", "think")
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

    render = staticmethod(math_prompt)

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        train = [_worked(f"gsm8k/train/{number:05d}", row) for number, row in enumerate(rows["train"])]
        return Splits({"train": train, "test": answered("gsm8k/test", rows["test"])})


def _worked(uid: str, row: Row) -> Example:
    """Returns a problem whose solution has no calculator marks (`<<3+4=7>>`) and its answer in a box."""
    text, mark, answer = row["answer"].rpartition(FINAL)
    if not mark or not answer.strip():
        raise BenchmarkError(f"{uid}: its worked answer has no `{FINAL} number`; get the file again.")
    solution = re.sub(r"<<[^<>]*>>", "", text).strip() + f"\nThe answer is \\boxed{{{answer.strip()}}}."
    return Example(uid, (user(row["question"]),), {"answer": answer.strip()}, solution)


GSM8K = Gsm8k()
