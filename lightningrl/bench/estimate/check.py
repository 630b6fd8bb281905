"""The formulas beside a run: an update over trajectories that a random model really decoded, on this processor.

Positions and bytes of weights, moments and KV pages must be exactly equal. Seconds are only shown side by side: the
peak is measured in the same minute, the shares of it are assumptions. This is the only module of the package that needs
torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from lightningrl.bench.estimate import memory, seconds
from lightningrl.bench.estimate.device import MEASURED, Device, Shares
from lightningrl.bench.estimate.work import Lengths, Work, positions_of
from lightningrl.bench.machine import bandwidth_bytes_per_s, peak_operations_per_s
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.random_model import random_model
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.models.transformer import Transformer
from lightningrl.rl.likelihood import score_tokens, trajectory_row
from lightningrl.types import Trajectory

MICROBATCH = 8
REPEATS = 3
"""The best time counts, as for the peak: other work on the machine only adds to it."""


def measure_cpu() -> Device:
    """Measures this processor with torch's threads in float32, which takes a few seconds."""
    here = torch.device("cpu")
    operations, read = peak_operations_per_s(here, torch.float32), bandwidth_bytes_per_s(here)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(f"this processor, {torch.get_num_threads()} threads", operations, read, total, 4)


def check(size: str, block_size: int, lengths: Lengths, responses: int, threads: int) -> dict[str, Any]:
    """Runs one reference pass and one update; returns {"exact": {name: [predicted, counted]}, "seconds": ...}.

    A random model never stops, so every response has the same length, and a script fixes the tokens per forward.
    """
    torch.set_num_threads(threads)
    device = measure_cpu()
    model = random_model(size, block_size, torch.float32, "cpu")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
    decoder = BlockDecoder(model, (), rows=responses)
    decode_s, trajectories = _timed(lambda: _decode(model, decoder, lengths, responses))
    batches = [trajectories[i : i + MICROBATCH] for i in range(0, responses, MICROBATCH)]
    _update(model, optimiser, batches[:1])  # a warm-up, which also creates the moments
    reference_s, _ = _timed(lambda: _reference(model, batches))
    update_s, _ = _timed(lambda: _update(model, optimiser, batches))
    again = measure_cpu()  # other work may have disturbed one of the measurements
    device = replace(
        device,
        operations_per_s=max(device.operations_per_s, again.operations_per_s),
        bytes_per_s=max(device.bytes_per_s, again.bytes_per_s),
    )
    shape = Shape.of_size(size, block_size)
    exact = _exact(shape, model, optimiser, decoder, trajectories)
    scored = sum(one.response_len for one in trajectories)
    context = float(np.mean([len(one.prompt_ids) + one.response_len / 2 for one in trajectories]))
    work = Work(exact["positions of the update"][0], scored, context)
    # Real lengths: they are rounded up to the grid, and the last step of a block may find less to reveal.
    forwards = sum(one.stats.denoise_forwards for one in trajectories)
    real = Lengths(lengths.prompt_tokens, scored / responses, scored / forwards)
    wide = Shares(rollout=MEASURED.rollout, reference=MEASURED.reference, rows_busy=1.0)  # all rows end together
    rollout = seconds.decoding(shape, device, wide, real, responses, responses)
    return {
        "device": device.name,
        "peak_operations_per_s": device.operations_per_s,
        "bytes_per_s": device.bytes_per_s,
        "shares": asdict(MEASURED),
        "exact": exact,
        "about": {"positions of the rollout": [rollout.positions, decoder.ledger.positions]},
        "seconds": {
            "rollout": [rollout.seconds, decode_s],
            "reference": [seconds.reference(shape, device, MEASURED, work).seconds, reference_s],
            "update": [seconds.update(shape, device, MEASURED, work, 1, 1, False).seconds, update_s],
        },
    }


def _exact(
    shape: Shape,
    model: Transformer,
    optimiser: torch.optim.Optimizer,
    decoder: BlockDecoder,
    trajectories: list[Trajectory],
) -> dict[str, list[int]]:
    moments = [s[name] for s in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    pool = decoder._pool
    assert pool is not None
    mask_id = model.config.mask_token_id
    return {
        "positions of the update": [
            positions_of(trajectories), sum(trajectory_row(one, mask_id).num_tokens for one in trajectories)
        ],
        "bytes of weights": [memory.weight_bytes(shape, 4), sum(p.nbytes for p in model.parameters())],
        "bytes of Adam's moments": [memory.moment_bytes(shape), sum(tensor.nbytes for tensor in moments)],
        "bytes of KV pages": [
            memory.kv_bytes(shape, pool.cache.pages * pool.cache.page_tokens, 4), pool.cache.nbytes
        ],
    }  # fmt: skip


def _decode(model: Transformer, decoder: BlockDecoder, lengths: Lengths, responses: int) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, model.config.mask_token_id, (responses, int(lengths.prompt_tokens)))
    requests = [
        Request(f"check/train/{i}", 0, prompt, int(lengths.response_tokens)) for i, prompt in enumerate(prompts)
    ]
    decoder.ledger.clear()
    return decoder.decode(requests, DecodePolicy(Scripted(lengths.tpf), temperature=1.0))


def _reference(model: Transformer, batches: list[list[Trajectory]]) -> None:
    with torch.no_grad():
        for batch in batches:
            score_tokens(model, batch)


def _update(model: Transformer, optimiser: torch.optim.Optimizer, batches: list[list[Trajectory]]) -> None:
    for batch in batches:
        (-score_tokens(model, batch).logp_n.mean()).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    best, found = float("inf"), None
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = work()
        best = min(best, time.perf_counter() - began)
    return best, found
