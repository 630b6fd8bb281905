"""From examples to judged answers: render, decode, judge. Training rollouts, validations and evaluations are this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Decoder, Request
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
    compat: bool = False
    """Prompts as the published code renders them: see `tokenization.prompt_text`."""


def answer(
    decoder: Decoder, tokenizer: Any, task: Task, asked: Sequence[tuple[Example, int]], policy: DecodePolicy
) -> list[Answer]:
    """One judged response to each (example, sample number), in order; equal pairs would get equal draws."""
    trajectories = decoder.decode(requests_of(tokenizer, task, asked), policy)
    return judged(tokenizer, task, [example for example, _ in asked], trajectories)


def requests_of(
    tokenizer: Any,
    task: Task,
    asked: Sequence[tuple[Example, int]],
    policy_of: Callable[[Example], DecodePolicy | None] = lambda _: None,
) -> list[Request]:
    """What the decoder is asked for each (example, sample number), in order; each example is rendered once.

    policy_of: where problems are decoded by policies of their own.
    """
    examples = list({example.uid: example for example, _ in asked}.values())
    encoded = encode_prompts(tokenizer, [task.render(example) for example in examples], task.compat)
    prompts = {example.uid: np.asarray(prompt) for example, prompt in zip(examples, encoded, strict=True)}
    return [
        Request(example.uid, sample, prompts[example.uid], task.max_new_tokens, policy_of(example))
        for example, sample in asked
    ]


def judged(tokenizer: Any, task: Task, examples: Sequence[Example], trajectories: Sequence[Trajectory]) -> list[Answer]:
    """Each trajectory with its text and verdict. Raises what the judge raises."""
    texts = [decode_response(tokenizer, trajectory.response_ids) for trajectory in trajectories]
    verdicts = task.judge.judge(examples, texts)
    return [Answer(*row) for row in zip(examples, trajectories, texts, verdicts, strict=True)]


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
