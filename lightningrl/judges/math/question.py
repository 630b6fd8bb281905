"""What the rules of comparison know besides the two answers: algebra, each other, and what the question says.

A question distinguishes a worked-out answer from a copy, shows whether numbers are percentages or have a base, and
names what it counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal, Protocol

from lightningrl.judges.math.delimiters import split
from lightningrl.judges.math.forms import reduced_form
from lightningrl.judges.math.text import Unreadable, clean
from lightningrl.judges.math.tree import Node, read
from lightningrl.judges.math.work import canonical, walk

MAX_CHARS, MAX_SPANS = 20_000, 200
"""The length of a question's text that is read, and the number of its formulas."""
MAX_ITEMS = 40
"""The number of items of a list, tuple, set or matrix that are compared one by one."""
_RELATION = re.compile(r"\\(?:le|ge|ne|equiv|approx|in|to|implies|Rightarrow)(?![A-Za-z])|[=<>]")

_PICTURE = re.compile(r"\[asy\](?:(?!\[/asy\]).)*\[/asy\]", re.DOTALL)
_SPAN = re.compile(
    r"\$\$?([^$]+)\$|\\\[((?:(?!\\\]).)+)\\\]|\\\(((?:(?!\\\)).)+)\\\)|"
    r"\\begin\{(?:align|eqnarray|gather|equation)\*?\}((?:(?!\\end\{(?:align|eqnarray|gather|equation)).)+)",
    re.DOTALL,
)
_PLAIN = re.compile(r"[0-9(.][0-9.()+*/^ -]*[0-9)]")
"""Arithmetic in plain text: `3/20`, `0.15`, `(2+3)*4`."""
_PARTS = re.compile(r"\\text\s*\{[^{}]*\}|\\mbox\s*\{[^{}]*\}|\\q?quad|&|\\\\|\?")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_BASE = re.compile(
    r"\bbase[ -]*(?:of )?\$?\{?([0-9]{1,2}|[a-z]+)|\b[0-9][0-9A-F]*_\{?([0-9]{1,2})\}?|\b(binary|octal|hexadecimal)\b",
    re.IGNORECASE,
)
_BASE_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BASES = {word: base for base, word in enumerate(_BASE_WORDS.split(), 2)} | {"binary": 2, "octal": 8, "hexadecimal": 16}


