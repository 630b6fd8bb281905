"""The cases for the judge: a gold with its question, a response, and whether it is right."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .change_forms import differences
from .copied import copied
from .golds import Gold, canonical, read
from .identities import identities
from .layouts import INSIDE, OUTSIDE, RESPONSES, WRONG_RESPONSES
from .registry import CHANGING, KEEPING, rewritten

LAYOUTS = {**INSIDE, **OUTSIDE}


class Case(NamedTuple):
    kind: str
    """The name of the rewriting."""
    gold: Gold
    answer: str
    """The written answer, which the response has in a box."""
    response: str


def boxed(kind: str, gold: Gold, answer: str) -> Case:
    return Case(kind, gold, answer, f"So the answer is $\\boxed{{{answer}}}$.")


def picked(pairs: Iterable[tuple[str, str]], gold: Gold, most: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Returns at most `most` texts of each kind, none twice and none the gold itself."""
    texts: dict[str, list[str]] = defaultdict(list)
    for kind, text in pairs:
        if text != gold.body and text not in texts[kind]:
            texts[kind].append(text)
    for kind, found in texts.items():
        yield from ((kind, text) for text in rng.sample(found, min(most, len(found))))


def compact(text: str) -> str:
    return "".join(text.split())


def copies(text: str, gold: Gold) -> bool:
    """Whether the question contains this text, ignoring spaces: then it is the task and not a rewriting."""
    return len(compact(text)) > 1 and compact(text) in compact(gold.question)


def keeping_cases(golds: Sequence[Gold], seed: int, most: int, layouts: int, combined: int) -> list[Case]:
    """For each gold every rewriting (`most` texts each), some of them laid out otherwise (`combined`), two responses.

    Each layout alone on `layouts` of the golds that it fits.
    """
    cases: list[Case] = []
    for gold in golds:
        rng = random.Random(f"{seed}/{gold.text}/{gold.question}")
        found = picked(rewritten(KEEPING, gold, rng), gold, most, rng)
        written = [(kind, text) for kind, text in found if not copies(text, gold)]
        cases += [boxed(kind, gold, text) for kind, text in written]
        texts = [text for _, text in written] or [gold.body]
        for _ in range(combined):
            text = two_layouts(rng.choice([*texts, gold.body]), rng)
            if text != gold.body and not copies(text, gold):
                cases.append(boxed("two or three together", gold, text))
        for kind in rng.sample(list(RESPONSES), 2):
            text = rng.choice([*texts, gold.body])
            cases.append(Case(f"response: {kind}", gold, text, RESPONSES[kind](text, "777")))
        if gold.shape == "list" and len(gold.parts) == 2:
            first, second = (item.text for item in rng.sample(gold.parts, 2))
            response = f"The solutions are $\\boxed{{{first}}}$ and $\\boxed{{{second}}}$."
            cases.append(Case("response: a box for each of two answers", gold, f"{first}; {second}", response))
    return list(dict.fromkeys(cases + layout_cases(golds, seed, layouts)))


def layout_cases(golds: Sequence[Gold], seed: int, most: int) -> list[Case]:
    cases: list[Case] = []
    for kind, layout in LAYOUTS.items():
        fitting = [gold for gold in golds if (text := layout(gold.body)) != gold.body and not copies(text, gold)]
        chosen = random.Random(f"{seed}/{kind}").sample(fitting, min(most, len(fitting)))
        cases += [boxed(f"layout: {kind}", gold, layout(gold.body)) for gold in chosen]
    return cases


def two_layouts(text: str, rng: random.Random) -> str:
    return LAYOUTS[rng.choice(list(OUTSIDE))](LAYOUTS[rng.choice(list(INSIDE))](text))


def changing_cases(golds: Sequence[Gold], seed: int, most: int) -> list[Case]:
    """Returns every change of each gold (`most` texts each), and a quarter of them in another layout too."""
    cases: list[Case] = []
    for gold in golds:
        rng = random.Random(f"{seed}/{gold.text}/{gold.question}")
        for kind, text in picked(rewritten(CHANGING, gold, rng), gold, most, rng):
            cases.append(boxed(kind, gold, text))
            if rng.random() < 0.25 and (other := two_layouts(text, rng)) != text:
                cases.append(boxed(f"{kind}, laid out otherwise", gold, other))
        wrong = "777" if gold.value != 777 else "778"
        kind = rng.choice(list(WRONG_RESPONSES))
        cases.append(Case(f"response: {kind}", gold, gold.body, WRONG_RESPONSES[kind](gold.body, wrong)))
    return list(dict.fromkeys(cases))


def identity_cases(seed: int, count: int) -> list[Case]:
    return list(dict.fromkeys(boxed(*case) for case in identities(random.Random(seed), count)))


def difference_cases(seed: int, count: int) -> list[Case]:
    return list(dict.fromkeys(boxed(*case) for case in differences(random.Random(seed), count)))


def copied_cases(seed: int, count: int) -> list[Case]:
    rng = random.Random(seed)
    cases = []
    for kind, gold, answer in copied(rng, count):
        cases += [boxed(kind, gold, answer), boxed(f"{kind}, laid out otherwise", gold, two_layouts(answer, rng))]
    return list(dict.fromkeys(cases))


def formulas_of_the_question(golds: Iterable[Gold]) -> list[Case]:
    """Returns each formula of a question that is not the gold as an answer, alone or after `v =`."""
    cases = []
    for gold in golds:
        answer = compact(canonical(gold.text))
        for formula in re.findall(r"\$([^$]+)\$", gold.question.replace("$$", "$")):
            said = compact(canonical(formula.strip(" ,.;")))
            known = read(formula, gold.question)
            same = known.value is not None and known.value == gold.value and known.shape == gold.shape
            if not same and not re.fullmatch(rf"(.*(=|\\in))?{re.escape(answer)}", said):
                cases.append(boxed("a formula of the question copied", gold, formula.strip()))
    return list(dict.fromkeys(cases))


def report(cases: Sequence[Case], right: Sequence[bool], expected: bool) -> str:
    """Returns how many cases of each kind were judged and failed, with the three shortest failures."""
    total, failures = Counter(case.kind for case in cases), defaultdict(list)
    for case, verdict in zip(cases, right, strict=True):
        if verdict != expected:
            failures[case.kind].append(case)
    failed = sum(map(len, failures.values()))
    lines = [f"{len(cases)} that {'keep' if expected else 'change'} the meaning, {failed} judged falsely"]
    for kind, count in sorted(total.items()):
        lines.append(f"  {kind}: {count}, failed {len(failures[kind])}")
        for case in sorted(failures[kind], key=lambda case: len(case.response) + len(case.gold.text))[:3]:
            lines.append(f"      gold {case.gold.text!r}, answer {case.answer!r}, asked {case.gold.question[:70]!r}")
    return "\n".join(lines)
