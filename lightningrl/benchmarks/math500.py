"""MATH: competition problems with LaTeX answers. Test is MATH500; train is the paper's 8,523 of levels 3 to 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.prompts import math_prompt
from lightningrl.benchmarks.published import PublishedBenchmark, Splits, answered
from lightningrl.benchmarks.sources import Row, Source

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

    render = staticmethod(math_prompt)

    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        test, worked = (answered(f"math500/{split}", rows[split]) for split in ("test", "train"))
        train = [example for example in worked if example.gold["answer"].strip()]
        dropped = {"train problems without an answer": len(worked) - len(train)} if len(train) < len(worked) else {}
        return Splits({"train": train, "test": test}, dropped)


MATH500 = Math500()
