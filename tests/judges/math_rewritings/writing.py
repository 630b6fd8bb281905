"""Formatting of numbers, sums and polynomials, for rewritings that rebuild an answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from fractions import Fraction

from .golds import NUMBERS, Gold, Polynomial


def fraction_text(value: Fraction, factor: int = 1) -> str:
    """Returns `-\\frac{2}{3}` or an integer, expanded by the factor."""
    if value.denominator == 1 and factor == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator) * factor}}}{{{value.denominator * factor}}}"


def decimal_text(value: Fraction) -> str | None:
    """Returns the exact decimal, or None if it has more than eight digits."""
    scaled = value * 10**8
    if scaled.denominator != 1:
        return None
    digits = f"{abs(scaled.numerator):09d}"
    return ("-" if value < 0 else "") + f"{digits[:-8]}.{digits[-8:]}".rstrip("0").rstrip(".")


def times(coefficient: Fraction, body: str, first: bool = True) -> str:
    """Returns a coefficient before letters with its sign, without a 1."""
    sign = "-" if coefficient < 0 else "" if first else "+"
    size = fraction_text(abs(coefficient))
    return sign + (body if size == "1" and body else size + body)


def sum_text(terms: Iterable[tuple[Fraction, str]]) -> str:
    """Returns the terms in their order: (3, "x"), (-1, "") is `3x-1`."""
    return "".join(times(coefficient, body, at == 0) for at, (coefficient, body) in enumerate(terms)) or "0"


def terms_of(poly: Polynomial) -> list[tuple[Fraction, str]]:
    return [(coefficient, letters) for letters, coefficient in poly.items()]


def scaled(poly: Polynomial, by: Fraction | int) -> Polynomial:
    return {letters: coefficient * by for letters, coefficient in poly.items()}


def minus(left: Polynomial, right: Polynomial) -> Polynomial:
    together = {letters: left.get(letters, Fraction(0)) - right.get(letters, Fraction(0)) for letters in left | right}
    return {letters: coefficient for letters, coefficient in together.items() if coefficient}


def poly_text(poly: Polynomial, rng: random.Random | None = None) -> str:
    terms = terms_of(poly)
    if rng is not None:
        rng.shuffle(terms)
    return sum_text(terms)


def asks(gold: Gold, *words: str) -> bool:
    """Whether the question mentions one of these."""
    return any(word in gold.question.lower() for word in words)


CONVERSION = r"(write|express|convert|expressed|find|what is|compute|evaluate) \$[^$]+\$ *(expressed )?(as|to|in) "
FORMULA = r"(?:compute|evaluate|find|value of|calculate)\s*(?:\$+|\\\[)(.+?)(?:\$|\\\])"
FORMS = (
    "simplif", "simplest", "rationaliz", "radical", "lowest terms", "reduce", "mixed number", "improper", "decimal",
)  # fmt: skip


def asks_for_this_form(gold: Gold) -> bool:
    """Whether the question asks for a form: to simplify, to convert, to compute with fractions or roots."""
    question = gold.question.lower()
    if asks(gold, *FORMS) or re.search(CONVERSION, question):
        return True
    given = re.search(FORMULA, question, re.DOTALL)
    return given is not None and (r"\frac" if gold.shape in NUMBERS else r"\sqrt") in given[1]


def items(gold: Gold) -> list[str]:
    """Returns the texts of the items."""
    return [item.body for item in gold.parts]
