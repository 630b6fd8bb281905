"""From examples to judged answers: render, decode, judge. Training rollouts, validations and evaluations are this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightningrl.decoding.protocol import Decoder, Policy, Request
from lightningrl.judges.protocol import Judge
from lightningrl.tokenization import decode_response, encode_prompts
from lightningrl.types import Example, Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to one example, judged."""

    example: Example
    trajectory: Trajectory
    text: str
    """The response up to the first stop token, special tokens removed: what the judge saw."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark as the model meets it: wording, budget, judge."""

    render: Callable[[Example], Sequence[dict[str, str]]]
    """Chat turns of a problem."""
    judge: Judge
    max_new_tokens: int


def answer(
    decoder: Decoder,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    policy: Policy,
    samples: int = 1,
    first_sample: int = 0,
) -> list[Answer]:
    """`samples` judged responses to each example, numbered from `first_sample`: example by example."""
    prompts = encode_prompts(tokenizer, [task.render(example) for example in examples])
    requests = [
        Request(example.uid, sample, np.asarray(prompt), task.max_new_tokens)
        for example, prompt in zip(examples, prompts, strict=True)
        for sample in range(first_sample, first_sample + samples)
    ]
    trajectories = decoder.decode(requests, policy)
    texts = [decode_response(tokenizer, trajectory.response_ids) for trajectory in trajectories]
    asked = [example for example in examples for _ in range(samples)]
    verdicts = task.judge.judge(asked, texts)
    return [Answer(*row) for row in zip(asked, trajectories, texts, verdicts, strict=True)]


@dataclass(frozen=True, slots=True)
class Score:
    """Means over a set of answers; TPF pooled (ratio of sums)."""

    accuracy_pct: float
    tpf: float
    forwards_per_problem: float
    response_tokens_mean: float


def score(answers: Sequence[Answer]) -> Score:
    """Accuracy (percent), pooled tokens per forward, and mean denoise forwards and tokens of a response."""
    stats = [a.trajectory.stats for a in answers]
    tokens, forwards = sum(s.response_tokens for s in stats), sum(s.denoise_forwards for s in stats)
    correct = sum(a.verdict.correct for a in answers)
    return Score(100 * correct / len(answers), tokens / forwards, forwards / len(answers), tokens / len(answers))
