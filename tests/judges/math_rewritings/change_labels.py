"""Rewritings of labelled values that change the meaning: another unit, base, time, word or choice."""

from __future__ import annotations

import re

from .registry import changes
from .writing import fraction_text


@changes("degrees", "percent", "money", "unit")
def labelled_value_changed(gold, rng):
    inner = gold.parts[0]
    if inner.value is not None and inner.text in gold.body:
        for value in (inner.value + 1, -inner.value, inner.value * 10):
            if value != inner.value:
                yield gold.body.replace(inner.text, fraction_text(value), 1)


OTHER_UNITS = {
    "degrees": (r"\text{ radians}", r"\%", r"\text{ cm}"), "percent": (r"^\circ", r"\text{ cm}", r"\text{ dollars}"),
    "money": (r"\text{ cents}", r"\%", r"\text{ hours}"), "days": (r"\text{ hours}", r"\text{ weeks}", r"\%"),
    "cm": (r"\text{ m}", r"\text{ cm}^2", r"\text{ seconds}"), "m": (r"\text{ cm}", r"\text{ m}^2", r"\text{ s}"),
    "feet": (r"\text{ inches}", r"\text{ square feet}", r"\text{ pounds}"),
    "inches": (r"\text{ feet}", r"\text{ in}^3", r"\text{ degrees}"),
    "miles": (r"\text{ feet}", r"\text{ hours}", r"\text{ km}"),
    "minutes": (r"\text{ hours}", r"\text{ seconds}", r"\text{ miles}"),
    "hours": (r"\text{ minutes}", r"\text{ days}", r"\text{ m}"),
    "seconds": (r"\text{ minutes}", r"\text{ cm}", r"\text{ hours}"),
    "square inches": (r"\text{ inches}", r"\text{ square feet}", r"\text{ cubic inches}"),
    "square feet": (r"\text{ feet}", r"\text{ square inches}", r"\text{ cubic feet}"),
    "cubic inches": (r"\text{ inches}", r"\text{ in}^2", r"\text{ cubic feet}"),
    "cubic feet": (r"\text{ feet}", r"\text{ ft}^2", r"\text{ cubic inches}"),
    "cm3": (r"\text{ cm}", r"\text{ m}^3", r"\text{ cm}^2"), "m3": (r"\text{ cm}^3", r"\text{ m}", r"\text{ m}^2"),
    "cm2": (r"\text{ cm}", r"\text{ m}^2", r"\text{ cm}^3"), "m2": (r"\text{ cm}^2", r"\text{ m}", r"\text{ m}^3"),
}  # fmt: skip


@changes("degrees", "money", "unit", "percent", "time", "ratio")
def another_unit(gold, rng):
    if gold.shape in ("time", "ratio"):
        first = gold.body if gold.shape == "ratio" else gold.parts[0]
        yield from (rf"{first}\%", rf"{first}\text{{ percent}}")
        return
    kind = gold.shape if gold.shape != "unit" else gold.parts[1] + gold.parts[2]
    yield from (gold.parts[0].text + unit for unit in OTHER_UNITS.get(kind, ()))


@changes("base")
def another_base(gold, rng):
    digits, base = gold.parts
    yield from (
        f"{digits}_{{{base + 1}}}",
        f"{digits}_{{{base + 2}}}",
        f"{digits}0_{{{base}}}",
        f"1{digits}_{{{base}}}" if digits[0] != "-" else digits[1:] + f"_{{{base}}}",
    )
    if re.fullmatch("-?[0-9]{2,}", digits) and base < 10:
        yield str(int(digits, base))


@changes("time")
def another_time(gold, rng):
    clock, half = gold.parts
    other = "ap"[half == "a"]
    yield from (rf"\text{{{clock} {other}.m.}}", f"{clock} {other.upper()}M", f"{clock}{other}m")
    yield rf"\text{{{clock[:-1]}{(int(clock[-1]) + 1) % 10} {half}.m.}}"


@changes("ratio")
def another_ratio(gold, rng):
    if len(set(gold.parts)) > 1:
        yield ":".join(map(str, reversed(gold.parts)))
    yield ":".join(map(str, (gold.parts[0] + 1, *gold.parts[1:])))
    yield f"{gold.body}:1"


@changes("word")
def another_word(gold, rng):
    (word,) = gold.parts
    others = ("Charlotte", "west", "odd", "parabola", "Thursday", "blue")
    yield from (rf"\text{{{other}}}" for other in rng.sample(others, 2) if other != word)
    yield from (
        rf"\text{{not {word}}}",
        rf"\text{{{word} or {rng.choice(others[:1])}}}",
        f"{word[::-1]}{word}",
        rf"\text{{neither {word}}}",
    )


@changes("choice")
def another_choice(gold, rng):
    (letter,) = gold.parts
    other = rng.choice([sign for sign in "ABCDE" if sign != letter])
    yield from (
        rf"\text{{({other})}}",
        other,
        rf"\textbf{{({other})}}",
        rf"\text{{not {letter}}}",
        rf"\text{{({letter}) or ({other})}}",
    )
    yield from (f"{letter}{other}", f"{letter}, {other}", rf"\text{{({letter})}}\text{{({other})}}")


@changes("infinity", "empty")
def another_limit(gold, rng):
    if gold.shape == "empty":
        yield from ("0", r"\{0\}", r"\infty", r"\{\emptyset\}")
    else:
        yield from (r"\infty" if gold.parts[0] else r"-\infty", r"\pm\infty", "0", "10^{100}", r"(-\infty, \infty)")
