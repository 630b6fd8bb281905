"""Rewritings of numbers and expressions that change the meaning: none of them is right."""

from __future__ import annotations

import re
from fractions import Fraction

from .gold_generators import root
from .registry import changes
from .writing import asks, decimal_text, fraction_text, poly_text, scaled, sum_text, times

# ---- numbers


@changes("integer")
def off_by_one(gold, rng):
    yield from (str(gold.value + 1), str(gold.value - 1))


@changes("integer", "decimal", "fraction", "mixed", "radical", "pi multiple")
def sign_flipped(gold, rng):
    if gold.value != 0:
        yield gold.body[1:] if gold.body[0] == "-" else "-" + gold.body


@changes("integer", "decimal")
def digit_dropped_doubled_or_swapped(gold, rng):
    digits = gold.body if re.fullmatch(r"-?\d*\.?\d+", gold.body) else str(gold.value)
    at = rng.choice([place for place, sign in enumerate(digits) if sign.isdigit()])
    candidates = [digits[:at] + digits[at + 1 :], digits[: at + 1] + digits[at:]]
    candidates.append(digits[:at] + digits[at + 1 : at + 2] + digits[at] + digits[at + 2 :])
    for text in candidates:
        if re.fullmatch(r"-?\d*\.?\d+", text) and Fraction(text) != gold.value:
            yield text


@changes("integer")
def zero_added_or_point_moved(gold, rng):
    if gold.value:
        yield f"{gold.value}0"
        yield decimal_text(gold.value / 10) or ""


@changes("fraction")
def another_fraction(gold, rng):
    up, down = gold.value.numerator, gold.value.denominator
    if abs(up) != down:
        yield rf"\frac{{{down}}}{{{up}}}"
    yield rf"\frac{{{up + 1}}}{{{down}}}"
    yield rf"\frac{{{up}}}{{{down + 1}}}" if up else ""


@changes("fraction", "mixed", "radical", "pi multiple", "surd sum")
def rounded(gold, rng):
    if gold.value is not None:
        value = float(gold.value) if not decimal_text(gold.value) else None
    elif gold.shape == "surd sum":
        value = float(gold.parts[0]) + float(gold.parts[1]) * gold.parts[2] ** 0.5
    else:
        value = float(gold.parts[0]) * (gold.parts[1] ** 0.5 if gold.shape == "radical" else 3.141592653589793)
    if value is not None:
        yield from (f"{value:.2f}", f"{value:.4f}", rf"\approx {value:.3f}", f"{value:.3f}\\ldots")


@changes("integer", "decimal", "fraction")
def percent_sign_added(gold, rng):
    if not asks(gold, "percent", "%"):
        yield from (gold.body + sign for sign in (r"\%", "%", r"\text{ percent}", " percent", r"\text{ per cent}"))


@changes("integer")
def base_on_a_decimal(gold, rng):
    digits = str(abs(gold.value.numerator))
    if not asks(gold, "base", "binary"):
        sign = "-" * (gold.value < 0)
        indices = {int(index) for index in re.findall(r"_\{?(\d+)", gold.question)}
        bases = [n for n in range(2, 17) if n > int(max(digits)) and n != 10]
        for base in (rng.choice(bases), rng.choice([n for n in bases if n in indices] or bases)):
            yield from (f"{sign}{digits}_{{{base}}}", f"{sign}({digits})_{{{base}}}")


WORDS = (
    "tenths", "hundredths", "thousandths", "halves", "thirds", "quarters", "fifths", "ninths", "tens", "hundred",
    "thousand", "million", "dozen", "lakh", "crore", "billion", "negative", "squared", "cubed", "factorial",
    "doubled", "tripled", "at most", "at least", "or more", "or less", "and a half", "percent off", "mod 7",
    "out of 400", "minus 2", "plus 2", "times 2", "point five", "to the power of 2", "is not the answer",
    "is wrong", "radians", "choose 2",
)  # fmt: skip


@changes("integer")
def word_that_changes_the_number(gold, rng):
    if abs(gold.value) > 2:
        for word in rng.sample([word for word in WORDS if not asks(gold, word)], 8):
            if word != "negative" or gold.value > 0:
                yield from (rf"{gold.body}\text{{ {word}}}", f"{gold.body} {word}")


@changes("integer", "decimal", "fraction")
def sign_that_changes_the_number(gold, rng):
    text = gold.body
    if gold.value not in (0, 1, -1):
        yield from (
            rf"{text}\pi",
            f"{text}i",
            f"{text}x",
            f"{text}'",
            rf"\sqrt{{{text}}}",
            f"({text})^2",
            f"({text})^{{-1}}",
        )
        yield from (f">{text}", rf"\ge {text}", rf"\ne {text}", f"<{text}", rf"\pm {text}", rf"\frac{{1}}{{{text}}}")
    if gold.shape == "integer" and gold.value > 2:
        yield f"{text}!"


