"""What the rules of comparison are given beside the two answers: algebra, the question, and each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace

from lightningrl.judges.math.question import Question

Algebra = Callable[[str, str], bool]
"""Whether two LaTeX expressions, the gold answer's first, are equal; raises Unreadable where one is none."""
MAX_ITEMS = 40
"""Of a list, tuple, set or matrix that is compared item by item."""
_NO_WORDS: Set[str] = frozenset()


@dataclass(frozen=True)
class Context:
    """Handed to every rule: `rule(gold, found, context)` says True, False, or None where it does not apply."""

    algebra: Algebra
    question: Question | None
    """None: nothing is known of the question, and every form of a right value is right."""
    compare: Callable[[str, str, Context], bool]
    reasons: list[str] = field(default_factory=list)
    """Why answers, or parts of one, were refused without a look at their value; rules add to it."""

    @property
    def words(self) -> Set[str]:
        return self.question.words if self.question else _NO_WORDS

    def same(self, gold: str, found: str) -> bool:
        """Whether a part of the answer is the gold's part."""
        return self.compare(gold, found, self)

    def in_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        if len(golds) != len(found) or len(golds) > MAX_ITEMS:
            return False
        return all(self.same(gold, other) for gold, other in zip(golds, found, strict=True))

    def in_any_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        if len(golds) != len(found) or len(golds) > MAX_ITEMS:
            return False
        left, apart = list(found), replace(self, reasons=[])  # an item that is another one's rival says nothing
        for gold in golds:
            match = next((n for n, other in enumerate(left) if apart.same(gold, other)), None)
            if match is None:
                return False
            del left[match]
        return True
