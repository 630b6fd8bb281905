r"""The published grader's string rules for two extracted answers, which separate its effect from the method's.

They give the second judge column and never a reward. They know no algebra: the released code's symbolic comparison
always fails with its pinned packages, which leaves two string forms. They call `(1,2)` and `(12)` equal, `10\%` and
`10`, `3 cm` and `3 m`, `x=5` and `5`; but `\frac{2}{4}` and `\frac12` different. Source: reward/math_utils.py of
LightningRL's release (after Hendrycks et al., 2021, and Lewkowycz et al., 2022), described here, not copied. Linear in
the text; never raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CHARS = 100_000
"""Longer answers are compared as they are."""

_FRAC = re.compile(r"\\frac(?:([^{}\\\s])([^{}\\\s])|([^{}\\\s])(?=\{))")
_SQRT = re.compile(r"\\sqrt([^{\s])")
_STRIPPED = [
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"),
    *((part, "") for part in ("\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$", ",")),
]  # fmt: skip
_WORDS = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{}^2", "\\text{}^3", "\\text{}", "\\mathrm{th}",
    "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_MINERVA = [
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"), *((word, "") for word in _WORDS),
]  # fmt: skip
"""The replacements of Minerva's normalisation (Lewkowycz et al., 2022, appendix), in order."""


def published_equal(one: str, other: str) -> bool:
    r"""Whether the published rules call two answers equal.

    >>> published_equal("(1,2)", "(12)"), published_equal(r"10\%", "10"), published_equal(r"\frac{2}{4}", r"\frac12")
    (True, True, False)
    """
    if len(one) > MAX_CHARS or len(other) > MAX_CHARS:
        return one == other
    return _same_stripped(one, other) or _minerva(one) == _minerva(other)


def same_string(one: str, other: str) -> bool:
    r"""Whether Hendrycks' normalisation makes one string of two answers: numbers are not compared, commas stay.
    What dUltra's reward for mathematics comes to (docs/defects.md).

    >>> same_string("0.5", r"\frac{1}{2}"), same_string("12", "12.0"), same_string("1000", "1,000")
    (True, False, False)
    """
    kept = [pair for pair in _STRIPPED if pair != (",", "")]
    try:
        return _strip(one, kept) == _strip(other, kept)
    except ValueError:
        return one == other


def _same_stripped(one: str, other: str) -> bool:
    try:
        a, b = _strip(one), _strip(other)
    except ValueError:
        return one == other
    try:
        return float(a) == float(b)  # Python's own reading: `inf`, `1_0` and digits of any script are numbers to it
    except ValueError:
        return a == b


def _replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _strip(text: str, replaced: Sequence[tuple[str, str]] = tuple(_STRIPPED)) -> str:
    """Raises ValueError where the original's assertion fails."""
    text = _replaced(text, replaced)
    if text.count("\\text{ ") > 1:
        raise ValueError("more than one unit")
    text = text.partition("\\text{ ")[0].replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    text = _SQRT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    text = _FRAC.sub(lambda m: f"\\frac{{{m[1]}}}{{{m[2]}}}" if m[1] else f"\\frac{{{m[3]}}}", text)
    if text == "0.5":
        return "\\frac{1}{2}"
    return re.sub(r"\A(-?[0-9]+)/(-?[0-9]+)\Z", r"\\frac{\1}{\2}", text)


def _minerva(text: str) -> str:
    text = _replaced(text.rpartition("=")[2], _MINERVA)
    if text.count("$") >= 2:
        text = text.split("$")[1]
    text = re.sub(r"\\(?:text|textbf|overline|boxed)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(frac)([^{])(.)", r"frac{\2}{\3}", text)
    text = re.sub(r"(sqrt)([^{])", r"sqrt{\2}", text)
    text = text.replace("$", "")
    return text.replace(",", "") if text.replace(",", "").isdigit() else text
