"""Splits of a generated benchmark: the hash of a problem's signature decides which split the problem belongs to.

Therefore train may have any size without looking at the other splits, a larger train leaves test unchanged, and another
seed cannot move a test problem into train. Nothing here depends on what a problem is.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from lightningrl.benchmarks.protocol import NO_ROWS, PromptOptions, check_sizes, render_chat
from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

Item = TypeVar("Item")
Problem = TypeVar("Problem")

HELD_OUT_OF_10 = {0: "test", 1: "validation"}
"""Which tenth of the signatures belongs to which held-out split; the rest is train."""
MAX_DRAWS = 5_000
"""How many problems are drawn for one example before the split counts as exhausted."""


class KeyedRandom:
    """A random generator seeded by a key. It uses only `random.random()`, which is stable across Python versions.

    >>> KeyedRandom("gsm-mini/0/test/00000").integer(2, 40) == KeyedRandom("gsm-mini/0/test/00000").integer(2, 40)
    True
    """

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """Returns an integer that is uniform on low..high, both included."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        keyed = [(self._random(), index) for index in range(len(items))]
        return [items[index] for _, index in sorted(keyed)]


class GeneratedBenchmark(ABC, Generic[Problem]):
    """The part that all generated benchmarks share; a subclass draws problems and puts them into words."""

    name: str
    sources: tuple[Source, ...] = ()
    styles: tuple[str, ...] = ("default",)
    shots: tuple[int, ...] = (0,)

    @abstractmethod
    def draw(self, rng: KeyedRandom) -> Problem:
        """Returns a random problem."""

    @abstractmethod
    def problem_signature(self, problem: Problem) -> str:
        """Returns a text that is equal for problems that must not be in two splits."""

    @abstractmethod
    def example(self, problem: Problem, rng: KeyedRandom, uid: str) -> Example:
        """Returns the problem in words, with its gold data and one worked answer, both drawn at random."""

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        return render_chat(example, prompt)

    def load(
        self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS
    ) -> dict[str, list[Example]]:
        """Returns examples of every split in `sizes`; the first n of a split do not depend on any size.

        No signature repeats in the held-out splits (BenchmarkError when the problems run out); in train a problem may
        return, in other words or with another worked answer.
        """
        check_sizes(self.name, sizes)
        splits = {}
        for split, size in sizes.items():
            if size is None:
                raise BenchmarkError(f"{self.name} is generated without end: say how many {split} problems.")
            splits[split] = self._draw_split(split, size, seed)
        return splits

    def _draw_split(self, split: str, size: int, seed: int) -> list[Example]:
        examples: list[Example] = []
        seen: set[str] = set()
        for number in range(size):
            rng = KeyedRandom(f"{self.name}/{seed}/{split}/{number}")
            for _ in range(MAX_DRAWS):
                problem = self.draw(rng)
                signature = self.problem_signature(problem)
                if split_of(self.name, signature) == split and (split == "train" or signature not in seen):
                    break
            else:
                raise BenchmarkError(
                    f"{self.name}: split {split!r} has fewer than {size} different problems (found {number})."
                )
            seen.add(signature)
            examples.append(self.example(problem, rng, f"{self.name}/{split}/{number:05d}"))
        return examples


def split_of(benchmark: str, signature: str) -> str:
    """Returns the one split that may contain this problem."""
    digest = hashlib.sha256(f"{benchmark}:{signature}".encode()).digest()
    return HELD_OUT_OF_10.get(int.from_bytes(digest[:8]) % 10, "train")
