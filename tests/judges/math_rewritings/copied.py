"""Questions that contain an expression, and answers that copy it or reverse the requested work."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from math import comb

from .golds import Gold, read
from .unevaluated import expressions
from .writing import fraction_text, sum_text

Copied = Iterator[tuple[str, Gold, str]]


def copied(rng: random.Random, count: int) -> Copied:
    """Returns (kind, gold, answer), `count` of each form of question."""
    for _ in range(count):
        for kind, questions in KINDS:
            for gold, question, answer in questions(rng):
                yield kind, read(gold, question), answer


def linear(coefficient: int, letter: str, constant: int) -> str:
    """Returns a text like `3x-2`, where neither number is 0."""
    return sum_text([(Fraction(coefficient), letter), (Fraction(constant), "")])


def arithmetic(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    value = rng.randint(5, 120)
    for depth in (1, 2, 3):
        expression = rng.choice(expressions(value, rng, depth))
        yield str(value), f"What is the value of ${expression}$?", expression
    a, b = Fraction(rng.randint(1, 9), rng.randint(10, 19)), Fraction(rng.randint(1, 9), rng.choice([2, 3, 5, 7, 11]))
    for sign, result in (("+", a + b), (r"\cdot", a * b), (r"\div", a / b), ("-", a - b)):
        expression = f"{fraction_text(a)} {sign} {fraction_text(b)}"
        yield fraction_text(result), f"Compute ${expression}$.", expression


def numbers(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    value = Fraction(2 * rng.randint(0, 30) + 1, rng.choice([2, 4, 8, 16, 20, 40]))
    fraction, decimal, unreduced = fraction_text(value), str(float(value)), fraction_text(value, rng.randint(2, 9))
    yield decimal, f"Express ${fraction}$ as a decimal.", fraction
    yield fraction, f"Write ${decimal}$ as a fraction in lowest terms.", decimal
    yield fraction, f"Simplify ${unreduced}$.", unreduced
    whole, rest = rng.randint(1, 9), rng.randint(3, 9)
    improper = fraction_text(whole + Fraction(1, rest))
    yield rf"{whole}\frac{{1}}{{{rest}}}", f"Write ${improper}$ as a mixed number.", improper
    base, number = rng.choice([3, 5, 6, 7]), rng.randint(30, 400)
    digits, left = "", number
    while left:
        digits, left = str(left % base) + digits, left // base
    yield str(number), f"Convert ${digits}_{base}$ to base 10.", f"{digits}_{base}"
    yield f"{digits}_{base}", f"Write ${number}$ in base ${base}$.", f"{number}_{{10}}"


def simplifications(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    outside, radicand = rng.randint(2, 12), rng.choice([2, 3, 5, 6, 7, 11])
    simple, root = rf"{outside}\sqrt{{{radicand}}}", rf"\sqrt{{{outside**2 * radicand}}}"
    yield simple, f"Simplify ${root}$.", root
    over = rf"\frac{{{outside * radicand}}}{{\sqrt{{{radicand}}}}}"
    yield simple, f"Rationalize the denominator of ${over}$.", over
    n, k = rng.randint(8, 20), rng.randint(2, 4)
    yield str(comb(n, k)), rf"Evaluate $\dbinom{{{n}}}{{{k}}}$.", rf"\dbinom{{{n}}}{{{k}}}"
    yield str(n - 3), rf"Evaluate $\log_{{2}} {2 ** (n - 3)}$.", rf"\log_{{2}} {2 ** (n - 3)}"
    yield str(n + k), rf"Evaluate $\left\lfloor {n}.7 \right\rfloor + {k}$.", rf"\left\lfloor {n}.7 \right\rfloor + {k}"
    a, b, c, d = (rng.randint(1, 9) for _ in "abcd")
    product, parts = f"({a}+{b}i)({c}+{d}i)", [(Fraction(a * c - b * d), ""), (Fraction(b * c + a * d), "i")]
    if parts[0][0]:
        yield sum_text(parts), f"Compute ${product}$.", product
    angle = rng.choice([r"\frac{1}{2}", rf"\frac{{{a}}}{{{2 * a}}}"])
    yield r"-\frac{\pi}{6}", rf"Find $\arcsin \left( -{angle} \right)$.", rf"\arcsin \left( -{angle} \right)"


def like_letters(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    letter, a, c = rng.choice("xtky"), rng.randint(2, 30), rng.randint(2, 30)
    b, d = rng.randint(1, 20), rng.randint(1, 20)
    given = f"({linear(a, letter, b)}) + ({linear(c, letter, d)})"
    yield linear(a + c, letter, b + d), f"Simplify ${given}$.", given
    open_sum = f"{linear(a, letter, b)} + {linear(c, letter, d)}"
    yield linear(a + c, letter, b + d), f"Simplify ${open_sum}$.", open_sum
    quotient = rf"\frac{{({a}{letter}^3)({c}{letter}^6)}}{{{a}{letter}^4}}"
    yield f"{c}{letter}^5", f"Simplify ${quotient}$.", quotient


def quadratic(rng: random.Random) -> tuple[str, str, str, str]:
    """Returns a product of two factors, the same with all signs reversed, expanded, and half factored."""
    letter = rng.choice("xtky")
    b, d = rng.sample([n for n in range(-9, 12) if n], 2)
    while b + d == 0:
        d = rng.choice([n for n in range(1, 12) if n != b])
    product = f"({linear(1, letter, b)})({linear(1, letter, d)})"
    turned = "".join(f"({sum_text([(Fraction(n), ''), (Fraction(1), letter)])})" for n in (d, b))
    expanded = sum_text([(Fraction(1), f"{letter}^2"), (Fraction(b + d), letter), (Fraction(b * d), "")])
    half = f"{letter}({linear(1, letter, b + d)}){'+' if b * d > 0 else '-'}{abs(b * d)}"
    return product, turned, expanded, half


def expansions(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    product, turned, expanded, _ = quadratic(rng)
    for answer in (product, turned):
        yield expanded, f"Expand ${product}$.", answer
        yield expanded, f"Expand the product ${product}$.", answer


def factorings(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    product, _, expanded, half = quadratic(rng)
    for answer in (expanded, half):
        yield product, f"Factor ${expanded}$.", answer
        yield product, f"Factor the quadratic completely: ${expanded}$.", answer


KINDS = (
    ("arithmetic of the question copied", arithmetic), ("a number of the question copied", numbers),
    ("an expression of the question copied", simplifications), ("like letters of the question copied", like_letters),
    ("not expanded where the question asks for it", expansions),
    ("not factored where the question asks for it", factorings),
)  # fmt: skip
