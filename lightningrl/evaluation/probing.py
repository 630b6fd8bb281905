"""Why a policy is fast: how honest its confidence is, which tokens it reveals together, how many phrasings are left.

`Reliability` observes a decoder that reveals one token at a time and asks for each position that stays masked: is its
likeliest token now the one that it ends with? If the confidence is honest, that is so as often as its probability says;
where it is not, revealing all positions over a threshold at once costs accuracy. `token_classes` says what kind of
token each one is, `together` with how many others it was revealed, `entropy_nats` how much is left open. All of it is
about the policy's own answers, right or wrong, which come from `pipeline.stages.probe`. No torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightningrl.types import Trajectory

if TYPE_CHECKING:
    from lightningrl.decoding.protocol import Observation

BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""The edges of the confidence bins; the last bin includes 1."""
CLASSES = ("copied number", "computed number", "copied word", "other word", "symbol", "end")
"""A copied number or word stands in the prompt; `end` is the stop token."""


class Bin(NamedTuple):
    """Open positions of similar confidence."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability of the likeliest token."""
    agreement: float
    """The share of positions that ended with that token."""


@dataclass
class Reliability:
    """An observer of a greedy decode that reveals one token per forward."""

    alternatives: int = 0
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    """What each forward left masked: request, absolute position, likeliest token, its probability."""

    def observe(self, seen: Observation) -> None:
        left = ~seen.chosen_n
        kept = (seen.index_n[left], seen.position_n[left], seen.token_n[left], np.exp(seen.logp_n[left].astype(float)))
        self.seen.append(kept)

    def bins(self, trajectories: Sequence[Trajectory]) -> list[Bin]:
        """Returns the bins that hold any observed position, up to the stop tokens of the finished responses."""
        if not self.seen:
            return []
        index, position, token, confidence = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
        starts = [len(trajectory.prompt_ids) for trajectory in trajectories]
        ends = [start + trajectory.response_len for start, trajectory in zip(starts, trajectories, strict=True)]
        ended = np.full((len(trajectories), max(*ends, position.max() + 1)), -1)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ended[row, start:end] = trajectories[row].response_ids
        final = ended[index, position]
        counts = final >= 0
        return reliability(confidence[counts], (token == final)[counts])


def reliability(confidence_n: np.ndarray, agrees_n: np.ndarray) -> list[Bin]:
    """Returns the bins of confidence that are not empty.

    >>> [(bin.low, bin.count, bin.agreement) for bin in reliability(np.array([0.62, 0.68, 1.0]), np.array([1, 0, 1]))]
    [(0.6, 2, 0.5), (0.99, 1, 1.0)]
    """
    place_n = np.clip(np.searchsorted(BINS, confidence_n, side="right") - 1, 0, len(BINS) - 2)
    found = []
    for place, (low, high) in enumerate(pairwise(BINS)):
        mine = place_n == place
        if mine.any():
            means = float(confidence_n[mine].mean()), float(agrees_n[mine].mean())
            found.append(Bin(low, high, int(mine.sum()), *means))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Returns the expected calibration error: the mean distance of confidence and agreement, weighted by count."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.confidence - each.agreement) for each in bins) / total


def token_classes(prompt: str, pieces: Sequence[str], is_stop: Sequence[bool]) -> list[str]:
    """Returns one of `CLASSES` for each token of a response; `pieces` are the tokens' texts.

    >>> token_classes("Ann has 12 books", ["Ann", " has", " 1", "2", " +", " 5"], [False] * 6)
    ['copied word', 'copied word', 'copied number', 'copied number', 'symbol', 'computed number']
    """
    known = {word.lower() for word in re.findall(r"[^\W\d_]+|\d+", prompt)}
    text, starts, at = "".join(pieces), [], 0
    for piece in pieces:
        starts.append(at + len(piece) - len(piece.lstrip()))
        at += len(piece)
    of_character = [""] * (len(text) + 1)
    for match in re.finditer(r"\\?[^\W\d_]+|\d+|\S", text):
        word = match[0]
        if word.isdigit():
            kind = "copied number" if word in known else "computed number"
        elif word.isalpha():
            kind = "copied word" if word.lower() in known else "other word"
        else:
            kind = "symbol"
        of_character[match.start() : match.end()] = [kind] * len(word)
    kinds = (of_character[min(start, len(text))] or "symbol" for start in starts)
    return ["end" if stop else kind for kind, stop in zip(kinds, is_stop, strict=True)]


def together(trajectory: Trajectory) -> np.ndarray:
    """Returns [L], for each response token, how many positions its forward revealed, itself included."""
    counts = np.bincount(trajectory.reveal_step)
    return counts[trajectory.reveal_step[: trajectory.response_len]]


def entropy_nats(values: Iterable[Hashable]) -> float:
    """Returns the entropy of the values' frequencies (plug-in estimate).

    >>> round(entropy_nats("aabb"), 4), entropy_nats("aaaa")
    (0.6931, 0.0)
    """
    counts = np.array(list(Counter(values).values()), float)
    share = counts / counts.sum()
    return float((share * -np.log(share)).sum() + 0.0)  # + 0.0: a single value gives 0, not -0
