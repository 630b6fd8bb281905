"""The transformer against the official implementation's logits (fixtures/sdar_tiny)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import block_span
from safetensors.torch import load_file

from lightningrl.models.attention import PagedAttention, PagedKV
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "sdar_tiny"


@pytest.fixture(scope="module")
def golden():
    return load_file(FOLDER / "golden_logits.safetensors")


@pytest.mark.parametrize("block_size", [4, 8])
@torch.no_grad()
def test_full_forward_gives_the_official_logits(golden, block_size):
    model, ids = load_model(FOLDER), golden["input_ids"]
    assert (ids == model.config.mask_token_id).any()
    positions = torch.arange(24).expand(2, -1)
    hidden = model.hidden(ids, positions, Masked(dense_block_mask(24, block_size)[None, None]))
    expected = golden[f"logits_block{block_size}"]
    torch.testing.assert_close(model.logits(hidden), expected, rtol=0, atol=1e-4)
    other = golden[f"logits_block{12 - block_size}"]
    assert (expected - other).abs().max() > 1e-2, "the block size must matter"


@pytest.mark.parametrize("block_size", [4, 8])
@torch.no_grad()
def test_block_by_block_forward_over_the_cache_gives_the_official_logits(golden, block_size):
    model, ids = load_model(FOLDER), golden["input_ids"]
    config = model.config
    cache = PagedKV(config.num_hidden_layers, 6, 8, config.num_key_value_heads, config.head_dim, model.lm_head.weight)
    pages, found = np.array([[4, 0, 3], [2, 5, 1]]), []
    for start in range(0, 24, block_size):
        here = slice(start, start + block_size)
        span = block_span(pages, [start, start], block_size, block_size, 8)
        positions = torch.arange(24).expand(2, -1)[:, here]
        hidden = model.hidden(ids[:, here].reshape(1, -1), positions.reshape(1, -1), PagedAttention(cache, [span]))
        found.append(model.logits(hidden).unflatten(1, (2, block_size))[0])
    torch.testing.assert_close(torch.cat(found, dim=1), golden[f"logits_block{block_size}"], rtol=0, atol=1e-4)
