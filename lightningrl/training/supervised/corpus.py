"""Supervised sequences: the chat prompt, the worked answer, the end token, and pads up to the block grid, or a canvas.

The pads after the end token are trained like the answer, as in SDAR: so the model learns to fill the rest of its last
block. A model that sees its whole canvas learns to fill that, as LLaDA does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightningrl.errors import BenchmarkError
from lightningrl.tokenization import encode_prompts, encode_texts
from lightningrl.types import Example

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequence:
    """One training sequence; prompt and response together end on the block grid, where there is one."""

    prompt_ids: np.ndarray
    """[P] int64."""
    response_ids: np.ndarray
    """[S] int64: answer, end token, pads."""
    pads: int = 0
    """How many of them are pads."""


def build_corpus(
    tokenizer: Any,
    examples: Sequence[Example],
    render: Callable[[Example], Sequence[dict[str, str]]],
    block_size: int,
    canvas: int | None = None,
    limit: int | None = None,
) -> list[TrainingSequence]:
    """Returns the sequences of all examples, with pads up to the block grid, or up to `canvas` response tokens where
    that is given; a longer answer is not cut.

    limit: the model's positions; sequences that are longer are left out, which is logged. Raises BenchmarkError when an
    example has no worked answer, or no sequence is left.
    """
    unsolved = [example.uid for example in examples if example.solution is None]
    if unsolved:
        raise BenchmarkError(f"{unsolved[0]} has no worked answer: its benchmark cannot be trained on")
    prompts = encode_prompts(tokenizer, [render(example) for example in examples])
    answers = encode_texts(tokenizer, [example.solution or "" for example in examples])
    sequences = []
    for prompt_ids, answer_ids in zip(prompts, answers, strict=True):
        pads = -(len(prompt_ids) + len(answer_ids) + 1) % block_size
        if canvas is not None:
            pads = max(0, canvas - len(answer_ids) - 1)
        tail = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * pads
        response_ids = np.concatenate([answer_ids, tail]).astype(np.int64)
        sequences.append(TrainingSequence(np.asarray(prompt_ids), response_ids, pads))
    fitting = [each for each in sequences if limit is None or len(each.prompt_ids) + len(each.response_ids) <= limit]
    if sequences and not fitting:
        raise BenchmarkError(
            f"each of the {len(sequences)} worked answers is, with its prompt, longer than the model's {limit} "
            "positions; take a model with more, or a benchmark with shorter problems"
        )
    if left := len(sequences) - len(fitting):
        _log.warning("%d of %d worked answers are longer than the model's %d positions and are left out", left,
                     len(sequences), limit)  # fmt: skip
    return fitting
