"""The phrasings of a gsm-mini answer: the template of each sentence, by the role of the sentence."""

from __future__ import annotations

import re
from string import Formatter

from lightningrl.benchmarks.gsm_mini import (
    CLOSINGS,
    CONNECTORS,
    ENDINGS,
    ITEMS,
    MARKS,
    NAMES,
    OPENERS,
    SENTENCES,
    problem_of,
)
from lightningrl.types import Example

Phrase = tuple[str, str]
"""A pair (role, words). The role is a kind of operation, `opener`, `connector`, `ending`, `mark`, `closing` or
`extra`; the words are a template or, where no template matches, the sentence with its numbers, names and items
replaced."""

_VARIABLE = re.compile(rf"\b(?:(?P<n>{'|'.join(NAMES)})|(?P<i>{'|'.join(ITEMS)})|(?P<d>\d+))\b")


def _pattern(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Returns a pattern for a template with any numbers (a wrong sum is no new wording), and the field of each group.

    >>> _pattern("{x} + {y} = {z}")[0].fullmatch("1 + 2 = 4").groups(), _pattern("{x} + {y} = {z}")[1]
    (('1', '2', '4'), ('x', 'y', 'z'))
    """
    alternatives = {"name": rf"(?:{'|'.join(NAMES)})", "item": rf"(?:{'|'.join(ITEMS)})"}
    text, letters = "", []
    for literal, field, _, _ in Formatter().parse(template):
        text += re.escape(literal)
        if field in alternatives:
            text += alternatives[field]
        elif field is not None:
            text += r"(\d+)"
            letters.append(field)
    return re.compile(text, re.IGNORECASE), tuple(letters)


STEPS = {op: [(template, *_pattern(template)) for template in templates] for op, templates in SENTENCES.items()}
ENDS = [(template, _pattern(template)[0]) for template in CLOSINGS]


def phrases(example: Example, response: str) -> list[Phrase]:
    """Returns the phrases of a response's sentences: one sentence for each step of the problem, then the closing one.

    A missing sentence gives no phrase; a superfluous one has the role `extra`.

    >>> question = "Ann has 12 books, buys 5, then doubles them. How many books now?"
    >>> example = Example("gsm-mini/test/0", ({"role": "user", "content": question},), {"answer": "34"}, "")
    >>> phrases(example, "First 12 + 5 = 17 now! 17 times 2 is 34. The answer is \\\\boxed{34}.")[:4]
    [('opener', 'First '), ('plus', '{x} + {y} = {z}'), ('ending', ' now'), ('mark', '!')]
    >>> phrases(example, "First 12 + 5 = 17 now! 17 times 2 is 34. The answer is \\\\boxed{34}.")[4:]
    [('double', '# times # is #'), ('closing', 'The answer is \\\\boxed{{{z}}}.')]
    """
    problem = problem_of(example)
    sentences = [sentence for sentence in re.split(r"(?<=[.!])\s+", response.strip()) if sentence]
    steps = list(zip(problem.ops, problem.values, problem.values[1:], strict=False))
    found: list[Phrase] = []
    for number, sentence in enumerate(sentences):
        if number == len(sentences) - 1:
            matching = (template for template, pattern in ENDS if pattern.fullmatch(sentence))
            found.append(("closing", next(matching, _anonymised(sentence))))
        elif number < len(steps):
            (op, y), x, z = steps[number]
            role, before = ("connector", CONNECTORS) if number else ("opener", OPENERS)
            found += _step(sentence, op, role, before, {"x": str(x), "y": str(y), "z": str(z)})
        else:
            found.append(("extra", _anonymised(sentence)))
    return found


def _step(sentence: str, op: str, role: str, before: tuple[str, ...], values: dict[str, str]) -> list[Phrase]:
    """Returns the phrases of the matching template with the most correct numbers, which tells `x + y` from `y + x`."""
    best: tuple[int, str, str] | None = None
    mark = next((mark for mark in MARKS if sentence.endswith(mark)), "")
    whole = sentence.removesuffix(mark)
    ending = next((ending for ending in ENDINGS if whole.endswith(ending)), "")
    for word in before:
        rest = whole.removesuffix(ending)
        if word and not rest.lower().startswith(word.lower()):
            continue
        for template, pattern, letters in STEPS[op]:
            if match := pattern.fullmatch(rest[len(word) :]):
                right = sum(values[letter] == number for letter, number in zip(letters, match.groups(), strict=True))
                if best is None or right > best[0]:
                    best = right, word, template
    if best is None:
        return [(op, _anonymised(whole))]
    return [(role, best[1]), (op, best[2]), ("ending", ending), ("mark", mark)]


def _anonymised(sentence: str) -> str:
    return _VARIABLE.sub(lambda match: "NAME" if match["n"] else "ITEM" if match["i"] else "#", sentence)