@changes("integer", "decimal", "fraction", "radical", "pi multiple", "mixed", "complex", "polynomial", "surd sum")
def two_guesses(gold, rng):
    other = fraction_text(gold.value + 1) if gold.value is not None else str(rng.randint(500, 999))
    yield from (
        rf"{gold.body}\text{{ or }}{other}",
        f"{gold.body}, {other}",
        rf"\{{{gold.body}, {other}\}}",
        f"{other} or {gold.body}",
    )
    yield from (
        rf"{gold.body} \text{{ and }} {other}",
        rf"{gold.body}\text{{, maybe }}{other}",
        f"{gold.body} = {other}",
    )


# ---- irrational and complex numbers, expressions


@changes("radical", "surd sum", "pi multiple", "plus-minus")
def another_coefficient(gold, rng):
    first, *rest = gold.parts
    if gold.shape == "radical":
        yield from (
            times(first, rf"\sqrt{{{rest[0] + 1}}}"),
            times(first + 1, rf"\sqrt{{{rest[0]}}}"),
            times(first, str(rest[0])) if first.denominator == 1 and first > 1 else "",
        )
    elif gold.shape == "pi multiple":
        yield from (times(first + 1, r"\pi"), fraction_text(first), times(first, r"\pi^2"))
    else:
        coefficient, radicand = rest
        join = r"\pm " if gold.shape == "plus-minus" else ""
        for a, b, n in (
            (first + 1, coefficient, radicand),
            (first, coefficient + 1 or Fraction(2), radicand),
            (first, coefficient, radicand + 1),
        ):
            yield f"{a}{join}{times(b, root(n), bool(join))}"
        if not join:
            yield sum_text([(first, ""), (-coefficient, rf"\sqrt{{{radicand}}}")])


@changes("plus-minus")
def plus_minus_dropped(gold, rng):
    first, coefficient, radicand = gold.parts
    for sign in (1, -1):
        yield sum_text([(first, ""), (sign * coefficient, rf"\sqrt{{{radicand}}}")])
    yield ", ".join(sum_text([(part, ""), (coefficient, rf"\sqrt{{{radicand}}}")]) for part in (first, -first))


@changes("complex")
def conjugate_or_swapped(gold, rng):
    real, imaginary = gold.parts
    others = [(real, -imaginary), (-real, imaginary), (real, imaginary + 1)]
    for a, b in [*others, (imaginary, real)] if real != imaginary else others:
        yield sum_text([(part, letter) for part, letter in ((a, ""), (b, "i")) if part])
    yield sum_text([(real, ""), (imaginary, "j" if "j" in gold.body else "x")])


@changes("polynomial")
def another_polynomial(gold, rng):
    (terms,) = gold.parts
    letters = rng.choice([monomial for monomial in terms if monomial])
    yield poly_text(terms | {letters: terms[letters] + 1 or Fraction(2)})
    yield poly_text(terms | {letters: -terms[letters]})
    yield poly_text({(m + "^7" if "^" not in m else m[:-1] + "8") if m == letters else m: c for m, c in terms.items()})
    if len(terms) > 1:
        yield poly_text({monomial: c for monomial, c in terms.items() if monomial != letters})
    yield poly_text(terms | {"": terms.get("", Fraction(0)) + 1 or Fraction(5)})
    yield f"{gold.body} = 0"


@changes("polynomial", "rational", "factored")
def case_of_a_letter(gold, rng):
    if len(gold.body) > 1:
        yield re.sub(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", lambda m: m[0].swapcase(), gold.body)


@changes("rational")
def another_rational(gold, rng):
    up, down = gold.parts
    if poly_text(up) != poly_text(down):
        yield rf"\frac{{{poly_text(down)}}}{{{poly_text(up)}}}"
    yield rf"\frac{{{poly_text(scaled(up, -1))}}}{{{poly_text(down)}}}"
    yield rf"\frac{{{poly_text(up)}}}{{{poly_text(down | {'': down.get('', Fraction(0)) + 1 or Fraction(3)})}}}"


@changes("factored")
def another_factor(gold, rng):
    first, *rest = gold.parts
    others = "".join(f"({factor})" for factor in rest)
    yield from (f"({first})^2{others}", others, f"({first}+1){others}", f"-({first}){others}", f"({first}){others}+1")


@changes("power")
def another_power(gold, rng):
    base, exponent = gold.parts
    yield from (
        f"{base}^{{{exponent + 1}}}",
        f"{base}^{{{exponent - 1}}}",
        f"{base + 1}^{{{exponent}}}",
        f"{base}\\cdot {exponent}",
        f"-{base}^{{{exponent}}}",
    )


@changes("logarithm")
def another_logarithm(gold, rng):
    base, argument = gold.parts
    yield from (
        rf"\log_{{{argument}}} {base}",
        rf"\log_{{{base}}} {argument + 1}",
        rf"\log_{{{base + 1}}} {argument}",
        rf"\ln {argument}",
    )


@changes("trigonometric")
def another_angle(gold, rng):
    coefficient, function, angle = gold.parts
    other = {"sin": "cos", "cos": "sin"}.get(function, "sin")
    yield from (
        rf"{coefficient}\{function} {angle + 1}^\circ",
        rf"{coefficient}\{other} {angle}^\circ",
        rf"{coefficient}\{function} {angle}",
    )
    yield from (
        rf"{coefficient}\{function} {90 - angle}^\circ" if angle != 45 else "",
        rf"-{coefficient}\{function} {angle}^\circ",
    )
