r"""Normalise an answer's LaTeX: one spelling, no layout, no shorthand. `rules` interprets the result.

`\dfrac12` and `{1 \over 2}` become `\frac{1}{2}`, `10,\!080` and `10{,}080` become `10080`, `π` becomes `\pi`,
`\text{ cm}` and `\mbox{cm}` become `\text{cm}`. Only spellings with one meaning are replaced. Linear in the text;
raises Unreadable for a text that is too long, too deep, or has control characters.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from lightningrl.judges.math.delimiters import is_in_braces

MAX_CHARS = 1_000
"""Longer answers are not read; the longest of MATH has 159 characters."""
MAX_DEPTH = 20
"""The maximum nesting of brackets of all kinds."""


class Unreadable(ValueError):
    """The text is not an answer that can be compared."""


_Rules = tuple[tuple[re.Pattern[str], "str | Callable[[re.Match[str]], str]"], ...]


def _commands(table: dict[str, str]) -> tuple[str, Callable[[re.Match[str]], str]]:
    """Returns a rule that replaces commands, which the keys name between blanks."""
    spellings = {f"\\{name}": spelling for names, spelling in table.items() for name in names.split()}
    return r"\\[A-Za-z]+", lambda match: spellings.get(match[0], match[0])


def _compiled(*rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


_SIGNS = str.maketrans(tomllib.loads(Path(__file__).with_name("signs.toml").read_text(encoding="utf-8")))
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_UNICODE = _compiled(
    ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match[0].translate(_RAISED)}}}"),
    ("[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(_LOWERED)}}}"),
    (r"√\s*(?:([0-9]+|[A-Za-z])|(?=[({]))", lambda match: rf"\sqrt{{{match[1]}}}" if match[1] else "\\sqrt"),
)
_LAYOUT = _compiled(
    (r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|equation\*?|gather\*?|split)\}", " "),
    (r"\\textcolor\s*\{[^{}]*\}(?=\s*\{)|\\color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}", ""),
    _commands({
        "tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge bf rm it sf tt sl em boldmath"
        " bfseries mathstrut strut nolimits limits displaystyle textstyle scriptstyle": " ",
    }),
    (r"\\(?:hspace|vspace|phantom|hphantom|vphantom)\*?\s*(?:\{[^{}]*\}|(?<=phantom)\s*[-+0-9A-Za-z])", " "),
)  # fmt: skip
_FONTS = (
    "text|mbox|hbox|textbf|textrm|textit|textsf|texttt|textnormal|textup|emph|mathrm|mathbf|mathit|mathsf|mathtt|"
    "boldsymbol|bm|pmb|operatorname|underline|fbox|boxed"
)
_WORDS = _compiled(
    (rf"\\(?:{_FONTS})\*?(?=\s*\{{)", r"\\text"),
    _commands({
        "lt": "<", "gt": ">", "leqq": r"\le ", "geqq": r"\ge ", "neq": r"\ne ", "bigcup": r"\cup", "bigcap": r"\cap",
        "langle": "(", "rangle": ")", "textdollar euro pounds textsterling texteuro": r"\$",
    }),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])sqrt(?=\s*[({])", r"\\sqrt"),
    (r"(?<![A-Za-z\\])exp(?=\s*\()", r"\\exp"),
    ("<=|=<", r"\\le "),
    (">=", r"\\ge "),
    (r"!=|\\not\s*=", r"\\ne "),
    (r"(?<=[0-9.])\\(?:bar|dot)(?=\s*\{)", r"\\overline"),
    (r"\^\s*\{?\s*\\text\s*\{\s*o\s*\}\s*\}?|\\text\s*\{\s*(?:°|\\degree|\^\s*\\circ)\s*\}", r"\\degree "),
)  # fmt: skip
_BLANK = r"(?:~|\\[,;:!>\s]|\s|\\q?quad(?![A-Za-z]))+"
_EDGES = re.compile(rf"\A{_BLANK}|{_BLANK}\Z")
_STARS = re.compile(r"(\*\*|\*|__)(.+)\1")
_LABEL = re.compile(
    r"(?:\\text\s*\{\s*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?|ans)\s*[:.=]?\s*\}"
    r"|(?:(?:the )?(?:final )?answer(?: is)?|ans)\s*[:=])\s*[:=]?",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"([0-9]*(?:1st|2nd|3rd|[04-9]th|1[0-9]th))"
    r"|([0-9]+)\s*(?:\^\s*\{?|(?=\\text))\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)\s*\}*"
)
_PLAIN = re.compile(r"-?[0-9]+|[a-z]")
_DISPLAY = re.compile(r"\A\\[\[(]((?:(?!\\[\])]).)*)\\[\])]\Z", re.DOTALL)
_SPACES_AND_ROWS = _compiled(
    (r"\\\\\s*(?:\[[0-9.]+[a-z]{2}\])?|\\cr(?![A-Za-z])", "\0"),  # a row's end is no escape of what follows it
    (r"(?<=[0-9])(?:\{,\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))", ""),  # `10{,}080`, `10,\!080`: no other meaning
    (r"\\!\s*", ""),
    (r"\{,\}", ","),
    (r"(?<=[0-9})])\s*\\q?quad\s*(?=-?[0-9])", ","),  # a wide space between numbers: a list without commas
    (r"(?<=[0-9])(?:\\,|\\ |~)(?=[0-9]{3}(?![0-9]))", ""),  # `10\,080`
    (r"\\[,;:!>\s]|\\q?quad(?![A-Za-z])|~|\\(?:left|right|middle|(?:big|Big|bigg|Bigg)[lrm]?)(?![A-Za-z])", " "),
)
_BLANK_THOUSANDS = re.compile(r"(?:\\?\$)?\s*-?[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9 ])")
"""Groups of three digits at the beginning of an answer: `58 500`."""
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ONE = r"(\d|[A-Za-z]|\\[A-Za-z]+)"


def _untexted(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if inner == "," and match[1].endswith(" "):
        return ","
    return f" {inner} " if inner.strip(" .,;:?!") or "!" in inner else " "


_SHORTHAND = _compiled(
    (r"\\frac\s*\{\s*\\text\s*\{([A-Za-z ]+)\}\s*\}\s*\{\s*\\text\s*\{([A-Za-z ]+)\}\s*\}", r"\\text{\1 per \2}"),
    _commands({
        "dfrac tfrac cfrac": r"\frac", "dbinom tbinom": r"\binom", "le leq leqslant": r"\le ",
        "ge geq geqslant": r"\ge ", "times cdot ast": r"\cdot ", "lbrace": r"\{", "rbrace": r"\}", "lvert rvert": "|",
        "varnothing": r"\emptyset ", "degree": r"\degree ", "ldots dots cdots dotsc dotsb": "...",
    }),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°", r"\\degree "),
    (r"\{:\}", ":"),
    (r"\\text\s*\{\s*([abcefijknopqrtuvwxyz])\s*\}", r" \1 "),
    (r"(?<![0-9})\s])(\s*)\\text\s*\{\s*([a-z])\s*\}", r"\1 \2 "),
    (r"(?<![A-Za-z0-9)}\]_^])\((-?[0-9]+)\)/\(([0-9]+)\)(?![\^!_])", r"\\frac{\1}{\2}"),
    (r"\\%", "%"),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (r"\\text\s*\{([^{}A-Za-z]*)\}", _untexted),  # a number or a sign in a text command
    (  # a formula in bold or in a frame: `\boldsymbol{\frac12}`
        r"\\text\s*(?=\{\s*(?:-|[^{}]*[+=<>^*]|[-+(\[ ]*(?:[0-9]|\\[a-z{]|\{|\([A-Za-z],|"
        r"[A-Za-z](?:_[0-9A-Za-z])?\s*(?:[=<>\\(+*^]|/(?=[0-9])|-(?![A-Za-z]{2})))))", "",
    ),
    (r"\^\s*(-?[0-9]{2,}|-[0-9])", r"^{\1}"),
    (r"_\s*([0-9A-Za-z])(?![0-9A-Za-z]*\})", r"_{\1}"),
    (rf"\\(frac|binom)\s*{_ONE}\s*{_ONE}", r"\\\1{\2}{\3}"),
    (rf"\\frac\s*{_ONE}\s*(?=\{{)", r"\\frac{\1}"),
    (rf"(\\frac\s*\{{[^{{}}]*\}})\s*{_ONE}", r"\1{\2}"),
    (rf"(\\sqrt(?:\[[^\[\]]*\])?)\s*{_ONE}", r"\1{\2}"),
    (r"(?<!\d)\.(?=\d)", "0."),
)  # fmt: skip


@lru_cache(maxsize=8192)
def clean(text: str) -> str:
    r"""Returns the normalised text of an answer. Raises Unreadable.

    >>> clean(r"\left( 3,\, \dfrac 12 \right)"), clean(r"10,\!080"), clean(r".5"), clean("3√2 ≤ ½π²")
    ('(3,\\frac{1}{2})', '10080', '0.5', '3\\sqrt{2}\\le\\frac{1}{2}\\pi^{2}')
    """
    check(text)
    if _PLAIN.fullmatch(text):
        return text
    text = _in_usual_spelling(_DISPLAY.sub(r"\1", _trim(text)))
    text = _DISPLAY.sub(r"\1", text).strip()
    while len(text) > 1 and text.startswith("$") and text.endswith("$") and not text.endswith("\\$"):
        text = text[1:-1].strip()
    text = re.sub(r"(?<![.\\])\.\Z", "", text).strip()  # a sentence's end; `...` goes on
    text = text.removeprefix("\\approx").removeprefix("=").strip()
    text = re.sub(r"\\text\s*\{\s*([0-9][0-9.,/:]*)\s+([A-Za-z][^{}0-9]*)\}", r"\1 \\text{\2}", text)  # `4:30 p.m.`
    text = _apply(_SPACES_AND_ROWS, text).strip()
    if match := _BLANK_THOUSANDS.match(text):
        text = match[0].replace(" ", "") + text[match.end() :]
    return _without_blanks(_apply(_SHORTHAND, _thousands(text))).replace("\0", "\\\\")


def check(text: str) -> None:
    """Raises Unreadable for a text that is too long, too deep, or has control characters."""
    if len(text) > MAX_CHARS:
        raise Unreadable(f"an answer of {len(text)} characters; at most {MAX_CHARS} are read")
    if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise Unreadable("control characters or halves of surrogate pairs")
    depth = 0
    for part in re.finditer(r"\\.|[(\[{)\]}]", text, re.DOTALL):
        depth += (part[0] in "([{") - (part[0] in ")]}")
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested deeper than {MAX_DEPTH}")


def _trim(text: str) -> str:
    """Removes blanks of all kinds, and a lone backslash before one, from both ends."""
    return _EDGES.sub("", text).rstrip("\\").strip()


def _in_usual_spelling(text: str) -> str:
    """Replaces Unicode, plain words, fonts, colours and sizes, old TeX, labels, and the ending of an ordinal."""
    if not text.isascii():
        text = _apply(_UNICODE, text).translate(_SIGNS)
    text = _trim(_apply(_LAYOUT, text))
    while (match := _STARS.fullmatch(text)) or is_in_braces(text):
        text = _trim(match[2] if match else text[1:-1])
    text = _infix(_infix(_apply(_WORDS, text), "\\over", "\\frac"), "\\choose", "\\binom")
    text = _with_braces(_with_braces(text, "\\sqrt", "\\sqrt"), "\\exp", "e^")
    if match := _LABEL.match(text.strip()):
        text = text.strip()[match.end() :]
    if match := _ORDINAL.fullmatch(text.strip()):
        text = match[1][:-2] if match[1] else match[2]
    return text


def _with_braces(text: str, command: str, spelling: str) -> str:
    r"""Writes `\sqrt(2)` as `\sqrt{2}`."""
    start = 0
    while (place := text.find(command + "(", start)) >= 0:
        opened = place + len(command)
        closed = _end_of_group(text, opened + 1, "([{", ")]}")
        if closed == len(text):
            return text
        text = f"{text[:place]}{spelling}{{{text[opened + 1 : closed]}}}{text[closed + 1 :]}"
        start = place + len(spelling)
    return text


def _infix(text: str, name: str, command: str) -> str:
    r"""Writes `{1 \over 2}` as `\frac{1}{2}`; without braces, all that stands on either side belongs to it."""
    for _ in range(40):
        match = re.search(re.escape(name) + r"(?![A-Za-z])", text)
        if match is None:
            break
        start = len(text) - _end_of_group(text[::-1], len(text) - match.start(), "}", "{")
        end = _end_of_group(text, match.start(), "{", "}")
        whole = f"{command}{{{text[start : match.start()]}}}{{{text[match.end() : end]}}}"
        has_braces = start > 0 and end < len(text)
        text = text[: start - has_braces] + whole + text[end + has_braces :]
    return text


def _end_of_group(text: str, start: int, opening: str, closing: str) -> int:
    """Returns the place of the bracket that closes the group around `start`; the text's length if none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in opening) - (text[place] in closing)
        if depth < 0:
            return place
    return len(text)


