r"""A mathematical expression as a tree, exactly as it is written: nothing is evaluated, reordered or cancelled.

The tree shows whether an answer still has work to do (`work`), which a computer algebra system hides because it
evaluates while it parses. `read` takes a text of `text.clean` and returns None unless it is an expression: for a list,
an equation, an interval, a sentence. Linear in the text except for nested bars.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Kind = Literal["number", "name", "sum", "negative", "product", "quotient", "power", "root", "function"]
MAX_DEPTH = 60

_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\\[A-Za-z]+|\\.|\.\.\.|\S")
_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "infty",
)  # fmt: skip
_NAMES = frozenset("\\" + name for name in _GREEK)
TRIGONOMETRY = frozenset(
    f"\\{prefix}{name}" for prefix in ("", "arc") for name in ("sin", "cos", "tan", "cot", "sec", "csc")
) | {"\\sinh", "\\cosh", "\\tanh", "\\cis"}
LOGARITHMS = frozenset({"\\log", "\\ln", "\\lg", "\\exp"})
_PLAIN = TRIGONOMETRY | LOGARITHMS
_OF_MANY = frozenset({"\\gcd", "\\lcm", "\\max", "\\min", "\\det", "\\arg", "\\deg", "\\Re", "\\Im"})
_BIG = frozenset({"\\sum", "\\prod", "\\int", "\\iint", "\\oint", "\\lim", "\\bigcup", "\\bigcap"})
_NOT_AN_OPERAND = frozenset("+-*/)]}^_!,;:=<>&%'") | {"\\cdot", "\\div", "\\pm", "\\mp", "\\rfloor", "\\rceil"}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation as written. `1\\frac45` is one number, `\\frac45` a quotient of two."""

    kind: Kind
    parts: tuple[Node, ...] = ()
    """The operands: power (base, exponent), root (radicand, index), quotient (numerator, denominator)."""
    name: str = ""
    """The name of a name or function; the notation of a number: `integer`, `decimal`, `mixed` or `repeating`; the sign
    of a quotient that is not a fraction."""
    number: Fraction = Fraction(0)


class _Unread(ValueError):
    """The text is not an expression of this grammar."""


@lru_cache(maxsize=4096)
def read(text: str) -> Node | None:
    r"""Returns the tree of a cleaned expression; None for any other text.

    >>> read("2+x").kind, read(r"1\frac{1}{2}").number, read("x=2")
    ('sum', Fraction(3, 2), None)
    """
    parser = _Parser(text)
    try:
        tree = parser.sum()
    except (_Unread, RecursionError):
        return None
    return tree if parser.place == len(parser.tokens) else None


