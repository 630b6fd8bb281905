"""In which words a gsm-mini answer puts its steps: the template of each sentence, by what the sentence is for."""

from __future__ import annotations

import re
from string import Formatter

from lightningrl.benchmarks.gsm_mini import (
    CLOSINGS,
    CONNECTORS,
    FACTORS,
    GSM_MINI,
    ITEMS,
    NAMES,
    OPENERS,
    SENTENCES,
    WordProblem,
)
from lightningrl.types import Example

Phrase = tuple[str, str]
"""(what it is for, the words): a kind of operation, `opener`, `connector` or `closing`; and a template, or where no
template fits the sentence itself, numbers, names and things replaced."""

_OWN = re.compile(rf"\b(?:(?P<n>{'|'.join(NAMES)})|(?P<i>{'|'.join(ITEMS)})|(?P<d>\d+))\b")


def _pattern(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """What a template fits, and which number each group is: any numbers, a wrong sum in known words is no new wording.

    >>> _pattern("{x} + {y} = {z}")[0].fullmatch("1 + 2 = 4").groups(), _pattern("{x} + {y} = {z}")[1]
    (('1', '2', '4'), ('x', 'y', 'z'))
    """
    fits = {"name": rf"(?:{'|'.join(NAMES)})", "item": rf"(?:{'|'.join(ITEMS)})"}
    text, letters = "", []
    for literal, field, _, _ in Formatter().parse(template):
        text += re.escape(literal)
        if field in fits:
            text += fits[field]
        elif field is not None:
            text += r"(\d+)"
            letters.append(field)
    return re.compile(text, re.IGNORECASE), tuple(letters)


STEPS = {op: [(template, *_pattern(template)) for template in templates] for op, templates in SENTENCES.items()}
ENDS = [(template, _pattern(template)[0]) for template in CLOSINGS]


def phrases(example: Example, response: str) -> list[Phrase]:
    """Of a response's sentences, in order: one for each step of the problem, then the closing one.

    A sentence that is not there gives no phrase; one too many is `extra`.

    >>> problem = WordProblem(12, (("plus", 5), ("double", 2)))
    >>> asked = "Ann has 12 books, buys 5, then doubles them. How many books now?"
    >>> example = Example("gsm-mini/test/0", ({"role": "user", "content": asked},), {"answer": "34"}, "")
    >>> phrases(example, "First 12 + 5 = 17. 17 times 2 is 34. The answer is \\\\boxed{34}.")[:2]
    [('opener', 'First '), ('plus', '{x} + {y} = {z}')]
    >>> phrases(example, "First 12 + 5 = 17. 17 times 2 is 34. The answer is \\\\boxed{34}.")[2:]
    [('double', '# times # is #'), ('closing', 'The answer is \\\\boxed{{{z}}}.')]
    """
    problem = _problem(GSM_MINI.signature(example))
    sentences = [sentence for sentence in re.split(r"(?<=\.)\s+", response.strip()) if sentence]
    steps = list(zip(problem.ops, problem.values, problem.values[1:], strict=False))
    found: list[Phrase] = []
    for number, sentence in enumerate(sentences):
        if number == len(sentences) - 1:
            fits = (template for template, pattern in ENDS if pattern.fullmatch(sentence))
            found.append(("closing", next(fits, _bare(sentence))))
        elif number < len(steps):
            (op, y), x, z = steps[number]
            role, before = ("connector", CONNECTORS) if number else ("opener", OPENERS)
            found += _step(sentence, op, role, before, {"x": str(x), "y": str(y), "z": str(z)})
        else:
            found.append(("extra", _bare(sentence)))
    return found


def _step(sentence: str, op: str, role: str, before: tuple[str, ...], values: dict[str, str]) -> list[Phrase]:
    """The template with the most right numbers among those that fit: `x + y` and `y + x` differ in nothing else."""
    best: tuple[int, str, str] | None = None
    for word in before:
        rest = sentence.removesuffix(".")
        if word and not rest.lower().startswith(word.lower()):
            continue
        for template, pattern, letters in STEPS[op]:
            if match := pattern.fullmatch(rest[len(word) :]):
                right = sum(values[letter] == number for letter, number in zip(letters, match.groups(), strict=True))
                if best is None or right > best[0]:
                    best = right, word, template
    if best is None:
        return [(op, _bare(sentence.removesuffix(".")))]
    return [(role, best[1]), (op, best[2])]


def _bare(sentence: str) -> str:
    return _OWN.sub(lambda match: "NAME" if match["n"] else "ITEM" if match["i"] else "#", sentence)


def _problem(signature: str) -> WordProblem:
    start, _, told = signature.partition(":")
    ops = (re.fullmatch(r"([a-z]+)(\d+)", each) for each in told.split(","))
    return WordProblem(int(start), tuple((op[1], FACTORS.get(op[1], int(op[2]))) for op in ops if op))
