"""What quantizers look at: forwards replayed layer by layer are those of the decoder, of every family and schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, requests_of, tiny_model

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import ConfigError
from lightningrl.inference.policy import policy_of
from lightningrl.quantization.calibration import clean, random, visited
from lightningrl.quantization.layerwise import Gram, LayerWalk, grams, observing
from lightningrl.quantization.protocol import Calibration, CalibrationSequence, Forward

FULL = {"attention": "full", "qk_norm": False}
DREAM = FULL | {"logit_shift": True, "qkv_bias": True, "block_size": 1}
WAYS = [
    ({}, {"schedule": "fused"}), ({}, {"schedule": "separate"}), ({}, {"schedule": "recompute"}),
    (FULL, {"schedule": "full_sequence", "schedule_options": {"block_size": 4}}),
    (FULL, {"schedule": "dual_cache", "schedule_options": {"block_size": 4}}),
    (DREAM, {"schedule": "prefix_cache", "schedule_options": {"block_size": 4}}),
    ({"attention": "causal", "logit_shift": True, "qk_norm": False, "block_size": 1, "mask_token_id": -1},
     {"preset": "autoregressive"}),
]  # fmt: skip


def policy(threshold=0.3, **words):
    if "preset" in words:
        from lightningrl.config.decoding import DirectDecoding
        from lightningrl.inference.policy import direct_policy

        return direct_policy(DirectDecoding(**words))
    return policy_of(parameter=threshold, **words)


def states(model, tokens=10**6, count=5, **words):
    decoder = BlockDecoder(model, [1])
    return visited(model, decoder, requests_of([5, 8, 3, 6, 9][:count], 12), policy(**words), tokens)


@pytest.mark.parametrize(("shape", "words"), WAYS, ids=lambda each: str(each.get("schedule", each.get("preset", ""))))
@torch.no_grad()
def test_a_walk_sees_what_the_decoders_forwards_saw(shape, words):
    """The inputs of every linear layer, bit for bit, whatever the cache keeps."""
    model = tiny_model(2, **shape)
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name):
        return lambda x: seen.setdefault(name, []).append(x.clone())

    names = [f"model.layers.{n}.{each}" for n in range(2) for each in ("self_attn.q_proj", "mlp.down_proj")]
    with observing(model, {name: note(name) for name in names}):
        found = states(model, **words)
    walk, walked = LayerWalk(model, found), {}
    for number, layer in enumerate(model.model.layers):
        own = {each: walked.setdefault(f"model.layers.{number}.{each}", []).append
               for each in ("self_attn.q_proj", "mlp.down_proj")}  # fmt: skip
        walk.hidden = walk.outputs(layer, own)
    assert found.tokens == sum(len(x) for x in seen[names[0]]) > 30
    for name in names:
        assert all(torch.equal(one, other) for one, other in zip(seen[name], walked[name], strict=True)), name


def test_a_canvas_without_a_cache_is_thinned_evenly_and_one_with_a_cache_by_problems():
    model = tiny_model(2, **FULL)
    words = {"schedule": "full_sequence", "schedule_options": {"block_size": 4}}
    whole, some = states(model, **words), states(model, tokens=200, **words)
    assert whole.tokens > 400 and 60 < some.tokens <= 200
    places = [next(n for n, each in enumerate(whole.forwards) if np.array_equal(each.ids_N, one.ids_N))
              for one in some.forwards]  # fmt: skip
    assert places == sorted(places) and places[-1] > len(whole.forwards) / 2
    block = tiny_model(2)
    many = requests_of([5] * 40, 12)
    found = visited(block, BlockDecoder(block, [1]), many, policy(), 300)
    assert 300 <= found.tokens < 1.2 * visited(block, BlockDecoder(block, [1]), many[:16], policy(), 10**6).tokens


def sequences(count=4):
    rng = np.random.default_rng(0)
    return [
        CalibrationSequence(rng.integers(0, MASK_ID, 5 + n), rng.integers(0, MASK_ID, 11 - n)) for n in range(count)
    ]


@torch.no_grad()
def test_clean_text_is_one_forward_a_problem_without_a_mask():
    model = tiny_model(1)
    found = clean(model.config, sequences(), 10**6)
    assert found.tokens == 4 * 16 and all(MASK_ID not in each.ids_N for each in found.forwards)
    walk = LayerWalk(model, found)
    for layer in model.model.layers:
        walk.hidden = walk.outputs(layer)
    for each, hidden in zip(found.forwards, walk.hidden, strict=True):
        ids, positions = torch.from_numpy(each.ids_N)[None], torch.arange(16)[None]
        exact = model.hidden(ids, positions, Masked(dense_block_mask(16, 4)))
        torch.testing.assert_close(model.model.norm(hidden), exact, rtol=1e-4, atol=1e-5)
    assert len(clean(model.config, sequences(), 33).forwards) == 2 and len(clean(model.config, sequences(), 1).forwards)


@pytest.mark.parametrize("attention", ["block_causal", "full"])
def test_random_masks_are_of_answers_only_and_keyed(attention):
    model = tiny_model(1, attention=attention)
    found, again = (random(model.config, sequences(), 10**6, seed=3) for _ in range(2))
    other = random(model.config, sequences(), 10**6, seed=4)
    ids = [np.concatenate([each.ids_N for each in made.forwards]) for made in (found, again, other)]
    assert np.array_equal(ids[0], ids[1]) and not np.array_equal(ids[0], ids[2])
    masked = ids[0] == MASK_ID
    assert 0.1 < masked.mean() < 0.6
    for each in found.forwards:
        assert isinstance(each, Forward) and (each.positions_N[each.ids_N == MASK_ID] >= 5).all()
    with pytest.raises(ConfigError, match="no mask token"):
        random(tiny_model(1, mask_token_id=-1).config, sequences(), 100)


@torch.no_grad()
def test_each_masked_block_sees_a_clean_past():
    """Against a dense forward over the clean tokens before the block and the block as it is masked."""
    model, given, starts = tiny_model(1), sequences(), set()
    found = random(model.config, given, 10**6)
    walk = LayerWalk(model, found)
    for layer in model.model.layers:
        walk.hidden = walk.outputs(layer)
    clean_ids, number = np.zeros(0), -1
    for each, hidden in zip(found.forwards, walk.hidden, strict=True):
        first, end = int(each.positions_N[0]), int(each.positions_N[-1]) + 1
        if not first and not (each.ids_N == MASK_ID).any():
            number += 1
            clean_ids = np.concatenate([given[number].prompt_ids, given[number].response_ids])
            assert np.array_equal(each.ids_N, clean_ids)
        ids = torch.from_numpy(np.concatenate([clean_ids[:first], each.ids_N]))[None]
        exact = model.hidden(ids, torch.arange(end)[None], Masked(dense_block_mask(end, 4)))
        torch.testing.assert_close(model.model.norm(hidden), exact[:, first:], rtol=1e-4, atol=1e-5)
        starts.add((number, first))
    assert starts >= {(number, first) for number in range(4) for first in (0, 8, 12)}


def test_moments_are_sums_over_every_computed_position():
    model = tiny_model(2)
    walk, rows = LayerWalk(model, states(model)), []
    layer = model.model.layers[0]
    found = grams(walk, layer, [("self_attn.q_proj",)])["self_attn.q_proj"]
    walk.observe(layer, {"self_attn.q_proj": rows.append})
    x_NI = torch.cat(rows)
    assert isinstance(found, Gram) and found.rows == len(x_NI) == walk.calibration.tokens
    torch.testing.assert_close(found.hessian_II, 2 / len(x_NI) * x_NI.T @ x_NI, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no data to look at"):
        LayerWalk(model, Calibration())
