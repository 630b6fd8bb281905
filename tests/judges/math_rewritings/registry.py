"""The named rewritings, by the shapes to which they apply."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from .golds import Gold

Rewrite = Callable[[Gold, random.Random], Iterable[str]]
Named = dict[str, tuple[tuple[str, ...], Rewrite]]

KEEPING: Named = {}
"""Rewritings that keep the meaning: name, shapes, function. An empty text does not count."""
CHANGING: Named = {}
"""Rewritings that change the meaning or leave work undone."""


def into(table: Named) -> Callable[..., Callable[[Rewrite], Rewrite]]:
    """Returns a decorator that takes shapes and registers a function under its name in words."""

    def of_shapes(*shapes: str) -> Callable[[Rewrite], Rewrite]:
        def register(function: Rewrite) -> Rewrite:
            table[function.__name__.replace("_", " ")] = (shapes, function)
            return function

        return register

    return of_shapes


keeps = into(KEEPING)
changes = into(CHANGING)


def rewritten(table: Named, gold: Gold, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of all rewritings in the table for the gold's shape."""
    for name, (shapes, function) in table.items():
        if gold.shape in shapes:
            yield from ((name, text) for text in function(gold, rng) if text)
