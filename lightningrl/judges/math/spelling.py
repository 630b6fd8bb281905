r"""Alternative spellings of LaTeX: Unicode, plain words, fonts and colours, old TeX.

`text.clean` replaces them before it reads anything else. Only spellings with one meaning are here: `π` is `\pi`,
`{1 \over 2}` is `\frac{1}{2}`, a number in bold is the number. Every pattern is linear in the text.
"""

from __future__ import annotations

import re

from lightningrl.judges.math.delimiters import is_in_braces

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega",
    "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega",
}  # fmt: skip
_SIGNS = {
    "∞": "\\infty ", "≤": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "⩾": "\\ge ", "≠": "\\ne ", "±": "\\pm ",
    "÷": "\\div ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "≈": "\\approx ",
    "∠": "\\angle ", "⟨": "(", "⟩": ")", "·": "\\cdot ", "⋅": "\\cdot ", "×": "\\cdot ", "∙": "\\cdot ", "∗": "*",
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "。": ".", "，": ",", "（": "(", "）": ")", "：": ":", "＝": "=",
    "％": "%", "⁄": "/", "∕": "/", "′": "'", "″": "''", "…": "...", "€": "\\$", "£": "\\$", "¥": "\\$",
    "¢": "\\text{ cents}", "∨": "\\lor ", "\u200b": "", "\ufeff": "", "→": "\\to ",
}  # fmt: skip
_BLANKS = str.maketrans(
    dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f", " ")
)
_TABLE = str.maketrans(
    _SIGNS
    | {sign: f"\\{name} " for sign, name in _GREEK.items()}
    | {sign: rf"\frac{{{above}}}{{{below}}}" for sign, (above, below) in _FRACTIONS.items()}
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_RADICAL = re.compile(r"√\s*(?:([0-9]+|[A-Za-z])|(?=[({]))")

_FONTS = (
    "text|mbox|hbox|textbf|textrm|textit|textsf|texttt|textnormal|textup|emph|mathrm|mathbf|mathit|mathsf|mathtt|"
    "boldsymbol|bm|pmb|operatorname|underline|fbox|boxed"
)
_FONT = re.compile(rf"\\(?:{_FONTS})\*?(?=\s*\{{)")
_COLOUR = re.compile(r"\\textcolor\s*\{[^{}]*\}(?=\s*\{)|\\color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}")
_SIZE = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|bf|rm|it|sf|tt|sl|em|boldmath|"
    r"bfseries|mathstrut|strut|nolimits|limits|displaystyle|textstyle|scriptstyle)(?![A-Za-z])"
)
_SPACING = re.compile(r"\\(?:hspace|vspace|phantom|hphantom|vphantom)\*?\s*(?:\{[^{}]*\}|(?<=phantom)\s*[-+0-9A-Za-z])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|equation\*?|gather\*?|split)\}")
_EDGES = re.compile(r"\A(?:~|\\[,;:!>\s]|\s|\\q?quad(?![A-Za-z]))+|(?:~|\\[,;:!>\s]|\s|\\q?quad(?![A-Za-z]))+\Z")
_STARS = re.compile(r"(\*\*|\*|__)(.+)\1")
_ORDINAL = re.compile(
    r"([0-9]*(?:1st|2nd|3rd|[04-9]th|1[0-9]th))"
    r"|([0-9]+)\s*(?:\^\s*\{?|(?=\\text))\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)\s*\}*"
)
_LABEL = re.compile(
    r"(?:\\text\s*\{\s*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?|ans)\s*[:.=]?\s*\}"
    r"|(?:(?:the )?(?:final )?answer(?: is)?|ans)\s*[:=])\s*[:=]?",
    re.IGNORECASE,
)
_WORDS = (
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![A-Za-z\\])sqrt(?=\s*[({])"), r"\\sqrt"),
    (re.compile(r"(?<![A-Za-z\\])exp(?=\s*\()"), r"\\exp"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"<=|=<|\\leqq(?![A-Za-z])"), r"\\le "),
    (re.compile(r">=|\\geqq(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"!=|\\not\s*=|\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\big(cup|cap)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\textdollar(?![A-Za-z])"), r"\\$"),
    (re.compile(r"\\(?:euro|pounds|textsterling|texteuro)(?![A-Za-z])"), r"\\$"),
    (re.compile(r"(?<=[0-9.])\\(?:bar|dot)(?=\s*\{)"), r"\\overline"),
    (re.compile(r"\^\s*\{?\s*\\text\s*\{\s*o\s*\}\s*\}?|\\text\s*\{\s*(?:°|\\degree|\^\s*\\circ)\s*\}"), r"\\degree "),
)  # fmt: skip


def normalise_spelling(text: str) -> str:
    r"""Returns the text in LaTeX's usual spelling.

    >>> normalise_spelling("3√2 ≤ ½π²"), normalise_spelling(r"{1 \over 2}"), normalise_spelling(r"\color{red}{\bf 5}")
    ('3\\sqrt{2} \\le  \\frac{1}{2}\\pi ^{2}', '\\frac{1 }{ 2}', '5')
    """
    if not text.isascii():
        text = _RAISED.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
        text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
        text = _RADICAL.sub(lambda m: rf"\sqrt{{{m[1]}}}" if m[1] else "\\sqrt", text)
        text = text.translate(_BLANKS).translate(_TABLE)
    text = trim(_SPACING.sub(" ", _SIZE.sub(" ", _COLOUR.sub("", _ENVIRONMENT.sub(" ", text)))))
    while (match := _STARS.fullmatch(text)) or is_in_braces(text):
        text = trim(match[2] if match else text[1:-1])
    text = _FONT.sub(r"\\text", text)
    for pattern, spelling in _WORDS:
        text = pattern.sub(spelling, text)
    text = _with_braces(_with_braces(_infix(text), "\\sqrt", "\\sqrt"), "\\exp", "e^")
    text = _LABEL.sub("", text.strip(), count=1) if _LABEL.match(text.strip()) else text
    if match := _ORDINAL.fullmatch(text.strip()):
        text = match[1][:-2] if match[1] else match[2]
    return text


def trim(text: str) -> str:
    """Removes blanks of all kinds, and a lone backslash before one, from both ends."""
    return _EDGES.sub("", text).rstrip("\\").strip()


def _with_braces(text: str, command: str, spelling: str) -> str:
    r"""Writes `\sqrt(2)` as `\sqrt{2}`."""
    start = 0
    while (place := text.find(command + "(", start)) >= 0:
        opened = place + len(command)
        closed = _closing(text, opened)
        if closed is None:
            return text
        text = f"{text[:place]}{spelling}{{{text[opened + 1 : closed]}}}{text[closed + 1 :]}"
        start = place + len(spelling)
    return text


def _closing(text: str, opened: int) -> int | None:
    depth = 0
    for place in range(opened, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    return None


def _infix(text: str) -> str:
    r"""Writes `{1 \over 2}` as `\frac{1}{2}` and `{5 \choose 2}` as `\binom{5}{2}`."""
    for name, command in (("\\over", "\\frac"), ("\\choose", "\\binom")):
        for _ in range(40):
            match = re.search(re.escape(name) + r"(?![A-Za-z])", text)
            if match is None:
                break
            start, end = _group_around(text, match.start())
            above, below = text[start : match.start()], text[match.end() : end]
            whole = f"{command}{{{above}}}{{{below}}}"
            has_braces = start > 0 and end < len(text)
            text = text[: start - 1] + whole + text[end + 1 :] if has_braces else text[:start] + whole + text[end:]
    return text


def _group_around(text: str, place: int) -> tuple[int, int]:
    """Returns the start and end of the content of the braces around `place`, or of the whole text without them."""
    depth, start = 0, place
    while start > 0:
        depth += (text[start - 1] == "}") - (text[start - 1] == "{")
        if depth < 0:
            break
        start -= 1
    depth, end = 0, place
    while end < len(text):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth < 0:
            break
        end += 1
    return start, end
