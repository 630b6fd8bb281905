"""Decoding speed, side by side in one run: our engine by schedule and batch, and the official loop at batch 1.

All decode the same prompts greedily with the same weights. A `Scripted` selector reveals a fixed number of tokens per
step, so that tokens per forward are a parameter and random weights suffice. Each engine's forwards are run once more
alone (hidden states, and the head where it was evaluated), which gives the engine's time outside the model. The
variants take turns, and the figures are medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from lightningrl.bench import machine
from lightningrl.bench.official_loop import OfficialLoop
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Workload:
    """The prompts and responses that are decoded."""

    prompt_tokens: int = 64
    new_tokens: int = 128
    tokens_per_step: float = 4.0
    """Positions revealed per denoise forward."""

    def requests(self, count: int, vocab: int) -> list[Request]:
        """Returns random prompts, which depend on their number alone."""
        rng = np.random.default_rng(0)
        prompts = [rng.integers(0, vocab - 1, self.prompt_tokens) for _ in range(count)]
        return [Request(f"bench/{i}", 0, prompt, self.new_tokens) for i, prompt in enumerate(prompts)]


@dataclass(slots=True)
class Bound:
    """The least seconds the forwards could take: weights read once a forward, or arithmetic at the machine's peak."""

    model: Transformer
    bytes_per_s: float
    operations_per_s: float
    trunk_bytes: int = field(init=False)
    head_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.trunk_bytes = sum(p.nbytes for p in self.model.model.layers.parameters())
        self.head_bytes = self.model.lm_head.weight.nbytes

    def seconds(self, positions: int, head_positions: int) -> float:
        """Returns the least seconds of one forward over `positions`, with the head at `head_positions` of them."""
        size = self.model.lm_head.weight.element_size()
        trunk, head = self.trunk_bytes / size, self.head_bytes / size
        reading = (self.trunk_bytes + self.head_bytes * (head_positions > 0)) / self.bytes_per_s
        return max(reading, 2 * (trunk * positions + head * head_positions) / self.operations_per_s)


@dataclass(slots=True)
class ForwardRecorder:
    """Keeps the arguments of every forward while it is entered, to run the forwards again alone."""

    model: Transformer
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    """(ids, positions, attend) of a trunk forward, (hidden,) of the head."""

    def __enter__(self) -> ForwardRecorder:
        hidden, log_probs = self.model.hidden, self.model.log_probs

        def recorded(*arguments: Any) -> Any:
            self.calls.append(arguments)
            return hidden(*arguments)

        def head(hidden_nH: torch.Tensor, temperature: Any = 1.0) -> torch.Tensor:
            self.calls.append((hidden_nH,))
            return log_probs(hidden_nH, temperature)

        self.model.__dict__.update(hidden=recorded, log_probs=head)
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.__dict__["hidden"], self.model.__dict__["log_probs"]

    @torch.no_grad()
    def replay(self) -> None:
        """Runs the recorded forwards and nothing else."""
        for call in self.calls:
            if len(call) == 1:
                self.model.logits(call[0])
            else:
                self.model.hidden(*call)

    def bound_s(self, bound: Bound) -> float:
        """Returns the least seconds of all recorded forwards."""
        trunk = [(index, call[0].numel()) for index, call in enumerate(self.calls) if len(call) == 3]
        ends = [index for index, _ in trunk[1:]] + [len(self.calls)]
        total = 0.0
        for (at, positions), end in zip(trunk, ends, strict=True):
            head_positions = sum(len(call[0]) for call in self.calls[at + 1 : end])
            total += bound.seconds(positions, head_positions)
        return total


