"""Rewritings of collections, matrices, equations and inequalities that change the meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from .golds import Gold
from .keep_relations import FLIPPED, inequality_texts
from .registry import changes
from .writing import asks, fraction_text, items, minus, poly_text


def wrapped_items(gold: Gold, texts: list[str]) -> str:
    opening, closing = {"tuple": "()", "list": ("", ""), "set": (r"\{", r"\}")}[gold.shape]
    return opening + ", ".join(texts) + closing


@changes("tuple", "list", "set")
def item_changed_dropped_or_added(gold, rng):
    texts, at = items(gold), rng.randrange(len(gold.parts))
    value = gold.parts[at].value
    if value is not None and all(item.value is not None for item in gold.parts):
        new = max(item.value for item in gold.parts) + 1
        yield wrapped_items(gold, [*texts[:at], fraction_text(new), *texts[at + 1 :]])
        yield wrapped_items(gold, [*texts, fraction_text(new)])
        if value and all(-value != item.value for item in gold.parts):
            yield wrapped_items(gold, [*texts[:at], fraction_text(-value), *texts[at + 1 :]])
    if len(texts) > 2:
        yield wrapped_items(gold, texts[:at] + texts[at + 1 :])
    elif gold.shape == "list":
        yield texts[at]
    if gold.shape != "tuple":
        yield r" + ".join(texts)


@changes("tuple")
def items_swapped(gold, rng):
    texts = items(gold)
    if all(item.value is not None for item in gold.parts) and gold.parts[0].value != gold.parts[1].value:
        turned = [texts[1], texts[0], *texts[2:]]
        yield f"({', '.join(turned)})"
        yield r"\begin{pmatrix} " + r" \\ ".join(turned) + r" \end{pmatrix}"
    yield f"[{', '.join(texts)}]"
    yield rf"\{{{', '.join(texts)}\}}"


OTHER_BRACKET = {"(": "[", "[": "(", ")": "]", "]": ")"}
OTHER_STRICTNESS = {"<": r"\le", r"\le": "<"}


@changes("interval")
def another_interval(gold, rng):
    opening, low, high, closing = gold.parts
    yield from ("{}{}, {}{}".format(*parts) for parts in with_another_bracket(gold))
    for size in (1, Fraction(1, 2)):
        if low.value is not None:
            yield f"{opening}{fraction_text(low.value - size)}, {high.text}{closing}"
        if high.value is not None:
            yield f"{opening}{low.text}, {fraction_text(high.value + size)}{closing}"
    if "infinity" in (low.shape, high.shape):
        yield rf"x \notin {gold.body}"
        yield r"(-\infty, \infty)" if low.shape != high.shape else "(0, 1)"
    else:
        yield rf"{gold.body} \cup \{{{rng.randint(5000, 9000)}\}}"


def with_another_bracket(interval: Gold) -> Iterator[tuple[str, str, str, str]]:
    """Returns the parts as texts, with one finite end changed from open to closed or vice versa."""
    opening, low, high, closing = interval.parts
    if low.shape != "infinity":
        yield OTHER_BRACKET[opening], low.text, high.text, closing
    if high.shape != "infinity":
        yield opening, low.text, high.text, OTHER_BRACKET[closing]


@changes("interval", "membership")
def wrong_inequality(gold, rng):
    interval = gold if gold.shape == "interval" else gold.parts[1]
    if interval.shape == "interval":
        for opening, low, high, closing in with_another_bracket(interval):
            below, above = ("<" if bracket in "()" else r"\le" for bracket in (opening, closing))
            finite = [None if r"\infty" in end else end for end in (low, high)]
            yield inequality_texts("x", finite[0], below, finite[1], above)[0]


@changes("union")
def another_union(gold, rng):
    texts = items(gold)
    yield from texts[:2]
    yield r" \cap ".join(texts)
    first, second = gold.parts[:2]
    if first.parts[2].text != second.parts[1].text:
        yield r" \cup ".join([texts[0][:-1] + OTHER_BRACKET[texts[0][-1]], *texts[1:]])


@changes("inequality")
def strictness_changed(gold, rng):
    name, low, below, high, above = gold.parts
    ends = (low and low.text, high and high.text)
    if low:
        yield inequality_texts(name, ends[0], OTHER_STRICTNESS[below], ends[1], above)[0]
    if high:
        yield inequality_texts(name, ends[0], below, ends[1], OTHER_STRICTNESS[above])[0]


@changes("inequality")
def relation_changed(gold, rng):
    name, low, below, high, above = gold.parts
    if low and high:
        yield from (f"{name} {above} {high.text}", f"{low.text} {below} {name}")
        yield f"{low.text} {FLIPPED[below]} {name} {FLIPPED[above]} {high.text}"
        return
    end, relation = (low.text, FLIPPED[below]) if low else (high.text, above)
    negative = end[1:] if end.startswith("-") else f"-{end}"
    yield from (f"{name} {FLIPPED[relation]} {end}", f"{end} {relation} {name}", f"-{name} {relation} {negative}")
    yield from (f"{name} = {end}", end)


@changes("equation")
def another_equation(gold, rng):
    left, right = gold.parts
    difference = minus(left, right)
    monomial = rng.choice([m for m in difference if m])
    yield f"{poly_text(difference | {monomial: difference[monomial] + 1 or Fraction(2)})} = 0"
    yield f"{poly_text(difference | {'': difference.get('', Fraction(0)) + 1 or Fraction(2)})} = 0"
    if len(difference) > 1:
        yield f"{poly_text(difference | {monomial: -difference[monomial]})} = 0"
    yield from (rf"{poly_text(difference)} \le 0", rf"{poly_text(difference)} \ne 0", f"{poly_text(difference)} = 1")


@changes("solution")
def solution_changed(gold, rng):
    name, value = gold.parts
    other = "z" if name != "z" else "w"
    yield from (
        f"{other} = {value.text}",
        rf"{name} \ge {value.text}",
        rf"{name} \ne {value.text}",
        rf"{name} < {value.text}",
    )
    if value.value is not None:
        yield from (f"{name} = {fraction_text(value.value + 1)}", fraction_text(value.value - 1))
        if value.value:
            yield f"{name} = {fraction_text(-value.value)}"


@changes("solution")
def equation_not_solved(gold, rng):
    name, value = gold.parts
    if value.value is not None and not asks(gold, " line", "equation of", "asymptote", "axis"):
        scale, shift = rng.randint(2, 9), rng.randint(1, 20)
        yield f"{scale}{name} + {shift} = {fraction_text(value.value * scale + shift)}"
        yield f"{scale}{name} = {fraction_text(value.value * scale)}"
        yield f"{shift} - {name} = {fraction_text(shift - value.value)}"
        yield f"{scale}({name} + {shift}) = {fraction_text((value.value + shift) * scale)}"
        yield rf"\frac{{{name}}}{{{scale}}} = {fraction_text(value.value / scale)}" if value.value else ""
        yield f"{scale + 1}{name} = {name} + {fraction_text(value.value * scale)}" if value.value > 0 else ""


@changes("matrix")
def another_matrix(gold, rng):
    rows = [list(row) for row in gold.parts]

    def shown(entries) -> str:
        return r"\begin{pmatrix} " + r" \\ ".join(" & ".join(row) for row in entries) + r" \end{pmatrix}"

    if rows[0] != rows[1]:
        yield shown([rows[1], rows[0], *rows[2:]])
    transposed = [list(column) for column in zip(*rows, strict=True)]
    if len(transposed) > 1 and transposed != rows:
        yield shown(transposed)
    at, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    rows[at][column] = str(int(rows[at][column]) + 1) if re.fullmatch(r"-?\d+", rows[at][column]) else "77"
    yield shown(rows)
    yield shown(rows[:-1])
    if any(entry != "0" for row in gold.parts for entry in row):
        yield f"2{shown([list(row) for row in gold.parts])}"
