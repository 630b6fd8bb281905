"""Rewritings of numbers, roots, complex numbers and expressions that keep the meaning."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from math import isqrt

from .golds import NUMBERS, Gold, polynomial
from .registry import KEEPING, keeps, rewritten
from .writing import asks, asks_for_this_form, decimal_text, fraction_text, poly_text, scaled, sum_text, terms_of, times

# ---- numbers


@keeps("integer", "fraction", "mixed", "decimal")
def unreduced_fraction(gold, rng):
    if gold.value == 0 or asks_for_this_form(gold):
        return
    factor = rng.randint(2, 9) * (10 if gold.shape == "decimal" and gold.value.denominator == 1 else 1)
    yield fraction_text(gold.value, factor)


@keeps("integer", "decimal", "fraction")
def plus_sign(gold, rng):
    if gold.body[0] != "-":
        yield "+" + gold.body


@keeps("integer")
def zeros_behind_the_point(gold, rng):
    yield f"{gold.value}.0"
    yield f"{gold.value}.00"


@keeps("decimal")
def zeros_at_the_ends(gold, rng):
    yield gold.body + "0"
    yield (
        re.sub(r"^(-?)0\.", r"\1.", gold.body)
        if re.match("-?0", gold.body)
        else re.sub(r"^(-?)\.", r"\g<1>0.", gold.body)
    )


@keeps("integer")
def thousands(gold, rng):
    if abs(gold.value) >= 1000:
        digits = f"{gold.value.numerator:,}"
        yield from (digits.replace(",", mark) for mark in ("", ",", "{,}", r",\!", r"\,", "\\ ", r",\! "))


@keeps("integer")
def powers_of_ten(gold, rng):
    digits = str(abs(gold.value.numerator))
    if len(digits) > 3 and len(digits.rstrip("0")) < len(digits) - 1:
        head = decimal_text(Fraction(int(digits), 10 ** (len(digits) - 1)))
        yield rf"{'-' * (gold.value < 0)}{head} \times 10^{{{len(digits) - 1}}}"
        yield rf"{'-' * (gold.value < 0)}{head}\cdot 10^{len(digits) - 1}"
    if len(digits) > 6 and (head := decimal_text(abs(gold.value) / 10**6)) and len(head) < 6:
        yield rf"{'-' * (gold.value < 0)}{head} \text{{ million}}"


@keeps("fraction", "mixed")
def exact_decimal(gold, rng):
    if not asks_for_this_form(gold) and (text := decimal_text(gold.value)):
        yield text
        yield text + "0"


@keeps("decimal")
def decimal_as_fraction(gold, rng):
    if asks_for_this_form(gold) or gold.value.denominator == 1:
        return
    yield fraction_text(gold.value, 1)
    yield f"{gold.value.numerator}/{gold.value.denominator}"


@keeps("fraction", "decimal", "mixed")
def mixed_number(gold, rng):
    whole, rest = divmod(abs(gold.value), 1)
    if whole and rest and rest.denominator < 100 and not asks_for_this_form(gold):
        sign = "-" * (gold.value < 0)
        yield rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"
        yield f"{sign}{whole} {rest.numerator}/{rest.denominator}"


@keeps("mixed")
def improper_fraction(gold, rng):
    if asks_for_this_form(gold):
        return
    yield fraction_text(gold.value)
    yield f"{gold.value.numerator}/{gold.value.denominator}"


@keeps("fraction")
def sign_of_a_fraction(gold, rng):
    up, down = abs(gold.value.numerator), gold.value.denominator
    if gold.value < 0:
        yield from (rf"\frac{{-{up}}}{{{down}}}", rf"\frac{{{up}}}{{-{down}}}", f"-{up}/{down}", f"(-{up})/{down}")
        yield from (rf"-\dfrac{{{up}}}{{{down}}}", rf"-\left(\frac{{{up}}}{{{down}}}\right)")
    else:
        yield from (rf"\frac{{-{up}}}{{-{down}}}", f"{up}/{down}", f"({up})/({down})")


@keeps("integer", "decimal", "fraction", "radical", "surd sum", "pi multiple", "complex", "polynomial", "rational")
def brackets_around(gold, rng):
    if "," in gold.body:
        return
    yield f"({gold.body})"
    yield rf"\left({gold.body}\right)"
    if gold.shape in NUMBERS:
        yield f"(({gold.body}))"


# ---- roots, pi, complex numbers


@keeps("radical")
def coefficient_of_a_root(gold, rng):
    coefficient, radicand = gold.parts
    body = rf"\sqrt{{{radicand}}}"
    yield times(coefficient, body)
    sign, up, down = "-" * (coefficient < 0), abs(coefficient.numerator), coefficient.denominator
    yield f"{sign}{'' if up == 1 else up}{body}" + (f"/{down}" if down > 1 else "")
    yield (
        rf"\frac{{{sign}{'' if up == 1 else up}{body}}}{{{down}}}"
        if down > 1
        else rf"{body} \cdot {up}" * (up > 1 and not sign)
    )
    yield rf"{sign}{'' if up == 1 else up}\sqrt[2]{{{radicand}}}" + (f"/{down}" if down > 1 else "")
    if asks_for_this_form(gold):
        return
    if down == 1:
        yield rf"{sign}{'' if up == 1 else up}({radicand})^{{1/2}}" if up > 1 else f"{sign}{radicand}^{{1/2}}"
    if decimal := decimal_text(abs(coefficient)):
        yield f"{sign}{decimal}{body}" if down > 1 else ""


@keeps("radical")
def coefficient_under_the_root(gold, rng):
    coefficient, radicand = gold.parts
    sign = "-" * (coefficient < 0)
    if abs(coefficient) != 1 and not asks_for_this_form(gold):
        yield rf"{sign}\sqrt{{{fraction_text(coefficient**2 * radicand)}}}"
        if coefficient.denominator > 1:
            yield rf"{sign}\frac{{\sqrt{{{coefficient.numerator**2 * radicand}}}}}{{{coefficient.denominator}}}"


@keeps("radical")
def root_in_the_denominator(gold, rng):
    coefficient, radicand = gold.parts
    if abs(coefficient) == 1 or asks_for_this_form(gold):
        return
    over = abs(coefficient) * radicand
    bottom = rf"\sqrt{{{radicand}}}"
    yield rf"{'-' * (coefficient < 0)}\frac{{{over.numerator}}}{{{times(Fraction(over.denominator), bottom)}}}"


@keeps("surd sum")
def commuted_surd_sum(gold, rng):
    whole, coefficient, radicand = gold.parts
    root = rf"\sqrt{{{radicand}}}"
    yield sum_text([(coefficient, root), (whole, "")])
    yield sum_text([(whole, ""), (coefficient, root)])
    yield rf"-({sum_text([(-whole, ''), (-coefficient, root)])})"


@keeps("surd sum")
def surd_sum_otherwise(gold, rng):
    whole, coefficient, radicand = gold.parts
    root, factor = rf"\sqrt{{{radicand}}}", rng.randint(2, 5)
    if asks_for_this_form(gold):
        return
    yield rf"\frac{{{sum_text([(whole * factor, ''), (coefficient * factor, root)])}}}{{{factor}}}"
    if abs(coefficient) > 1:
        yield sum_text([(whole, ""), (coefficient / abs(coefficient), rf"\sqrt{{{coefficient**2 * radicand}}}")])
    common = next(
        (d for d in range(int(min(abs(whole), abs(coefficient))), 1, -1) if not (whole % d or coefficient % d)), 1
    )
    if common > 1 and abs(coefficient) > 1:
        yield f"{common}({sum_text([(whole / common, ''), (coefficient / common, root)])})"


@keeps("pi multiple")
def coefficient_of_pi(gold, rng):
    (coefficient,) = gold.parts
    sign, up, down = "-" * (coefficient < 0), abs(coefficient.numerator), coefficient.denominator
    over = f"/{down}" if down > 1 else ""
    yield times(coefficient, r"\pi")
    yield (
        rf"{sign}\frac{{{'' if up == 1 else up}\pi}}{{{down}}}"
        if down > 1
        else rf"\pi \cdot {up}" * (up > 1 and not sign)
    )
    yield rf"{sign}{'' if up == 1 else up}\pi{over}"
    yield rf"{fraction_text(coefficient, rng.randint(2, 5))}\pi"
    if decimal := decimal_text(coefficient):
        yield rf"{decimal}\pi" if down > 1 else rf"{decimal}.0\pi" * (up > 1)


@keeps("complex")
def complex_otherwise(gold, rng):
    real, imaginary = gold.parts
    yield sum_text([(imaginary, "i"), (real, "")])
    yield sum_text([(real, ""), (imaginary, "i")])
    if abs(imaginary) != 1:
        yield rf"{fraction_text(real)}{'+-'[imaginary < 0]}{fraction_text(abs(imaginary))}\cdot i"
    yield f"-({sum_text([(-real, ''), (-imaginary, 'i')])})"
    if imaginary.denominator == real.denominator == 1:
        yield f"{real}.0{'+-'[imaginary < 0]}{abs(imaginary)}.0i"
    elif imaginary.denominator == real.denominator:
        over = [(Fraction(real.numerator), ""), (Fraction(imaginary.numerator), "i")]
        yield rf"\frac{{{sum_text(over)}}}{{{real.denominator}}}"


# ---- expressions


SIMPLIFIED = (
    "factor",
    "expand",
    "simplif",
    "form $",
    "the form",
    "standard form",
    "polynomial:",
    "what is $",
    "compute $",
)


@keeps("polynomial")
def commuted_terms(gold, rng):
    (terms,) = gold.parts
    if len(terms) > 1:
        yield sum_text(reversed(terms_of(terms)))
        yield poly_text(terms, rng)
        yield re.sub(r"([+-])", r" \1 ", poly_text(terms, rng)).strip()


@keeps("polynomial")
def negated_in_brackets(gold, rng):
    (terms,) = gold.parts
    if len(terms) > 1 and not asks(gold, *SIMPLIFIED):
        yield f"-({poly_text(scaled(terms, -1))})"


@keeps("polynomial")
def commuted_letters(gold, rng):
    (terms,) = gold.parts
    turned = {"".join(reversed(re.findall(r"[a-zA-Z](?:\^\d+)?", m))): c for m, c in terms.items()}
    if list(turned) != list(terms):
        yield poly_text(turned)


@keeps("polynomial")
def dots_between_factors(gold, rng):
    if re.search(r"\d[a-zA-Z]", gold.body):
        yield re.sub(r"(?<![\^\d])(\d+) ?(?=[a-zA-Z])", r"\1 \\cdot ", gold.body)
        yield re.sub(r"(?<![\^\d])(\d+) ?(?=[a-zA-Z])", r"\1*", gold.body)


@keeps("polynomial")
def common_factor_taken_out(gold, rng):
    (terms,) = gold.parts
    common = next((d for d in range(12, 1, -1) if all((c / d).denominator == 1 for c in terms.values())), 0)
    if common and len(terms) > 1 and not asks(gold, *SIMPLIFIED):
        yield f"{common}({poly_text(scaled(terms, Fraction(1, common)))})"


@keeps("rational")
def rational_otherwise(gold, rng):
    up, down = gold.parts
    yield rf"\frac{{{poly_text(up, rng)}}}{{{poly_text(down, rng)}}}"
    yield f"({poly_text(up)})/({poly_text(down)})"
    if not asks(gold, *SIMPLIFIED):
        yield rf"\frac{{{poly_text(scaled(up, -1))}}}{{{poly_text(scaled(down, -1))}}}"
        yield rf"-\frac{{{poly_text(scaled(up, -1))}}}{{{poly_text(down)}}}"
        if len(up) > 1:
            yield "+".join(rf"\frac{{{times(c, letters)}}}{{{poly_text(down)}}}" for c, letters in terms_of(up))


@keeps("factored")
def commuted_factors(gold, rng):
    factors = list(gold.parts)
    yield "".join(f"({factor})" for factor in reversed(factors))
    yield r" \cdot ".join(f"({factor})" for factor in factors)
    yield r"\times".join(f"({factor})" for factor in factors)
    yield "*".join(f"({factor})" for factor in factors)
    yield "".join(f"({sum_text(reversed(terms_of(polynomial(factor) or {})))})" for factor in factors)
    negated = [f"({poly_text(scaled(polynomial(factor) or {}, -1))})" for factor in factors[:2]]
    yield "".join([*negated, *(f"({factor})" for factor in factors[2:])])


@keeps("power")
def power_otherwise(gold, rng):
    base, exponent = gold.parts
    yield f"({base})^{{{exponent}}}"
    yield f"{{{base}}}^{{{exponent}}}"
    if exponent % 2 == 0 and isqrt(base) ** 2 != base:
        yield f"{base**2}^{{{exponent // 2}}}"


@keeps("logarithm")
def logarithm_otherwise(gold, rng):
    base, argument = gold.parts
    yield rf"\log_{{{base}}}{{{argument}}}"
    yield rf"\log_{{{base}}}({argument})"
    yield rf"\log_{base}\left({argument}\right)"
    yield rf"\frac{{\ln {argument}}}{{\ln {base}}}"
    yield rf"\frac{{\ln({argument})}}{{\ln({base})}}"
    yield rf"\frac{{\log {argument}}}{{\log {base}}}"


@keeps("trigonometric")
def trigonometric_otherwise(gold, rng):
    coefficient, function, angle = gold.parts
    for argument in (
        rf"{{{angle}^\circ}}",
        rf"({angle}^\circ)",
        rf" {angle}^{{\circ}}",
        rf"\left({angle}^\circ\right)",
        f" {angle}°",
    ):
        yield rf"{coefficient}\{function}{argument}"
    other = {"sin": "cos", "cos": "sin", "tan": "cot", "cot": "tan", "sec": "csc", "csc": "sec"}[function]
    yield rf"{coefficient}\{other} {90 - angle}^\circ" if angle < 90 else ""
    if function == "tan" and not coefficient:
        yield rf"\frac{{\sin {angle}^\circ}}{{\cos {angle}^\circ}}"


def number_rewriting(gold: Gold, rng: random.Random) -> str | None:
    """Returns other notations of a number, a radical or the like inside a larger answer."""
    found = [text for name, text in rewritten(KEEPING, gold, rng) if name in NUMBERS_OTHERWISE]
    return rng.choice(found) if found else None


NUMBERS_OTHERWISE = {
    "unreduced fraction", "zeros behind the point", "zeros at the ends", "exact decimal", "decimal as fraction",
    "mixed number", "improper fraction", "sign of a fraction", "coefficient of a root", "coefficient under the root",
    "root in the denominator", "commuted surd sum", "surd sum otherwise", "coefficient of pi", "complex otherwise",
}  # fmt: skip
