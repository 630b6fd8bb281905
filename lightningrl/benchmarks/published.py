"""Splits of published problems: fixed order, validation carved out of train, and no problem in two of them.

Test is what was published as such, whole. A training problem whose question is also in test, or comes twice, is dropped
and counted. Validation is the tenth of the training problems that a hash of the question names, so it does not change
with the sizes asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lightningrl.benchmarks.protocol import check_sizes, question_text
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

VALIDATION_IN = 10
"""One training problem in so many is for validation."""


class Splits(dict[str, list[Example]]):
    """Examples by split, and what was dropped on the way.

    >>> Splits({"test": []}).dropped
    {}
    """

    def __init__(self, splits: Mapping[str, list[Example]], dropped: Mapping[str, int] | None = None) -> None:
        super().__init__(splits)
        self.dropped: dict[str, int] = dict(dropped or {})
        """Reason -> number of training problems dropped."""


def is_validation(example: Example) -> bool:
    """Whether a training problem is one for validation."""
    digest = hashlib.sha256(question_text(example).encode()).digest()
    return int.from_bytes(digest[:8], "big") % VALIDATION_IN == 0


def carve(train: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(train, validation) out of training problems; the uids keep the numbers and say the split."""
    kept = [example for example in train if not is_validation(example)]
    return kept, [as_split(example, "validation") for example in train if is_validation(example)]


def as_split(example: Example, split: str) -> Example:
    benchmark, _, number = example.uid.split("/")
    return Example(f"{benchmark}/{split}/{number}", example.messages, example.gold, example.solution)


def separate(splits: Mapping[str, Sequence[Example]]) -> Splits:
    """Drop training and validation problems whose question is in test, in validation or earlier in their split."""
    owner = {question_text(example): "test" for example in splits.get("test", ())}
    kept: dict[str, list[Example]] = {"train": [], "validation": [], "test": list(splits.get("test", ()))}
    dropped: dict[str, int] = {}
    for split in ("validation", "train"):
        for example in splits.get(split, ()):
            question = question_text(example)
            if question in owner:
                where = "come twice" if owner[question] == split else f"are in {owner[question]}"
                reason = f"{split} problems that {where}"
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                owner[question] = split
                kept[split].append(example)
    return Splits(kept, dropped)


def take(name: str, splits: Splits, sizes: Mapping[str, int | None]) -> Splits:
    """The first so many of each split in `sizes`; None: all. Raises BenchmarkError when there are fewer."""
    check_sizes(name, sizes)
    taken = {}
    for split, size in sizes.items():
        if size is not None and size > len(splits[split]):
            raise BenchmarkError(
                f"{name}: split {split!r} has {len(splits[split])} problems, {size} were asked for. Ask for fewer, or "
                "leave the size empty for all."
            )
        taken[split] = splits[split][:size]
    return Splits(taken, splits.dropped)
