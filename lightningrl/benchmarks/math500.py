"""MATH: competition problems with LaTeX answers. Test is MATH500; train is the paper's 8,523 of levels 3 to 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks import prompts
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.published import PublishedBenchmark, Splits, drop_duplicates, split_validation
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.types import Example

FIELDS = ("question", "ground_truth_answer")


class Math500(PublishedBenchmark):
    """The benchmark; see the module's docstring."""

    name = "math500"
    licence = "MIT"
    citation = (
        "Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, NeurIPS 2021; test split of "
        "Lightman et al., Let's Verify Step by Step, 2023."
    )
    judge = "lightningrl.judges.math.judge:MathJudge"
    styles = ("default", "system", "think")
    shots = (0, 4)
    sources = (
        Source(
            "test", "SJTU-DENG-Lab/MATH500", ("test/MATH500.json",), "protocol/MATH500.json", 500, FIELDS,
            mirror_sha256="ca87d63fab75d106facbff0a4c3d5a79b1da0b5770dde12e2e54a8833898b29e",
            content_sha256="0822fb5b77c834ebd1f5e653382be994dc88224a5c6d4386f123d25a66ee0013",
        ),
        Source(
            "train", "SJTU-DENG-Lab/MATH_train", ("train/MATH_train.json",), "protocol/MATH_train.json", 8523, FIELDS,
            mirror_sha256="539028c708d30c18805c92329f0b7d4cedb29f99b25cfe7742772f57c6e8a961",
            content_sha256="31a8f11bff2ed8ea9468ca1899f8b114765bd758e9259ac12697a1887cd92cb7",
        ),
    )  # fmt: skip

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        test, worked = (
            [_example(f"math500/{split}/{number:05d}", row) for number, row in enumerate(rows[split])]
            for split in ("test", "train")
        )
        answered = [example for example in worked if example.gold["answer"].strip()]
        train, validation = split_validation(answered)
        splits = drop_duplicates({"train": train, "validation": validation, "test": test})
        if len(answered) < len(worked):
            splits.dropped["train problems without an answer"] = len(worked) - len(answered)
        return splits

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        return prompts.math_prompt(example, prompt, has_shots=True)


def _example(uid: str, row: Row) -> Example:
    answer = str(row["ground_truth_answer"])
    return Example(uid, (prompts.user(row["question"]),), {"answer": answer}, f"\\boxed{{{answer}}}")


MATH500 = Math500()
