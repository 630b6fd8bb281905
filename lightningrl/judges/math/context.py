"""The context of the rules of comparison beside the two answers: algebra, the question, and the other rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace

from lightningrl.judges.math.question import Question

Algebra = Callable[[str, str], bool]
"""Decides whether two LaTeX expressions, the gold answer's first, are equal; raises Unreadable for invalid ones."""
MAX_ITEMS = 40
"""The maximum number of items of a list, tuple, set or matrix that is compared item by item."""
_NO_WORDS: Set[str] = frozenset()


@dataclass(frozen=True)
class Context:
    """The argument of every rule: `rule(gold, found, context)` returns True, False, or None if it does not apply."""

    algebra: Algebra
    question: Question | None
    """None: the question is unknown, and every form of a right value is right."""
    compare: Callable[[str, str, Context], bool]
    reasons: list[str] = field(default_factory=list)
    """The reasons why rules refused the answer, or parts of it, whatever its value."""

    @property
    def words(self) -> Set[str]:
        return self.question.words if self.question else _NO_WORDS

    def same(self, gold: str, found: str) -> bool:
        """Whether a part of the answer equals a part of the gold answer."""
        return self.compare(gold, found, self)

    def in_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        if len(golds) != len(found) or len(golds) > MAX_ITEMS:
            return False
        return all(self.same(gold, other) for gold, other in zip(golds, found, strict=True))

    def in_any_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        if len(golds) != len(found) or len(golds) > MAX_ITEMS:
            return False
        left, apart = list(found), replace(self, reasons=[])  # the reason of a failed match is irrelevant
        for gold in golds:
            match = next((n for n, other in enumerate(left) if apart.same(gold, other)), None)
            if match is None:
                return False
            del left[match]
        return True
