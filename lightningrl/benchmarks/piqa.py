"""PIQA: which of two ways to reach an everyday goal; by likelihood, on the published validation problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.choices import ChoiceBenchmark, choice_example
from lightningrl.benchmarks.published import Splits
from lightningrl.benchmarks.sources import Row, Source


class Piqa(ChoiceBenchmark):
    """The benchmark; see the module's docstring. The test problems' answers are not published."""

    name = "piqa"
    licence = "AFL-3.0"
    citation = "Bisk et al., PIQA: Reasoning about Physical Commonsense in Natural Language, arXiv 1911.11641, 2019."
    per_character = True
    sources = (
        Source(
            "test", "baber/piqa", ("piqa_validation.parquet",), "piqa/validation.jsonl", 1838,
            ("goal", "sol1", "sol2", "label"),
        ),
    )  # fmt: skip

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        found = []
        for number, row in enumerate(rows["test"]):
            choices = [row["sol1"], row["sol2"]]
            context, after = f"Question: {row['goal']}\nAnswer:", [f" {choice}" for choice in choices]
            found.append(choice_example(f"piqa/test/{number:05d}", [context], after, choices, int(row["label"])))
        return Splits({"test": found})


PIQA = Piqa()
