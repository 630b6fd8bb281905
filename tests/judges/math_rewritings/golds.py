"""Gold answers as mathematicians write them: a parser of their shapes that is independent of the judge.

The reader knows the shapes that answers of competition problems have and takes each apart, so that a rewriting can put
it together again in another way. What it does not know has the shape "other" and is only laid out anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

Polynomial = dict[str, Fraction]
"""Coefficients by monomial, in canonical text: {"x^2": 3, "": -1} is 3x^2-1."""


@dataclass(frozen=True)
class Gold:
    """An answer with its question; its shape defines the `parts` (see the parser of that shape)."""

    text: str
    question: str
    shape: str
    value: Fraction | None = None
    """The value of an integer, a decimal, a fraction or a mixed number."""
    parts: tuple = field(default=(), compare=False)

    @property
    def body(self) -> str:
        """The text without the full stop that a few golds end with."""
        return self.text.strip().removesuffix(".").strip()


UNSIGNED = r"(?:\d+(?:\.\d+)?|\.\d+|\\frac\{\d+\}\{\d+\})"
COEFFICIENT = r"(?:\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}|)"
TERM = rf"({COEFFICIENT})((?:[a-zA-Z](?:\^(?:\d|\{{\d+\}}))?)*)"
RELATIONS = {"<": "<", ">": ">", r"\le": r"\le", r"\leq": r"\le", r"\ge": r"\ge", r"\geq": r"\ge"}
RELATION = r"(<|>|\\leq?|\\geq?)"
FUNCTIONS = r"\\(sin|cos|tan|cot|sec|csc)"


def canonical(text: str) -> str:
    """Normalises fractions, roots, brackets and spaces for the parser alone."""
    text = text.strip().rstrip(".").strip().replace(r"\mbox", r"\text").replace(r"\textnormal", r"\text")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\\!", "", text)
    pieces = re.split(r"(\\text *\{[^{}]*\})", text)
    for at in range(0, len(pieces), 2):
        pieces[at] = re.sub(r"(\\[A-Za-z]+) +(?=[A-Za-z])", r"\1{}", pieces[at])
        pieces[at] = re.sub(r"\s|(?<!\\)\\[ ,]|~", "", pieces[at])
    text = "".join(pieces)
    text = re.sub(r"\\frac(\{[^{}]*\}|\d)(\{[^{}]*\}|\d)", lambda m: rf"\frac{{{bare(m[1])}}}{{{bare(m[2])}}}", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    return text.replace(r"^{\circ}", r"^\circ")


def bare(text: str) -> str:
    return text[1:-1] if text.startswith("{") else text


def read(text: str, question: str = "") -> Gold:
    """Parses an answer; `(1,5)` is an interval if the question mentions intervals, else a point."""
    body = canonical(text)
    for reader in READERS:
        if (found := reader(body, question)) is not None:
            shape, value, parts = found
            return Gold(text, question, shape, value, parts)
    return Gold(text, question, "other")


def read_number(text, question):
    """integer, decimal, fraction, mixed: the value; a fraction has its numerator and denominator as parts."""
    if re.fullmatch(r"-?\d{1,3}((,|\{,\})\d{3})+(\.\d+)?", text):
        text = re.sub(r"\{?,\}?", "", text)
    if re.fullmatch(r"-?\d+", text):
        return None if re.match("-?0.", text) else ("integer", Fraction(text), ())
    if re.fullmatch(r"-?\d*\.\d+", text):
        return "decimal", Fraction(text), ()
    if found := re.fullmatch(r"(-?)(?:\\frac\{(-?\d+)\}\{(\d+)\}|(\d+)/(\d+))", text):
        up, down = int(found[2] or found[4]), int(found[3] or found[5])
        up = -up if found[1] else up
        return ("fraction", Fraction(up, down), (up, down)) if down > 1 else None
    if found := re.fullmatch(r"(-?)(\d+)\\frac\{(\d+)\}\{(\d+)\}", text):
        value = int(found[2]) + Fraction(int(found[3]), int(found[4]))
        return "mixed", -value if found[1] else value, ()
    return None


def signed(sign: str, text: str) -> Fraction:
    """Parses a coefficient: '' is 1, `\\frac{1}{2}` a half."""
    found = re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", text)
    value = Fraction(int(found[1]), int(found[2])) if found else Fraction(text or 1)
    return -value if sign == "-" else value


def read_irrational(text, question):
    """radical (coefficient, radicand); surd sum and plus-minus (a, b, n) for a + b√n; pi multiple (coefficient,)."""
    for shape, body in (("radical", r"\\sqrt\{(\d+)\}"), ("pi multiple", r"\\pi")):
        if found := re.fullmatch(rf"(-?)({COEFFICIENT}){body}", text):
            return shape, None, (signed(found[1], found[2]), *map(int, found.groups()[2:]))
        if found := re.fullmatch(rf"(-?)\\frac\{{(\d*){body}\}}\{{(\d+)\}}", text):
            down = int(found[len(found.groups())])
            return shape, None, (signed(found[1], found[2]) / down, *map(int, found.groups()[2:-1]))
    if found := re.fullmatch(r"(-?\d+)(\+|-|\\pm)(\d*)\\sqrt\{(\d+)\}", text):
        shape = "plus-minus" if found[2] == r"\pm" else "surd sum"
        return shape, None, (Fraction(found[1]), signed(found[2], found[3]), int(found[4]))
    if found := re.fullmatch(r"(-?)(\d*)\\sqrt\{(\d+)\}([+-]\d+)", text):
        return "surd sum", None, (Fraction(found[4]), signed(found[1], found[2]), int(found[3]))
    return None


def read_complex(text, question):
    """complex (a, b) for a + bi."""
    if found := re.fullmatch(rf"(-?)({UNSIGNED})([+-])({COEFFICIENT})i", text):
        return "complex", None, (signed(found[1], found[2]), signed(found[3], found[4]))
    return None


def polynomial(text: str) -> Polynomial | None:
    """Parses a sum of terms as a polynomial, or returns None; i and e are not variables."""
    if (
        not re.fullmatch(rf"-?{TERM}([+-]{TERM})*", text)
        or not text.strip("-")
        or re.search("[ie]", text.replace(r"\frac", ""))
    ):
        return None
    terms: Polynomial = {}
    for sign, coefficient, letters in re.findall(rf"([+-]|^){TERM}", text):
        if not coefficient and not letters:
            return None
        found = re.findall(r"[a-zA-Z](?:\^(?:\d|\{\d+\}))?", letters)
        monomial = "".join(re.sub(r"[{}]", "", letter) for letter in sorted(found))
        if (
            monomial in terms
            or len({letter[0] for letter in found}) < len(found)
            or re.search(r"\^[01]($|\D)", monomial)
        ):
            return None
        terms[monomial] = signed(sign, coefficient)
    return terms


def read_polynomial(text, question):
    """polynomial (terms,); rational (numerator, denominator) of polynomials; factored (factors)."""
    terms = polynomial(text)
    if terms is not None and (set(terms) - {""}):
        return "polynomial", None, (terms,)
    if found := re.fullmatch(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", text):
        up, down = polynomial(found[1]), polynomial(found[2])
        if up and down and set(down) - {""}:
            return "rational", None, (up, down)
    if re.fullmatch(r"(\([^()]*\)){2,}", text):
        factors = re.findall(r"\(([^()]*)\)", text)
        if all(polynomial(factor) and "," not in factor for factor in factors):
            return "factored", None, tuple(factors)
    return None


def read_function(text, question):
    """power (base, exponent); logarithm (base, argument); trigonometric (coefficient, function, degrees)."""
    if found := re.fullmatch(r"(\d+)\^(?:(\d)|\{(\d+)\})", text):
        return "power", None, (int(found[1]), int(found[2] or found[3]))
    if found := re.fullmatch(r"\\log_(?:(\d)|\{(\d+)\})\{?(\d+)\}?", text):
        return "logarithm", None, (int(found[1] or found[2]), int(found[3]))
    if found := re.fullmatch(rf"(\d*){FUNCTIONS}(\d+)\^\\circ", text):
        return "trigonometric", None, (found[1], found[2], int(found[3]))
    return None


def read_labelled(text, question):
    """degrees, percent, money (inner,); unit (inner, unit, power); base (digits, base); time; ratio; word; choice."""
    for shape, pattern in (("degrees", r"(.+)\^\\circ"), ("percent", r"(.+)\\%"), ("money", r"\\\$(.+)")):
        if (found := re.fullmatch(pattern, text)) and read_number(found[1], ""):
            return shape, None, (read(found[1]),)
    if found := re.fullmatch(r"(.+?)\\text *\{ *([a-z. ]*[a-z.]) *\}(?:\^([23]))?", text):
        inner = read(found[1])
        if inner.shape in (*NUMBERS, "pi multiple", "radical", "surd sum") and found[2] not in ("a.m.", "p.m."):
            return "unit", None, (inner, found[2], found[3] or "")
    if found := re.fullmatch(r"(-?[\dA-F.]+)_(?:(\d)|\{(\d+)\})", text):
        return "base", None, (found[1], int(found[2] or found[3]))
    if found := re.fullmatch(r"(?:\\text\{)?(\d+:\d\d(?::\d\d)?) ?(?:\\text\{ ?)?([ap])\.m\. ?\}", text):
        return "time", None, (found[1], found[2])
    if re.fullmatch(r"\d+(:\d+)+", text):
        return "ratio", None, tuple(map(int, text.split(":")))
    if found := re.fullmatch(r"\\text\{\(?([A-E])\)?\}|\(?([A-E])\)", text):
        return "choice", None, (found[1] or found[2],)
    if found := re.fullmatch(r"\\text\{ ?([A-Za-z]{2,}(?: [A-Za-z]+)*) ?\}", text):
        return "word", None, (found[1],)
    if text in (r"\infty", r"-\infty"):
        return "infinity", None, (text[0] == "-",)
    if re.fullmatch("[A-Z]+", text):
        chosen = len(text) == 1 and text in "ABCDE" and "which of the following" in question.lower()
        return ("choice" if chosen else "word" if len(text) > 1 else "other"), None, (text,)
    return ("empty", None, ()) if text in (r"\emptyset", r"\varnothing") else None


def items_of(text: str) -> list[str] | None:
    """Splits at commas outside all brackets; None if there are none or brackets do not match."""
    depth, cuts = 0, [-1]
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return None
        if sign == "," and depth == 0:
            cuts.append(at)
    return [text[a + 1 : b] for a, b in pairwise([*cuts, len(text)])] if depth == 0 and len(cuts) > 1 else None


def read_collection(text, question):
    """tuple, list, set (items); interval (open, low, high, close); union (intervals); membership (name, interval)."""
    if found := re.fullmatch(r"([a-z])\\in(.+)", text):
        inner = read(found[2], "interval")
        return ("membership", None, (found[1], inner)) if inner.shape in ("interval", "union") else None
    if r"\cup" in text:
        members = tuple(read(member, "interval") for member in re.split(r"\\cup(?:\{\})?", text))
        return ("union", None, members) if all(m.shape == "interval" for m in members) else None
    inside = items_of(re.sub(r"^(\\\{|[(\[])|(\\\}|[)\]])$", "", text))
    if inside is None or any(not item for item in inside):
        return None
    items = tuple(read(item, "") for item in inside)
    if any(item.shape in ("other", *COMPOUND) for item in items):
        bound = text[0] in "([" and text[-1] in ")]" and len(items) == 2
        return None if bound or not all(item.shape == "tuple" for item in items) else ("list", None, items)
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "set", None, items
    if text[0] in "([" and text[-1] in ")]":
        half_open = text[0] + text[-1] != "()"
        if len(items) == 2 and (half_open or "infinity" in (items[0].shape, items[1].shape) or "interval" in question):
            return "interval", None, (text[0], *items, text[-1])
        return None if half_open else ("tuple", None, items)
    return ("list", None, items) if items_of(text) else None


def read_matrix(text, question):
    """matrix (rows of item texts)."""
    if found := re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text):
        rows = [row.split("&") for row in re.split(r"\\\\", found[1]) if row]
        if len(rows) > 1 and len({len(row) for row in rows}) == 1:
            return "matrix", None, tuple(tuple(row) for row in rows)
    return None


def read_relation(text, question):
    """solution (name, value); equation (left, right) of polynomials; inequality (name, low, below, high, above)."""
    if text.count("=") == 1:
        left, right = text.split("=")
        value = read(right)
        if re.fullmatch("[a-zA-Z]", left) and value.shape in (*NUMBERS, "radical", "pi multiple", "surd sum"):
            return "solution", None, (left, value)
        sides = polynomial(left), polynomial(right)
        return ("equation", None, sides) if sides[0] is not None and sides[1] is not None else None
    if found := re.fullmatch(rf"([a-z]){RELATION}(.+)", text):
        value = read(found[3])
        if value.shape in (*NUMBERS, "radical"):
            relation = RELATIONS[found[2]]
            below = {">": "<", r"\ge": r"\le"}.get(relation)
            return (
                "inequality",
                None,
                (found[1], *((value, below, None, None) if below else (None, None, value, relation))),
            )
    if found := re.fullmatch(r"(.+?)(<|\\leq?)(?:\{\})?([a-z])(<|\\leq?)(.+)", text):
        low, high = read(found[1]), read(found[5])
        if {low.shape, high.shape} <= {*NUMBERS, "radical"}:
            return "inequality", None, (found[3], low, RELATIONS[found[2]], high, RELATIONS[found[4]])
    return None


NUMBERS = ("integer", "decimal", "fraction", "mixed")
COMPOUND = ("tuple", "list", "set", "interval", "union", "membership", "matrix", "equation", "inequality", "solution")
READERS = (
    read_number, read_irrational, read_complex, read_function, read_labelled, read_relation, read_matrix,
    read_collection, read_polynomial,
)  # fmt: skip
