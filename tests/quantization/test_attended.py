"""Keys, values and queries on grids: what attention is given, against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, requests_of, tiny_model
from official_quantizers import visited_states

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import ConfigError
from lightningrl.inference.policy import policy_of
from lightningrl.models.checkpoint import load_model
from lightningrl.models.fused_trunk import FusedTrunk
from lightningrl.quantization.attended import AttentionGrids, attention_settings, round_attention
from lightningrl.quantization.duquant import DuQuant
from lightningrl.quantization.protocol import make_quantizer
from lightningrl.quantization.quarot import QuaRot
from lightningrl.quantization.registry import QUANTIZERS
from lightningrl.quantization.smoothquant import SmoothQuant
from lightningrl.quantization.stored import save_quantized

BITS = 2
SMALL = {DuQuant: {"block": 8, "steps": 4}}
H8 = np.array([[(-1) ** bin(row & column).count("1") for column in range(8)] for row in range(8)]) / 8**0.5


class Kept(Masked):
    """Keeps what each layer attends with."""

    def __init__(self, mask):
        super().__init__(mask)
        self.seen = []

    def __call__(self, layer, q_BNQD, k_BMQD, v_BMQD):
        self.seen.append([each[0].double().numpy() for each in (q_BNQD, k_BMQD, v_BMQD)])
        return super().__call__(layer, q_BNQD, k_BMQD, v_BMQD)


@torch.no_grad()
def attended(model):
    """The first layer's queries, keys and values (heads, tokens, numbers) of some tokens."""
    kept = Kept(dense_block_mask(24, 4))
    model.hidden(torch.arange(24)[None] % MASK_ID, torch.arange(24)[None], kept)
    return kept.seen[0]


def on_grid(x, bits, symmetric, axes=(-1,)):
    """Rounded to 2^bits values over the range of what lies along the axes."""
    high, low = x.max(axes, keepdims=True).clip(min=0), x.min(axes, keepdims=True).clip(max=0)
    if symmetric:
        step = np.maximum(high, -low) / (2 ** (bits - 1) - 1)
        return np.clip(np.round(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    return (np.clip(np.round(x / step) + zero, 0, 2**bits - 1) - zero) * step


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("method", [SmoothQuant, QuaRot, DuQuant])
def test_keys_and_values_have_as_many_values_as_their_bits_and_are_those_by_hand(method, compat):
    """Weights and inputs are as they were, but in the published variants, whose keys have the inputs' bits."""
    bits = {"activation_bits": BITS} if compat else {"activation_bits": 16, "kv_bits": BITS}
    model = method(bits=16, **bits, compat=compat, **SMALL.get(method, {})).quantize(
        tiny_model(3), visited_states(tiny_model(3))
    )
    q, k, v = attended(model)
    for layer in model.model.layers:
        assert layer.self_attn.rounding is not None
        layer.self_attn.rounding = None
    exact_q, exact_k, exact_v = attended(model)
    symmetric = method is QuaRot or (method is SmoothQuant and not compat)
    axes = (0, 2) if method is QuaRot and compat else (-1,)
    if method is not SmoothQuant:
        exact_q, exact_k = exact_q @ H8, exact_k @ H8
    expected_q = exact_q
    if compat and method is not QuaRot:
        expected_q = on_grid(exact_q, BITS, symmetric)
    np.testing.assert_allclose(q, expected_q, atol=1e-5)
    np.testing.assert_allclose(k, on_grid(exact_k, BITS, symmetric, axes), atol=1e-5)
    np.testing.assert_allclose(v, on_grid(exact_v, BITS, symmetric, axes), atol=1e-5)
    for x in (k, v):
        by_range = x.transpose(1, 0, 2).reshape(24, -1) if axes == (0, 2) else x.reshape(-1, 8)
        assert max(len(np.unique(line.round(6))) for line in by_range) <= 2**BITS
        assert np.abs(x).max() > 0
    assert not np.allclose(k, exact_k, atol=1e-2) and not np.allclose(v, exact_v, atol=1e-2)


def test_the_cache_keeps_what_was_rounded():
    """Each head's numbers of a token, as decoding left them in their pages."""
    model = SmoothQuant(bits=16, activation_bits=16, kv_bits=BITS).quantize(
        tiny_model(3), visited_states(tiny_model(3))
    )
    decoder = BlockDecoder(model, [1])
    decoder.decode(requests_of([9] * 3, 12, vocab=MASK_ID), policy_of(parameter=0.3))
    for table in (decoder.pool.cache.keys, decoder.pool.cache.values):
        written = table[table.abs().sum(-1) > 0]
        assert len(written) > 2 * 2 * 3 * 16
        assert max(len(line.unique()) for line in (written * 1e4).round()) <= 2**BITS


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (DuQuant, {"bits": 4, "activation_bits": 4}),
        (QuaRot, {"bits": 4, "activation_bits": 4}),
        (SmoothQuant, {"bits": 4, "activation_bits": 16, "compat": True}),
        (DuQuant, {"bits": 4, "activation_bits": 16, "compat": True}),
    ],
)
def test_where_no_key_or_value_is_rounded_attention_is_the_plain_one(method, options, tmp_path):
    plain = save_byte_checkpoint(tmp_path / "plain")
    model = method(**options, **SMALL.get(method, {})).quantize(
        load_model(plain), visited_states(load_model(plain), vocab=30)
    )
    assert attention_settings(model) is None
    assert all(layer.self_attn.rounding is None for layer in model.model.layers)
    assert "attention" not in save_quantized(model, tmp_path, {})
    FusedTrunk(model)  # it refuses keys that are rounded


def test_what_a_folder_says_of_sixteen_bits_changes_nothing():
    model = tiny_model(0)
    round_attention(model, {"query_bits": 16, "key_bits": 16, "value_bits": 16, "symmetric": False, "rotated": True})
    assert attention_settings(model) is None
    round_attention(model, AttentionGrids(key_bits=4))
    assert attention_settings(model)["key_bits"] == 4
    with pytest.raises(ConfigError, match="heads of 12 numbers cannot be rotated"):
        round_attention(tiny_model(0, head_dim=12), AttentionGrids(key_bits=4, rotated=True))


@pytest.mark.parametrize("name", ["smoothquant", "quarot", "duquant"])
def test_bits_of_keys_that_a_published_variant_would_not_have_are_refused(name):
    with pytest.raises(ConfigError, match=r"kv_bits is 8, but with compat keys and values have the 4 bits"):
        make_quantizer(QUANTIZERS[name], {"activation_bits": 4, "kv_bits": 8, "compat": True})
    for options in ({"activation_bits": 4, "kv_bits": 4, "compat": True}, {"activation_bits": 4, "kv_bits": 8}):
        make_quantizer(QUANTIZERS[name], options)
