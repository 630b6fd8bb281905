"""The formulas of `lightningrl plan` against what they speak of: tensors, packed rows, autograd, a decoder's ledger."""

from __future__ import annotations

import pytest
import torch
from fixtures.tiny import requests_of, tiny_config, tiny_model, trajectory_of

from lightningrl.bench import costs
from lightningrl.bench.costs import Lengths, Shares, positions_of, work_of
from lightningrl.bench.estimate.budget import DEVICES, device_of
from lightningrl.bench.memory import TrainingMemory
from lightningrl.bench.model_shape import SHAPES, Shape
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.errors import ConfigError
from lightningrl.models.attention import PagedKV
from lightningrl.models.transformer import ModelConfig, Transformer
from lightningrl.rl.likelihood import trajectory_row


def shape_of(config: ModelConfig) -> Shape:
    return Shape.of({name: getattr(config, name) for name in SHAPES["8b"] if hasattr(config, name)}, config.block_size)


def resident_of(shape: Shape, devices: int, number_bytes: int) -> dict[str, float]:
    return TrainingMemory(shape, devices, number_bytes, positions=0, pool=0, rows=1).resident


SHAPE = shape_of(tiny_config())
EIGHT = Shape.of_size("8b", 32)
H100 = DEVICES["h100"]


@pytest.mark.parametrize(("size", "count"), [("1.7b", 2031739904), ("4b", 4411424256), ("8b", 8190735360)])
def test_parameters_are_the_official_counts(size, count):
    assert Shape.of_size(size, 32).parameters == count


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1, "hidden_size": 24, "num_hidden_layers": 3}])
def test_weights_and_moments_are_the_tensors_bytes(changes):
    model = tiny_model(**changes)
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    resident = resident_of(shape_of(model.config), 1, 4)
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert resident["weights"] == resident["reference"] == sum(p.nbytes for p in model.parameters())
    assert resident["Adam's moments"] == sum(tensor.nbytes for tensor in moments)
    halved = sum(p.nbytes for p in model.to(torch.bfloat16).parameters())
    assert resident_of(shape_of(model.config), 1, 2)["decode replica"] == halved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_pages_are_the_caches_bytes(dtype):
    """70 positions take five pages of 16."""
    config = tiny_config()
    cache = PagedKV(
        config.num_hidden_layers, 5, 16, config.num_key_value_heads, config.head_dim, torch.zeros(1, dtype=dtype)
    )
    assert costs.kv_bytes(SHAPE, 70, 16, dtype.itemsize) == cache.nbytes


def kept_by_autograd(model: Transformer, ids_BQ, positions_BQ, attend) -> int:
    """Bytes of distinct tensors that a forward keeps, the weights aside."""
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(ids_BQ, positions_BQ, attend)
    return sum(size for size, _ in kept.values())


def test_activations_are_what_autograd_keeps_of_a_layer_beside_the_attention():
    """Two depths, so that embedding and last norm fall out; an attention that keeps nothing stands in."""
    ids, positions = torch.zeros((1, 40), dtype=torch.long), torch.arange(40)[None]

    def attend(layer, q_BNQD, k_BMQD, v_BMQD):
        return q_BNQD + (k_BMQD + v_BMQD).repeat_interleave(2, 1)

    one, three = (kept_by_autograd(tiny_model(num_hidden_layers=layers), ids, positions, attend) for layers in (2, 4))
    attention = 2 * SHAPE.query_numbers + 2 * SHAPE.key_numbers + SHAPE.num_attention_heads
    assert (three - one) / 2 == 4 * 40 * (SHAPE.layer_activations - attention)


def test_checkpointed_activations_are_inputs_of_layers_and_one_layer():
    whole, less = (costs.activation_bytes(EIGHT, 1000, 2, checkpointed) for checkpointed in (False, True))
    assert whole == 36 * 1000 * 2 * EIGHT.layer_activations > 10 * less
    assert less == 1000 * 2 * (36 * 4096 + EIGHT.layer_activations)


