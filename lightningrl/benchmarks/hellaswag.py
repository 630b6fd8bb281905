"""HellaSwag: which of four sentences goes on with a scene; by likelihood, on the published validation problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.choices import ChoiceBenchmark, choice_example
from lightningrl.benchmarks.published import Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.types import Example


class HellaSwag(ChoiceBenchmark):
    """The benchmark; see the module's docstring. The test problems' answers are not published."""

    name = "hellaswag"
    licence = "MIT"
    citation = "Zellers et al., HellaSwag: Can a Machine Really Finish Your Sentence?, arXiv 1905.07830, 2019."
    per_character = True
    sources = (
        Source(
            "test", "Rowan/hellaswag", ("data/validation-00000-of-00001.parquet",), "hellaswag/validation.jsonl", 10042,
            ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        ),
    )  # fmt: skip

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        return Splits({"test": [_example(f"hellaswag/test/{n:05d}", row) for n, row in enumerate(rows["test"])]})


def _example(uid: str, row: Row) -> Example:
    context = cleaned(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    choices = [cleaned(ending) for ending in row["endings"]]
    return choice_example(uid, [context], [f" {choice}" for choice in choices], choices, int(row["label"]))


def cleaned(text: str) -> str:
    """Returns a text without what its origin, WikiHow, has left in it, as lm-evaluation-harness cleans it.

    >>> cleaned(" Mix. [title] Bake [step] it  now")
    'Mix.. Bake it now'
    """
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


HELLASWAG = HellaSwag()
