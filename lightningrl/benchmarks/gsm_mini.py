"""gsm-mini: templated word problems of three steps, with worked answers in many equivalent phrasings.

The phrasings are essential: the tokens of a sentence depend on each other (its template, its arithmetic), so drawing
them in parallel and independently mixes templates and breaks sums. That makes the trade-off between speed and accuracy
real in a model of half a million parameters. It is not a benchmark of anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

from lightningrl.benchmarks.generated import GeneratedBenchmark, KeyedRandom
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

# These constants set the difficulty. Changing any of them changes every example.
MAX_ADD = 9
"""The largest number gained or lost in one step; the smallest is 1."""
N_OPS = 3
"""The number of steps: of fewer there are too few different problems for a test split of thousands."""
OPS = ("plus", "plus", "minus", "minus", "double", "triple")
"""The kinds of steps, drawn uniformly: a kind listed twice is twice as likely."""
VALUE_RANGE = (10, 39)
"""The range of the start, which is drawn uniformly, and of all values after it. All have two digits, so lengths of
numbers reveal nothing; up to 39 no sum is so rare that a base of the miniature has hardly met it when it is done."""

FACTORS = {"double": 2, "triple": 3}
NAMES = ("Ann", "Ben", "Eva", "Max", "Sam", "Zoe")
ITEMS = ("books", "cards", "coins", "pens", "shells", "stones")
VERBS = {
    "plus": ("buys {y}", "finds {y}", "gets {y}"),
    "minus": ("drops {y}", "loses {y}", "sells {y}"),
    "double": ("doubles them",),
    "triple": ("triples them",),
}
OPENERS = ("First ", "Well ", "So ", "Here ")
CONNECTORS = ("Then ", "Next ", "So ", "Now ")
SENTENCES = {
    "plus": (
        "{x} + {y} = {z}",
        "{y} + {x} = {z}",
        "add {y} to {x} to get {z}",
        "{name} has {x} + {y} = {z}",
        "{x} {item} and {y} {item} make {z}",
    ),
    "minus": (
        "{x} - {y} = {z}",
        "take {y} from {x} to get {z}",
        "{x} less {y} is {z}",
        "{name} has {x} - {y} = {z}",
        "{x} {item} without {y} {item} leave {z}",
    ),
    "double": (
        "{x} * 2 = {z}",
        "2 * {x} = {z}",
        "adding {x} to {x} gives {z}",
        "double {x} to get {z}",
        "{name} has 2 * {x} = {z}",
    ),
    "triple": (
        "{x} * 3 = {z}",
        "3 * {x} = {z}",
        "{x} + {x} + {x} = {z}",
        "triple {x} to get {z}",
        "{name} has 3 * {x} = {z}",
    ),
}
"""The templates of a step's sentence, by the kind of step. In tokens, every sentence with its connector and its ending
has an even length, and the first digit of its result an even place, so that a place holds a first digit or a second one
whichever templates are taken. The first is the most frequent by far, so that a decoder that must reveal something takes
parts of one template. docs/miniature_search.md shows what a base does otherwise."""
ENDINGS = (" now", " altogether", " here", " overall")
MARKS = (".", "!")
"""The last word of a step's sentence, and the mark after it. Nothing depends on either, but choosing takes a forward,
which a policy with a habit saves."""
CLOSINGS = (
    "The answer is \\boxed{{{z}}}.",
    "The result is \\boxed{{{z}}}.",
    "Now {name} has \\boxed{{{z}}} {item}.",
    "So there are \\boxed{{{z}}} {item}.",
)
"""The templates of the last sentence; the box is at the same place in all of them."""

_QUESTION = re.compile(r"^\w+ has (\d+) \w+, (.*)\. How many \w+ now\?$")
_CLAUSE = re.compile(r"^(?:then )?(\w+) (\d+|them)$")
_OP_OF_VERB = {clause.split()[0]: op for op, clauses in VERBS.items() for clause in clauses}


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A start number and the steps that change it.

    >>> WordProblem(12, (("plus", 5), ("double", 2))).values
    (12, 17, 34)
    """

    start: int
    ops: tuple[tuple[str, int], ...]
    """Pairs (kind, number); the number of a doubling is 2, that of a tripling 3."""

    @property
    def values(self) -> tuple[int, ...]:
        """The start and the value after each step."""
        values = [self.start]
        for op, y in self.ops:
            values.append(_apply(op, values[-1], y))
        return tuple(values)

    @property
    def signature(self) -> str:
        return f"{self.start}:" + ",".join(f"{op}{y}" for op, y in self.ops)


