"""The formulas beside a run: an update over trajectories that a random model really decoded, on this processor.

Positions and bytes of weights, moments and KV pages must be exactly equal. Seconds are only shown side by side: the
peak is measured in the same minute, the shares of it are assumptions. This is the only module of the estimate that
needs torch.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lightningrl.bench import costs
from lightningrl.bench.costs import Device, Lengths
from lightningrl.bench.decode import Workload
from lightningrl.bench.estimate.budget import MEASURED
from lightningrl.bench.machine import bandwidth_bytes_per_s, peak_operations_per_s, seconds_of
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.random_model import random_model
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.transformer import Transformer
from lightningrl.rl.likelihood import score_tokens, trajectory_row
from lightningrl.types import Trajectory

CPU = torch.device("cpu")
MICROBATCH = 8
REPEATS = 3
"""The best time counts, as for the peak: other work on the machine only adds to it."""


def measure_cpu() -> Device:
    """Measures this processor with torch's threads in float32, which takes a few seconds."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    operations, read = peak_operations_per_s(CPU, torch.float32), bandwidth_bytes_per_s(CPU)
    return Device(f"this processor, {torch.get_num_threads()} threads", operations, read, total, 4)


def check(size: str, block_size: int, lengths: Lengths, responses: int, threads: int) -> dict[str, Any]:
    """Runs one reference pass and one update; returns {"exact": {name: [predicted, counted]}, "seconds": ...}.

    A random model never stops, so every response has the same length, and a script fixes the tokens per forward.
    """
    torch.set_num_threads(threads)
    device, shape = measure_cpu(), Shape.of_size(size, block_size)
    model = random_model(size, block_size, torch.float32, CPU)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
    decoder = BlockDecoder(model, (), rows=responses)
    workload = Workload(int(lengths.prompt_tokens), int(lengths.response_tokens))
    requests = workload.requests(responses, model.config.vocab_size)
    decode = partial(decoder.decode, requests, DecodePolicy(Scripted(lengths.tpf), temperature=1.0))
    trajectories = decode()
    forwarded = decoder.ledger.positions
    batches = [trajectories[i : i + MICROBATCH] for i in range(0, responses, MICROBATCH)]
    _update(model, optimiser, batches[:1])  # a warm-up, which also creates the moments
    works = decode, partial(_reference, model, batches), partial(_update, model, optimiser, batches)
    rollout_s, reference_s, update_s = (min(seconds_of(work, CPU) for _ in range(REPEATS)) for work in works)
    again = measure_cpu()  # other work may have disturbed one of the measurements
    device = replace(
        device,
        operations_per_s=max(device.operations_per_s, again.operations_per_s),
        bytes_per_s=max(device.bytes_per_s, again.bytes_per_s),
    )
    positions, pool = costs.positions_of(trajectories), decoder.pool
    assert pool is not None
    row_positions = sum(trajectory_row(one, model.config.mask_token_id).num_tokens for one in trajectories)
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    # Real lengths: they are rounded up to the grid, and the last step of a block may find less to reveal.
    scored = sum(one.response_len for one in trajectories)
    forwards = sum(one.stats.denoise_forwards for one in trajectories)
    real = Lengths(lengths.prompt_tokens, scored / responses, scored / forwards)
    wide = replace(MEASURED, rows_busy=1.0)  # all rows end together
    rollout = costs.decoding_cost(shape, device, wide, real, responses, responses)
    context = np.mean([len(one.prompt_ids) + one.response_len / 2 for one in trajectories])
    work = costs.work_of(positions, scored, float(context))
    return {
        "device": device.name,
        "peak_operations_per_s": device.operations_per_s,
        "bytes_per_s": device.bytes_per_s,
        "shares": asdict(MEASURED),
        "exact": {
            "positions of the update": [positions, row_positions],
            "bytes of weights": [4 * shape.parameters, sum(p.nbytes for p in model.parameters())],
            "bytes of Adam's moments": [costs.MOMENTS * shape.parameters, sum(each.nbytes for each in moments)],
            "bytes of KV pages": [
                costs.kv_bytes(shape, pool.cache.pages * pool.cache.page_tokens, pool.cache.page_tokens, 4),
                pool.cache.nbytes,
            ],
        },
        "about": {"positions of the rollout": [rollout.positions, forwarded]},
        "seconds": {
            "rollout": [rollout.seconds, rollout_s],
            "reference": [costs.reference_cost(shape, device, MEASURED, work).seconds, reference_s],
            "update": [costs.update_cost(shape, device, MEASURED, work, 1, 1, False).seconds, update_s],
        },
    }


def _reference(model: Transformer, batches: list[list[Trajectory]]) -> None:
    with torch.no_grad():
        for batch in batches:
            score_tokens(model, batch)


def _update(model: Transformer, optimiser: torch.optim.Optimizer, batches: list[list[Trajectory]]) -> None:
    for batch in batches:
        (-score_tokens(model, batch).logp_n.mean()).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
