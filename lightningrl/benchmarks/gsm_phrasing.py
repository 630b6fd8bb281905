"""In which words a gsm-mini answer puts its steps: the template of each sentence, by what the sentence is for."""

from __future__ import annotations

import re

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

_ASKED = re.compile(r"^(\w+) has \d+ (\w+),")
_OWN = re.compile(rf"\b(?:(?P<n>{'|'.join(NAMES)})|(?P<i>{'|'.join(ITEMS)})|(?P<d>\d+))\b")


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
    question = example.messages[-1]["content"]
    asked = _ASKED.match(question)
    name, item = (asked[1], asked[2]) if asked else ("", "")
    problem = _problem(GSM_MINI.signature(example))
    sentences = [sentence for sentence in re.split(r"(?<=\.)\s+", response.strip()) if sentence]
    steps = list(zip(problem.ops, problem.values, problem.values[1:], strict=False))
    found: list[Phrase] = []
    for number, sentence in enumerate(sentences):
        if number == len(sentences) - 1:
            fits = (c for c in CLOSINGS if c.format(z=problem.values[-1], name=name, item=item) == sentence)
            found.append(("closing", next(fits, _bare(sentence))))
        elif number < len(steps):
            (op, y), x, z = steps[number]
            before = CONNECTORS if number else OPENERS
            values = {"x": x, "y": y, "z": z, "name": name, "item": item}
            found += _step(sentence, op, "connector" if number else "opener", before, values)
        else:
            found.append(("extra", _bare(sentence)))
    return found


def _step(sentence: str, op: str, role: str, before: tuple[str, ...], values: dict[str, object]) -> list[Phrase]:
    for word in before:
        for template in SENTENCES[op]:
            text = word + template.format(**values)
            if text[0].upper() + text[1:] + "." == sentence:
                return [(role, word), (op, template)]
    return [(op, _bare(sentence.removesuffix(".")))]


def _bare(sentence: str) -> str:
    return _OWN.sub(lambda match: "NAME" if match["n"] else "ITEM" if match["i"] else "#", sentence)


def _problem(signature: str) -> WordProblem:
    start, _, told = signature.partition(":")
    ops = (re.fullmatch(r"([a-z]+)(\d+)", each) for each in told.split(","))
    return WordProblem(int(start), tuple((op[1], FACTORS.get(op[1], int(op[2]))) for op in ops if op))
