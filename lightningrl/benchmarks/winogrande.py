"""WinoGrande: which of two names fills a gap; by the likelihood of what follows, on the validation problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.choices import ChoiceBenchmark, choice_example
from lightningrl.benchmarks.published import Splits
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example


class WinoGrande(ChoiceBenchmark):
    """The benchmark; see the module's docstring. The choices differ in their contexts, the continuation is the same."""

    name = "winogrande"
    licence = "CC-BY-4.0"
    citation = (
        "Sakaguchi et al., WinoGrande: An Adversarial Winograd Schema Challenge at Scale, arXiv 1907.10641, 2019."
    )
    sources = (
        Source(
            "test", "allenai/winogrande", ("winogrande_xl/validation-00000-of-00001.parquet",),
            "winogrande/validation.jsonl", 1267, ("sentence", "option1", "option2", "answer"),
        ),
    )  # fmt: skip

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        return Splits({"test": [_example(f"winogrande/test/{n:05d}", row) for n, row in enumerate(rows["test"])]})


def _example(uid: str, row: Row) -> Example:
    before, gap, after = row["sentence"].partition("_")
    if not gap or not after.strip():
        raise BenchmarkError(f"{uid}: its sentence has no gap `_` with text behind it; get the file again.")
    choices = [row["option1"], row["option2"]]
    after = [f" {after.strip()}"] * 2
    return choice_example(uid, [before + choice for choice in choices], after, choices, int(row["answer"]) - 1)


WINOGRANDE = WinoGrande()
