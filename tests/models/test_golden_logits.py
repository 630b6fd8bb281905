"""The transformer against the official implementation's logits (fixtures/sdar_tiny)."""

from pathlib import Path

import pytest
import torch
from fixtures.naive import dense_block_mask
from safetensors.torch import load_file

from lightningrl.models.attention import CachedBlocks, KVCache, Masked
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
    cache = KVCache(config.num_hidden_layers, 2, 24, config.num_key_value_heads, config.head_dim, model.lm_head.weight)
    found = []
    for start in range(0, 24, block_size):
        positions = torch.arange(start, start + block_size).expand(2, -1)
        limit = torch.full((2, block_size), start + block_size)
        attend = CachedBlocks(cache, torch.arange(2), positions, limit)
        found.append(model.logits(model.hidden(ids[:, start : start + block_size], positions, attend)))
    torch.testing.assert_close(torch.cat(found, dim=1), golden[f"logits_block{block_size}"], rtol=0, atol=1e-4)
