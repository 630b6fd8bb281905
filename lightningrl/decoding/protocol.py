"""What a decoder is asked, what it is made of, and what it answers with (a Trajectory, lightningrl/types.py).

A decode is a loop of forwards. Four pieces say what each does, a ledger what was done:

`Schedule`  which positions a forward computes, which of them may be revealed now, and what is kept for later forwards
            (decoding/canvas.py)
`Ranking`   a number for each open position
`Selector`  which are revealed
`StopRule`  when a stop token ends the response
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from lightningrl.decoding.canvas import Canvas, Schedule
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.rankings import Confidence
from lightningrl.decoding.schedules.block import FusedCommit
from lightningrl.decoding.stops import FinishBlock
from lightningrl.errors import DecodeError
from lightningrl.types import Trajectory

MOST_TOP_K = 2**31
"""More than any vocabulary has; what is larger is a mistake, and no machine number."""


class Ranking(Protocol):
    def score(self, drawn: OpenPositions) -> Tensor:
        """(B, K) a number for each open position, higher is sooner."""
        ...


class Selector(Protocol):
    """It may have a second method, `bound(size) -> Bound` (decoding/proposals.py), where for blocks of K = `size`
    positions its rule is one: then whole turns can run on the device (decoding/device_turn.py). One with a true
    `may_wait` reveals nothing in some forwards, and everything after some number of them; one with a true `uses_noise`
    gets a uniform for each position, as a ranking does. One whose choice is drawn may have a method
    `decision(candidates, chosen_BK) -> (B,)`: the log-probability of just this choice, which is then kept with the
    trajectory. One with a true `takes_probabilities` goes with rankings alone whose numbers are probabilities."""

    def select(self, candidates: Proposals) -> Tensor:
        """(B, K) bool, a subset of candidates.open_BK, not empty where that is not unless it `may_wait`."""
        ...


class StopRule(Protocol):
    def ended(self, stop_BK: np.ndarray, masked_BK: np.ndarray) -> np.ndarray:
        """(B,) bool, asked after each forward of the active block: see decoding/stops.py."""
        ...


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """How to decode, and the key of the draws."""

    selector: Selector
    temperature: float = 0.0
    """0: greedy, with confidences at temperature 1."""
    top_k: int = 0
    """Tokens are drawn among the k likeliest (and those as likely as the last of them); 0: among all."""
    top_p: float = 1.0
    """Tokens are drawn among the likeliest ones that together reach this probability."""
    ranking: Ranking = field(default_factory=Confidence)
    schedule: Schedule = field(default_factory=FusedCommit)
    stop: StopRule = field(default_factory=FinishBlock)
    logits: Logits = field(default_factory=Logits)
    """Changes to the logits before the softmax."""
    seed: int = 0
    step: int = 0
    """Training step; part of the key of the draws, and the trajectories' policy_version."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise DecodeError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 <= self.top_k <= MOST_TOP_K:
            raise DecodeError(f"top_k is {self.top_k}, expected 0 (all tokens) or more, up to {MOST_TOP_K}")
        if not 0 < self.top_p <= 1:
            raise DecodeError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if getattr(self.selector, "takes_probabilities", False) and not getattr(self.ranking, "is_probability", False):
            raise DecodeError(
                f"{self.selector} takes each position's number as a probability, and {self.ranking} gives none; rank "
                "by `planner`, or by `confidence` without alg_temp (a ranking of your own says `is_probability`)"
            )


