r"""Whether an answer that equals the gold answer is one: worked out as far as the gold, and not the question's words.

The two have different parts. The gold answer is what it is; it says how far the question wants things worked out. An
answer is finished when

- it leaves no work to do of a kind that the gold does not leave as well (`work.work`);
- it is not in the question, unless the gold is written so as well;
- nor is it what the question has by a detour that takes itself back (`bare`);
- where the question itself states the gold's value, so that it asks for nothing but another way to write it, the
  answer is written that way: as reduced, as expanded or factored, decimal or fraction, as the gold is. Where what it
  states is one term and the gold has a root ("rationalise"), there is nothing to mend that the gold has not as well.

Without a question nothing is known of what was to be done, and every form of a right value is right.
"""

from __future__ import annotations

from functools import lru_cache

from lightningrl.judges.math.notation import (
    OF_ONE_NUMBER,
    brackets,
    has_common_number,
    is_one_term,
    is_plain,
    notation,
    size,
)
from lightningrl.judges.math.question import Question
from lightningrl.judges.math.reduced_form import reduced_form
from lightningrl.judges.math.tree import Node, read
from lightningrl.judges.math.value import same_ratio, same_value
from lightningrl.judges.math.work import canonical, rational, remaining_work

_MOVED = ("the letter", "a letter in a denominator", "a root", "a power of a product")
"""Work that an equation may get when it is moved about."""
_VALUES = frozenset(
    {"a root", "a letter in a denominator", "the letter \\pi", "the letter e", "the letter i", "a root of a root"}
)
"""What a function's or a power's value may be made of."""


def unfinished(gold: str, found: str, question: Question | None) -> str | None:
    """Why `found` is no answer even if it has the gold's value, in words for people; None: then it is one.

    Both are expressions as `text.clean` has them.
    """
    if question is None or gold == found:
        return None
    tree, answer = read(gold), read(found)
    if answer is None or tree is None:  # what cannot be read cannot be seen to be worked out
        return None if tree is None else "cannot be seen to be worked out"
    if remaining_work(answer) - _allowed(tree):
        return "is not worked out"
    if canonical(answer) == canonical(tree):
        return None
    if canonical(answer) in question.nodes or (
        reduced_form(answer) in question.reduced_forms and reduced_form(answer) != reduced_form(tree)
    ):
        return "is copied from the question"
    lacks = notation(answer) - notation(tree)
    is_wanted = not (question.expands and lacks & {"brackets", "brackets in a sum"})
    is_wanted &= not (question.factors and brackets(answer) < brackets(tree))
    is_wanted &= not (question.factors and has_common_number(answer) and not has_common_number(tree))
    if is_wanted and all(_is_another_way(tree, answer, lacks, node) for node in other_forms(question, tree)):
        return None
    return "is not in the form that the question asks for"


def is_solved(gold: tuple[str, str], found: tuple[str, str], question: Question | None) -> bool:
    """Whether an equation that says what the gold equation says is an answer; each is a pair of sides."""
    if question is None:
        return True
    trees = [tree for side in (*gold, *found) if (tree := read(side)) is not None]
    if len(trees) < 4:
        return True
    left, right, *answer = trees
    undone = frozenset().union(*map(remaining_work, answer)) - remaining_work(left) - remaining_work(right)
    if any(not kind.startswith(_MOVED) for kind in undone):
        return False
    forms = {canonical(side) for side in answer}
    if any({canonical(a), canonical(b)} == forms for a, b in question.equations) and forms != {
        canonical(left),
        canonical(right),
    }:
        return False
    is_explicit = (
        left.kind == "name" and canonical(answer[0]) != canonical(left) and canonical(answer[1]) != canonical(left)
    )
    return not (is_explicit and any(same_ratio((left, right), equation) for equation in question.equations))


def is_stated(name: str, values: list[str], question: Question) -> bool:
    """Whether the question itself says that the name has the value."""
    said = "=".join((name, *values)).replace(" ", "")
    return any(span.replace(" ", "") == said for span in question.spans)


def _allowed(gold: Node) -> frozenset[str]:
    found = remaining_work(gold)
    if gold.kind == "number" and gold.name == "mixed":
        found |= {"like terms"}  # `1+\frac45` is how a mixed number is read
    return (
        found | _VALUES if any(kind.startswith(("a function", "a power", "the letter e")) for kind in found) else found
    )


def _is_another_way(gold: Node, answer: Node, lacks: frozenset[str], node: Node) -> bool:
    """Whether the answer leaves out what the gold leaves out of the node, in which the question states their value.

    lacks: what the answer has that a question may want gone, and the gold has not.
    """
    if lacks and is_one_term(node) and "a root" in remaining_work(gold):
        return False
    is_a_task = is_plain(node) if rational(gold) is not None else not _has_functions(node)
    if is_a_task and lacks & notation(node) - (frozenset() if is_plain(node) else OF_ONE_NUMBER):
        return False
    if rational(gold) is None and size(answer) > 2 * size(gold) + 2:
        return False
    return not {"brackets", "brackets in a sum"} & notation(gold) or brackets(answer) >= brackets(gold)


def _has_functions(node: Node) -> bool:
    return any(kind.startswith("a function") for kind in remaining_work(node))


@lru_cache(maxsize=4096)
def other_forms(question: Question, gold: Node) -> tuple[Node, ...]:
    """Where the question states the gold's value in another way than the gold does."""
    own = canonical(gold)
    return tuple(node for text, node in question.nodes.items() if text != own and same_value(gold, node))
