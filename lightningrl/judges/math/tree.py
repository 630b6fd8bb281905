r"""A mathematical expression as a tree, exactly as it is written: nothing is evaluated, reordered or cancelled.

The tree shows whether an answer still has work to do (`work`), which a computer algebra system hides because it
evaluates while it parses. `read` takes a text of `text.clean` and returns None unless it is an expression: for a list,
an equation, an interval, a sentence. Linear in the text except for nested bars.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Kind = Literal["number", "name", "sum", "negative", "product", "quotient", "power", "root", "function"]
MAX_DEPTH = 60

_TOKEN = re.compile(r"[0-9]+\.[0-9]*\\overline(?![A-Za-z])|[0-9]+(?:\.[0-9]+)?|\\[A-Za-z]+|\\.|\.\.\.|\S")
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_NAMES = frozenset("\\" + name for name in (*_GREEK.split(), "infty"))
TRIGONOMETRY = frozenset(
    f"\\{prefix}{name}" for prefix in ("", "arc") for name in ("sin", "cos", "tan", "cot", "sec", "csc")
) | {"\\sinh", "\\cosh", "\\tanh", "\\cis"}
LOGARITHMS = frozenset({"\\log", "\\ln", "\\lg", "\\exp"})
_PLAIN = TRIGONOMETRY | LOGARITHMS
_OF_MANY = frozenset({"\\gcd", "\\lcm", "\\max", "\\min", "\\det", "\\arg", "\\deg", "\\Re", "\\Im"})
_BIG = frozenset({"\\sum", "\\prod", "\\int", "\\iint", "\\oint", "\\lim", "\\bigcup", "\\bigcap"})
_SIGNS = ("+", "-", "\\pm", "\\mp")
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
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
        tree = parser.nested(parser.sum)
    except (_Unread, RecursionError):
        return None
    return tree if parser.place == len(parser.tokens) else None


class _Parser:
    """A recursive descent parser; blanks only separate tokens, but `30 6` is not a number."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.place = self.bars = self.depth = 0

    def nested(self, parse: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unread
        result = parse()
        self.depth -= 1
        return result

    def sum(self) -> Node:
        terms = [self.product()]
        while sign := self.accept(*_SIGNS):
            terms.append(_with_sign(sign, self.product()))
        return terms[0] if len(terms) == 1 else Node("sum", tuple(terms))

    def product(self) -> Node:
        result, divisions = self.signed(), 0
        while self.peek() and divisions < MAX_DEPTH:
            if self.accept("\\cdot", "*"):
                result = _times(result, self.signed())
            elif token := self.accept("/", "\\div"):
                divisions += 1
                result = Node("quotient", (result, self.signed()), token)
            elif self.accept("\\bmod", "\\mod", "\\pmod"):
                result = Node("function", (result, self.signed()), "\\bmod")
            elif self.starts_operand():
                result = self.beside(result)
            else:
                break
        return result

    def beside(self, result: Node) -> Node:
        """Parses an operand directly after another: a product, or the fraction of a mixed number."""
        if result.kind == "negative" and result.parts[0].kind == "number":
            return Node("negative", (self.beside(result.parts[0]),))
        if self.peek()[:1].isdigit() and self.tokens[self.place - 1][:1].isdigit():  # `7 1/2`
            above = self.primary()
            self.expect("/")
            mixed = _mixed(result, Node("quotient", (above, self.primary())))
            if mixed is None:
                raise _Unread
            return mixed
        operand = self.postfixed()
        return _mixed(result, operand) or _times(result, operand)

    def signed(self) -> Node:
        if sign := self.accept(*_SIGNS):
            return _with_sign(sign, self.nested(self.signed))
        return self.postfixed()

    def postfixed(self) -> Node:
        result = self.primary()
        for _ in range(MAX_DEPTH):
            if self.accept("^"):
                if self.peek().startswith(("'", "\\prime")):
                    raise _Unread
                result = Node("power", (result, self.argument()))
            elif self.accept("!"):
                result = Node("function", (result,), "!")
            elif self.accept("\\degree"):
                result = _times(result, Node("name", name="\\degree"))
            elif self.peek() == "'" or (self.peek() == "_" and result.kind != "name"):
                raise _Unread
            elif self.accept("_"):
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
        if token == "|":
            self.bars += 1
            inner = self.up_to("|")
            self.bars -= 1
            return Node("function", (inner,), "|")
        if token in _CLOSING:
            inner = self.up_to(_CLOSING[token])
            return inner if token in "([{" else Node("function", (inner,), token)
        return self.command(token)

    def number(self, token: str) -> Node:
        if token.endswith("\\overline"):
            whole, _, once = token.removesuffix("\\overline").partition(".")
            again = self.raw()
            if not again.isdigit():
                raise _Unread
            return Node("number", name="repeating", number=repeating_decimal(whole, once, again))
        return Node("number", name="decimal" if "." in token else "integer", number=Fraction(token))

    def command(self, token: str) -> Node:
        if token == "\\frac":
            return Node("quotient", (self.group(), self.group()))
        if token == "\\binom":
            return Node("function", (self.group(), self.group()), token)
        if token == "\\sqrt":
            index = Node("number", name="integer", number=Fraction(2))
            if self.accept("["):
                index = self.up_to("]")
            return Node("root", (self.group(), index))
        if token in ("\\overline", "\\bar", "\\vec", "\\hat", "\\tilde", "\\mathbb", "\\mathcal", "\\text"):
            return Node("name", name=f"{token}{{{self.raw()}}}")
        if token in _PLAIN or token in _OF_MANY:
            return self.function(token)
        if token in _BIG:
            while self.accept("_", "^"):
                self.raw()
            return Node("function", (self.product(),), token)
        raise _Unread

    def function(self, name: str) -> Node:
        parts: list[Node] = []
        power = None
        while token := self.accept("_", "^"):
            if token == "^":
                power = self.argument()
            else:
                parts.append(self.argument())
        if opened := self.accept("(", "{", "["):
            parts.append(self.nested(self.sum))
            while self.accept(","):
                parts.append(self.nested(self.sum))
            self.expect(_CLOSING[opened])
        else:
            parts.append(self.operand())
        result = Node("function", tuple(parts), name)
        return result if power is None else Node("power", (result, power))

    def operand(self) -> Node:
        """Parses a function's argument without brackets: `2x` of `\\sin 2x \\cos x`, `-x`, another function."""
        if self.peek() in _PLAIN:
            return self.nested(lambda: self.command(self.next()))
        if sign := self.accept("-"):
            return _with_sign(sign, self.nested(self.operand))
        result = self.postfixed()
        while self.peek() and self.starts_operand() and self.peek() not in (*_PLAIN, *_BIG, "(", "[", "|"):
            result = self.beside(result)
        if self.peek(1)[:1].isalnum() and self.accept("/"):
            result = Node("quotient", (result, self.postfixed()))
        return result

    def argument(self) -> Node:
        """Parses the argument of `^` or `_`: a group, or one token."""
        if self.peek() == "{":
            return self.group()
        if sign := self.accept("-"):
            return _with_sign(sign, self.primary())
        return self.primary()

    def group(self) -> Node:
        self.expect("{")
        return self.up_to("}")

    def up_to(self, closing: str) -> Node:
        inner = self.nested(self.sum)
        self.expect(closing)
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

    def starts_operand(self) -> bool:
        return not self.bars if self.peek() == "|" else self.peek() not in _NOT_AN_OPERAND

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def next(self) -> str:
        if not self.peek():
            raise _Unread
        self.place += 1
        return self.tokens[self.place - 1]

    def accept(self, *tokens: str) -> str:
        """Moves past the next token and returns it if it is one of these; else it returns an empty text."""
        return self.next() if self.peek() in tokens else ""

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise _Unread


def repeating_decimal(whole: str, once: str, again: str) -> Fraction:
    """Returns the value of a decimal whose digits `again` repeat after the digits `once`."""
    return Fraction(f"{whole}.{once}0") + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))


def _with_sign(sign: str, node: Node) -> Node:
    if sign == "+":
        return node
    return Node("negative", (node,)) if sign == "-" else Node("function", (node,), sign)


def _times(one: Node, other: Node) -> Node:
    """Returns a product; one of many factors is one node."""
    return Node("product", (*(one.parts if one.kind == "product" else (one,)), other))


def _mixed(whole: Node, fraction: Node) -> Node | None:
    """Returns the mixed number of a whole number and a fraction of whole numbers below 1; None for other nodes."""
    if fraction.kind != "quotient" or any(part.name != "integer" for part in (whole, *fraction.parts)):
        return None
    above, below = (part.number for part in fraction.parts)
    return Node("number", name="mixed", number=whole.number + above / below) if above < below else None
