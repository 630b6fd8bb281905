"""The parts of a question that matter for judging its answers: what it states, mentions and asks for.

A question distinguishes a worked-out answer from a copy, shows whether numbers are percentages or have a base, and
names what it counts. `read_question` caches questions, whose expressions are parsed when they are first needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from lightningrl.judges.math import delimiters
from lightningrl.judges.math.reduced_form import reduced_form
from lightningrl.judges.math.text import Unreadable, clean
from lightningrl.judges.math.tree import Node, read
from lightningrl.judges.math.work import canonical, walk

MAX_CHARS = 20_000
"""The maximum length of a question's text that is read."""
MAX_SPANS = 200
RELATION = re.compile(r"\\(?:le|ge|ne|equiv|approx|in|to|implies|Rightarrow)(?![A-Za-z])|[=<>]")

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
_PERCENT = re.compile(r"percent|per cent|%", re.IGNORECASE)
_BASE = re.compile(
    r"\bbase[ -]*(?:of )?\$?\{?([0-9]{1,2}|[a-z]+)|\b[0-9][0-9A-F]*_\{?([0-9]{1,2})\}?|\b(binary|octal|hexadecimal)\b",
    re.IGNORECASE,
)
BASES = {
    word: base
    for base, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
         "fourteen", "fifteen", "sixteen"), 2)
} | {"binary": 2, "octal": 8, "hexadecimal": 16}  # fmt: skip
_FACTOR = re.compile(
    r"\b[Ff]actor(?:ize|ise)?\b(?! of)|\bproduct of (?:two |linear )*(?:factors|binomials|polynomials)"
)
_EXPAND = re.compile(
    r"\b(?:[Ee]xpand|[Mm]ultiply out|[Ss]implify and expand|expanded form|product of the polynomials)\b"
)

_EQUATION = re.compile(r"\bequations? (?:of|for|that|whose|in|which)\b|\b(?:directrix|asymptotes?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A question's text and its properties, each of which is computed when it is first needed."""

    text: str

    @cached_property
    def words(self) -> frozenset[str]:
        """All words in lower case."""
        return frozenset(word.lower() for word in _WORD.findall(_PICTURE.sub(" ", self.text)))

    @cached_property
    def percent(self) -> bool:
        """Whether it mentions percent."""
        return _PERCENT.search(self.text) is not None

    @cached_property
    def bases(self) -> frozenset[int]:
        """The bases of number systems that it names."""
        names = {match[1] or match[2] or match[3] for match in _BASE.finditer(self.text)}
        bases = {BASES.get(name.lower(), int(name) if name.isdigit() else 0) for name in names}
        return frozenset(base for base in bases if base > 1)

    @cached_property
    def factors(self) -> bool:
        """Whether it asks for factors."""
        return _FACTOR.search(self.text) is not None

    @cached_property
    def expands(self) -> bool:
        """Whether it asks for a product to be multiplied out."""
        return _EXPAND.search(self.text) is not None

    @cached_property
    def asks_equation(self) -> bool:
        """Whether it asks for an equation and not for its solution."""
        return _EQUATION.search(self.text) is not None

    @cached_property
    def sides(self) -> tuple[Node, ...]:
        """The expressions in its formulas, split at relations and commas."""
        return tuple(tree for span in self.spans for side in _expressions(span) if (tree := read(side)) is not None)

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
        return {canonical(node): node for side in self.sides for node in walk(side) if _is_written_out(node)}

    @cached_property
    def reduced_forms(self) -> frozenset[str]:
        """The reduced forms of `nodes`."""
        return frozenset(map(reduced_form, self.nodes.values()))

    @cached_property
    def equations(self) -> tuple[tuple[Node, Node], ...]:
        """Its equations and inequalities as pairs of sides."""
        found = []
        for span in self.spans:
            sides = [read(side) for side in RELATION.split(span)]
            found += [(a, b) for a, b in pairwise(sides) if a is not None and b is not None]
        return tuple(found)


def states_a_problem(text: str) -> bool:
    """Whether a user's turn states a problem: it has a number, a formula, or more words than a placeholder.

    >>> states_a_problem("What is $x$?"), states_a_problem("?"), states_a_problem("The question.")
    (True, False, False)
    """
    return re.search(r"[0-9$\\]", text) is not None or len(_WORD.findall(text)) > 3


def _is_written_out(node: Node) -> bool:
    return node.kind not in ("name", "number") or node.name in ("decimal", "mixed", "repeating")


def _expressions(span: str) -> list[str]:
    return [item for part in RELATION.split(span) for item in delimiters.split(part.strip(), ",") if item]


@lru_cache(maxsize=8192)
def read_question(text: str) -> Question:
    """Returns the question of a text, with its cached properties."""
    return Question(text)
