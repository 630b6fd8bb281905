"""An oracle for the judge of mathematics: answers whose verdict is known by the way in which they are made.

| module | what it has |
|---|---|
| `golds` | reads an answer of a competition problem: its shape and its parts, without any code of the judge |
| `made`, `made_more` | makes golds of every shape, each with a question, from seeded random numbers |
| `keep_*`, `identities` | rewritings that keep the meaning: the judge must say right |
| `layouts` | spaces, brackets, fonts, signs and surrounding text, which never change it |
| `change_*`, `unevaluated`, `copied` | rewritings that change it, or leave the work undone: the judge must say wrong |
| `cases` | what is asked of the judge, made of all these, and the report of what it said |
| `registry`, `writing` | the tables of named rewritings; how numbers and sums are written |

Rewritings come from mathematics and from how people and models write, not from the judge's rules.
"""

from . import (
    change_collections,
    change_labels,
    change_numbers,
    keep_collections,
    keep_labels,
    keep_numbers,
    keep_relations,
    made_more,
    unevaluated,
)

__all__ = [
    "change_collections", "change_labels", "change_numbers", "keep_collections", "keep_labels", "keep_numbers",
    "keep_relations", "made_more", "unevaluated",
]  # fmt: skip
"""Imported for what they register."""
