"""Weights joined for decoding: nobody else notices, and the trunk over them is the model's."""

import copy

import numpy as np
import pytest
import torch
from fixtures.tiny import block_span, tiny_model

from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedAttention, PagedKV
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.fused_trunk import FusedTrunk
from lightningrl.models.joined_weights import JoinedLinear
from lightningrl.models.linear import Linear
from lightningrl.models.static_forward import SegmentForwards, gathered
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.quantization.stored import save_quantized
from lightningrl.training.shards import publish


def bytes_of(model):
    """The memory behind all parameters, each storage once."""
    storages = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
    return sum(storages.values())


def equal(one, other):
    state = other.state_dict()
    return one.state_dict().keys() == state.keys() and all(
        torch.equal(v, state[k]) for k, v in one.state_dict().items()
    )


def test_names_values_and_memory_stay_and_a_second_trunk_copies_nothing():
    model, plain = tiny_model(3), tiny_model(3)
    before, parameters = bytes_of(model), list(model.parameters())
    trunk = FusedTrunk(model)
    assert equal(model, plain) and all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert bytes_of(model) == before and trunk.is_current
    address = model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    again = FusedTrunk(model)
    assert again.is_current and model.model.layers[0].self_attn.q_proj.weight.data_ptr() == address
    layer = model.model.layers[1].mlp
    layer.up_proj.weight.data.fill_(2.0)
    assert torch.equal(trunk._joined[1][1].weight[24:], layer.up_proj.weight), "one memory"


def test_publishing_loading_saving_copying_and_training_go_on(tmp_path):
    model, other = tiny_model(3), tiny_model(4)
    trunk = FusedTrunk(model)
    publish(other, model)
    assert equal(model, other) and trunk.is_current
    model.load_weights(tiny_model(5).weights())
    assert equal(model, tiny_model(5)) and trunk.is_current
    save_model(model, tmp_path, eos_token_id=1, pad_token_id=2)
    assert equal(load_model(tmp_path), tiny_model(5))
    copied = copy.deepcopy(model)
    assert equal(copied, model) and bytes_of(copied) == bytes_of(other)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    twin = tiny_model(5)
    optimiser = torch.optim.AdamW(twin.parameters(), lr=0.1)
    for parameter in twin.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert equal(model, twin) and trunk.is_current


@pytest.mark.parametrize("change", ["assign", "dtype", "bias"])
def test_weights_that_were_replaced_are_found_out(change):
    model = tiny_model(3, qkv_bias=change == "bias")
    trunk = FusedTrunk(model)
    if change == "assign":
        model.load_weights(tiny_model(4).weights(), assign=True)
    elif change == "dtype":
        model.double()
    else:
        proj = model.model.layers[1].self_attn.v_proj
        proj.bias = torch.nn.Parameter(proj.bias.detach().clone())
    assert not trunk.is_current and FusedTrunk(model).is_current


def test_quantised_layers_are_joined_saved_and_found_out_when_made_later(tmp_path):
    model = RoundToNearest(bits=4, group=8).quantize(tiny_model(3), None)
    plain = copy.deepcopy(model)
    trunk = FusedTrunk(model)
    save_quantized(model, tmp_path, {})
    assert equal(model, plain) and trunk.is_current
    late = tiny_model(3)
    trunk = FusedTrunk(late)
    RoundToNearest(bits=4, group=8).quantize(late, None)
    assert not trunk.is_current and equal(late, plain)


def test_layers_of_another_kind_compute_themselves():
    class Doubling(Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    layers, x = [Linear(5, 3), Doubling(5, 2)], torch.randn(4, 5)
    joined = JoinedLinear(layers)
    torch.testing.assert_close(joined(x), torch.cat([layer(x) for layer in layers], dim=-1))
    assert joined.weight is None and joined.is_current


def test_sharded_weights_are_refused():
    layer = Linear(5, 3)
    layer.weight.placements = ()  # what torch's sharded tensors have
    with pytest.raises(
        DecodeError, match="sharded over processes and cannot be joined for decoding: decode with a full"
    ):
        JoinedLinear([layer, Linear(5, 2)])


@torch.no_grad()
@pytest.mark.parametrize(
    "flags", [{}, {"qk_norm": False, "qkv_bias": True, "tie_word_embeddings": True}], ids=["sdar", "other"]
)
def test_the_trunk_is_the_models(flags):
    """Two rows, two blocks each, over pages apart; hidden states and the cache are the plain forward's."""
    model = tiny_model(6, torch.float64, **flags)
    if flags:
        for layer in model.model.layers:
            for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                proj.bias.uniform_(-1, 1)
    span, ids = block_span([[2, 0], [1, 3]], [0, 0], 8, 4, 8), np.arange(16) % 20
    caches = [PagedKV(2, 5, 8, 2, 8, model.lm_head.weight) for _ in "ab"]
    plain = model.hidden(
        torch.from_numpy(ids)[None], torch.arange(8).repeat(2)[None], PagedAttention(caches[0], [span])
    )
    fused = SegmentForwards(model, caches[1], 2, gathered, FusedTrunk(model)).hidden([span], ids)
    torch.testing.assert_close(fused, plain[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(caches[1].keys[:, :32], caches[0].keys[:, :32], rtol=0, atol=1e-12)
