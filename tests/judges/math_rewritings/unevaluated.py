"""Answers that leave the work to the reader: expressions with the gold's value.

`expressions` grows random arithmetic of a wanted value, one to three operations deep, over all that school mathematics
writes: sums, products, powers, roots, factorials, binomials, logarithms, trigonometry, floors, divisors, integrals.
An unreduced fraction of two numbers is no such expression, nor is a power of ten as in `1.2 \\times 10^3`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction
from math import comb, factorial, isqrt

from .registry import changes
from .writing import fraction_text, poly_text, sum_text, times

SIGNS = (r" \cdot ", r" \times ", "*")


def bracketed(value: int) -> str:
    return str(value) if value >= 0 else f"({value})"


def leaves(value: int, rng: random.Random) -> Iterator[str]:
    """Returns operations on plain numbers, one of every kind that fits the value."""
    part, small = rng.randint(1, 30), rng.randint(2, 9)
    yield f"{value - part} + {part}" if value != part else f"{value + 1} - 1"
    yield f"{value + part} - {part}"
    yield rf"{value * small} \div {small}"
    one, nothing = rf"1 \cdot {bracketed(value)}", f"0 + {bracketed(value)}"
    yield rng.choice([one, nothing, f"{value} + 0", rf"{value} \times 1"])
    divisors = [d for d in range(2, isqrt(abs(value)) + 1) if value % d == 0]
    if divisors:
        factor = rng.choice(divisors)
        yield f"{value // factor}{rng.choice(SIGNS)}{factor}"
        yield f"({value // factor})({factor})"
    if value > 0:
        yield from powers(value, rng)
        yield from functions(value, rng)
        yield from counting(value, rng)
    elif value < 0:
        yield f"-({-value + part} - {part})"
        yield rf"\sqrt[3]{{{value**3}}}" if value > -30 else f"0 - {-value}"


def powers(value: int, rng: random.Random) -> Iterator[str]:
    """Returns powers, roots and logarithms that can be evaluated."""
    root, small = isqrt(value), rng.randint(2, 9)
    if root**2 == value and root > 1:
        yield rng.choice([f"{root}^2", f"(-{root})^2", f"{root}^{{2}}"])
    if value > 1:
        yield rf"\sqrt{{{value**2}}}"
        yield rf"\sqrt[3]{{{value**3}}}"
        yield rf"\left(\frac{{1}}{{{value}}}\right)^{{-1}}"
        yield rf"\frac{{1}}{{\frac{{1}}{{{value}}}}}"
        yield f"{value}^{{{small} - {small - 1}}}"
        yield prime_factors(value)
    yield rf"\sqrt{{{value}}} \cdot \sqrt{{{value}}}"
    base = rng.choice([2, 3])
    if value < 20:
        yield rf"\log_{{{base}}} {base**value}"
    if value < 60:
        yield rf"\log_{{{small}}} {{{small}^{{{value}}}}}"
        yield rf"\ln e^{{{value}}}"
    yield rf"e^{{\ln {value}}}"
    yield rf"{value} e^0"
    yield f"-{value}i^2"


def prime_factors(value: int) -> str:
    """Returns a factorisation like `2^3 \\cdot 3`, or nothing for a prime value."""
    found, left, prime = [], value, 2
    while left > 1:
        exponent = 0
        while left % prime == 0:
            left, exponent = left // prime, exponent + 1
        if exponent:
            found.append(f"{prime}^{exponent}" if exponent > 1 else str(prime))
        prime = prime + 1 if (prime + 1) ** 2 <= left else max(left, prime + 1)
    return r" \cdot ".join(found) if found != [str(value)] else ""


def functions(value: int, rng: random.Random) -> Iterator[str]:
    """Returns functions of numbers: absolute value, floor, trigonometry, extremes, integrals."""
    small = rng.randint(2, 9)
    yield rf"|{-value}|"
    yield rf"\left|{-value}\right|"
    yield rf"\lfloor {value}.{rng.randint(1, 9)} \rfloor"
    yield rf"\left\lceil {value - 1}.{rng.randint(1, 9)} \right\rceil"
    yield rf"\max({value}, {value - small})"
    yield rf"\min\{{{value}, {value + small}\}}"
    yield rf"{2 * value} \sin 30^\circ"
    yield rf"{value} \tan 45^\circ"
    yield rf"{2 * value}\cos\frac{{\pi}}{{3}}"
    yield rf"\int_0^{{{value}}} 1 \, dx"
    yield rf"\sum_{{k=1}}^{{{value}}} 1"
    yield rf"\lim_{{x \to {value}}} x"


def counting(value: int, rng: random.Random) -> Iterator[str]:
    """Returns factorials, binomials, divisors, remainders, and fractions that contain an operation."""
    small = rng.randint(2, 9)
    low, high = rng.choice([(2, 3), (3, 4), (2, 5), (4, 9)])
    yield rf"\gcd({low * value}, {high * value})"
    yield rf"{value + small * (value + 1)} \bmod {value + 1}"
    yield rf"\binom{{{value}}}{{1}}"
    n = rng.choice([2, 3, 4, 5])
    yield (
        f"{n}! {'+' if value > factorial(n) else '-'} {abs(value - factorial(n))}" if value != factorial(n) else f"{n}!"
    )
    row = isqrt(2 * value) + 1
    if row > 2 and comb(row, 2) == value:
        yield rf"\binom{{{row}}}{{2}}"
        yield rf"\sum_{{k=1}}^{{{row - 1}}} k"
    yield rf"\frac{{{value * small + small}}}{{{small}}} - 1"
    yield rf"\frac{{{value * small - 1} + 1}}{{{small}}}"
    yield rf"\frac{{{value} \cdot {small}}}{{{small}}}"


def expressions(value: int, rng: random.Random, depth: int) -> list[str]:
    """Returns expressions of this value with `depth` levels of operations, among them each kind of the last level."""
    if depth == 1:
        return [text for text in leaves(value, rng) if text]
    part, small = rng.randint(1, 40), rng.randint(2, 6)

    def inner(wanted: int) -> str:
        return rng.choice(expressions(wanted, rng, depth - 1))

    found = [f"({inner(value + part)}) - {part}", f"{part} + ({inner(value - part)})"]
    found.append(rf"\frac{{{inner(value * small)}}}{{{small}}}")
    divisors = [d for d in range(2, 13) if value % d == 0 and abs(value) > d]
    if divisors:
        factor = rng.choice(divisors)
        found += [rf"{factor}\left({inner(value // factor)}\right)", rf"({inner(value // factor)}) \cdot {factor}"]
    if value > 0 and depth == 2:
        found += [rf"\sqrt{{{inner(value**2)}}}", rf"\left|{inner(-value)}\right|"]
    return found


# ---- numbers


@changes("integer")
def unevaluated_number(gold, rng):
    value = gold.value.numerator
    if abs(value) < 10**6:
        found = expressions(value, rng, 1)
        yield from rng.sample(found, min(len(found), 4))


@changes("integer")
def unevaluated_power_or_root(gold, rng):
    if 1 < gold.value < 10**6:
        yield from powers(gold.value.numerator, rng)


@changes("integer")
def unevaluated_function(gold, rng):
    if 0 < gold.value < 10**6:
        yield from functions(gold.value.numerator, rng)


@changes("integer")
def unevaluated_count(gold, rng):
    if 0 < gold.value < 10**6:
        yield from counting(gold.value.numerator, rng)


@changes("integer")
def unevaluated_deeply(gold, rng):
    value = gold.value.numerator
    if abs(value) < 10**5:
        yield from expressions(value, rng, 2)
        yield from rng.sample(expressions(value, rng, 3), 2)


@changes("fraction")
def unevaluated_fraction(gold, rng):
    value: Fraction = gold.value
    part = Fraction(rng.randint(1, 9), rng.choice([2, 3, 4, 5, 6, 7, 8, 9, 10]))
    up, down, small = value.numerator, value.denominator, rng.randint(2, 9)
    if part.denominator > 1 and value not in (0, part):
        yield sum_text([(value - part, ""), (part, "")])
        yield sum_text([(value + part, ""), (-part, "")])
        yield rf"{fraction_text(part)} \cdot {fraction_text(value / part)}" if up > 0 else ""
        yield rf"{fraction_text(value * part)} \div {fraction_text(part)}"
    yield f"1 - {fraction_text(Fraction(1) - value)}" if value < 1 else ""
    yield rf"\frac{{{up + small} - {small}}}{{{down}}}"
    yield rf"\frac{{{up}}}{{{down - 1} + 1}}"
    yield rf"\frac{{{up} \cdot {small}}}{{{down} \cdot {small}}}"
    if up > 0:
        yield rf"\left(\frac{{{down}}}{{{up}}}\right)^{{-1}}"
        yield rf"\sqrt{{\frac{{{up**2}}}{{{down**2}}}}}" if up > 1 else rf"\frac{{1}}{{\sqrt{{{down**2}}}}}"
        yield rf"\frac{{\sqrt{{{up**2}}}}}{{{down}}}"
        yield rf"\frac{{\binom{{{up}}}{{1}}}}{{{down}}}"


# ---- sums that are not collected


@changes("radical", "pi multiple")
def like_terms_not_collected(gold, rng):
    coefficient = gold.parts[0]
    body = rf"\sqrt{{{gold.parts[1]}}}" if gold.shape == "radical" else r"\pi"
    part = rng.randint(1, 9)
    if coefficient != part:
        yield sum_text([(coefficient - part, body), (Fraction(part), body)])
    yield sum_text([(coefficient + part, body), (Fraction(-part), body)])
    if coefficient > 0:
        yield rf"{part + 1} \cdot {times(coefficient, body)} - {times(coefficient * part, body)}"
    if gold.shape == "radical" and gold.parts[1] > 2:
        yield times(coefficient, rf"\sqrt{{{gold.parts[1] + part}-{part}}}")
    if coefficient.denominator == 1 and coefficient > 1:
        yield rf"({coefficient - 1} + 1){body}"


@changes("surd sum", "complex")
def parts_not_collected(gold, rng):
    first, coefficient, *rest = gold.parts
    body = "i" if gold.shape == "complex" else rf"\sqrt{{{rest[0]}}}"
    part = rng.randint(1, 9)
    if first != part:
        yield sum_text([(first - part, ""), (coefficient, body), (Fraction(part), "")])
    if first != part and coefficient != -part:
        rest_of_it = f"{part} - {times(Fraction(part), body)}"
        yield f"({sum_text([(first - part, ''), (coefficient + part, body)])}) + ({rest_of_it})"
    if gold.shape == "complex" and first.denominator == coefficient.denominator == 1:
        yield f"({sum_text([(coefficient, ''), (-first, 'i')])})i"
        yield f"{sum_text([(first - 1, ''), (coefficient, 'i')])} - i^2" if first != 1 else ""


@changes("polynomial")
def like_letters_not_collected(gold, rng):
    (terms,) = gold.parts
    letters = rng.choice([monomial for monomial in terms if monomial])
    part = rng.randint(1, 20)
    rest = [(c, m) for m, c in terms.items() if m != letters]
    if terms[letters] != part:
        yield sum_text([(terms[letters] - part, letters), *rest, (Fraction(part), letters)])
        yield f"({poly_text(terms | {letters: terms[letters] - part})}) + {times(Fraction(part), letters)}"
        yield f"({terms[letters] - part} + {part}){letters}{''.join(times(c, m, False) for c, m in rest)}"
    if terms.get("", 0) not in (0, part):
        yield sum_text([(Fraction(part), ""), *[(c, m) for m, c in terms.items() if m], (terms[""] - part, "")])


# ---- a place in a larger answer


@changes("tuple", "list", "set")
def item_unevaluated(gold, rng):
    at = rng.randrange(len(gold.parts))
    item = gold.parts[at]
    if item.shape == "integer" and abs(item.value) < 10**4:
        texts = [other.text for other in gold.parts]
        opening, closing = {"tuple": "()", "list": ("", ""), "set": (r"\{", r"\}")}[gold.shape]
        for text in rng.sample(without_commas(item.value.numerator, rng), 3):
            yield opening + ", ".join([*texts[:at], text, *texts[at + 1 :]]) + closing


def without_commas(value: int, rng: random.Random) -> list[str]:
    return [text for text in expressions(value, rng, 1) if "," not in text]


@changes("degrees", "percent", "unit", "solution", "money")
def labelled_value_unevaluated(gold, rng):
    inner = gold.parts[1] if gold.shape == "solution" else gold.parts[0]
    if inner.shape == "integer" and re.fullmatch(r"-?\d+", inner.text):
        texts = [text for text in without_commas(inner.value.numerator, rng) if "circ" not in text]
        for text in rng.sample(texts, 3):
            put = text if gold.shape in ("solution", "money") else f"({text})"
            yield put.join(gold.body.rsplit(inner.text, 1))


@changes("interval")
def end_unevaluated(gold, rng):
    opening, low, high, closing = gold.parts
    for at, end in ((1, low), (2, high)):
        if end.shape == "integer" and abs(end.value) < 10**4:
            parts = [opening, low.text, high.text, closing]
            parts[at] = rng.choice(without_commas(end.value.numerator, rng))
            yield "{}{}, {}{}".format(*parts)


@changes("matrix")
def entry_unevaluated(gold, rng):
    rows = [list(row) for row in gold.parts]
    at = rng.randrange(len(rows))
    if re.fullmatch(r"-?\d+", rows[at][0]):
        rows[at][0] = rng.choice(without_commas(int(rows[at][0]), rng))
        yield r"\begin{pmatrix} " + r" \\ ".join(" & ".join(row) for row in rows) + r" \end{pmatrix}"


@changes("inequality")
def bound_unevaluated(gold, rng):
    name, low, below, high, above = gold.parts
    if high and not low and high.shape == "integer":
        yield f"{name} {above} {rng.choice(without_commas(high.value.numerator, rng))}"
    if low and not high and low.shape == "integer":
        yield f"{rng.choice(without_commas(low.value.numerator, rng))} {below} {name}"


@changes("power")
def exponent_unevaluated(gold, rng):
    base, exponent = gold.parts
    part = rng.randint(2, 9)
    yield f"{base}^{{{exponent - part}+{part}}}"
    yield f"{base}^{{{exponent + part}-{part}}}"