def decides(policy: DecodePolicy) -> bool:
    """Whether which positions a forward reveals is a draw whose log-probability the selector knows."""
    return hasattr(policy.selector, "decision")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One response to decode."""

    uid: str
    sample: int
    """Which of the uid's responses; part of the key of its draws."""
    prompt_ids: np.ndarray
    """[P] int64. A mask token in it is context like any other token, unless the request `infills`."""
    max_new_tokens: int
    """Rounded up to the schedule's grid of blocks."""
    policy: DecodePolicy | None = None
    """For this request alone; None: the one given for all."""
    infills: bool = False
    """Mask tokens of the prompt are decoded with the response, as one block (the schedule `whole_sequence`); the
    trajectory's prompt is the filled one."""

    def block_begin(self, mask_id: int) -> int:
        """The first position that is decoded: the prompt's end, or before it the first mask that is to be filled."""
        masks = np.flatnonzero(np.asarray(self.prompt_ids) == mask_id)
        return int(masks[0]) if self.infills and len(masks) else len(self.prompt_ids)

    def canvas(self, policy: DecodePolicy, model_size: int, mask_id: int) -> tuple[int, Canvas]:
        """K and the canvas of this request under a policy. Raises DecodeError where it infills and its schedule
        cannot."""
        begin, new = self.block_begin(mask_id), self.max_new_tokens
        if begin < len(self.prompt_ids) and not policy.schedule.is_whole:
            raise DecodeError(
                f"{self.uid}: the prompt has masks to be filled, which {policy.schedule} cannot: its blocks begin at "
                f"the "
                "prompt's end. Take the schedule whole_sequence"
            )
        size = policy.schedule.size(new + len(self.prompt_ids) - begin, model_size)
        return size, policy.schedule.canvas(begin, new + len(self.prompt_ids) - begin, size)

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.prompt_ids).dtype, np.integer) and len(self.prompt_ids):
            raise DecodeError(f"{self.uid}: prompt_ids are {np.asarray(self.prompt_ids).dtype}, expected token ids")
        if len(self.prompt_ids) == 0:
            raise DecodeError(f"{self.uid}: the prompt is empty; give at least one token")
        if self.max_new_tokens < 1:
            raise DecodeError(f"{self.uid}: max_new_tokens is {self.max_new_tokens}, expected at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class DecodeResult:
    """What became of one request: a trajectory, or the reason why there is none."""

    index: int
    """The index of the request among those given."""
    request: Request
    trajectory: Trajectory | None = None
    error: DecodeError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """All open positions of one forward, before what was chosen is written; n of them, over all rows."""

    index_n: np.ndarray
    """The index of the request among those given."""
    forward_n: np.ndarray
    """The row's denoise forward, from 1."""
    position_n: np.ndarray
    """Absolute, from the first prompt token."""
    token_n: np.ndarray
    logp_n: np.ndarray
    """The log-probability of the drawn token, nats."""
    entropy_n: np.ndarray
    chosen_n: np.ndarray
    """bool: revealed by this forward."""
    top_ids_nA: np.ndarray
    """The A likeliest tokens, likeliest first."""
    top_logp_nA: np.ndarray
    at_n: np.ndarray
    """Where among the forward's positions the one lies whose state predicts it; behind them all, where that state is of
    an earlier forward."""


class Observer(Protocol):
    """Looks on while a decoder works."""

    alternatives: int
    """A: how many of the likeliest tokens an observation has a position; 0 costs nothing."""

    def observe(self, seen: Observation) -> None: ...


class Release(Protocol):
    """Which requests of a stream may be decoded by now: for one that is decided on while others are decoded."""

    at_once: int
    """How many requests are to be decoded together at most. The memory is laid out for so many of the longest."""

    def __call__(self) -> int | None:
        """How many of the requests may be decoded, from the first on; asked before every turn, and again and again
        while there is nothing to decode. None: no more will follow, and it is not asked again."""
        ...


class AllAtOnce:
    """All of so many requests."""

    def __init__(self, count: int):
        self.at_once, self._is_asked = count, False

    def __call__(self) -> int | None:
        self._is_asked, was_asked = True, self._is_asked
        return None if was_asked else self.at_once


class Decoder(Protocol):
    """Anything that turns requests into trajectories with exact reveal steps and log-probabilities."""

    def decode(self, requests: Sequence[Request], policy: DecodePolicy) -> list[Trajectory]:
        """One trajectory a request, in the order of the requests. Raises the first request's error, if one has any."""
        ...

    def stream(
        self,
        requests: Sequence[Request],
        policy: DecodePolicy,
        observer: Observer | None = None,
        release: Release | None = None,
    ) -> Iterator[DecodeResult]:
        """The outcome of each request as soon as it is known, in no particular order. release: None releases all."""
        ...
