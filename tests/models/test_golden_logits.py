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


@pytest.mark.parametrize("block_size", [4, 8])
@torch.no_grad()
def test_a_full_forward_and_one_block_by_block_over_the_cache_give_the_official_logits(block_size):
    golden, model = load_file(FOLDER / "golden_logits.safetensors"), load_model(FOLDER)
    ids, config, expected = golden["input_ids"], model.config, golden[f"logits_block{block_size}"]
    assert (ids == config.mask_token_id).any()
    assert (expected - golden[f"logits_block{12 - block_size}"]).abs().max() > 1e-2, "the block size must matter"
    positions = torch.arange(24).expand(2, -1)
    hidden = model.hidden(ids, positions, Masked(dense_block_mask(24, block_size)[None, None]))
    torch.testing.assert_close(model.logits(hidden), expected, rtol=0, atol=1e-4)
    cache = PagedKV(config.num_hidden_layers, 6, 8, config.num_key_value_heads, config.head_dim, model.lm_head.weight)
    pages, found = np.array([[4, 0, 3], [2, 5, 1]]), []
    for start in range(0, 24, block_size):
        here = slice(start, start + block_size)
        attend = PagedAttention(cache, [block_span(pages, [start, start], block_size, block_size, 8)])
        hidden = model.hidden(ids[:, here].reshape(1, -1), positions[:, here].reshape(1, -1), attend)
        found.append(model.logits(hidden).unflatten(1, (2, block_size))[0])
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=0, atol=1e-4)
