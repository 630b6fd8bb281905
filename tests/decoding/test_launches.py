"""Kernels and copies of a turn at the 8B shape, counted under fake CUDA tensors (fixtures/launches.py).

Every operator with a kernel is one, attention and a normalisation are one each, views none. These are counts of what
torch is asked for: no GPU was there.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from fixtures.launches import counting, on_fake_cuda
from torch._subclasses.fake_tensor import unset_fake_temporarily

from lightningrl.bench.model_shape import SHAPES
from lightningrl.decoding.device_turn import DeviceTurns
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.sampler import DrawnTokens
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.models.transformer import ModelConfig

BLOCK = 32


def turns_of(forwards, temperature):
    """The counts of a denoise and of a fused turn at batch 1; each turn reveals half a block."""
    config = ModelConfig(**SHAPES["8b"], block_size=BLOCK, mask_token_id=SHAPES["8b"]["vocab_size"] - 1)
    counts, turn, bound = {}, Scheduler._turn, Threshold.bound

    def counted(scheduler):
        count.clear()
        outcomes = turn(scheduler)
        kind = scheduler.ledger.forwards[-1].parts[0].kind
        launches = dict(count.launches)
        counts[kind] = (count.total, count.to_device, count.to_host, sum(count.on_empty.values()), launches)
        return outcomes

    def with_numbers(selector, size):
        with unset_fake_temporarily():
            return bound(selector, size)

    def to_host(drawn, chosen_n):
        columns = (drawn.token_n, drawn.logp_n, drawn.entropy_n, chosen_n)
        n = len(torch.stack([column.double() for column in columns]).cpu()[0])
        return np.zeros(n, int), np.zeros(n), np.zeros(n), np.arange(n) < BLOCK // 2

    def wait(turns):
        masked_K = turns._canvas_RT[0, turns._table[0, 1] :][:BLOCK] < 0
        chosen_K = masked_K & (np.cumsum(masked_K) <= BLOCK // 2)
        turns._canvas_RT[0, turns._table[0, 1] :][:BLOCK][chosen_K] = 0
        turns._result[3 * BLOCK : 4 * BLOCK] = chosen_K

    with (
        counting() as count,
        patch.object(Scheduler, "_turn", counted),
        patch.object(DrawnTokens, "to_host", to_host),
        patch.object(DeviceTurns, "_wait", wait),
        patch.object(Threshold, "bound", with_numbers),
    ):
        decoder = BlockDecoder(on_fake_cuda(config), (), rows=1, forwards=forwards)
        request = Request("t/test/0", 0, np.arange(BLOCK), 2 * BLOCK)
        decoder.decode([request], DecodePolicy(Threshold(0.9), temperature=temperature))
    return counts


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_turn_on_the_device_launches_little_and_copies_once_each_way(temperature):
    """36 layers of nine, and some forty around them. The forwards of plain tensors launch over 1,100."""
    found = turns_of("turns", temperature)
    for kind in ("denoise", "fused"):
        total, to_device, to_host, on_empty, launches = found[kind]
        assert total <= 400 and (to_device, to_host, on_empty) == (1, 1, 0), (kind, launches)
        assert launches["_varlen_attn"] == launches["silu_mul"] == launches["norm_rope_write"] == 36
        assert launches["mm"] == 4 * 36 + 1 and launches["head_draw"] == 1


def test_plain_forwards_do_nothing_on_empty_tensors_when_greedy():
    found = turns_of("spans", 0.0)
    for kind in ("denoise", "fused"):
        total, to_device, to_host, on_empty, launches = found[kind]
        assert 1000 < total < 1300 and to_device <= 8 and (to_host, on_empty) == (1, 0), (kind, launches)
