r"""Algebra decides whether two expressions are equal, with math-verify's parser and values at random points.

Two expressions are equal when their values agree at several points, rational ones exactly and others to 90 digits; each
letter is a random rational of either sign. No approximation equals a number near it: a rational number never equals an
irrational one, and an answer must not contain huge or tiny numbers that the gold answer does not contain
(`_extreme_magnitudes`) unless both are rational. Without an imaginary unit, expressions are functions of real numbers:
an odd root of a negative number is real, a point where an even root or a logarithm is not real is ignored, and a letter
whose sign decides whether one is real (`\sqrt{1/n}`, `\ln\frac ab`) is positive. `\sqrt{x^2}` is `|x|` and not `x`. If
that decides nothing, complex values are compared, and if those decide nothing, math-verify compares the parsed forms.
Both sides are exact here (`numbers.exact`), so nothing is rounded to equality.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator, Set
from itertools import islice
from typing import IO, Any

import mpmath
import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.functions.elementary.hyperbolic import HyperbolicFunction

from lightningrl.judges.math.question import Ratio, read_question
from lightningrl.judges.math.rules import equal
from lightningrl.judges.math.text import Unreadable

POINTS = 4
TRIES = 24
"""The number of points that are tried to find POINTS where both sides are real."""
DIGITS = 120
CLOSE = 90
"""The digits to which equal numbers agree; two rational numbers are compared exactly."""
EXTREME = 30
"""Numbers with more digits than this, or with more zeros after the point, can hide a difference."""
_NOT_READ = re.compile(r"\\text\{|[?!]{2}|\\begin|\.{2}|\A(?:--|\+-|-\+)|\\[bp]?mod(?![A-Za-z])|\\approx|['\"$%`;:]")
"""The parser ignores some of these and misreads the others."""
_SEED = 20260313
_CONFIG = ConversionConfig(lowercase_symbols=False)
"""R and r are two letters."""


class GoldUnreadable(Unreadable):
    """The gold answer's expression is not one."""


def algebra(one: str, other: str, ratio: Ratio | None = None) -> bool:
    """Decides what `question.Algebra` asks."""
    try:
        a = _parse(one)
    except Unreadable as error:
        raise GoldUnreadable(*error.args) from error
    b = _parse(other)
    if ratio:
        return _is_ratio(a, b, ratio)
    agreed = _agree(a, b) if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) else None
    if agreed is None:
        agreed = verify(a, b, float_rounding=CLOSE, numeric_precision=DIGITS, timeout_seconds=None)
    return bool(agreed)


def _parse(text: str) -> Any:
    if not text or _NOT_READ.search(text):
        raise Unreadable(f"not an expression: {text[:80]}")
    if "\\infty" in text and text.strip("+- {}") != "\\infty":
        raise Unreadable(f"infinity is not a number: {text[:80]}")
    try:
        tree = latex2sympy(text.replace("\\degree", r"\cdot\frac{\pi}{180}"), conversion_config=_CONFIG)
    except Exception as error:  # the parser raises plain Exceptions, sympy any
        raise Unreadable(f"not an expression: {text[:80]}") from error
    if isinstance(tree, sympy.Basic):
        tree = tree.subs({sympy.Symbol("i"): sympy.I, sympy.Symbol("pi"): sympy.pi})
    return tree


def _is_ratio(a: Any, b: Any, ratio: Ratio) -> bool:
    if not (a.free_symbols and b.free_symbols):
        return False  # `0=1` and `0=2` have no letters to compare
    if _extreme_magnitudes(b) - _extreme_magnitudes(a):
        return False
    if a == 0 or b == 0:
        return bool(a == b)
    quotient = a / b
    values = [_value(quotient, point) for point in islice(_points(quotient.free_symbols), POINTS)]
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2 or any(abs(v - numbers[0]) > (1 + abs(v)) * 10 ** (-CLOSE) for v in numbers):
        return False
    is_real = abs(numbers[0].imag) < 10 ** (-CLOSE)
    return ratio == "any" or (is_real and (numbers[0].real > 0) == (ratio == "positive"))


def _agree(a: Any, b: Any) -> bool | None:
    """Whether a and b have the same values; None if they have none."""
    letters = a.free_symbols | b.free_symbols
    if not (a.has(sympy.I) or b.has(sympy.I)):
        agreed = _agree_at((a, b), _real_points((a, b), letters))
        if agreed is not None:
            return agreed
    return _agree_at((a, b), islice(_points(letters), POINTS if letters else 1))


def _agree_at(pair: tuple[Any, Any], points: Iterator[dict[Any, Any]]) -> bool | None:
    decided = None
    for point in points:
        same = _same_at(_with_real_roots(pair[0], point), _with_real_roots(pair[1], point), point)
        if same is False:
            return False
        decided = decided or same
    return decided


def _points(letters: Set[Any]) -> Iterator[dict[Any, Any]]:
    """Yields points without end: every letter is a random rational number of either sign."""
    draw = random.Random(_SEED)
    while True:
        yield {letter: sympy.Rational(draw.randint(-999, 999) or 7, 101) for letter in sorted(letters, key=str)}


def _real_points(pair: tuple[Any, Any], letters: Set[Any]) -> Iterator[dict[Any, Any]]:
    """Yields up to POINTS points where both sides are real; some letters must be positive for this."""
    demands = [demand for each in pair for demand in _positivity_conditions(each)]
    positive = {letter for letter in letters if any(_changes_sign_with(demand, letter, letters) for demand in demands)}
    tries = TRIES if letters and demands else POINTS if letters else 1
    points = (
        {letter: abs(value) if letter in positive else value for letter, value in point.items()}
        for point in islice(_points(letters), tries)
    )
    return islice((point for point in points if all(_is_positive(demand, point) for demand in demands)), POINTS)


