r"""The process that does algebra for `MathJudge`: rules first, math-verify's parser and sympy where they ask.

`python math_worker.py FOLDER` answers each line `{"gold", "found"}` with `{"equal": bool}`, or with
`{"unreadable": why, "gold": whether it is the gold answer}`. It may hang or run out of memory on hostile input; whoever
started it kills it then (`judges.worker`).

Two expressions are equal when their values agree at several points, rational ones exactly and others to 40 digits; for
every letter a random rational of either sign, `i` is the imaginary unit. Where that decides nothing (an infinity,
something that has no number), math-verify compares the parsed forms. Both sides are exact when they come here
(`math_rules.exact`), so nothing is rounded to equality.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from typing import Any

MEMORY_BYTES = 2 * 2**30
"""Address space; sympy and its parser take 0.3 GB of it."""
POINTS = 4
DIGITS = 60
CLOSE = 40
"""Digits to which equal numbers agree that are not both rational; those are compared exactly."""
_NOT_READ = re.compile(r"\\text\{|[?!]{2}|\\begin|\.{2}|\A(?:--|\+-|-\+)|\\[bp]?mod(?![A-Za-z])|\\approx|['\"$%`;:]")
"""The parser drops some of these, and reads others as something else."""
_SEED = 20260313


def main() -> None:
    from lightningrl.judges.math_rules import equal
    from lightningrl.judges.math_text import Unreadable
    from lightningrl.judges.worker import channels

    source, sink = channels(MEMORY_BYTES)
    logging.disable(logging.CRITICAL)
    algebra = Algebra()
    sink.write(json.dumps({"ready": True}) + "\n")
    for line in source:
        asked = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"equal": equal(asked["gold"], asked["found"], algebra)}
        except Unreadable as error:
            answer = {"unreadable": error.args[0], "gold": algebra.reads_gold}
        except Exception as error:  # sympy raises what it likes (a pole, a recursion, no memory): no answer to compare
            answer = {"unreadable": f"{type(error).__name__} in algebra", "gold": algebra.reads_gold}
        sink.write(json.dumps(answer) + "\n")


class Algebra:
    """`math_rules.Algebra`: whether two expressions are equal."""

    def __init__(self) -> None:
        import math_verify  # noqa: F401 - now, and not in the time of the first question that needs it
        from latex2sympy2_extended import latex2sympy
        from latex2sympy2_extended.latex2sympy2 import ConversionConfig

        config = ConversionConfig(lowercase_symbols=False)  # R and r are two letters
        self._read = lambda text: latex2sympy(text, conversion_config=config)
        self.reads_gold = False
        """Whether it is the gold answer's expression that is being read."""

    def __call__(self, one: str, other: str) -> bool:
        """`RATIO a` asks whether a and b differ by a constant factor that is not 0."""
        import sympy

        is_ratio = one.startswith("RATIO ")
        self.reads_gold = True
        a = self._parse(one.removeprefix("RATIO "))
        self.reads_gold = False
        b = self._parse(other)
        if is_ratio:
            if not (a.free_symbols and b.free_symbols):
                return False  # `0=1` and `0=2` say nothing of anything
            if a == 0 or b == 0:
                return bool(a == b)
            quotient = a / b
            return not quotient.free_symbols or _is_constant(quotient)
        if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
            return _as_math_verify(a, b)
        agreed = _agree(a, b)
        return _as_math_verify(a, b) if agreed is None else agreed

    def _parse(self, text: str) -> Any:
        import sympy

        from lightningrl.judges.math_text import Unreadable

        if not text or _NOT_READ.search(text):  # the parser drops quotes, % and $
            raise Unreadable(f"not an expression: {text[:80]}")
        try:
            tree = self._read(text.replace("\\degree", r"\cdot\frac{\pi}{180}"))
        except Exception as error:  # the parser raises plain Exceptions, sympy what it likes
            raise Unreadable(f"not an expression: {text[:80]}") from error
        if isinstance(tree, sympy.Basic):
            tree = tree.subs({sympy.Symbol("i"): sympy.I, sympy.Symbol("pi"): sympy.pi})
        return tree


def _agree(a: Any, b: Any) -> bool | None:
    """Whether a and b have the same values; None when they have none."""
    letters = sorted(a.free_symbols | b.free_symbols, key=str)
    draw = random.Random(_SEED)
    decided = False
    for _ in range(POINTS if letters else 1):
        point = {letter: _rational(draw) for letter in letters}
        same = _same_at(a, b, point)
        if same is False:
            return False
        decided = decided or same is True
    return True if decided else None


def _same_at(a: Any, b: Any, point: dict[Any, Any]) -> bool | None:
    exact = _exact(a, point), _exact(b, point)
    if None not in exact:
        return exact[0] == exact[1]
    values = _value(a, point), _value(b, point)
    if None in values:
        return None
    size = max(abs(values[0]), abs(values[1]))
    return bool(abs(values[0] - values[1]) <= max(size * 10 ** (-CLOSE), 10 ** (5 - DIGITS)))


def _exact(expression: Any, point: dict[Any, Any]) -> Any:
    """The rational number at a point; None where it is none that is seen to be one."""
    import sympy

    value = expression.subs(point)
    if value.is_rational:  # `2^{2008}-2` is kept as it was written: work it out
        value = value.doit()
    return value if isinstance(value, sympy.Rational) else None


def _is_constant(expression: Any) -> bool:
    draw = random.Random(_SEED)
    letters = sorted(expression.free_symbols, key=str)
    values = [_value(expression, {letter: _rational(draw) for letter in letters}) for _ in range(POINTS)]
    numbers = [value for value in values if value is not None]
    return len(numbers) > 1 and all(abs(v - numbers[0]) <= (1 + abs(v)) * 10 ** (-CLOSE) for v in numbers)


def _rational(draw: random.Random) -> Any:
    import sympy

    return sympy.Rational(draw.randint(-999, 999) or 7, 101)


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The number at a point, to DIGITS digits; None where it has none."""
    import mpmath
    import sympy

    try:
        number = expression.subs(point).evalf(DIGITS)
    except (ArithmeticError, ValueError, TypeError):  # a pole
        return None
    if number.free_symbols or number.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    real, imaginary = number.as_real_imag()
    if not (real.is_Number and imaginary.is_Number):
        return None
    mpmath.mp.dps = DIGITS
    return mpmath.mpc(str(real), str(imaginary))


def _as_math_verify(a: Any, b: Any) -> bool:
    from math_verify import verify

    return bool(verify(a, b, float_rounding=CLOSE, numeric_precision=DIGITS, timeout_seconds=None))


if __name__ == "__main__":
    # The folder that holds the package; -P leaves out this file's own, whose `math.py` is not the standard library's.
    sys.path.insert(0, sys.argv[1])
    main()
