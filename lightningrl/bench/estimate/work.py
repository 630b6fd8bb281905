"""How many positions a response costs in decoding and in training, and the arithmetic of a position.

Training: a row has the clean positions of all blocks but the last, and one noisy copy of a block for each denoise
forward that revealed a token of the response (rl/likelihood.py). Decoding: each denoise forward computes its block, and
the first one of a block also the finished block before it (schedule `fused`; `separate` computes as many positions).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lightningrl.bench.model_shape import Shape
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Work:
    """Positions through the layers, positions through the head, and how many keys the former see.

    >>> (Work(10, 2, 5.0) + Work(30, 0, 9.0)).context
    8.0
    """

    positions: float
    head_positions: float
    context: float
    """The mean number of keys that a position sees."""

    def __add__(self, other: Work) -> Work:
        total = self.positions + other.positions
        seen = self.positions * self.context + other.positions * other.context
        return Work(total, self.head_positions + other.head_positions, seen / total if total else 0.0)

    def times(self, factor: float) -> Work:
        return Work(self.positions * factor, self.head_positions * factor, self.context)

    def operations(self, shape: Shape) -> float:
        """Returns the operations of one forward.

        They are 2 x (layers' matrices) per position, 2 V H per head position, 4 L N D per position and key.
        """
        layers = 2.0 * shape.trunk_matrices * self.positions
        head = 2.0 * shape.head_parameters * self.head_positions
        attention = 4.0 * shape.num_hidden_layers * shape.query_numbers * self.context * self.positions
        return layers + head + attention


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths of prompts and responses, and the TPF: assumed or measured."""

    prompt_tokens: float
    response_tokens: float
    tpf: float
    """Response tokens per denoise forward."""

    @property
    def forwards(self) -> float:
        """Denoise forwards per response."""
        return self.response_tokens / self.tpf


def trained_positions(prompt_tokens: int, response_tokens: int, forwards: int, block_size: int) -> int:
    """Returns the positions of one trajectory's training row; `forwards` revealed a token of its response.

    >>> trained_positions(6, 5, 3, 4)
    20
    """
    clean = (prompt_tokens + response_tokens - 1) // block_size * block_size
    return clean + block_size * forwards


def positions_of(trajectories: Iterable[Trajectory]) -> int:
    """Returns the exact training positions of real trajectories, without padding."""
    total = 0
    for one in trajectories:
        forwards = len(np.unique(one.reveal_step[: one.response_len]))
        total += trained_positions(len(one.prompt_ids), one.response_len, forwards, one.block_size)
    return total


def training_work(lengths: Lengths, block_size: int) -> Work:
    """Returns the expected work of training on one response. A copy sees half of the response on average, and
    itself.
    """
    end = lengths.prompt_tokens + lengths.response_tokens
    clean = (end - 1) // block_size * block_size
    copies = block_size * lengths.forwards
    seen = lengths.prompt_tokens + lengths.response_tokens / 2 + block_size
    return Work(clean, 0.0, end / 2) + Work(copies, lengths.response_tokens, seen)


def prefill_work(lengths: Lengths, block_size: int) -> Work:
    """Returns the work of the prompt's whole blocks."""
    whole = lengths.prompt_tokens // block_size * block_size
    return Work(whole, 0.0, whole / 2)


def decoding_work(lengths: Lengths, block_size: int) -> Work:
    """Returns the expected work of decoding one response, without its prefill.

    The head is evaluated at masked positions: from K of them down to TPF.
    """
    first = lengths.prompt_tokens // block_size
    blocks = -(-(lengths.prompt_tokens + lengths.response_tokens) // block_size) - first
    positions = block_size * (lengths.forwards + max(0.0, blocks - 1))
    open_positions = (block_size + min(lengths.tpf, block_size)) / 2
    seen = lengths.prompt_tokens + lengths.response_tokens / 2 + block_size
    return Work(positions, lengths.forwards * open_positions, seen)