@dataclass(slots=True)
class Variant:
    """One way of decoding the workload; `run` returns (tokens, rows' forwards without prefill, engine forwards)."""

    name: str
    batch: int
    run: Callable[[], tuple[int, int, int]]
    recorder: ForwardRecorder
    seconds: list[float] = field(default_factory=list)
    bare_seconds: list[float] = field(default_factory=list)
    counts: tuple[int, int, int] = (0, 0, 0)
    peak_bytes: int = 0

    def figures(self, bound: Bound) -> dict[str, float | str | int]:
        """Returns one line of the table."""
        tokens, row_forwards, forwards = self.counts
        # Ratios are paired: each run has its bare forwards right behind it.
        over_bare = median(s / b for s, b in zip(self.seconds, self.bare_seconds, strict=True))
        seconds = median(self.seconds)
        return {
            "engine": self.name,
            "batch": self.batch,
            "tokens_per_s": tokens / seconds,
            "over_bare": over_bare,
            "outside_pct": 100 * (1 - 1 / over_bare),
            "forwards_per_s": forwards / seconds,
            "tokens_per_true_forward": tokens / row_forwards,
            "bound_tokens_per_s": tokens / self.recorder.bound_s(bound),
            "of_bound_pct": 100 * self.recorder.bound_s(bound) / seconds,
            "peak_memory_mb": self.peak_bytes / 1e6,
        }


def variants_of(
    model: Transformer,
    workload: Workload,
    batches: Sequence[int],
    repeats_at_1: int,
    forwards: Sequence[str] = ("spans",),
) -> list[Variant]:
    """Returns the official loop, and our engine with each schedule, batch and kind of forwards."""
    selector = Scripted(workload.tokens_per_step)
    single = workload.requests(repeats_at_1, model.config.vocab_size)

    def official() -> tuple[int, int, int]:
        loop = OfficialLoop(model, workload.prompt_tokens + workload.new_tokens + model.config.block_size)
        tokens = 0
        for request in single:
            tokens += len(loop.decode(request, selector)) - workload.prompt_tokens
        prefills = len(single) * (workload.prompt_tokens >= model.config.block_size)
        return tokens, loop.forwards - prefills, loop.forwards

    def ours(schedule: Any, batch: int, kind: str) -> Callable[[], tuple[int, int, int]]:
        requests = single if batch == 1 else workload.requests(batch, model.config.vocab_size)
        decoder = BlockDecoder(model, (), rows=batch, forwards=kind)

        def run() -> tuple[int, int, int]:
            decoder.ledger.clear()
            trajectories = decoder.decode(requests, DecodePolicy(selector, schedule=schedule))
            stats = [trajectory.stats for trajectory in trajectories]
            row_forwards = sum(s.denoise_forwards + s.commit_forwards for s in stats)
            return sum(s.emitted_tokens for s in stats), row_forwards, len(decoder.ledger.forwards)

        return run

    variants = [Variant("official loop", 1, official, ForwardRecorder(model))]
    for batch in batches:
        for name, schedule in (("ours, fused", FusedCommit()), ("ours, separate", SeparateCommit())):
            for kind in forwards:
                label = name if kind == "spans" else f"{name}, {kind}"
                variants.append(Variant(label, batch, ours(schedule, batch, kind), ForwardRecorder(model)))
    return variants


def run_benchmark(
    model: Transformer,
    workload: Workload,
    batches: Sequence[int],
    *,
    repeats: int = 3,
    repeats_at_1: int = 2,
    forwards: Sequence[str] = ("spans",),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns the machine's figures and one line for each variant; `report` receives the progress."""
    device, dtype = model.lm_head.weight.device, model.lm_head.weight.dtype
    bound = Bound(model, machine.bandwidth_bytes_per_s(device), machine.peak_operations_per_s(device, dtype))
    variants = variants_of(model, workload, batches, repeats_at_1, forwards)
    for variant in variants:
        machine.reset_peak_memory(device)
        with variant.recorder:
            variant.counts = variant.run()  # the first run warms up and records
        variant.peak_bytes = machine.peak_memory_bytes(device)
        report(f"warm: {variant.name}, batch {variant.batch}")
    for number in range(repeats):
        for variant in variants:
            variant.seconds.append(machine.seconds_of(variant.run, device))
            variant.bare_seconds.append(machine.seconds_of(variant.recorder.replay, device))
        report(f"round {number + 1} of {repeats}")
    return {
        **machine.conditions(model),
        "weights_mb": sum(p.nbytes for p in model.parameters()) / 1e6,
        "bandwidth_gb_per_s": bound.bytes_per_s / 1e9,
        "peak_gflop_per_s": bound.operations_per_s / 1e9,
        "lines": [variant.figures(bound) for variant in variants],
    }
