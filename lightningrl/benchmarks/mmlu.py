"""MMLU: questions of 57 subjects with four answers; by the likelihood of the letter, behind none or five examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.choices import ChoiceBenchmark, choice_example
from lightningrl.benchmarks.published import Splits
from lightningrl.benchmarks.sources import Row, Source

LETTERS = ("A", "B", "C", "D")
HEADING = "The following are multiple choice questions (with answers) about {}.\n\n"
FIELDS = ("question", "subject", "choices", "answer")


class Mmlu(ChoiceBenchmark):
    """The benchmark; see the module's docstring. Accuracy is over all problems, which weighs subjects by their size.
    The five examples are the subject's, in the file's order."""

    name = "mmlu"
    licence = "MIT"
    citation = "Hendrycks et al., Measuring Massive Multitask Language Understanding, arXiv 2009.03300, 2020."
    shots = (0, 5)
    sources = (
        Source("test", "cais/mmlu", ("all/test-00000-of-00001.parquet",), "mmlu/test.jsonl", 14042, FIELDS),
        Source("dev", "cais/mmlu", ("all/dev-00000-of-00001.parquet",), "mmlu/dev.jsonl", 285, FIELDS),
    )

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        worked: dict[str, str] = {}
        for row in rows["dev"]:
            worked[row["subject"]] = f"{worked.get(row['subject'], '')}{_question(row)} {LETTERS[row['answer']]}\n\n"
        after, found = [f" {letter}" for letter in LETTERS], []
        for number, row in enumerate(rows["test"]):
            heading = HEADING.format(row["subject"].replace("_", " "))
            example = choice_example(
                f"mmlu/test/{number:05d}", [_question(row)], after, LETTERS, int(row["answer"]),
                heading, worked.get(row["subject"], ""),
            )  # fmt: skip
            found.append(example)
        return Splits({"test": found})


def _question(row: Row) -> str:
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question'].strip()}\n{listed}\nAnswer:"


MMLU = Mmlu()
