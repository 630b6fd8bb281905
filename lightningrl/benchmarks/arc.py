"""ARC: questions of school science, the easy and the hard ones; by likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.choices import ChoiceBenchmark, choice_example
from lightningrl.benchmarks.published import Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class Arc(ChoiceBenchmark):
    """One of the two sets; see the module's docstring."""

    licence = "CC-BY-SA-4.0"
    citation = "Clark et al., Think you have Solved Question Answering? Try ARC, arXiv 1803.05457, 2018."
    per_character = True

    def __init__(self, name: str, published: str, count: int) -> None:
        """published: the set's folder on the hub; count: of its test problems."""
        self.name = name
        self.sources = (
            Source(
                "test", "allenai/ai2_arc", (f"{published}/test-00000-of-00001.parquet",), f"arc/{published}.jsonl",
                count, ("question", "choices", "answerKey"),
            ),
        )  # fmt: skip

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        return Splits({"test": [_example(f"{self.name}/test/{n:05d}", row) for n, row in enumerate(rows["test"])]})


def _example(uid: str, row: Row) -> Example:
    choices, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        raise BenchmarkError(f"{uid}: its answer {row['answerKey']!r} is none of {labels}; get the file again.")
    context, after = f"Question: {row['question']}\nAnswer:", [f" {choice}" for choice in choices]
    return choice_example(uid, [context], after, choices, labels.index(row["answerKey"]))


ARC_EASY = Arc("arc-easy", "ARC-Easy", 2376)
ARC_CHALLENGE = Arc("arc-challenge", "ARC-Challenge", 1172)
