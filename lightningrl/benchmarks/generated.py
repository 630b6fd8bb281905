"""Splits of a generated benchmark: endless problems, each belonging to one split by the hash of its signature.

Because the hash decides, train may have any size without looking at the other splits, a larger train leaves test as it
was, and another seed cannot move a test problem into train. Knows nothing of what a problem is.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from lightningrl.benchmarks.protocol import check_sizes
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

Item = TypeVar("Item")
Problem = TypeVar("Problem")

HELD_OUT_OF_10 = {0: "test", 1: "validation"}
"""Which tenth of the signatures belongs to which held-out split; the rest is train."""
MAX_DRAWS = 5_000
"""Draws for one example before the split is called exhausted."""


class Draw:
    """Random choices named by a key. Uses only `random.random()`, whose stream Python keeps stable across versions.

    >>> Draw("gsm-mini/0/test/00000").integer(2, 40) == Draw("gsm-mini/0/test/00000").integer(2, 40)
    True
    """

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """Uniform on low..high, both included."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        keyed = [(self._random(), index) for index in range(len(items))]
        return [items[index] for _, index in sorted(keyed)]


class Maker(Protocol[Problem]):
    """The three things a generated benchmark knows."""

    name: str

    def draw(self, draw: Draw) -> Problem:
        """A random problem."""
        ...

    def problem_signature(self, problem: Problem) -> str:
        """Equal for problems that must not be in two splits."""
        ...

    def example(self, problem: Problem, draw: Draw, uid: str) -> Example:
        """The problem in words, with gold and one worked answer drawn at random."""
        ...


def split_of(benchmark: str, signature: str) -> str:
    """The one split that may hold this problem."""
    digest = hashlib.sha256(f"{benchmark}:{signature}".encode()).digest()
    return HELD_OUT_OF_10.get(int.from_bytes(digest[:8]) % 10, "train")


def draw_splits(maker: Maker[Problem], sizes: Mapping[str, int | None], seed: int) -> dict[str, list[Example]]:
    """Examples of every split in `sizes`; the first n of a split do not depend on its size or on other splits.

    In the held-out splits no signature repeats (BenchmarkError when the problems run out); in train a problem may come
    again, in other words or with another worked answer.
    """
    check_sizes(maker.name, sizes)
    drawn = {}
    for split, size in sizes.items():
        if size is None:
            raise BenchmarkError(f"{maker.name} is generated without end: say how many {split} problems.")
        drawn[split] = _draw_split(maker, split, size, seed)
    return drawn


def _draw_split(maker: Maker[Problem], split: str, size: int, seed: int) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for number in range(size):
        uid = f"{maker.name}/{split}/{number:05d}"
        draw = Draw(f"{maker.name}/{seed}/{split}/{number}")
        for _ in range(MAX_DRAWS):
            problem = maker.draw(draw)
            signature = maker.problem_signature(problem)
            if split_of(maker.name, signature) != split:
                continue
            if split == "train" or signature not in seen:
                break
        else:
            raise BenchmarkError(
                f"{maker.name}: split {split!r} has fewer than {size} different problems (found {number})."
            )
        seen.add(signature)
        examples.append(maker.example(problem, draw, uid))
    return examples
