"""What a decoder is asked and what it answers with (a Trajectory, lightningrl/types.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from lightningrl.errors import DecodeError
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One response to decode.

    >>> Request("gsm-mini/test/00017", 0, np.array([5, 6, 7]), 64).max_new_tokens
    64
    """

    uid: str
    sample: int
    """Which of the uid's responses; part of the key of its draws."""
    prompt_ids: np.ndarray
    """[P] int64."""
    max_new_tokens: int
    """Rounded up so that prompt and response end on the block grid."""

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.prompt_ids).dtype, np.integer) and len(self.prompt_ids):
            raise DecodeError(f"{self.uid}: prompt_ids are {np.asarray(self.prompt_ids).dtype}, expected token ids")
        if len(self.prompt_ids) == 0:
            raise DecodeError(f"{self.uid}: the prompt is empty; give at least one token")
        if self.max_new_tokens < 1:
            raise DecodeError(f"{self.uid}: max_new_tokens is {self.max_new_tokens}, expected at least 1")


class Selector(Protocol):
    """Which masked positions a forward reveals."""

    def select(self, confidence_BK: Tensor, masked_BK: Tensor) -> Tensor:
        """(B, K) bool, a subset of masked_BK, not empty where masked_BK is not."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decode: the selector, the temperature, and the key of the draws."""

    selector: Selector
    temperature: float = 0.0
    """0: greedy."""
    commit: str = "fused"
    """`fused` or `separate`: see config.tasks.Decoding."""
    seed: int = 0
    step: int = 0
    """Training step; part of the key of the draws, and the trajectories' policy_version."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise DecodeError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if self.commit not in ("fused", "separate"):
            raise DecodeError(f"commit is {self.commit!r}, expected `fused` or `separate`")


class Decoder(Protocol):
    """Anything that turns requests into trajectories with exact reveal steps and log-probabilities."""

    def decode(self, requests: Sequence[Request], policy: Policy) -> list[Trajectory]:
        """One trajectory a request, in the order of the requests."""
        ...
