"""Rewritings of tuples, lists, sets and values of either sign that keep the meaning."""

from __future__ import annotations

from .golds import NUMBERS
from .keep_numbers import number_rewriting
from .registry import keeps
from .writing import asks, items


@keeps("tuple", "list", "set")
def one_item_otherwise(gold, rng):
    texts, at = items(gold), rng.randrange(len(gold.parts))
    if other := number_rewriting(gold.parts[at], rng):
        texts[at] = other
        opening, closing = {"tuple": "()", "list": ("", ""), "set": (r"\{", r"\}")}[gold.shape]
        yield opening + ", ".join(texts) + closing


@keeps("tuple")
def tuple_otherwise(gold, rng):
    yield rf"\left({', '.join(items(gold))}\right)"
    yield f"( {' , '.join(items(gold))} )"
    yield rf"({',~'.join(items(gold))})"
    for environment in ("pmatrix", "bmatrix"):
        yield rf"\begin{{{environment}}} " + r" \\ ".join(items(gold)) + rf" \end{{{environment}}}"
    names = {2: "(x, y)", 3: "(a, b, c)"}.get(len(gold.parts))
    if names and (names in gold.question or "coordinates" in gold.question):
        yield f"{names} = ({', '.join(items(gold))})"


@keeps("list", "set")
def another_order(gold, rng):
    for _ in range(2):
        shuffled = rng.sample(items(gold), len(gold.parts))
        yield ", ".join(shuffled)
        yield rf"\{{{', '.join(shuffled)}\}}"
        yield rf"\left\{{ {', '.join(shuffled)} \right\}}"


@keeps("list", "set")
def list_in_words(gold, rng):
    texts = items(gold)
    if any(item.shape == "tuple" for item in gold.parts):
        return
    yield ", ".join(texts[:-1]) + rf" \text{{ and }} {texts[-1]}"
    if len(texts) == 2:
        yield rf"{texts[0]} \text{{ or }} {texts[1]}"
        yield f"{texts[1]} and {texts[0]}"
        yield f"{texts[1]} or {texts[0]}"
    else:
        yield ", ".join(texts[:-1]) + rf", \text{{ and }} {texts[-1]}"
    yield "; ".join(texts)
    yield r",\ ".join(texts)
    yield r",\quad ".join(texts)


@keeps("list")
def named_list(gold, rng):
    if not asks(gold, "$x$") or any(item.shape not in NUMBERS for item in gold.parts):
        return
    texts = rng.sample(items(gold), len(gold.parts))
    yield "x = " + ", ".join(texts)
    yield ", ".join(f"x = {text}" for text in texts)
    yield rf"x \in \{{{', '.join(texts)}\}}"
    yield r" \text{ or } ".join(f"x = {text}" for text in texts)
    if len(texts) == 2:
        yield rf"x={texts[0]}\text{{ and }}x={texts[1]}"
        yield f"x={texts[0]} or x={texts[1]}"


@keeps("plus-minus")
def plus_minus_otherwise(gold, rng):
    whole, coefficient, radicand = gold.parts
    root = rf"{'' if coefficient == 1 else coefficient}\sqrt{{{radicand}}}"
    plus, less = f"{whole}+{root}", f"{whole}-{root}"
    yield from (f"{plus}, {less}", f"{less}, {plus}", rf"{plus} \text{{ and }} {less}", rf"{plus}\text{{ or }}{less}")
    yield from (
        rf"\{{{less}, {plus}\}}",
        rf"x = {whole} \pm {root}",
        rf"\frac{{{2 * whole} \pm {2 * coefficient}\sqrt{{{radicand}}}}}{{2}}",
    )
    yield rf"x = {plus} \text{{ or }} x = {less}"
    yield rf"{whole} \pm \sqrt{{{coefficient**2 * radicand}}}"
