"""Tokens per second of a decoder on real prompts: a warm-up, then batches one after another, several times.

Response tokens count up to and including the first stop token, without the tail of the last block. The seconds are
those of decoding, from encoded prompts to token ids; loading, the tokenizer and the judge are outside. The device's
queue is drained after each forward of the engine, so that seconds can be divided between the prompts' prefill and the
rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np
import torch

from lightningrl.bench.machine import synchronise
from lightningrl.bench.rates import rate_interval
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.ledger import WITHOUT_TOKENS, Forward, Ledger
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.tpf_variants import views
from lightningrl.types import Trajectory


@dataclass(slots=True)
class Clock(Ledger):
    """A ledger that times each forward itself, to the end of its work on the device."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    prefill_seconds: float = 0.0
    _mark: float = 0.0

    def start(self) -> None:
        self.clear()
        self.prefill_seconds = 0.0
        synchronise(self.device)
        self._mark = time.perf_counter()

    def add(self, forward: Forward) -> None:
        """Adds a forward; one that also denoised other rows counts as prefill by its share of the positions."""
        synchronise(self.device)
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        prefill = sum(part.positions for part in forward.parts if part.kind in WITHOUT_TOKENS)
        self.prefill_seconds += seconds * prefill / forward.positions
        Ledger.add(self, Forward(forward.parts, seconds))


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of one repetition; its seconds include its prefill."""

    seconds: float
    prefill_seconds: float
    trajectories: tuple[Trajectory, ...]

    @property
    def tokens(self) -> int:
        return sum(t.stats.response_tokens for t in self.trajectories)


@dataclass(frozen=True, slots=True)
class SpeedMeasurement:
    """All batches of all repetitions: `repeats[r][b]`."""

    repeats: tuple[tuple[Batch, ...], ...]

    @property
    def median_repeat(self) -> tuple[Batch, ...]:
        """The repetition of median seconds, from which all figures are taken; of two in the middle, the quicker one."""
        totals = [sum(batch.seconds for batch in repeat) for repeat in self.repeats]
        return self.repeats[totals.index(median_low(totals))]

    def figures(self) -> dict[str, float | int | None]:
        """Returns the sums and rates of the repetition of median seconds."""
        batches = self.median_repeat
        seconds, prefill = sum(batch.seconds for batch in batches), sum(batch.prefill_seconds for batch in batches)
        trajectories = [trajectory for batch in batches for trajectory in batch.trajectories]
        tokens = sum(batch.tokens for batch in batches)
        denoise = sum(t.stats.denoise_forwards for t in trajectories)
        return {
            "tokens": tokens,
            "prompt_tokens": sum(len(t.prompt_ids) for t in trajectories),
            "seconds": seconds,
            "prefill_seconds": prefill,
            "decode_seconds": seconds - prefill,
            "tokens_per_second": tokens / seconds,
            "tokens_per_second_without_prefill": tokens / (seconds - prefill),
            "denoise_forwards": denoise,
            "commit_forwards": (commits := sum(t.stats.commit_forwards for t in trajectories)),
            "tpf": tokens / denoise,
            "tpf_true": tokens / (denoise + commits),
            **views([t.stats for t in trajectories], [t.stop for t in trajectories]),
        }

    def interval(self, seed: int) -> tuple[float, float]:
        """Returns the 95 % interval of tokens per second: batches are resampled, each from a resampled repetition."""
        tokens_RB = np.array([[batch.tokens for batch in repeat] for repeat in self.repeats])
        return rate_interval(tokens_RB, np.array([[b.seconds for b in repeat] for repeat in self.repeats]), seed)


def measure(
    decoder: BlockDecoder,
    requests: Sequence[Request],
    policy: DecodePolicy,
    *,
    warmup: int,
    batch: int,
    repeats: int,
    between: Callable[[], None] = lambda: None,
    told: Callable[[int, tuple[Batch, ...]], None] = lambda number, batches: None,
) -> SpeedMeasurement:
    """Decodes all requests `repeats` times. between: called before each batch, may raise; told: after a repetition."""
    clock = Clock(device=decoder.model.device)
    decoder.ledger, decoder.rows = clock, batch

    def decode(group: Sequence[Request]) -> Batch:
        between()
        clock.start()
        began = time.perf_counter()
        trajectories = decoder.decode(group, policy)
        synchronise(clock.device)
        return Batch(time.perf_counter() - began, clock.prefill_seconds, tuple(trajectories))

    groups = [requests[start : start + batch] for start in range(0, len(requests), batch)]
    for group in groups[: -(-warmup // batch)]:
        decode(group)
    found = []
    for number in range(1, repeats + 1):
        found.append(tuple(decode(group) for group in groups))
        told(number, found[-1])
    return SpeedMeasurement(tuple(found))
