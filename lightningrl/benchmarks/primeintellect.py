"""PrimeIntellect's programming problems with stdin/stdout tests, as the paper trains on for code. Train only, hub only.

No copy of this file was at hand when this was written: its fields are those of the paper's code, its licence, counts
and hashes are unknown, and the first fetch writes the hashes to the lock. A row that is otherwise is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import wordings
from lightningrl.benchmarks.protocol import NO_ROWS, PromptOptions, question_text
from lightningrl.benchmarks.published import Splits, carve, separate, take
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class PrimeIntellect:
    """The benchmark object; see the module's docstring."""

    name = "primeintellect"
    licence = "LicenseRef-unknown"
    citation = "SYNTHETIC-1, Prime Intellect, 2025; as prepared for the code rewards of TraceRL (arXiv 2509.06949)."
    judge = "lightningrl.judges.code.judge:CodeJudge"
    styles = ("default",)
    shots = (0,)
    splits = ("train", "validation")
    sources = (
        Source(
            "train", "SJTU-DENG-Lab/PrimeIntellect", ("train/PrimeIntellect.json",), "protocol/PrimeIntellect.json",
            None, ("question", "test_input", "test_output", "test_time_limit", "test_method"),
        ),
    )  # fmt: skip

    def load(
        self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS
    ) -> dict[str, list[Example]]:
        """See `Benchmark.load`; the order is the file's."""
        read = [_example(f"primeintellect/train/{number:05d}", row) for number, row in enumerate(rows["train"])]
        train, validation = carve(read)
        return take(self.name, separate(Splits({"train": train, "validation": validation, "test": []})), sizes)

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        return wordings.scripts(example, prompt)

    def signature(self, example: Example) -> str:
        return question_text(example)


def _example(uid: str, row: Row) -> Example:
    inputs, outputs, limit_s = row["test_input"], row["test_output"], row["test_time_limit"]
    if row["test_method"] != "stdio" or not _texts(inputs) or not _texts(outputs) or len(inputs) != len(outputs):
        raise BenchmarkError(
            f"{uid}: expected test_method `stdio` and two lists of as many texts, found {row['test_method']!r}, "
            f"test_input {str(inputs)[:60]} and test_output {str(outputs)[:60]}"
        )
    if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not limit_s > 0:
        raise BenchmarkError(f"{uid}: test_time_limit: found {limit_s!r}, expected seconds")
    tests = [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    return Example(uid, (wordings.user(row["question"]),), {"stdin_tests": tests, "time_limit_s": limit_s})


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


PRIMEINTELLECT = PrimeIntellect()
