"""Rewritings of intervals, inequalities, matrices and equations that keep the meaning."""

from __future__ import annotations

import random
import re
from fractions import Fraction

from .golds import Gold
from .keep_numbers import number_rewriting
from .registry import keeps
from .writing import asks, items, minus, poly_text, scaled

# ---- intervals and inequalities

FLIPPED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le"}


def inequality_texts(name: str, low, below, high, above) -> list[str]:
    """Returns both directions: `low < x`, `x > low`, `low < x <= high`."""
    if low and high:
        return [f"{low} {below} {name} {above} {high}", f"{high} {FLIPPED[above]} {name} {FLIPPED[below]} {low}"]
    if low:
        return [f"{name} {FLIPPED[below]} {low}", f"{low} {below} {name}"]
    return [f"{name} {above} {high}", f"{high} {FLIPPED[above]} {name}"]


def ends(gold: Gold) -> tuple:
    """Returns low, relation, high, relation of an interval; None for an infinite end."""
    opening, low, high, closing = gold.parts
    finite = [None if end.shape == "infinity" else end.text for end in (low, high)]
    return finite[0], "<" if opening == "(" else r"\le", finite[1], "<" if closing == ")" else r"\le"


def interval_text(low, below, high, above) -> str:
    opening = "[" if low and below == r"\le" else "("
    closing = "]" if high and above == r"\le" else ")"
    return opening + (low or r"-\infty") + ", " + (high or r"\infty") + closing


def other_end(gold: Gold, rng: random.Random) -> str | None:
    return None if gold.shape == "infinity" else number_rewriting(gold, rng)


@keeps("interval")
def interval_otherwise(gold, rng):
    opening, low, high, closing = gold.parts
    yield rf"\left{opening}{low.text}, {high.text}\right{closing}"
    yield rf"x \in {opening}{low.text}, {high.text}{closing}"
    for at, end in ((1, low), (2, high)):
        if other := other_end(end, rng):
            parts = [opening, low.text, high.text, closing]
            parts[at] = other
            yield "{}{}, {}{}".format(*parts)


@keeps("interval")
def interval_as_an_inequality(gold, rng):
    if ends(gold)[0] is None and ends(gold)[2] is None:
        return
    yield from inequality_texts("x", *ends(gold))


@keeps("inequality")
def inequality_as_an_interval(gold, rng):
    name, low, below, high, above = gold.parts
    text = interval_text(low and low.text, below, high and high.text, above)
    yield from (text, rf"{name} \in {text}")


@keeps("inequality")
def inequality_turned(gold, rng):
    name, low, below, high, above = gold.parts
    yield from inequality_texts(name, low and low.text, below, high and high.text, above)
    if not (low and high):
        end, relation = (low, FLIPPED[below]) if low else (high, above)
        if other := number_rewriting(end, rng):
            yield f"{name} {relation} {other}"


@keeps("inequality")
def inequality_times_minus_one(gold, rng):
    name, low, below, high, above = gold.parts
    if not (low and high):
        end, relation = (low, FLIPPED[below]) if low else (high, above)
        negative = end.text[1:] if end.text.startswith("-") else "-" + end.text
        yield f"-{name} {FLIPPED[relation]} {negative}"


@keeps("membership")
def membership_otherwise(gold, rng):
    name, inner = gold.parts
    yield inner.text
    yield rf"{name}\in{inner.text}"
    if inner.shape == "interval":
        yield from inequality_texts(name, *ends(inner))


@keeps("union")
def union_otherwise(gold, rng):
    texts = items(gold)
    yield r" \cup ".join(reversed(texts))
    yield r" \cup ".join(rf"\left{text[0]}{text[1:-1]}\right{text[-1]}" for text in texts)
    yield r"x \in " + r" \cup ".join(texts)
    yield r" \bigcup ".join(texts)


@keeps("union")
def union_as_inequalities(gold, rng):
    parts = [inequality_texts("x", *ends(member))[0] for member in gold.parts]
    yield r" \text{ or } ".join(parts)
    yield " or ".join(parts)


# ---- matrices and equations


@keeps("matrix")
def matrix_otherwise(gold, rng):
    rows = [" & ".join(row) for row in gold.parts]
    columns = "c" * len(gold.parts[0])
    body = r" \\ ".join(rows)
    yield from (rf"\begin{{{name}}} {body} \end{{{name}}}" for name in ("bmatrix", "pmatrix"))
    yield r"\begin{pmatrix}" + r"\\".join(rows) + r"\end{pmatrix}"
    yield r"\begin{pmatrix} " + body + r" \\ \end{pmatrix}"
    yield r"\begin{bmatrix} " + r" \\[4pt] ".join(rows) + r" \end{bmatrix}"
    yield rf"\left(\begin{{array}}{{{columns}}} {body} \end{{array}}\right)"
    yield rf"\left[\begin{{array}}{{{columns}}} {body} \end{{array}}\right]"
    yield rf"\left[\begin{{matrix}} {body} \end{{matrix}}\right]"
    yield rf"\left(\begin{{smallmatrix}} {body} \end{{smallmatrix}}\right)"


@keeps("matrix")
def vector_as_a_tuple(gold, rng):
    if len(gold.parts[0]) == 1:
        entries = [row[0] for row in gold.parts]
        yield f"({', '.join(entries)})"
        yield rf"\left( {', '.join(entries)} \right)"
        yield rf"\langle {', '.join(entries)} \rangle"


@keeps("matrix")
def number_times_a_matrix(gold, rng):
    if all(re.fullmatch(r"-?\d+", entry) for row in gold.parts for entry in row):
        factor = rng.randint(2, 6)
        rows = [" & ".join(str(int(entry) * factor) for entry in row) for row in gold.parts]
        yield rf"\frac{{1}}{{{factor}}}\begin{{pmatrix}} " + r" \\ ".join(rows) + r" \end{pmatrix}"
        rows = [" & ".join(str(-int(entry)) for entry in row) for row in gold.parts]
        yield r"-\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"


FORMS = ("in the form", "form $", "slope-intercept", "standard form", "form \\[")
"""The phrases of a question that requests one form of an equation."""


@keeps("equation")
def sides_swapped(gold, rng):
    left, right = gold.parts
    yield f"{poly_text(right) if right else '0'} = {poly_text(left)}"
    yield f"{poly_text(left, rng)} = {poly_text(right, rng) if right else '0'}"


@keeps("equation")
def terms_moved(gold, rng):
    difference = minus(*gold.parts)
    if asks(gold, *FORMS):
        return
    letters = {monomial: value for monomial, value in difference.items() if monomial}
    yield f"{poly_text(difference)} = 0"
    yield f"0 = {poly_text(difference, rng)}"
    if "" in difference and letters:
        yield f"{poly_text(letters, rng)} = {poly_text({'': -difference['']})}"


@keeps("equation")
def equation_scaled(gold, rng):
    difference = minus(*gold.parts)
    if asks(gold, *FORMS):
        return
    for factor in (Fraction(-1), Fraction(rng.randint(2, 7)), Fraction(1, 2)):
        yield f"{poly_text(scaled(difference, factor), rng)} = 0"