def _mentions(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> cached_property[bool]:
    compiled = re.compile(pattern, flags)
    return cached_property(lambda question: compiled.search(question.text) is not None)


@dataclass(frozen=True)
class Question:
    """A question's text and its properties, each of which is computed when it is first needed."""

    text: str
    """It is empty if the question is unknown: then every form of a right value is right."""

    @cached_property
    def words(self) -> frozenset[str]:
        """All words in lower case."""
        return frozenset(word.lower() for word in _WORD.findall(_PICTURE.sub(" ", self.text)))

    @cached_property
    def bases(self) -> frozenset[int]:
        """The bases of number systems that it names."""
        names = {match[1] or match[2] or match[3] for match in _BASE.finditer(self.text)}
        bases = {BASES.get(name.lower(), int(name) if name.isdigit() else 0) for name in names}
        return frozenset(base for base in bases if base > 1)

    percent = _mentions(r"percent|per cent|%", re.IGNORECASE)
    residues = _mentions(r"remainder|residue|congruent|mod(?:ulo|ular)?\b")
    factors = _mentions(
        r"\b[Ff]actor(?:ize|ise)?\b(?! of)|\bproduct of (?:two |linear )*(?:factors|binomials|polynomials)"
    )
    """Whether it asks for factors."""
    expands = _mentions(
        r"\b(?:[Ee]xpand|[Mm]ultiply out|[Ss]implify and expand|expanded form|product of the polynomials)\b"
    )
    """Whether it asks for a product to be multiplied out."""
    asks_equation = _mentions(
        r"\bequations? (?:of|for|that|whose|in|which)\b|\b(?:directrix|asymptotes?)\b", re.IGNORECASE
    )
    """Whether it asks for an equation and not for its solution."""

    @cached_property
    def sides(self) -> tuple[Node, ...]:
        """The expressions in its formulas, split at relations and commas."""
        sides = (side for span in self.spans for part in _RELATION.split(span) for side in split(part.strip(), ","))
        return tuple(tree for side in sides if side and (tree := read(side)) is not None)

    @cached_property
    def spans(self) -> tuple[str, ...]:
        """Its formulas as `text.clean` returns them."""
        without = _PICTURE.sub(" ", self.text[:MAX_CHARS]).replace("\\$", " ")
        found = [next(group for group in match.groups() if group) for match in _SPAN.finditer(without)]
        found += _PLAIN.findall(_SPAN.sub(" ", without))
        spans = []
        for piece in (piece for formula in found[:MAX_SPANS] for piece in _PARTS.split(formula)):
            try:
                spans.append(clean(piece.strip(" ,;:").rstrip(" .")))
            except Unreadable:
                continue
        return tuple(span for span in dict.fromkeys(spans) if span)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """All its expressions of more than one token and their parts, by their canonical form."""
        nodes = [node for side in self.sides for node in walk(side)]
        return {
            canonical(node): node for node in nodes
            if node.kind not in ("name", "number") or node.name in ("decimal", "mixed", "repeating")
        }  # fmt: skip

    @cached_property
    def reduced_forms(self) -> frozenset[str]:
        """The reduced forms of `nodes`."""
        return frozenset(map(reduced_form, self.nodes.values()))

    @cached_property
    def equations(self) -> tuple[tuple[Node, Node], ...]:
        """Its equations and inequalities as pairs of sides."""
        pairs = (pair for span in self.spans for pair in pairwise(map(read, _RELATION.split(span))))
        return tuple((a, b) for a, b in pairs if a is not None and b is not None)


def states_a_problem(text: str) -> bool:
    """Whether a user's turn states a problem: it has a number, a formula, or more words than a placeholder.

    >>> states_a_problem("What is $x$?"), states_a_problem("?"), states_a_problem("The question.")
    (True, False, False)
    """
    return re.search(r"[0-9$\\]", text) is not None or len(_WORD.findall(text)) > 3


read_question = lru_cache(maxsize=8192)(Question)
"""Returns the question of a text, with its cached properties."""
Ratio = Literal["any", "positive", "negative"]


class Algebra(Protocol):
    def __call__(self, one: str, other: str, ratio: Ratio | None = None) -> bool:
        """Decides whether two LaTeX expressions, the gold answer's first, are equal, or up to a factor of that sign.

        Raises Unreadable for invalid ones.
        """
        ...


@dataclass(frozen=True)
class Context:
    """The argument of every rule: `rule(gold, found, context)` returns True, False, or None if it does not apply."""

    algebra: Algebra
    question: Question
    compare: Callable[[str, str, Context], bool]
    reasons: list[str] = field(default_factory=list)
    """The reasons why rules refused the answer, or parts of it, whatever its value."""

    def same(self, gold: str, found: str) -> bool:
        """Whether a part of the answer equals a part of the gold answer."""
        return self.compare(gold, found, self)

    def in_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        return len(golds) == len(found) <= MAX_ITEMS and all(map(self.same, golds, found))

    def in_any_order(self, golds: Sequence[str], found: Sequence[str]) -> bool:
        apart = replace(self, reasons=[])  # the reason of a failed match is irrelevant
        return len(golds) <= MAX_ITEMS and match_all(golds, found, apart.same)


def match_all(golds: Sequence[Any], found: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Whether the two have equally many items and each gold one has an equal of its own, in any order."""
    left = list(found)
    for gold in golds if len(golds) == len(found) else ():
        match = next((n for n, other in enumerate(left) if same(gold, other)), None)
        if match is None:
            return False
        del left[match]
    return not left
