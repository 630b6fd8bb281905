"""Generated gold answers of every shape, each with its own question: seeded, so always the same.

A generator draws one answer at random; its question never contains the answer. `generated_golds` draws each shape many
times and parses the result, so that generator and parser must agree on every answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import gcd

from .golds import Gold, read
from .layouts import INSIDE

Generator = Callable[[random.Random], tuple[str, str]]
GENERATORS: dict[str, tuple[Generator, str]] = {}
"""Maps a name to the generator and the shape that the parser must find."""

PLAIN = (
    "The conditions above determine one number. Find it.", "How large is the quantity described?",
    "What is the smallest possible value?", "Let $x$ be as described. Find $x$.", "Compute the value of $n$.",
    "In the sequence, $a_{12} = 2016$ and $a_7 = 45$. Find $a_1$.",
)  # fmt: skip


def generates(shape: str) -> Callable[[Generator], Generator]:
    def register(function: Generator) -> Generator:
        GENERATORS[function.__name__] = (function, shape)
        return function

    return register


def generated_golds(seed: int = 0, each: int = 16) -> list[Gold]:
    """Returns up to `each` distinct golds of every generator; raises if the parser finds another shape."""
    golds = []
    for name, (function, shape) in GENERATORS.items():
        rng, seen = random.Random(f"{seed}/{name}"), {}
        for _ in range(4 * each):
            text, question = function(rng)
            text = tight(text) if rng.random() < 0.3 else text
            if text not in seen and len(seen) < each:
                seen[text] = gold = read(text, question)
                if gold.shape != shape:
                    raise AssertionError(f"{name} generated {text!r}, which is parsed as {gold.shape}, not {shape}")
        golds += seen.values()
    return golds


def tight(text: str) -> str:
    return INSIDE["no spaces"](text)


def plain(rng: random.Random) -> str:
    return rng.choice(PLAIN)


def squarefree(rng: random.Random) -> int:
    return rng.choice([2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23])


def lowest(rng: random.Random, low: int = 2, high: int = 60) -> tuple[int, int]:
    """Returns a numerator and a denominator above 1 without a common factor."""
    while True:
        up, down = rng.randint(1, high), rng.randint(low, high)
        if gcd(up, down) == 1:
            return up, down


def frac(up: object, down: object, name: str = "frac") -> str:
    return f"\\{name}{{{up}}}{{{down}}}"


def root(number: object) -> str:
    return f"\\sqrt{{{number}}}"


def term(coefficient: int, letters: str, first: bool = False) -> str:
    """Returns a term like `+ 3x` or `- x`; the first of a sum has no spaces and no plus."""
    sign = ("-" if coefficient < 0 else "") if first else (" - " if coefficient < 0 else " + ")
    return sign + ("" if abs(coefficient) == 1 and letters else str(abs(coefficient))) + letters


def nonzero(rng: random.Random, bound: int) -> int:
    return rng.choice([-1, 1]) * rng.randint(1, bound)


@generates("integer")
def integer(rng):
    return str(rng.choice([rng.randint(11, 99), rng.randint(100, 999), rng.randint(4, 60)])), plain(rng)


@generates("integer")
def negative_integer(rng):
    return str(-rng.randint(2, 400)), plain(rng)


@generates("integer")
def large_integer(rng):
    digits = f"{rng.choice([rng.randint(1000, 99999), rng.randint(10**6, 10**8), 100 * rng.randint(11, 9999)]):,}"
    return digits.replace(",", rng.choice([",", r",\!", "", "{,}"])), plain(rng)


@generates("integer")
def counted_things(rng):
    thing = rng.choice(["apples", "marbles", "ways", "triangles", "students", "books"])
    return str(rng.randint(12, 300)), f"After all that, how many {thing} are there?"


@generates("integer")
def percentage_in_the_question(rng):
    return str(rng.randint(5, 95)), "What percent of the voters chose the winner?"


@generates("integer")
def degrees_in_the_question(rng):
    return str(rng.randint(5, 175)), "How large is the angle, in degrees?"


@generates("integer")
def dollars_in_the_question(rng):
    return str(rng.randint(12, 9000)), "How many dollars does she have left?"


@generates("decimal")
def decimal(rng):
    return f"{rng.choice(['', '-'])}{rng.randint(0, 99)}.{rng.randint(1, 999)}", plain(rng)


@generates("decimal")
def decimal_without_zero(rng):
    return f".{rng.randint(1, 9999):04d}", plain(rng)


@generates("fraction")
def fraction(rng):
    up, down = lowest(rng)
    return f"{rng.choice(['', '-'])}{frac(up, down, rng.choice(['frac', 'dfrac']))}", plain(rng)


@generates("fraction")
def exact_fraction(rng):
    down = rng.choice([2, 4, 5, 8, 20, 25])
    up = rng.choice([n for n in range(1, 60) if gcd(n, down) == 1])
    return f"\\frac{{{up}}}{{{down}}}", plain(rng)


@generates("mixed")
def mixed(rng):
    up, down = lowest(rng, high=12)
    return f"{rng.choice(['', '', '-'])}{rng.randint(1, 40)}\\frac{{{up % down}}}{{{down}}}", plain(rng)


@generates("radical")
def radical(rng):
    return f"{rng.choice(['', rng.randint(2, 30)])}{root(squarefree(rng))}", plain(rng)


@generates("radical")
def radical_fraction(rng):
    up, down = lowest(rng, high=12)
    return rf"{rng.choice(['', '-'])}\frac{{{'' if up == 1 else up}\sqrt{{{squarefree(rng)}}}}}{{{down}}}", plain(rng)


@generates("surd sum")
def surd_sum(rng):
    return f"{nonzero(rng, 30)}{term(nonzero(rng, 12), root(squarefree(rng)))}", plain(rng)


@generates("plus-minus")
def plus_minus(rng):
    return rf"{nonzero(rng, 20)} \pm {rng.choice(['', rng.randint(2, 9)])}\sqrt{{{squarefree(rng)}}}", "Solve for $x$."


@generates("pi multiple")
def pi_multiple(rng):
    return rf"{rng.randint(2, 400)}\pi", "Find the area of the shaded region."


@generates("pi multiple")
def pi_fraction(rng):
    up, down = lowest(rng, high=24)
    return rf"{rng.choice(['', '-'])}\frac{{{'' if up == 1 else up}\pi}}{{{down}}}", "Find the angle, in radians."


@generates("complex")
def complex_number(rng):
    return f"{nonzero(rng, 40)}{term(nonzero(rng, 40), 'i')}", "Find the complex number $z$."


@generates("polynomial")
def quadratic(rng):
    letter = rng.choice("xtnrk")
    body = term(nonzero(rng, 9), letter + "^2", True) + term(nonzero(rng, 20), letter) + term(nonzero(rng, 30), "")
    return body, f"Find the polynomial in ${letter}$ that has these values."


@generates("polynomial")
def linear_expression(rng):
    letter = rng.choice("xtnrk")
    return term(nonzero(rng, 20), letter, True) + term(nonzero(rng, 50), ""), f"Write it in terms of ${letter}$."


@generates("polynomial")
def several_letters(rng):
    first, second = rng.choice([("a", "b"), ("p", "q"), ("x", "y"), ("m", "n")])
    body = term(nonzero(rng, 9), first, True) + term(nonzero(rng, 9), second) + term(nonzero(rng, 9), first + second)
    return body, f"Write it in terms of ${first}$ and ${second}$."


@generates("polynomial")
def monomial(rng):
    letter = rng.choice("xrnRk")
    return f"{rng.randint(2, 60)}{letter}^{rng.randint(2, 6)}", f"Write it in terms of ${letter}$."


@generates("rational")
def rational_expression(rng):
    letter, (up, down) = rng.choice("xtn"), rng.sample([n for n in range(-9, 10) if n], 2)
    lead = rng.randint(2, 7)
    return rf"\frac{{{lead}{letter}{term(up, '')}}}{{{letter}{term(down, '')}}}", f"Find the function of ${letter}$."


@generates("factored")
def factored(rng):
    letter, (low, high) = rng.choice("xyt"), rng.sample([n for n in range(-12, 13) if n], 2)
    lead = rng.choice(["", rng.randint(2, 5)])
    return f"({lead}{letter}{term(low, '')})({letter}{term(high, '')})", "Factor the quadratic that has these roots."


@generates("power")
def power(rng):
    return f"{rng.choice([2, 3, 5, 7, 10])}^{{{rng.randint(31, 400)}}}", plain(rng)


@generates("logarithm")
def logarithm(rng):
    low = rng.choice([2, 3, 5, 7])
    return rf"\log_{low} {rng.choice([n for n in range(11, 90) if n % low])}", plain(rng)


@generates("trigonometric")
def trigonometric(rng):
    function = rng.choice([r"\sin", r"\cos", r"\tan"])
    return rf"{function} {rng.choice([n for n in range(7, 89) if n % 15])}^\circ", plain(rng)