def _positivity_conditions(expression: Any) -> list[Any]:
    """Returns what must be positive for a real expression: radicands of even roots, arguments of logarithms, bases."""
    found: list[Any] = []
    part: Any
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.log):
            found.append(part.args[0])
        elif part.is_Pow and not part.exp.is_Integer and not (part.exp.is_Rational and part.exp.q % 2):
            found.append(part.base)
    return [part for part in found if not part.is_positive]


def _changes_sign_with(demand: Any, letter: Any, letters: Set[Any]) -> bool:
    """Whether the demand changes only its sign when the letter does."""
    if letter not in demand.free_symbols:
        return False
    for drawn in islice(_points(letters), 2):
        point = {each: abs(value) for each, value in drawn.items()}
        there, back = _value(demand, point), _value(demand, point | {letter: -point[letter]})
        if there is None or back is None or abs(there + back) > abs(there) * 10 ** (-CLOSE):
            return False
    return True


def _is_positive(expression: Any, point: dict[Any, Any]) -> bool:
    value = _value(expression, point)
    return value is not None and abs(value.imag) <= 10 ** (-CLOSE) and value.real > 0


def _with_real_roots(expression: Any, point: dict[Any, Any]) -> Any:
    r"""Returns the expression at a point with `\sqrt[3]{-8}` as -2; complex expressions are unchanged."""
    if expression.has(sympy.I):
        return expression

    def is_odd_root(part: Any) -> bool:
        return part.is_Pow and part.exp.is_Rational and part.exp.q > 1 and part.exp.q % 2 == 1

    if not any(is_odd_root(part) for part in sympy.preorder_traversal(expression)):
        return expression

    def real(part: Any) -> Any:
        return part if not part.base.is_negative else (-1) ** part.exp.p * (-part.base) ** part.exp

    return expression.subs(point).replace(is_odd_root, real)


def _same_at(a: Any, b: Any, point: dict[Any, Any]) -> bool | None:
    exact = _exact(a, point), _exact(b, point)
    if None not in exact:
        return exact[0] == exact[1]
    if any(one is not None and other.subs(point).is_irrational for one, other in zip(exact, (b, a), strict=True)):
        return False
    if _extreme_magnitudes(b) - _extreme_magnitudes(a):
        return False
    values = _value(a, point), _value(b, point)
    if None in values:
        return None
    size = max(abs(values[0]), abs(values[1]))
    return bool(abs(values[0] - values[1]) <= max(size * 10 ** (-CLOSE), 10 ** (5 - DIGITS)))


def _exact(expression: Any, point: dict[Any, Any]) -> Any:
    """Returns the rational value at a point; None if it is not recognised as rational."""
    value = expression.subs(point)
    if value.is_rational:  # sympy keeps `2^{2008}-2` unevaluated
        value = value.doit()
    return value if isinstance(value, sympy.Rational) else None


def _extreme_magnitudes(expression: Any) -> set[float]:
    """Returns the absolute decimal logarithms of all numbers in an expression that exceed EXTREME."""
    found: set[float] = set()
    for part in map(_as_a_number, sympy.preorder_traversal(expression)):
        if not part.is_number:
            continue
        for each in (part.p, part.q) if part.is_Rational else (part,):
            size = sympy.log(sympy.Abs(each), 10).evalf(15) if each != 0 else sympy.Integer(0)
            if size.is_Number and size.is_finite and abs(size) > EXTREME:
                found.add(round(float(abs(size)), 6))
    return found


def _as_a_number(part: Any) -> Any:
    """Returns the part, or the exponential of a hyperbolic function, or a power's value with its letters at 0."""
    if isinstance(part, HyperbolicFunction):
        return _as_a_number(sympy.exp(part.args[0]))
    if isinstance(part, sympy.Pow | sympy.exp) and part.exp.free_symbols:
        return part.subs(dict.fromkeys(part.free_symbols, 0))
    return part


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """Returns the value at a point to DIGITS digits; None if there is none."""
    try:
        number = expression.subs(point).evalf(DIGITS, maxn=DIGITS + 60)
    except (ArithmeticError, ValueError, TypeError):  # a pole
        return None
    if number.free_symbols or number.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    real, imaginary = number.as_real_imag()
    if not (real.is_Number and imaginary.is_Number):
        return None
    mpmath.mp.dps = DIGITS
    return mpmath.mpc(str(real), str(imaginary))


def main(source: IO[str], sink: IO[str]) -> None:
    """Answers each line `{"gold", "found", "question"}` with a line.

    It is `{"equal": bool, "reasons": why it was refused whatever its value}` or `{"unreadable": why, "gold": whether it
    is the gold answer}`. The process may hang or run out of memory on hostile input; the judge then kills it.
    """
    logging.disable(logging.CRITICAL)
    sink.write(json.dumps({"ready": True}) + "\n")
    for line in source:
        request = json.loads(line)
        reasons: list[str] = []
        answer: dict[str, Any] = {"reasons": reasons}
        try:
            question = read_question(request["question"])
            answer["equal"] = equal(request["gold"], request["found"], algebra, question, reasons)
        except Unreadable as error:
            answer = {"unreadable": error.args[0], "gold": isinstance(error, GoldUnreadable)}
        except Exception as error:  # sympy raises any exception (a pole, a recursion, no memory)
            answer = {"unreadable": f"{type(error).__name__} in algebra", "gold": False}
        sink.write(json.dumps(answer) + "\n")
