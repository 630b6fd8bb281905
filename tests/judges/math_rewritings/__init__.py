"""An oracle for the judge of mathematics: answers whose verdict is known by construction.

| module | what it has |
|---|---|
| `golds` | parses the shape and the parts of an answer of a competition problem, without any code of the judge |
| `gold_generators`, `gold_generators_more` | generate golds of every shape from a seed, each with a question |
| `keep_*`, `identities` | rewritings that keep the meaning: the judge must say right |
| `layouts` | spaces, brackets, fonts, signs and surrounding text, which never change it |
| `change_*`, `unevaluated`, `copied` | rewritings that change it, or leave the work undone: the judge must say wrong |
| `cases` | builds the judge's cases from all of these, and reports its verdicts |
| `registry`, `writing` | the tables of named rewritings; how numbers and sums are written |

Rewritings come from mathematics and from how people and models write, not from the judge's rules.
"""

from . import (
    change_collections,
    change_labels,
    change_numbers,
    gold_generators_more,
    keep_collections,
    keep_labels,
    keep_numbers,
    keep_relations,
    unevaluated,
)

__all__ = [
    "change_collections",
    "change_labels",
    "change_numbers",
    "gold_generators_more",
    "keep_collections",
    "keep_labels",
    "keep_numbers",
    "keep_relations",
    "unevaluated",
]  # fmt: skip
"""Imported for what they register."""
