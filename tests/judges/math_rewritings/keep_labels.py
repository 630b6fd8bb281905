"""Rewritings of labelled values that keep the meaning: degrees, percent, money, units, bases, times, words, names."""

from __future__ import annotations

import random
import re

from .golds import NUMBERS, Gold
from .keep_numbers import number_rewriting
from .registry import keeps
from .writing import asks


def inner_texts(gold: Gold, rng: random.Random) -> list[str]:
    """Returns the number of a label, unchanged and in one other notation."""
    return [text for text in (gold.parts[0].text, number_rewriting(gold.parts[0], rng)) if text]


@keeps("degrees")
def degrees_otherwise(gold, rng):
    for number in inner_texts(gold, rng):
        for sign in (r"^\circ", r"^{\circ}", "°", r"\degree", r" \text{ degrees}", " degrees", r"^{\,\circ}", ""):
            yield number + sign
        yield rf"{{{number}^\circ}}"
        yield rf"{number}\,^\circ"


@keeps("integer")
def degree_sign_on_a_bare_number(gold, rng):
    if asks(gold, "degree"):
        yield from (gold.body + sign for sign in (r"^\circ", r"^{\circ}", "°", r"\text{ degrees}", " degrees"))


@keeps("percent")
def percent_otherwise(gold, rng):
    for number in inner_texts(gold, rng):
        for sign in (r"\%", r" \%", "%", " percent", r"\text{ percent}", r"\text{\%}", r"\,\%", r"\ \%"):
            yield number + sign
        yield rf"{{{number}}}\%"


@keeps("integer", "decimal")
def percent_where_the_question_asks_for_it(gold, rng):
    if asks(gold, "what percent", "percentage"):
        yield from (gold.body + sign for sign in (r"\%", "%", " percent", r"\text{ percent}", r" \%", r"\text{\%}"))


@keeps("money")
def money_otherwise(gold, rng):
    value = gold.parts[0].value
    exact = f"{float(value):.2f}" if (value * 100).denominator == 1 else None
    plain = gold.parts[0].text.replace("{,}", ",").replace(r",\!", ",")
    for number in dict.fromkeys([plain, plain.replace(",", ""), exact or plain]):
        yield from (rf"\${number}", number, f"{number} dollars", rf"{number}\text{{ dollars}}", rf"\text{{\${number}}}")
        yield from (rf"\$ {number}", rf"\$\,{number}", rf"\${number} \text{{ dollars}}", rf"\mathrm{{\${number}}}")
    if value >= 1000 and value.denominator == 1:
        yield from (rf"\${value.numerator:,}".replace(",", mark) for mark in ("{,}", r",\!", r"\,"))


@keeps("integer")
def dollars_on_a_bare_number(gold, rng):
    if asks(gold, "dollar"):
        yield from (
            rf"\${gold.body}",
            f"{gold.body} dollars",
            rf"{gold.body}\text{{ dollars}}",
            rf"\text{{\${gold.body}}}",
        )


UNITS = {
    "cm": ("cm", "centimeters", "cm.", "centimeter"), "feet": ("ft", "feet", "ft.", "foot"),
    "m": ("m", "meters", "metres"), "inches": ("in", "inches", "in.", "inch"), "days": ("days", "day"),
    "miles": ("mi", "miles", "mi.", "mile"),
    "minutes": ("min", "minutes", "min.", "minute"), "hours": ("hours", "hour", "hr", "hrs", "h"),
    "seconds": ("seconds", "sec", "s", "second"),
}  # fmt: skip


@keeps("unit")
def unit_otherwise(gold, rng):
    _, unit, power = gold.parts
    kind = re.sub("^(square|cubic) ", "", unit)
    squared = power or {"s": "2", "c": "3"}.get(unit[0] if kind != unit else "", "")
    if kind not in UNITS:
        return
    for number in inner_texts(gold, rng):
        for name in UNITS[kind]:
            if not squared:
                yield from (
                    rf"{number}\text{{ {name}}}",
                    rf"{number}\,\mathrm{{{name}}}",
                    f"{number} {name}",
                    rf"{number}~\text{{{name}}}",
                )
                continue
            word, short, shape = {"2": ("square", "sq", "2"), "3": ("cubic", "cu", "3")}[squared]
            yield from (
                rf"{number}\text{{ {word} {name}}}",
                rf"{number}\text{{ {short} {name}}}",
                f"{number} {word} {name}",
            )
            yield from (rf"{number}\text{{ {short}. {name}}}", rf"{number} \text{{ {name}}}^{shape}")
            if not name.endswith("."):
                yield from (
                    rf"{number} {name}^{shape}",
                    rf"{number}\text{{ {name}}}^{{{shape}}}",
                    f"{number} {name}{'²³'[shape == '3']}",
                )


@keeps("unit")
def unit_left_out(gold, rng):
    yield gold.parts[0].text
    yield from (text for text in [number_rewriting(gold.parts[0], rng)] if text)


