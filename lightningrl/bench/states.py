"""What training on a part of the states costs and how noisy it is: positions, seconds and the gradient's spread.

The loss is LightningRL's, with advantages drawn at random, on a policy that has just decoded the trajectories. Noise is
relative to the norm of the mean gradient: over draws of states, that of sampling; over batches of trajectories, what
there is anyway. Seconds are of forward and backward, on a processor its own time rather than the clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightningrl.bench import machine
from lightningrl.bench.decode import Workload
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.state_sampling import StateSampling
from lightningrl.rl.update import Batch
from lightningrl.types import Trajectory

ALGORITHM = LightningRL(LightningRL.Config(kl_to="rollout"))


def decoded(model: Transformer, count: int, prompt_tokens: int, new_tokens: int, tpf: float) -> list[Trajectory]:
    """Returns a model's own responses to random prompts, so that old log-probabilities are its own."""
    requests = Workload(prompt_tokens, new_tokens).requests(count, model.config.vocab_size)
    return BlockDecoder(model, (), rows=min(count, 64)).decode(requests, DecodePolicy(Scripted(tpf), temperature=1.0))


def run_benchmark(
    model: Transformer, trajectories: Sequence[Trajectory], shares: Sequence[float], *, batches: int, draws: int,
    microbatch: int = 8, report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Returns a line for each share, and the noise over batches. The shares take turns on every batch and draw."""
    if not 2 <= batches <= len(trajectories) or draws < 2:
        raise ConfigError(
            f"found {batches} batches of {len(trajectories)} trajectories and {draws} draws; expected at least 2 of "
            "both, and a trajectory a batch"
        )
    rng = np.random.default_rng(0)
    advantages, imitated = rng.normal(size=len(trajectories)), rng.random(len(trajectories)) < 0.5
    parts = np.array_split(rng.permutation(len(trajectories)), batches)

    def gradient(part: np.ndarray, sampling: StateSampling | None) -> tuple[Tensor, float, int]:
        given = [trajectories[index] for index in part], advantages[part], imitated[part]
        machine.synchronise(model.device)
        clock = time.perf_counter if model.device.type == "cuda" else time.process_time
        began = clock()
        batch = Batch.build(ALGORITHM, *given, model, model, microbatch, sampling=sampling)
        for micro in batch.micro:
            scores = ALGORITHM.score(model, micro.trajectories, micro.plan.copies)
            ALGORITHM.loss(scores, micro.actions, batch.sums)[0].backward()
        machine.synchronise(model.device)
        seconds = clock() - began
        found = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
        return found, seconds, batch.positions

    gradient(parts[0], None)  # warms up
    whole, seconds, counts = [], {share: [] for share in shares}, {share: [] for share in shares}
    squares = {share: [] for share in shares}
    for number, part in enumerate(parts):
        full, *_ = gradient(part, None)
        whole.append(full)
        for draw in range(draws):
            for share in shares:
                sampling = StateSampling(share, draw, 1, number) if share < 1 else None
                found, taken_s, positions = gradient(part, sampling)
                squares[share].append(float((found - full).square().sum()))
                seconds[share].append(taken_s)
                counts[share].append(positions)
        report(f"batch {number + 1} of {batches}")
    mean = torch.stack(whole).mean(dim=0)
    spread = float((torch.stack(whole) - mean).square().sum()) / (batches - 1)
    lines = []
    for share in shares:
        own = float(np.mean(squares[share]))
        lines.append({
            "share": share, "positions": float(np.mean(counts[share])), "seconds": float(np.median(seconds[share])),
            "over_draws": (own / float(mean.square().sum())) ** 0.5, "of_batches": (own / spread) ** 0.5,
            "together": (1 + own / spread) ** 0.5,
        })  # fmt: skip
    return {
        **machine.conditions(model), "trajectories": len(trajectories), "batches": batches, "draws": draws,
        "actions": sum(trajectory.response_len for trajectory in trajectories), "lines": lines,
        "over_batches": (spread / float(mean.square().sum())) ** 0.5,
    }  # fmt: skip