class _Parser:
    """A recursive descent parser; blanks only separate tokens, but `30 6` is not a number."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.place = self.bars = self.depth = 0

    def sum(self) -> Node:
        self.deeper()
        terms = [self.product()]
        while self.peek() in ("+", "-", "\\pm", "\\mp"):
            sign = self.next()
            term = self.product()
            if sign not in "+-":
                term = Node("function", (term,), sign)
            terms.append(Node("negative", (term,)) if sign == "-" else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("sum", tuple(terms))

    def product(self) -> Node:
        result, divisions = self.signed(), 0
        while (token := self.peek()) and divisions < MAX_DEPTH:
            if token in ("\\cdot", "*"):
                self.next()
                result = _times(result, self.signed())
            elif token in ("/", "\\div"):
                self.next()
                divisions += 1
                result = Node("quotient", (result, self.signed()), token)
            elif token in ("\\bmod", "\\mod", "\\pmod"):
                self.next()
                result = Node("function", (result, self.signed()), "\\bmod")
            elif self.starts_operand(token):
                result = self.beside(result)
            else:
                break
        return result

    def beside(self, result: Node) -> Node:
        """Parses an operand directly after another: a product, or the fraction of a mixed number."""
        is_digit = self.peek()[:1].isdigit()
        if result.kind == "negative" and result.parts[0].kind == "number":
            return Node("negative", (self.beside(result.parts[0]),))
        if is_digit and self.tokens[self.place - 1][:1].isdigit():
            return self.mixed(result)
        operand = self.postfixed()
        if result.kind == "number" and result.name == "integer" and _is_fraction(operand):
            return _mixed(result, operand)
        return _times(result, operand)

    def mixed(self, whole: Node) -> Node:
        """Parses the fraction of `7 1/2`."""
        if whole.kind == "number" and whole.name == "integer" and self.peek(1) == "/":
            above = self.primary()
            self.next()
            fraction = Node("quotient", (above, self.primary()))
            if _is_fraction(fraction):
                return _mixed(whole, fraction)
        raise _Unread

    def signed(self) -> Node:
        token = self.peek()
        if token in ("-", "+", "\\pm", "\\mp"):
            self.next()
            self.deeper()
            inner = self.signed()
            self.depth -= 1
            if token == "+":
                return inner
            return Node("negative", (inner,)) if token == "-" else Node("function", (inner,), token)
        return self.postfixed()

    def postfixed(self) -> Node:
        result, signs = self.primary(), 0
        while (token := self.peek()) and signs < MAX_DEPTH:
            signs += 1
            if token == "^":
                self.next()
                if self.peek() == "'" or self.peek().startswith("\\prime"):
                    raise _Unread
                result = Node("power", (result, self.argument()))
            elif token == "!":
                self.next()
                result = Node("function", (result,), "!")
            elif token == "\\degree":
                self.next()
                result = _times(result, Node("name", name="\\degree"))
            elif token == "'" or (token == "_" and result.kind != "name"):
                raise _Unread
            elif token == "_":
                self.next()
                result = Node("name", name=f"{result.name}_{self.raw()}")
            else:
                break
        return result

    def primary(self) -> Node:
        token = self.next()
        if token[0].isdigit() and token.isascii():
            return self.number(token)
        if (len(token) == 1 and token.isalpha() and token.isascii()) or token in _NAMES:
            return Node("name", name=token)
        if token in "([{":
            inner = self.sum()
            self.expect({"(": ")", "[": "]", "{": "}"}[token])
            return inner
        if token == "|":
            self.bars += 1
            inner = self.sum()
            self.expect("|")
            self.bars -= 1
            return Node("function", (inner,), "|")
        if token in ("\\lfloor", "\\lceil"):
            inner = self.sum()
            self.expect("\\r" + token[2:])
            return Node("function", (inner,), token)
        return self.command(token)

    def number(self, token: str) -> Node:
        is_repeating = self.peek() == "\\overline" and "." in token
        if is_repeating or (self.peek() == "." and self.peek(1) == "\\overline"):
            if self.peek() == ".":
                self.next()
            self.next()
            again = self.raw()
            if not again.isdigit():
                raise _Unread
            whole, _, once = token.partition(".")
            return Node("number", name="repeating", number=repeating_decimal(whole, once, again))
        name = "decimal" if "." in token else "integer"
        return Node("number", name=name, number=Fraction(token))

    def command(self, token: str) -> Node:
        if token == "\\frac":
            return Node("quotient", (self.group(), self.group()))
        if token == "\\binom":
            return Node("function", (self.group(), self.group()), token)
        if token == "\\sqrt":
            index = Node("number", name="integer", number=Fraction(2))
            if self.peek() == "[":
                self.next()
                index = self.sum()
                self.expect("]")
            return Node("root", (self.group(), index))
        if token in ("\\overline", "\\bar", "\\vec", "\\hat", "\\tilde", "\\mathbb", "\\mathcal", "\\text"):
            return Node("name", name=f"{token}{{{self.raw()}}}")
        if token in _PLAIN or token in _OF_MANY:
            return self.function(token)
        if token in _BIG:
            while self.peek() in ("_", "^"):
                self.next()
                self.raw()
            return Node("function", (self.product(),), token)
        raise _Unread

    def function(self, name: str) -> Node:
        parts: list[Node] = []
        power = None
        self.deeper()
        while self.peek() in ("_", "^"):
            if self.next() == "^":
                power = self.argument()
            else:
                parts.append(self.argument())
        if self.peek() in ("(", "{", "["):
            opened = self.next()
            parts.append(self.sum())
            while self.peek() == ",":
                self.next()
                parts.append(self.sum())
            self.expect({"(": ")", "[": "]", "{": "}"}[opened])
        else:
            parts.append(self.operand())
        self.depth -= 1
        result = Node("function", tuple(parts), name)
        return result if power is None else Node("power", (result, power))

    def operand(self) -> Node:
        """Parses a function's argument without brackets: `2x` of `\\sin 2x \\cos x`, `-x`, another function."""
        if self.peek() in _PLAIN:
            return self.command(self.next())
        if self.peek() == "-":
            self.next()
            self.deeper()
            inner = Node("negative", (self.operand(),))
            self.depth -= 1
            return inner
        result = self.postfixed()
        while (token := self.peek()) and self.starts_operand(token) and token not in (*_PLAIN, *_BIG, "(", "[", "|"):
            result = self.beside(result)
        if self.peek() == "/" and self.peek(1)[:1].isalnum():
            self.next()
            result = Node("quotient", (result, self.postfixed()))
        return result

    def argument(self) -> Node:
        """Parses the argument of `^` or `_`: a group, or one token."""
        if self.peek() == "{":
            return self.group()
        if self.peek() == "-":
            self.next()
            return Node("negative", (self.primary(),))
        return self.primary()

    def group(self) -> Node:
        self.expect("{")
        inner = self.sum()
        self.expect("}")
        return inner

    def raw(self) -> str:
        """Returns the unparsed tokens of a group, or the next token."""
        token = self.next()
        if token != "{":
            return token
        inside, depth = [], 1
        while depth:
            token = self.next()
            depth += (token == "{") - (token == "}")
            inside.append(token)
        return "".join(inside[:-1])

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unread

    def starts_operand(self, token: str) -> bool:
        if token == "|":
            return not self.bars
        return token not in _NOT_AN_OPERAND

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        if not token:
            raise _Unread
        self.place += 1
        return token

    def expect(self, token: str) -> None:
        if self.next() != token:
            raise _Unread


def repeating_decimal(whole: str, once: str, again: str) -> Fraction:
    """Returns the value of a decimal whose digits `again` repeat after the digits `once`."""
    return Fraction(f"{whole}.{once}0") + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))


def _is_fraction(node: Node) -> bool:
    """Whether it is a quotient of two whole numbers below 1, the fraction of a mixed number."""
    if node.kind != "quotient" or any(part.kind != "number" or part.name != "integer" for part in node.parts):
        return False
    return node.parts[0].number < node.parts[1].number


def _times(one: Node, other: Node) -> Node:
    """Returns a product; one of many factors is one node."""
    return Node("product", (*(one.parts if one.kind == "product" else (one,)), other))


def _mixed(whole: Node, fraction: Node) -> Node:
    value = whole.number + fraction.parts[0].number / fraction.parts[1].number
    return Node("number", name="mixed", number=value)
