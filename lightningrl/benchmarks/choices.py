"""Multiple choice by likelihood: the part that such benchmarks share.

Nothing is generated: each choice is a pair of a context and a continuation, and the answer is the choice whose
continuation is likeliest, by its log-likelihood, or by that of a character (`per_character`): acc and acc_norm of
lm-evaluation-harness, whose wordings (version 0.4) these are. They are plain text unless the style is `chat`. The gold
data are `choices` (their texts), `answer` (a number from 0), `contexts` and `continuations` (one a choice, or one
context for all), `heading`, which every context begins with, and `before`, worked examples behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightningrl.benchmarks.prompts import user
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.published import PublishedBenchmark
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

CHAT = "chat"


class ChoiceBenchmark(PublishedBenchmark):
    """A published benchmark of multiple choice; its splits are for testing only."""

    judge = "lightningrl.judges.choice:ChoiceJudge"
    styles = ("default", CHAT)
    splits = ("test",)
    per_character = False
    """Whether log-likelihoods are divided by the number of characters of the choice's text, as for choices of unequal
    length; of both, it is what counts as right."""

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        """See `Benchmark.render`: the first choice's context, as a chat would have it."""
        return [user(_before(example, prompt) + example.gold["contexts"][0])]

    def pairs(self, example: Example, prompt: PromptOptions) -> list[tuple[str, str]]:
        """Returns (context, continuation) of each choice, as plain text."""
        contexts, continuations = example.gold["contexts"], example.gold["continuations"]
        contexts = contexts * len(continuations) if len(contexts) == 1 else contexts
        return [(_before(example, prompt) + a, b) for a, b in zip(contexts, continuations, strict=True)]


def is_choice(benchmark: Any) -> bool:
    """Returns whether a benchmark is answered by likelihood: it has `pairs`."""
    return callable(getattr(benchmark, "pairs", None))


def choice_example(
    uid: str,
    contexts: Sequence[str],
    continuations: Sequence[str],
    choices: Sequence[str],
    answer: int,
    heading: str = "",
    before: str = "",
) -> Example:
    """Returns a problem. Raises BenchmarkError where its answer is none of its choices, or a text is missing."""
    if not 0 <= answer < len(choices) or len(choices) < 2 or not all((*contexts, *continuations)):
        raise BenchmarkError(f"{uid}: found the answer {answer} of {len(choices)} choices; get the file again.")
    gold = {
        "choices": list(choices),
        "answer": answer,
        "contexts": list(contexts),
        "continuations": list(continuations),
    }
    question = contexts[0] if len(contexts) == 1 else " / ".join((*contexts, continuations[0]))
    more = {name: text for name, text in (("heading", heading), ("before", before)) if text}
    return Example(uid, (user(question),), gold | more, choices[answer])


def _before(example: Example, prompt: PromptOptions) -> str:
    """Returns what stands before the context: the heading, and worked examples where some are asked for."""
    return example.gold.get("heading", "") + (example.gold.get("before", "") if prompt.shots else "")
