"""code-mini's programs: one-line Python functions for a specification, in random phrasings.

Every phrasing of a specification computes the same values; the tests run them against `code_specs.evaluate`, which
shares only the specification with this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightningrl.benchmarks.code_specs import Spec
from lightningrl.benchmarks.generated import KeyedRandom

SUM, PRODUCT, UNARY, POWER, ATOM = range(5)
"""The precedence of an expression's outermost operator."""
REDUNDANT_PARENTHESES = 0.15
"""The probability of parentheses that an expression does not need."""
TWO_STATEMENTS = 0.25
"""The probability that a chain of operations on x is split into two statements with a local name."""


@dataclass(frozen=True, slots=True)
class Expr:
    """Program text and the precedence of its outermost operator.

    >>> Expr("x + 3", SUM).at_least(PRODUCT)
    '(x + 3)'
    """

    text: str
    level: int

    def at_least(self, level: int) -> str:
        """Returns the text, in parentheses where its precedence is lower than `level`."""
        return self.text if self.level >= level else f"({self.text})"


SOURCE_EXPRESSIONS: dict[str, tuple[Expr, ...]] = {
    "x": (Expr("x", ATOM),),
    "larger": (Expr("max(a, b)", ATOM), Expr("max(b, a)", ATOM)),
    "smaller": (Expr("min(a, b)", ATOM), Expr("min(b, a)", ATOM)),
    "plus": (Expr("a + b", SUM), Expr("b + a", SUM), Expr("sum([a, b])", ATOM)),
    "minus": (Expr("a - b", SUM), Expr("-b + a", SUM)),
    "times": (Expr("a * b", PRODUCT), Expr("b * a", PRODUCT)),
    "distance": (Expr("abs(a - b)", ATOM), Expr("abs(b - a)", ATOM)),
    "sum": (Expr("sum(items)", ATOM), Expr("sum(n for n in items)", ATOM)),
    "length": (Expr("len(items)", ATOM), Expr("sum(1 for n in items)", ATOM)),
    "largest": (Expr("max(items)", ATOM), Expr("sorted(items)[-1]", ATOM)),
    "smallest": (Expr("min(items)", ATOM), Expr("sorted(items)[0]", ATOM)),
    "first": (Expr("items[0]", ATOM), Expr("items[-len(items)]", ATOM)),
    "last": (Expr("items[-1]", ATOM), Expr("items[len(items) - 1]", ATOM)),
    "ends": (Expr("items[0] + items[-1]", SUM), Expr("items[-1] + items[0]", SUM)),
}

CONDITIONS: dict[str, tuple[str, ...]] = {
    "gt": ("{v} > {k}",),
    "lt": ("{v} < {k}",),
    "ge": ("{v} >= {k}",),
    "le": ("{v} <= {k}",),
    "eq": ("{v} == {k}", "{k} == {v}"),
    "even": ("{v} % 2 == 0", "not {v} % 2"),
    "odd": ("{v} % 2 == 1", "{v} % 2"),
}

REDUCTIONS: dict[str, tuple[str, ...]] = {
    "count": ("sum(1 for {v} in items if {c})", "len([{v} for {v} in items if {c}])"),
    "total": ("sum({v} for {v} in items if {c})", "sum([{v} for {v} in items if {c}])"),
}
LOOP_NAMES = ("n", "i", "v")


def program(spec: Spec, rng: KeyedRandom) -> str:
    """Returns a correct answer to the specification: one line of Python in a fenced code block."""
    return f"```python\ndef f({spec.parameters}): {_body(spec, rng)}\n```"


def _body(spec: Spec, rng: KeyedRandom) -> str:
    value = rng.choice(SOURCE_EXPRESSIONS[spec.source]) if spec.source in SOURCE_EXPRESSIONS else None
    if value is None:
        reducer, predicate = spec.source.split()
        name = rng.choice(LOOP_NAMES)
        condition = rng.choice(CONDITIONS[predicate]).format(v=name, k=spec.k)
        if reducer == "keep":
            item = _chain(Expr(name, ATOM), spec.ops, rng)
            return f"return [{item.text} for {name} in items if {condition}]"
        reductions = REDUCTIONS[reducer]
        value = Expr(rng.choice(reductions).format(v=name, c=condition), ATOM)
        if reducer == "count" and predicate == "eq" and rng.chance(0.5):
            value = Expr(f"items.count({spec.k})", ATOM)
    if spec.source == "x" and rng.chance(TWO_STATEMENTS):
        head = _chain(value, spec.ops[:1], rng)
        tail = _chain(Expr("y", ATOM), spec.ops[1:], rng)
        return f"y = {head.text}; return {tail.text}"
    return f"return {_chain(value, spec.ops, rng).text}"


def _chain(value: Expr, ops: tuple[tuple[str, int], ...], rng: KeyedRandom) -> Expr:
    for i, (op, k) in enumerate(ops):
        if i and value.level < ATOM and rng.chance(REDUNDANT_PARENTHESES):
            value = Expr(f"({value.text})", ATOM)
        value = rng.choice(_operation(op, k, value))
    return value


def _operation(op: str, k: int, value: Expr) -> list[Expr]:
    """Returns every phrasing of one operation on an expression."""
    is_short = value.text.isidentifier()
    if op == "add":
        choices = [Expr(f"{value.at_least(SUM)} + {k}", SUM), Expr(f"{k} + {value.at_least(SUM)}", SUM)]
        if value.text.startswith("-") and value.level == UNARY:
            choices.append(Expr(f"{k} - {value.text[1:]}", SUM))
        return choices
    if op == "subtract":
        return [Expr(f"{value.at_least(SUM)} - {k}", SUM), Expr(f"-{k} + {value.at_least(SUM)}", SUM)]
    if op == "square":
        power = Expr(f"{value.at_least(ATOM)} ** 2", POWER)
        return [power, Expr(f"{value.text} * {value.text}", PRODUCT)] if is_short else [power]
    if op == "negate":
        return [Expr(f"-{value.at_least(POWER)}", UNARY)]
    factor = {"double": 2, "triple": 3}.get(op, k)
    operand = value.at_least(PRODUCT)
    choices = [Expr(f"{operand} * {factor}", PRODUCT), Expr(f"{factor} * {operand}", PRODUCT)]
    if op == "double" and is_short:
        choices.append(Expr(f"{value.text} + {value.text}", SUM))
    return choices
