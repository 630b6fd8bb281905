"""The supervised objectives as packed rows: block diffusion, and its autoregressive limit for the warm start.

Block diffusion masks n of the m response tokens of a block, with n uniform in 1..m and uniform places; the loss of a
copy is m/n times its cross-entropy. That is SDAR's 1/t-weighted loss with the mask ratio stratified over its possible
counts: the same expectation without empty draws. The autoregressive limit has block size 1 and masks every position
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightningrl.errors import TrainingError
from lightningrl.models.packing import PackedRow, pack, token_scores
from lightningrl.models.transformer import Transformer
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.world import World


def diffusion_row(
    sequence: TrainingSequence, block_size: int, copies: int, mask_token_id: int, rng: np.random.Generator
) -> tuple[PackedRow, np.ndarray]:
    """Returns the row, and the weight of each scored token in row order."""
    prompt_len = len(sequence.prompt_ids)
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    first = prompt_len // block_size
    blocks = np.repeat(np.arange(first, len(ids) // block_size), copies)
    target_CK = ids.reshape(-1, block_size)[blocks]
    maskable_CK = (np.arange(len(ids)) >= prompt_len).reshape(-1, block_size)[blocks]
    maskable_C = maskable_CK.sum(axis=1)
    masked_C = 1 + np.floor(rng.random(len(blocks)) * maskable_C).astype(np.int64)
    order_CK = np.where(maskable_CK, rng.random(target_CK.shape), 2.0).argsort(axis=1).argsort(axis=1)
    scored_CK = order_CK < masked_C[:, None]
    row = PackedRow(
        clean_ids=ids[: len(ids) - block_size],
        copy_block=blocks,
        copy_ids=np.where(scored_CK, mask_token_id, target_CK),
        target_ids=target_CK,
        scored=scored_CK,
    )
    return row, np.repeat(maskable_C / masked_C, masked_C)


def autoregressive_row(sequence: TrainingSequence, mask_token_id: int) -> tuple[PackedRow, np.ndarray]:
    """Returns the row for block size 1, which predicts each response token from a mask token and the clean past."""
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    positions = np.arange(len(sequence.prompt_ids), len(ids))
    row = PackedRow(
        clean_ids=ids[:-1],
        copy_block=positions,
        copy_ids=np.full((len(positions), 1), mask_token_id, dtype=np.int64),
        target_ids=ids[positions, None],
        scored=np.ones((len(positions), 1), dtype=bool),
    )
    return row, np.ones(len(positions))


def supervised_backward(
    model: Transformer,
    rows: Sequence[tuple[Any, np.ndarray]],
    microbatch: int,
    workers: ThreadPoolExecutor | None = None,
    cross_entropy: Callable[[Transformer, Sequence[tuple[Any, np.ndarray]]], Tensor] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
) -> float:
    """Adds the gradient of the mean weighted cross-entropy per maskable token; returns that mean, nats.

    The mean is over the whole batch; `microbatch` is the number of sequences of one forward, which have similar costs.
    workers: threads that compute micro-batches side by side, each with one thread of torch: unlike threads inside a
    matrix product, which wait for each other hundreds of times in a step, these wait once. Gradients are added in the
    order of the micro-batches, so the number of threads changes no bit. cross_entropy: the summed loss of rows that are
    not packed (`objectives.protocol`). world: processes that share the micro-batches of the same rows, without threads;
    their gradients are summed where the model is sharded. Raises TrainingError for a mean not finite.
    """
    cross_entropy = cross_entropy or weighted_cross_entropy
    ordered = sorted(rows, key=lambda item: item[0].num_tokens)
    total_weight = float(sum(weight.sum() for _, weight in rows))
    chunks = [ordered[start : start + microbatch] for start in range(0, len(ordered), microbatch)]
    mean = 0.0
    if workers is None:
        for chunk, weight in world.turns(chunks):
            loss = cross_entropy(model, chunk) / total_weight * weight
            loss.backward()
            mean += float(loss.detach())
        return _finite(world.totals({"mean": mean})["mean"])
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(chunk: Sequence[tuple[Any, np.ndarray]]) -> tuple[float, tuple[Tensor, ...]]:
        loss = cross_entropy(model, chunk) / total_weight
        return float(loss.detach()), torch.autograd.grad(loss, weights)

    # The longest begins first, so that nobody waits for it at the end.
    for loss, gradient in reversed(list(workers.map(gradients, reversed(chunks)))):
        mean += loss
        for parameter, part in zip(weights, gradient, strict=True):
            parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
    return _finite(mean)


def _finite(mean: float) -> float:
    if not math.isfinite(mean):
        raise TrainingError(
            "the loss is not finite: training diverged. Lower the learning rates; the saved state stays."
        )
    return mean


def weighted_cross_entropy(model: Transformer, rows: Sequence[tuple[PackedRow, np.ndarray]]) -> Tensor:
    """Returns the sum over the rows' scored tokens of weight times -log p, nats: a differentiable scalar."""
    packed = pack([row for row, _ in rows], model.lm_head.weight.device, model.config.logit_shift)
    logp_n, _ = token_scores(model, packed)
    weight_n = torch.from_numpy(np.concatenate([weight for _, weight in rows])).to(logp_n)
    return -(weight_n * logp_n).sum()
