"""Layouts of an answer that never change its meaning: spaces, brackets, fonts, signs, and the text around it.

A layout takes LaTeX and gives LaTeX, or the same text where it has nothing to do. `INSIDE` works on the signs of the
answer, `OUTSIDE` wraps the whole of it, `RESPONSES` are the texts in which a model gives it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Layout = Callable[[str], str]

GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
"""A brace group, at most two deep."""


def outside_text(change: Layout) -> Layout:
    """Applies a change except in `\\text{...}` and in the name of a matrix."""

    def changed(text: str) -> str:
        pieces = re.split(r"(\\(?:text|mbox|textbf|begin|end) *\{[^{}]*\})", text)
        return "".join(piece if at % 2 else change(piece) for at, piece in enumerate(pieces))

    return changed


def replaced(pattern: str, by: str) -> Layout:
    return outside_text(lambda text: re.sub(pattern, by, text))


def sized_brackets(opening: str, closing: str) -> Layout:
    """Adds sizes to round and square brackets if they are balanced and there is no set."""

    def changed(text: str) -> str:
        if re.search(r"\\left|\\[bB]ig|sqrt\[", text) or text.count("(") + text.count("[") != text.count(
            ")"
        ) + text.count("]"):
            return text
        sized = re.sub(r"(?<!\\)([(\[])", lambda m: opening + m[1], text)
        return re.sub(r"(?<!\\)([)\]])", lambda m: closing + m[1], sized)

    return lambda text: text if r"\[" in text or r"\(" in text else outside_text(changed)(text)


def short_fraction(text: str) -> str:
    """Writes `\\frac{1}{2}` as `\\frac12`."""
    return re.sub(r"\\([dt]?)frac\{(\d)\}\{(\d)\}", r"\\\1frac\2\3", text)


def slash(text: str) -> str:
    """Writes `\\frac{3}{4}` as `3/4` if it is the whole answer or an item."""
    item = r"(?<![\w})])\\[dt]?frac\{(\d+)\}\{(\d+)\}(?= *(?:$|[,)\]]|\\right|\\\\| \\end|&))"
    return re.sub(item, r"\1/\2", text)


def tight(text: str) -> str:
    """Removes spaces beside signs, except after a comma before three digits, which separates items."""
    return re.sub(r"(?<!\\) +(?=[-+=<>(\[\\])|(?<=[-+=<>(\[]) +|(?<=,) +(?!\d{3})", "", text)


def thin_in_brackets(text: str) -> str:
    if re.search(r"\\left|\\[bB]ig|sqrt\[|\\\[", text):
        return text
    return re.sub(r"(?<!\\)([(\[]) *([^()\[\]]+?) *([)\]])", r"\1\\,\2\\,\3", text)


INSIDE: dict[str, Layout] = {
    "spaces around signs": replaced(r"(?<=[\w})]) *([-+=<>]) *(?=[\w\\({])", r" \1 "),
    "no spaces": outside_text(tight),
    "thin spaces after commas": replaced(r"(?<=[^\d\\{]), *(?=[^\d\\!,}])|, (?=\d)", r",\\,"),
    "thin spaces in brackets": outside_text(thin_in_brackets),
    "negative thin space": replaced(r"(?<=[)\]])(?= *\()", r"\\!"),
    "left and right": sized_brackets(r"\left", r"\right"),
    "big brackets": sized_brackets(r"\big", r"\big"),
    "bigl and bigr": sized_brackets(r"\bigl", r"\bigr"),
    "Big brackets": sized_brackets(r"\Big", r"\Big"),
    "dfrac": replaced(r"\\[dt]?frac", r"\\dfrac"),
    "tfrac": replaced(r"\\[dt]?frac", r"\\tfrac"),
    "cfrac": replaced(r"\\[dt]?frac", r"\\cfrac"),
    "fraction without braces": outside_text(short_fraction),
    "fraction as a slash": outside_text(slash),
    "fraction with over": replaced(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"{\1 \\over \2}"),
    "space after frac": replaced(r"(\\[dt]?frac)\{", r"\1 {"),
    "braces around exponents": replaced(r"([\^_])(\w)", r"\1{\2}"),
    "no braces around exponents": replaced(r"([\^_])\{(\w)\}(?!\d)", r"\1\2"),
    "root without braces": replaced(r"\\sqrt\{(\d)\}(?!\d)", r"\\sqrt\1"),
    "root after a space": replaced(r"\\sqrt\{(\d)\}", r"\\sqrt \1 "),
    "dot before root or pi": replaced(r"(?<!frac)(?<!frac )(\d) *(?=\\(?:sqrt|pi))", r"\1 \\cdot "),
    "times before root or pi": replaced(r"(?<!frac)(?<!frac )(\d) *(?=\\(?:sqrt|pi))", r"\1 \\times "),
    "star before root or pi": replaced(r"(?<!frac)(?<!frac )(\d) *(?=\\(?:sqrt|pi))", r"\1*"),
    "leq and geq": replaced(r"\\([lg])eq?(?![a-z])", r"\\\1eq "),
    "le and ge": replaced(r"\\([lg])eq?(?![a-z])", r"\\\1e "),
    "leqslant and geqslant": replaced(r"\\([lg])eq?(?![a-z])", r"\\\1eqslant "),
    "<= and >=": outside_text(lambda text: re.sub(r"\\geq?(?![a-z])", ">=", re.sub(r"\\leq?(?![a-z])", "<=", text))),
    "lt and gt": outside_text(lambda text: re.sub(" *>(?!=) *", r" \\gt ", re.sub(" *<(?!=) *", r" \\lt ", text))),
    "unicode minus": replaced("-", "−"),
    "unicode pi": replaced(r"\\pi(?![a-z])", "π"),
    "unicode infinity": replaced(r"\\infty(?![a-z])", "∞"),
    "unicode union": replaced(r"\\cup(?![a-z])", "∪"),
    "unicode relations": outside_text(lambda t: re.sub(r"\\geq?(?![a-z])", "≥", re.sub(r"\\leq?(?![a-z])", "≤", t))),
    "unicode square": replaced(r"\^(?:2(?!\d)|\{2\})", "²"),
    "unicode cube": replaced(r"\^(?:3(?!\d)|\{3\})", "³"),
    "unicode root": replaced(r"\\sqrt\{(\d+)\}", r"√\1"),
    "unicode plus-minus": replaced(r"\\pm(?![a-z])", "±"),
    "unicode half": replaced(r"(?<![\w)}])\\[dt]?frac\{1\}\{2\}(?![\w(\\])", "½"),
    "unicode element": replaced(r"\\in(?![a-z])", "∈"),
    "unicode degree": replaced(r"\^(?:\\circ|\{\\circ\})", "°"),
    "plus before infinity": replaced(r"(?<![-+\w])(?<!- )(?<!\+ )\\infty", r"+\\infty"),
    "space after minus": replaced(r"(?<![\w}) ])-(?=[\w\\])", "- "),
    "roman i": replaced(r"(?<![A-Za-z\\])i(?![A-Za-z])", r"\\mathrm{i}"),
    "roman letters": replaced(r"(?<![A-Za-z\\{_^])([xyztnk])(?![A-Za-z])", r"\\mathrm{\1}"),
    "letters as text": replaced(r"(?<![A-Za-z\\{_^])([xyztnk])(?![A-Za-z])", r"\\text{\1}"),
}

NUMERAL = r"[-+]?(?:\\\$)?\d[\d.,]*(?: ?\\%)?"


def wrapped(before: str, after: str, only: str = r"(?s).*", never: str = r"\\text|\\mbox|\\begin|\\boxed") -> Layout:
    """Adds text around an answer that wholly matches `only` and contains no match of `never`."""

    def changed(text: str) -> str:
        return before + text + after if re.fullmatch(only, text) and not re.search(never, text) else text

    return changed


NEVER = "(?!)"
SINGLE = r"(?s)(?!.*(\$|\\text|\\mbox|\\begin)).*"
OUTSIDE: dict[str, Layout] = {
    "braces around": wrapped("{", "}", never=NEVER),
    "dollars around": wrapped("$", "$", never=r"\$"),
    "round math delimiters": wrapped(r"\(", r"\)", never=r"\$"),
    "displaystyle": wrapped(r"\displaystyle ", "", never=NEVER),
    "trailing period": wrapped("", ".", never=r"[.;,]$"),
    "trailing control space": wrapped("", "\\ ", never=NEVER),
    "thin spaces around": wrapped(r"\,", r"\,", never=NEVER),
    "leading quad": wrapped(r"\quad ", "", never=NEVER),
    "leading control space": wrapped("\\ ", "", never=NEVER),
    "blanks and lines around": wrapped("\n ", " \n", never=NEVER),
    "tie around": wrapped("~", "~", never=NEVER),
    "text around a number": wrapped(r"\text{", "}", NUMERAL),
    "text with blanks around a number": wrapped(r"\text{ ", " }", NUMERAL),
    "textbf around a number": wrapped(r"\textbf{", "}", NUMERAL),
    "mbox around a number": wrapped(r"\mbox{", "}", NUMERAL),
    "mathrm": wrapped(r"\mathrm{", "}", SINGLE),
    "mathbf": wrapped(r"\mathbf{", "}", SINGLE),
    "boldsymbol": wrapped(r"\boldsymbol{", "}", SINGLE),
    "bm": wrapped(r"\bm{", "}", SINGLE),
    "bf": wrapped(r"{\bf ", "}", SINGLE),
    "fbox": wrapped(r"\fbox{", "}", NUMERAL),
    "box in a box": wrapped(r"\boxed{", "}", never=r"\\boxed"),
    "markdown stars": wrapped("**", "**", never=r"\*|\\begin"),
    "color": wrapped(r"\color{blue}{", "}", never=r"\\begin"),
    "color as a switch": wrapped(r"\color{red} ", "", never=NEVER),
    "textcolor": wrapped(r"\textcolor{red}{", "}", never=r"\\begin"),
    "large": wrapped(r"\large ", "", never=NEVER),
    "Large in braces": wrapped(r"{\Large ", "}", never=NEVER),
    "underline": wrapped(r"\underline{", "}", SINGLE),
}

RESPONSES: dict[str, Callable[[str, str], str]] = {
    "prose": lambda answer, _: f"First we simplify, then we solve.\n\nThe answer is $\\boxed{{{answer}}}$.",
    "display": lambda answer, _: f"Hence\n\\[\n\\boxed{{{answer}}}\n\\]",
    "bold final answer": lambda answer, _: f"**Final Answer**\n\n**\\boxed{{{answer}}}**",
    "blank before the brace": lambda answer, _: f"So \\boxed {{{answer}}}",
    "the last box counts": lambda answer, wrong: f"At first \\boxed{{{wrong}}}; no: \\boxed{{{answer}}}. Done.",
    "an empty box first": lambda answer, _: f"I shall use \\boxed{{}} at the end. It is $\\boxed{{{answer}}}$.",
    "an empty box last": lambda answer, _: f"It is $\\boxed{{{answer}}}$. (Put the final answer within \\boxed{{}}.)",
    "said twice": lambda answer, _: f"So $\\boxed{{{answer}}}$.\n\n## Answer\n\\boxed{{{answer}}}",
    "a box that never closes last": lambda answer, _: f"It is $\\boxed{{{answer}}}$, that is \\boxed{{",
    "answer in a sentence of its own": lambda answer, _: (
        f"<think>Let me see.</think>\nTherefore: $\\boxed{{{answer}}}$"
    ),
}
"""Responses with the answer, and with a wrong answer that they retract."""

WRONG_RESPONSES: dict[str, Callable[[str, str], str]] = {
    "the right box, then a wrong one": lambda answer, wrong: (
        f"First $\\boxed{{{answer}}}$; or rather $\\boxed{{{wrong}}}$."
    ),
    "no box": lambda answer, _: f"The answer is ${answer}$.",
    "a box that never closes": lambda answer, _: f"The answer is $\\boxed{{{answer}",
    "an empty box only": lambda answer, _: f"The answer is {answer}: $\\boxed{{}}$",
}
"""Responses whose decisive box does not contain the answer."""