def _thousands(text: str) -> str:
    """Joins `1,234` to one number: every group but the first has three digits. `1, 234` and `12,34` are lists.

    Inside brackets a comma separates items: `(4,112)` is a pair. There only `{,}` and `,\\!` join, which happens
    before.
    """

    def joined(match: re.Match[str]) -> str:
        return match[0] if depth_at[match.start()] else match[0].replace(",", "")

    depth_at, depth = [], 0
    for before, sign in zip(" " + text, text, strict=False):
        if sign in "([" or (sign == "{" and before == "\\"):
            depth += 1
        elif sign in ")]" or (sign == "}" and before == "\\"):
            depth = max(0, depth - 1)
        depth_at.append(depth)
    return _THOUSANDS.sub(joined, text)


_SPACES = re.compile(r"\s+")
_UNITS_BEHIND_A_BLANK = r"in|cm|mm|km|ft|kg|lb|oz|yd|ml|mL|mi|hr|[AaPp][Mm]|[hmsgL](?=$)"
_NEEDLESS_BLANK = re.compile(
    rf"(?<![A-Za-z0-9}})]) | (?![A-Za-z0-9])|(?<=[0-9}})]) (?=[A-Za-z](?![a-z]{{2}}))"
    rf"(?!(?:{_UNITS_BEHIND_A_BLANK})(?![A-Za-z]))"
    r"|(?<=[})]) (?=[0-9])|(?<=[A-Za-z]) (?=[0-9])"
)


def _without_blanks(text: str) -> str:
    r"""Removes blanks but for those inside `\text{}` and those that separate.

    Blanks separate a command and a letter, letters (`no solution`), digits (`30 6`), and a number and a word
    (`36 apples`, `5 h`).
    """
    parts = re.split(r"\\text\s*\{([^{}]*)\}", text)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = "\\text{" + _SPACES.sub(" ", part.strip()) + "}"
        else:
            part = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", "\\1\1", part.strip())
            parts[place] = _NEEDLESS_BLANK.sub("", _SPACES.sub(" ", part))
    return "".join(parts).replace("\1", " ").strip()
