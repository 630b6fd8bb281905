r"""Whether an answer with the gold answer's value is finished: as simplified as the gold, and not copied.

The two sides have different roles: the gold answer shows how far the question wants things worked out. An answer is
finished if

- it leaves no kind of work that the gold does not leave too (`work.remaining_work`);
- it is not in the question, unless the gold is written in the same way;
- it is not in the question in another form that trivially cancels to the same (`reduced_form`);
- it is written like the gold (as reduced, as expanded or factored, decimal or fraction) if the question itself states
  the gold's value, and so asks only for another form. If the statement is one term and the gold has a root
  ("rationalise"), the answer must not have any unwanted notation that the gold does not have.

Without a question the task is unknown, and every form of a right value is right.
"""

from __future__ import annotations

from functools import lru_cache

from lightningrl.judges.math import forms
from lightningrl.judges.math.forms import notation, reduced_form
from lightningrl.judges.math.question import Question
from lightningrl.judges.math.tree import Node, read
from lightningrl.judges.math.value import same_ratio, same_value
from lightningrl.judges.math.work import canonical, rational, remaining_work

_MOVED = ("the letter", "a letter in a denominator", "a root", "a power of a product")
"""The kinds of work that rearranging an equation may add."""
_VALUES = frozenset(
    {"a root", "a letter in a denominator", "the letter \\pi", "the letter e", "the letter i", "a root of a root"}
)
"""The kinds of work that the value of a function or a power may contain."""


def unfinished(gold: str, found: str, question: Question) -> str | None:
    """Returns a readable reason why `found` is not an answer even if it has the gold's value; None: it is one.

    Both are expressions as `text.clean` returns them.
    """
    if not question.text or gold == found:
        return None
    tree, answer = read(gold), read(found)
    if answer is None or tree is None:  # an unreadable answer cannot be shown to be worked out
        return None if tree is None else "cannot be seen to be worked out"
    if remaining_work(answer) - _allowed(tree):
        return "is not worked out"
    if canonical(answer) == canonical(tree):
        return None
    reduced = reduced_form(answer)
    if canonical(answer) in question.nodes or (reduced in question.reduced_forms and reduced != reduced_form(tree)):
        return "is copied from the question"
    extra = notation(answer) - notation(tree)
    is_in_form = not (question.expands and extra & {"brackets", "brackets in a sum"})
    is_in_form &= not (question.factors and forms.brackets(answer) < forms.brackets(tree))
    is_in_form &= not (question.factors and forms.has_common_number(answer) and not forms.has_common_number(tree))
    if is_in_form and all(_is_another_way(tree, answer, extra, node) for node in other_forms(question, tree)):
        return None
    return "is not in the form that the question asks for"


def is_solved(gold: tuple[str, str], found: tuple[str, str], question: Question) -> bool:
    """Whether an equation that is equivalent to the gold equation is an answer; each is a pair of sides."""
    if not question.text:
        return True
    trees = [tree for side in (*gold, *found) if (tree := read(side)) is not None]
    if len(trees) < 4:
        return True
    left, right, *answer = trees
    undone = frozenset().union(*map(remaining_work, answer)) - remaining_work(left) - remaining_work(right)
    if any(not kind.startswith(_MOVED) for kind in undone):
        return False
    forms, gold_forms = ({*map(canonical, sides)} for sides in (answer, (left, right)))
    if forms != gold_forms and forms in ({canonical(a), canonical(b)} for a, b in question.equations):
        return False
    is_explicit = left.kind == "name" and canonical(left) not in forms
    return not (is_explicit and any(same_ratio((left, right), equation) for equation in question.equations))


def is_stated(name: str, values: list[str], question: Question) -> bool:
    """Whether the question itself states that the name has the value."""
    equation = "=".join((name, *values)).replace(" ", "")
    return any(span.replace(" ", "") == equation for span in question.spans)


def _allowed(gold: Node) -> frozenset[str]:
    found = remaining_work(gold)
    if gold.kind == "number" and gold.name == "mixed":
        found |= {"like terms"}  # a mixed number is read as `1+\frac45`
    return (
        found | _VALUES if any(kind.startswith(("a function", "a power", "the letter e")) for kind in found) else found
    )


def _is_another_way(gold: Node, answer: Node, extra: frozenset[str], node: Node) -> bool:
    """Whether the answer avoids the notation that the gold avoids in `node`, the question's form of their value.

    `extra` is the notation of the answer that the gold does not have.
    """
    if extra and forms.is_one_term(node) and "a root" in remaining_work(gold):
        return False
    is_a_task = forms.is_plain(node) if rational(gold) is not None else not _has_functions(node)
    if is_a_task and extra & notation(node) - (frozenset() if forms.is_plain(node) else forms.OF_ONE_NUMBER):
        return False
    if rational(gold) is None and forms.size(answer) > 2 * forms.size(gold) + 2:
        return False
    return not {"brackets", "brackets in a sum"} & notation(gold) or forms.brackets(answer) >= forms.brackets(gold)


def _has_functions(node: Node) -> bool:
    return any(kind.startswith("a function") for kind in remaining_work(node))


@lru_cache(maxsize=4096)
def other_forms(question: Question, gold: Node) -> tuple[Node, ...]:
    """Returns the question's expressions that have the gold's value in another form."""
    own = canonical(gold)
    return tuple(node for text, node in question.nodes.items() if text != own and same_value(gold, node))
