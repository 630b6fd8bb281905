"""Normalise an answer's LaTeX: remove layout and write out shorthand. `rules` interprets the result.

`\\dfrac12` and `\\tfrac{1}{2}` become `\\frac{1}{2}`, `10,\\!080` and `10{,}080` become `10080`, `\\sqrt2` becomes
`\\sqrt{2}`, `\\text{ cm}` and `\\mbox{cm}` become `\\text{cm}`. Linear in the text; raises Unreadable for a text that
is too long, too deep, or has control characters.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lightningrl.judges.math.spelling import normalise_spelling, trim

MAX_CHARS = 1_000
"""Longer answers are not read; the longest of MATH has 159 characters."""
MAX_DEPTH = 20
"""The maximum nesting of brackets of all kinds."""


class Unreadable(ValueError):
    """The text is not an answer that can be compared."""


_OPEN, _CLOSE = "([{", ")]}"
_LAYOUT = re.compile(
    r"\\[,;:!>\s]|\\q?quad(?![A-Za-z])|~|"
    r"\\(?:left|right|middle|(?:big|Big|bigg|Bigg)[lrm]?)(?![A-Za-z])"
)
_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°"), r"\\degree "),
    (re.compile(r"\\(?:le|leq|leqslant)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), r"\\cdot "),
    (re.compile(r"\\(?:lbrace(?![A-Za-z])|\{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace(?![A-Za-z])|\})"), r"\\}"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\{:\}"), ":"),
    (re.compile(r"\\[lr]vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\text\s*\{\s*([abcefijknopqrtuvwxyz])\s*\}"), r" \1 "),
    (re.compile(r"(?<![0-9})\s])(\s*)\\text\s*\{\s*([a-z])\s*\}"), r"\1 \2 "),
    (re.compile(r"(?<![A-Za-z0-9)}\]_^])\((-?[0-9]+)\)/\(([0-9]+)\)(?![\^!_])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:ldots|dots|cdots|dotsc|dotsb)(?![A-Za-z])"), "..."),
)
_MARKED_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))")
"""`10{,}080`, `10,\\!080`: commas with no other meaning."""
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\,|\\ |~)(?=[0-9]{3}(?![0-9]))")
"""A thin space between groups of three digits: `10\\,080`."""
_BLANK_THOUSANDS = re.compile(r"((?:\\?\$)?\s*-?[1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9 ])(.*)", re.DOTALL)
"""Groups of three digits at the beginning of an answer: `58 500`."""
_NO_TEXT = re.compile(r"\\text\s*\{([^{}A-Za-z]*)\}")
"""A number or a sign in a text command."""
_BOXED_TEXT = re.compile(
    r"\\text\s*(?=\{\s*(?:-|[^{}]*[+=<>^*]|"
    r"[-+(\[ ]*(?:[0-9]|\\[a-z{]|\{|\([A-Za-z],|"
    r"[A-Za-z](?:_[0-9A-Za-z])?\s*(?:[=<>\\(+*^]|/(?=[0-9])|-(?![A-Za-z]{2})))))"
)
"""A formula in bold or in a frame: `\\boldsymbol{\\frac12}`."""
_TEXT_LINE = re.compile(r"\\text\s*\{\s*([0-9][0-9.,/:]*)\s+([A-Za-z][^{}0-9]*)\}")
"""`\\text{4:30 p.m.}`."""
_UNIT_FRACTION = re.compile(r"\\frac\s*\{\s*\\text\s*\{([A-Za-z ]+)\}\s*\}\s*\{\s*\\text\s*\{([A-Za-z ]+)\}\s*\}")
_DISPLAY = re.compile(r"\A\\[\[(]((?:(?!\\[\])]).)*)\\[\])]\Z", re.DOTALL)
_LONG_EXPONENT = re.compile(r"\^\s*(-?[0-9]{2,}|-[0-9])")
_SUBSCRIPT = re.compile(r"_\s*([0-9A-Za-z])(?![0-9A-Za-z]*\})")
_ONE = r"(\d|[A-Za-z]|\\[A-Za-z]+)"
_FRAC_SHORT = re.compile(rf"\\(frac|binom)\s*{_ONE}\s*{_ONE}")
_FRAC_FIRST = re.compile(rf"\\frac\s*{_ONE}\s*(?=\{{)")
_FRAC_LAST = re.compile(rf"(\\frac\s*\{{[^{{}}]*\}})\s*{_ONE}")
_SQRT_SHORT = re.compile(rf"(\\sqrt(?:\[[^\[\]]*\])?)\s*{_ONE}")
_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_PLAIN = re.compile(r"-?[0-9]+|[a-z]")
_PARTED = re.compile(r"(?<=[0-9})])\s*\\q?quad\s*(?=-?[0-9])")
"""A wide space between numbers: a list without commas."""
_SPACES = re.compile(r"\s+")


@lru_cache(maxsize=8192)
def clean(text: str) -> str:
    r"""Returns the normalised text of an answer. Raises Unreadable.

    >>> clean(r"\left( 3,\, \dfrac 12 \right)"), clean(r"10,\!080"), clean(r".5")
    ('(3,\\frac{1}{2})', '10080', '0.5')
    """
    check(text)
    if _PLAIN.fullmatch(text):
        return text
    text = normalise_spelling(_DISPLAY.sub(r"\1", trim(text)))
    text = _DISPLAY.sub(r"\1", text).strip()
    while len(text) > 1 and text.startswith("$") and text.endswith("$") and not text.endswith("\\$"):
        text = text[1:-1].strip()
    text = re.sub(r"(?<![.\\])\.\Z", "", text).strip()  # a sentence's end; `...` goes on
    text = _TEXT_LINE.sub(r"\1 \\text{\2}", text.removeprefix("\\approx").removeprefix("=").strip())
    text = re.sub(r"\\\\\s*(?:\[[0-9.]+[a-z]{2}\])?", "\0", text)  # a row's end is no escape of what follows it
    text = re.sub(r"\\cr(?![A-Za-z])", "\0", text)
    text = re.sub(r"\\!\s*", "", _MARKED_THOUSANDS.sub("", text)).replace("{,}", ",")
    text = _PARTED.sub(",", text)
    text = _LAYOUT.sub(" ", _THIN_THOUSANDS.sub("", text)).strip()
    if match := _BLANK_THOUSANDS.fullmatch(text):
        text = match[1] + match[2].replace(" ", "") + match[3]
    text = _thousands(text)
    text = _UNIT_FRACTION.sub(r"\\text{\1 per \2}", text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _NO_TEXT.sub(_untexted, text)
    text = _BOXED_TEXT.sub("", text) if "\\text" in text else text
    text = _LONG_EXPONENT.sub(r"^{\1}", text)
    text = _SUBSCRIPT.sub(r"_{\1}", text)
    text = _FRAC_SHORT.sub(r"\\\1{\2}{\3}", text)
    text = _FRAC_FIRST.sub(r"\\frac{\1}", text)
    text = _FRAC_LAST.sub(r"\1{\2}", text)
    text = _SQRT_SHORT.sub(r"\1{\2}", text)
    text = _POINT.sub("0.", text)
    return _tidy(text).replace("\0", "\\\\")


def _untexted(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if inner == "," and match[1].endswith(" "):
        return ","
    return f" {inner} " if inner.strip(" .,;:?!") or "!" in inner else " "


def check(text: str) -> None:
    """Raises Unreadable for a text that is too long, too deep, or has control characters."""
    if len(text) > MAX_CHARS:
        raise Unreadable(f"an answer of {len(text)} characters; at most {MAX_CHARS} are read")
    if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise Unreadable("control characters or halves of surrogate pairs")
    depth = 0
    for part in re.finditer(r"\\.|[(\[{)\]}]", text, re.DOTALL):
        if part[0][-1] in _OPEN and part[0][0] != "\\":
            depth += 1
        elif part[0] in _CLOSE:
            depth -= 1
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested deeper than {MAX_DEPTH}")


def _thousands(text: str) -> str:
    """Joins `1,234` to one number: every group but the first has three digits. `1, 234` and `12,34` are lists.

    Inside brackets a comma separates items: `(4,112)` is a pair. There only `{,}` and `,\\!` join, which happens
    before.
    """

    def joined(match: re.Match[str]) -> str:
        return match[0] if depth_at[match.start()] else match[0].replace(",", "")

    depth_at, depth = [], 0
    for place, sign in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        if sign in "([" or (sign == "{" and escaped):
            depth += 1
        elif sign in ")]" or (sign == "}" and escaped):
            depth = max(0, depth - 1)
        depth_at.append(depth)
    return _THOUSANDS.sub(joined, text)


def _tidy(text: str) -> str:
    """Removes blanks, except those inside `\\text{}` and those between a command and a letter."""
    parts = re.split(r"(\\text\s*\{[^{}]*\})", text)
    for place, part in enumerate(parts):
        if place % 2:
            inner = part[part.index("{") + 1 : -1]
            parts[place] = "\\text{" + _SPACES.sub(" ", inner.strip()) + "}"
        else:
            part = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", "\\1\1", part.strip())
            parts[place] = _SPACES.sub(" ", part)
    text = "".join(parts)
    outside = re.split(r"(\\text\{[^{}]*\})", text)
    return "".join(p if n % 2 else _unspaced(p) for n, p in enumerate(outside)).replace("\1", " ").strip()


_UNITS_BEHIND_A_BLANK = r"in|cm|mm|km|ft|kg|lb|oz|yd|ml|mL|mi|hr|[AaPp][Mm]|[hmsgL](?=$)"
_BLANKS_OUT = re.compile(
    rf"(?<![A-Za-z0-9}})]) | (?![A-Za-z0-9])|(?<=[0-9}})]) (?=[A-Za-z](?![a-z]{{2}}))"
    rf"(?!(?:{_UNITS_BEHIND_A_BLANK})(?![A-Za-z]))"
    r"|(?<=[})]) (?=[0-9])|(?<=[A-Za-z]) (?=[0-9])"
)


def _unspaced(text: str) -> str:
    """Keeps blanks between letters (`no solution`), digits (`30 6`), and a number and a word (`36 apples`, `5 h`)."""
    return _BLANKS_OUT.sub("", text)
