"""PrimeIntellect's programming problems with stdin/stdout tests: the paper's training data for code. Hub only.

No copy of this file was available when this was written: its fields are those that the paper's code reads, its licence,
counts and hashes are unknown, and the first fetch writes the hashes to the lock. A row of another form is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import prompts
from lightningrl.benchmarks.published import PublishedBenchmark, Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class PrimeIntellect(PublishedBenchmark):
    """The benchmark; see the module's docstring."""

    name = "primeintellect"
    licence = "LicenseRef-unknown"
    citation = "SYNTHETIC-1, Prime Intellect, 2025; as prepared for the code rewards of TraceRL (arXiv 2509.06949)."
    judge = "lightningrl.judges.code.judge:CodeJudge"
    splits = ("train", "validation")
    sources = (
        Source(
            "train", "SJTU-DENG-Lab/PrimeIntellect", ("train/PrimeIntellect.json",), "protocol/PrimeIntellect.json",
            None, ("question", "test_input", "test_output", "test_time_limit", "test_method"),
        ),
    )  # fmt: skip

    render = staticmethod(prompts.script_prompt)

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        train = [_example(f"primeintellect/train/{number:05d}", row) for number, row in enumerate(rows["train"])]
        return Splits({"train": train})


def _example(uid: str, row: Row) -> Example:
    inputs, outputs, limit_s = row["test_input"], row["test_output"], row["test_time_limit"]
    if row["test_method"] != "stdio" or not (_is_texts(inputs) and _is_texts(outputs)) or len(inputs) != len(outputs):
        raise BenchmarkError(
            f"{uid}: expected test_method `stdio` and two lists of equally many texts, found {row['test_method']!r}, "
            f"test_input {str(inputs)[:60]} and test_output {str(outputs)[:60]}"
        )
    if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not limit_s > 0:
        raise BenchmarkError(f"{uid}: test_time_limit: found {limit_s!r}, expected seconds")
    tests = [{"input": stdin, "output": stdout} for stdin, stdout in zip(inputs, outputs, strict=True)]
    return Example(uid, (prompts.user(row["question"]),), {"stdin_tests": tests, "time_limit_s": limit_s})


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


PRIMEINTELLECT = PrimeIntellect()