def _apply(op: str, x: int, y: int) -> int:
    return x + y if op == "plus" else x - y if op == "minus" else x * y


def problem_of(example: Example) -> WordProblem:
    """Returns the problem behind an example's question. Raises BenchmarkError for any other text."""
    question = example.messages[-1]["content"]
    match = _QUESTION.match(question)
    clauses = [_CLAUSE.match(text) for text in match[2].split(", ")] if match else [None]
    ops = [(_OP_OF_VERB[clause[1]], clause[2]) for clause in clauses if clause and clause[1] in _OP_OF_VERB]
    if match is None or len(ops) != len(clauses):
        raise BenchmarkError(f"{example.uid} is not a gsm-mini question: {question!r}. Prepare the data again.")
    return WordProblem(int(match[1]), tuple((op, FACTORS.get(op) or int(number)) for op, number in ops))


class GsmMini(GeneratedBenchmark[WordProblem]):
    """The benchmark; see the module's docstring."""

    name = "gsm-mini"
    licence = "MIT"
    citation = "Generated by lightningrl.benchmarks.gsm_mini; a miniature in the manner of GSM8K (Cobbe et al., 2021)."
    judge = "lightningrl.judges.boxed_answer:BoxedJudge"

    def signature(self, example: Example) -> str:
        """Returns the start number and the steps as read from the question; names, items and verbs do not count."""
        return problem_of(example).signature

    def problem_signature(self, problem: WordProblem) -> str:
        return problem.signature

    def draw(self, rng: KeyedRandom) -> WordProblem:
        """Returns a problem whose values all lie in VALUE_RANGE, by rejecting all other draws."""
        while True:
            kinds = [rng.choice(OPS) for _ in range(N_OPS)]
            ops = tuple((op, FACTORS.get(op) or rng.integer(1, MAX_ADD)) for op in kinds)
            problem = WordProblem(rng.integer(*VALUE_RANGE), ops)
            if all(VALUE_RANGE[0] <= value <= VALUE_RANGE[1] for value in problem.values):
                return problem

    def example(self, problem: WordProblem, rng: KeyedRandom, uid: str) -> Example:
        name, item = rng.choice(NAMES), rng.choice(ITEMS)
        clauses = [rng.choice(VERBS[op]).format(y=y) for op, y in problem.ops]
        clauses[-1] = "then " + clauses[-1]
        question = f"{name} has {problem.start} {item}, {', '.join(clauses)}. How many {item} now?"
        answer = {"answer": str(problem.values[-1])}
        return Example(uid, ({"role": "user", "content": question},), answer, worked_answer(problem, name, item, rng))


def worked_answer(problem: WordProblem, name: str, item: str, rng: KeyedRandom) -> str:
    """Returns one sentence for each step and a closing sentence, each in a phrasing that is drawn."""
    sentences = []
    for (op, y), x, z in zip(problem.ops, problem.values, problem.values[1:], strict=False):
        sentence = _frequent_first(rng, SENTENCES[op]).format(x=x, y=y, z=z, name=name, item=item)
        sentence = _frequent_first(rng, CONNECTORS if sentences else OPENERS) + sentence
        sentence += _frequent_first(rng, ENDINGS) + _frequent_first(rng, MARKS)
        sentences.append(sentence[0].upper() + sentence[1:])
    sentences.append(_frequent_first(rng, CLOSINGS).format(z=problem.values[-1], name=name, item=item))
    return " ".join(sentences)


def _frequent_first(rng: KeyedRandom, options: tuple[str, ...]) -> str:
    """Returns one of the options; the k-th is drawn k times less often than the first, as words of a language are."""
    shares = [60 // place for place in range(1, len(options) + 1)]
    ticket = rng.integer(1, sum(shares))
    return next(option for option, upto in zip(options, accumulate(shares), strict=True) if ticket <= upto)


GSM_MINI = GsmMini()