@pytest.mark.parametrize(
    ("prompt", "reveal", "response_len"),
    [(6, [1, 1, 2, 2, 3, 4], 5), (4, [1, 2, 1, 3, 4, 4, 5, 5], None), (3, [1, 2, 2, 3, 3], 1), (0, [1] * 4, None)],
)
def test_training_positions_of_a_trajectory_are_its_rows(prompt, reveal, response_len):
    trajectory = trajectory_of(prompt, reveal, response_len=response_len)
    assert positions_of([trajectory]) == trajectory_row(trajectory, 23).num_tokens


def test_decoding_positions_are_the_ledgers():
    """Whole steps per block, so that tokens per forward are what the script says."""
    decoder = BlockDecoder(tiny_model(), ())
    found = decoder.decode(requests_of([8, 8, 8], 16), DecodePolicy(Scripted(2.0)))
    lengths = Lengths(8, 16, 2.0)
    work = costs.decoding_work(lengths, 4) + costs.prefill_work(lengths, 4)
    assert 3 * work[0] == decoder.ledger.positions
    assert 3 * costs.training_work(lengths, 4)[0] == positions_of(found)


def test_operations_are_two_a_weight_and_position_and_four_a_key_and_an_update_is_three_forwards_or_four():
    operations = 2 * 100 * EIGHT.trunk_matrices + 2 * 10 * 151936 * 4096 + 4 * 36 * 32 * 128 * 50 * 100
    assert EIGHT.trunk_matrices == EIGHT.parameters - 2 * 151936 * 4096 - 4096 - 36 * (2 * 4096 + 2 * 128)
    work = work_of(100, 10, 50)
    assert costs.operations_of(work, EIGHT) == operations
    assert costs.reference_cost(EIGHT, H100, Shares(), work).operations == operations
    for checkpointed, forwards in ((False, 3), (True, 4)):
        update = costs.update_cost(EIGHT, H100, Shares(), work, 8, 8, checkpointed)
        assert (update.operations, update.positions) == (forwards * operations, 100)


def test_a_lone_row_is_bound_by_bandwidth_and_a_full_engine_by_arithmetic():
    """On an H100 a bf16 weight read is worth about 295 operations a byte: fewer positions per forward are bandwidth."""
    lengths = Lengths(120, 300, 4.0)
    alone = costs.decoding_cost(EIGHT, H100, Shares(), lengths, 1, 1)
    full = costs.decoding_cost(EIGHT, H100, Shares(), lengths, 512, 256)
    assert (alone.bound, full.bound) == ("bandwidth", "arithmetic")
    read = 2 * EIGHT.parameters / (0.7 * 3.35e12)
    assert 75 * read < alone.seconds < 1.2 * 75 * read
    assert full.seconds < 512 * alone.seconds / 3


def test_shards_shrink_with_the_devices_and_replicas_do_not():
    one, eight = (resident_of(EIGHT, devices, 2) for devices in (1, 8))
    assert one["fp32 master, a shard"] == 8 * eight["fp32 master, a shard"] == 4 * EIGHT.parameters
    assert one["decode replica"] == eight["decode replica"] == 2 * EIGHT.parameters


def test_a_size_is_read_off_a_name_and_what_there_is_not_is_refused():
    for name in ("JetLM/SDAR-8B-Chat-b32", "models/sdar-8b"):
        assert Shape.of_checkpoint(name, 32) == EIGHT
    assert Shape.of_checkpoint("JetLM/SDAR-1.7B-Chat", 4).hidden_size == 2048
    for refused in (
        lambda: Shape.of_size("9b", 32),
        lambda: Shape.of_checkpoint("somebody/model-b32", 32),
        lambda: device_of("v100"),
        lambda: Shares(update=1.5),
    ):
        with pytest.raises(ConfigError):
            refused()
