"""Prove a benchmark's judge on this machine: official solutions right, empty and `exit()` answers wrong, or stop.

No stage that judges answers of the benchmark runs before this one is finished; its result is in their manifests.
"""

from __future__ import annotations

from lightningrl.evaluation.selfcheck import self_check
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.utils import files

SPLITS = ("test", "validation", "train")
"""The first of these that is not empty is checked."""
MOST = 2000
"""Problems, taken from the front: a training set alone may be large."""


def run(context: StageContext) -> None:
    """Write selfcheck.json; StageError, with the problems, when the judge is not sound."""
    folder = context.inputs["data"]
    split, examples = next(
        (split, found) for split in SPLITS if (found := read_examples(folder / f"{split}.jsonl")) or split == "train"
    )
    judge = make_judge(context.config["members"]["judge"], context.judge_workers)
    try:
        found = self_check(context.config["benchmark"], examples[:MOST], judge)
    finally:
        judge.close()
    result = {"benchmark": context.config["benchmark"], "split": split, **found}
    files.write_json(context.folder / "selfcheck.json", result)
    context.report(", ".join(f"{name} {row['correct']} of {row['judged']}" for name, row in found.items()))