@keeps("integer", "decimal", "pi multiple", "radical", "fraction")
def unit_on_a_bare_number(gold, rng):
    if not asks(gold, "percent", "degree", "dollar", "coordinate", "radian", "base", "probab", "how many", "$", "%"):
        yield from (gold.body + unit for unit in (r"\text{ cm}", r"\text{ square units}", " units", r"\text{ inches}"))


@keeps("integer")
def noun_of_the_question(gold, rng):
    if found := re.search(r"how many (?!times)([a-z]+s)\b", gold.question.lower()):
        yield from (
            rf"{gold.body}\text{{ {found[1]}}}",
            f"{gold.body} {found[1]}",
            rf"{gold.body}\ \text{{{found[1]}}}",
            rf"{gold.body}\,\mathrm{{{found[1]}}}",
        )


@keeps("base")
def base_otherwise(gold, rng):
    digits, base = gold.parts
    for subscript in (f"_{base}" if base < 10 else f"_{{{base}}}", f"_{{{base}}}", rf"_{{\text{{{base}}}}}", ""):
        yield digits + subscript
    sign = "-" * digits.startswith("-")
    yield f"{sign}({digits.lstrip('-')})_{{{base}}}"
    yield rf"{sign}\text{{{digits.lstrip('-')}}}_{{{base}}}"
    yield f"{{{digits}}}_{{{base}}}"


@keeps("time")
def time_otherwise(gold, rng):
    clock, half = gold.parts
    for form in (
        f" {half}.m.",
        f" {half}m",
        f" {half.upper()}M",
        f"{half}m",
        rf"\text{{ {half}.m.}}",
        rf"\text{{ {half.upper()}M}}",
        rf" \text{{{half}m}}",
        rf"\ \mathrm{{{half}.m.}}",
    ):
        yield clock + form
    yield clock.replace(":", r"\!:\!") + rf"\text{{ {half}.m.}}"
    yield clock.replace(":", "{:}") + rf"\text{{ {half}.m.}}"
    yield rf"\text{{{clock} {half.upper()}.M.}}"


@keeps("ratio")
def ratio_otherwise(gold, rng):
    yield from (mark.join(map(str, gold.parts)) for mark in (":", " : ", r"\!:\!", "{:}", r"\,:\,"))


@keeps("word")
def word_otherwise(gold, rng):
    (word,) = gold.parts
    for command in ("text", "textbf", "textrm", "textit", "mathrm", "mbox", "operatorname"):
        if " " not in word or command not in ("mathrm", "operatorname"):
            yield rf"\{command}{{{word}}}"
    yield from (
        word,
        rf"\text{{ {word} }}",
        rf"\text{{{word}.}}",
        rf"\text{{{word}}}.",
        rf"\textbf{{{word}}}\ ",
        rf"{{\text{{{word}}}}}",
    )
    if len(word) > 3 and " " not in word:
        yield from (word.lower(), rf"\text{{{word.capitalize()}}}", word.upper())


@keeps("choice")
def choice_otherwise(gold, rng):
    (letter,) = gold.parts
    for body in (letter, f"({letter})"):
        for command in ("text", "textbf", "mathrm", "mathbf", "mbox", "textrm"):
            yield rf"\{command}{{{body}}}"
        yield from (
            body,
            rf"\text{{{letter}.}}",
            rf"\textbf{{{body} }}",
            rf"\left({letter}\right)",
            f"{body}.",
        )


@keeps("infinity")
def infinity_otherwise(gold, rng):
    yield from (
        ("-∞", r"- \infty", r"{-\infty}", r"-{\infty}") if gold.parts[0] else ("∞", r"+\infty", r"{\infty}", "+∞")
    )


@keeps("empty")
def empty_set_otherwise(gold, rng):
    yield from (r"\varnothing", "∅", r"\{\}", r"\{ \}", r"\left\{\right\}", r"\emptyset")


@keeps("integer", "decimal", "fraction", "radical", "surd sum", "pi multiple", "polynomial", "complex", "rational")
def name_before_the_value(gold, rng):
    letters = re.findall(r"\$([a-zA-Z])\$", gold.question)
    text = gold.body
    names = [
        letter
        for letter in letters
        if letter not in "ei" and not re.search(rf"(?<![a-zA-Z\\]){letter}|{letter}(?![a-zA-Z])", text)
    ]
    if names and not (gold.shape == "polynomial" and len(set(letters)) < 2):
        yield f"{names[0]} = {text}"
        yield f"{names[0]}={text}"
    elif gold.shape in NUMBERS and not letters:
        yield f"x = {text}"


@keeps("solution")
def value_without_its_name(gold, rng):
    name, value = gold.parts
    yield value.text
    other = number_rewriting(value, rng)
    if other:
        yield from (other, f"{name} = {other}")
    yield f"{value.text} = {name}"
