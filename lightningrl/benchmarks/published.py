"""Splits of published problems: a fixed order, validation split off train, and no problem in two splits.

Test is the whole published test split. A training problem whose question is also in test, or that appears twice, is
dropped and counted. A hash of the question selects a tenth of the training problems for validation, so validation does
not depend on the requested sizes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightningrl.benchmarks.prompts import user
from lightningrl.benchmarks.protocol import NO_ROWS, check_sizes, question_text
from lightningrl.benchmarks.sources import Row
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

VALIDATION_IN = 10
"""One training problem in this many is for validation."""


class Splits(dict[str, list[Example]]):
    """Examples by split, and the number of training problems that were dropped, by reason.

    >>> Splits({"test": []}).dropped
    {}
    """

    def __init__(self, splits: Mapping[str, list[Example]], dropped: Mapping[str, int] | None = None) -> None:
        super().__init__(splits)
        self.dropped: dict[str, int] = dict(dropped or {})


class PublishedBenchmark(ABC):
    """The part that all published benchmarks share; a subclass turns the rows of its sources into examples."""

    name: str
    styles: tuple[str, ...] = ("default",)
    shots: tuple[int, ...] = (0,)

    @abstractmethod
    def read(self, rows: Mapping[str, Sequence[Row]]) -> Splits:
        """Returns all problems, in the order of the files; without `validation`, that is split off `train`.

        Raises BenchmarkError when rows do not belong together.
        """

    def load(self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS) -> Splits:
        """See `Benchmark.load`: the first problems of each split in `sizes`, whatever the seed."""
        check_sizes(self.name, sizes)
        read = self.read(rows)
        if "validation" not in read:
            read["train"], read["validation"] = split_validation(read.get("train", []))
        splits = drop_duplicates(read)
        for split, size in sizes.items():
            if size is not None and size > len(splits[split]):
                raise BenchmarkError(
                    f"{self.name}: split {split!r} has {len(splits[split])} problems, {size} were requested. Request "
                    "fewer, or leave the size empty for all."
                )
        return Splits({split: splits[split][:size] for split, size in sizes.items()}, splits.dropped | read.dropped)

    def signature(self, example: Example) -> str:
        return question_text(example)


def answered(where: str, rows: Sequence[Row]) -> list[Example]:
    """Returns the problems of one of the paper's files of mathematics; where: `<benchmark>/<split>`."""
    return [
        Example(
            f"{where}/{number:05d}", (user(row["question"]),), {"answer": str(row["ground_truth_answer"])},
            f"\\boxed{{{row['ground_truth_answer']}}}",
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip


def is_validation(example: Example) -> bool:
    """Whether a training problem is one for validation."""
    digest = hashlib.sha256(question_text(example).encode()).digest()
    return int.from_bytes(digest[:8], "big") % VALIDATION_IN == 0


def split_validation(train: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Returns (train, validation) from training problems; the uids keep their numbers and name the new split."""
    found: tuple[list[Example], list[Example]] = [], []
    for example in train:
        if is_validation(example):
            found[1].append(replace(example, uid=example.uid.replace("/train/", "/validation/")))
        else:
            found[0].append(example)
    return found


def drop_duplicates(splits: Mapping[str, Sequence[Example]]) -> Splits:
    """Drops training and validation problems whose question is in test, in validation or earlier in their split."""
    split_of = {question_text(example): "test" for example in splits.get("test", ())}
    kept: dict[str, list[Example]] = {"train": [], "validation": [], "test": list(splits.get("test", ()))}
    dropped: Counter[str] = Counter()
    for split in ("validation", "train"):
        for example in splits.get(split, ()):
            question = question_text(example)
            if question in split_of:
                where = "come twice" if split_of[question] == split else f"are in {split_of[question]}"
                dropped[f"{split} problems that {where}"] += 1
            else:
                split_of[question] = split
                kept[split].append(example)
    return Splits(kept, dropped)
