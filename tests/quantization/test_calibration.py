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
    ({}, {"schedule": "block_buffer", "schedule_options": {"buffer_size": 2}}),
    (FULL, {"schedule": "multi_block", "schedule_options": {"block_size": 4, "cache_delay_iter": 1}}),
    ({"logit_shift": True}, {"schedule": "sub_block", "schedule_options": {"sub_block": 2, "caches_block": True}}),
    ({"attention": "causal", "logit_shift": True, "qk_norm": False, "block_size": 1, "mask_token_id": -1},
     {"preset": "autoregressive"}),
]  # fmt: skip

WAY_NAMES = [words.get("schedule", words.get("preset")) for _, words in WAYS]


def policy(threshold=0.3, **words):
    if "preset" in words:
        from lightningrl.config.decoding import DirectDecoding
        from lightningrl.inference.policy import direct_policy

        return direct_policy(DirectDecoding(**words))
    return policy_of(parameter=threshold, **words)


def states(model, tokens=10**6, count=5, **words):
    decoder = BlockDecoder(model, [1])
    return visited(model, decoder, requests_of([5, 8, 3, 6, 9][:count], 12), policy(**words), tokens)


@pytest.mark.parametrize(("shape", "words"), WAYS, ids=WAY_NAMES)
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


def test_a_canvas_without_a_cache_is_thinned_evenly_row_by_row():
    model = tiny_model(2, **FULL)
    words = {"schedule": "full_sequence", "schedule_options": {"block_size": 4}}
    whole, some = states(model, **words), states(model, tokens=200, **words)
    assert whole.tokens > 400 and 100 < some.tokens <= 200
    rows = [row_of(forward, row) for forward in whole.forwards for row in range(count_rows(forward))]
    kept = [row_of(forward, row) for forward in some.forwards for row in range(count_rows(forward))]
    places = [rows.index(each) for each in kept]
    assert places == sorted(places) and places[-1] > len(rows) / 2 and len(kept) > 5
    few = states(model, tokens=1, **words)
    assert [count_rows(forward) for forward in few.forwards] == [1], "one at least"


def count_rows(forward):
    return sum(span.rows for span in forward.spans)


def row_of(forward, row):
    """A row's tokens, positions, places in the cache and keys in sight, and which of it may be and are revealed."""
    first = 0
    for span in forward.spans:
        if row < span.rows:
            break
        row, first = row - span.rows, first + span.rows * span.queries
    own = np.arange(first + row * span.queries, first + (row + 1) * span.queries)
    opened = {int(at) - int(own[0]): bool(is_revealed) for at, is_revealed in zip(*forward.opened, strict=True)
              if at in own}  # fmt: skip
    hidden = None if span.hidden_GQT is None else span.hidden_GQT[row].tolist()
    return (forward.ids_N[own].tolist(), span.positions_GQ[row].tolist(), span.slots_GQ[row].tolist(),
            span.pages_GP[row].tolist(), hidden, span.kv_tokens, opened)  # fmt: skip


@pytest.mark.parametrize(("shape", "words"), WAYS, ids=WAY_NAMES)
def test_there_are_never_more_tokens_than_were_asked_for(shape, words):
    """Whole problems where forwards see what others kept; of a first problem that is too long its beginning."""
    model, given = tiny_model(2, **shape), requests_of([5] * 20, 12)
    asked, counts = [], []
    decoder = BlockDecoder(model, [1])
    one = visited(model, decoder, given[:1], policy(**words), 10**6).tokens
    for tokens in (one // 3, one + 3, 3 * one, 10 * one):
        told = []
        found = visited(model, decoder, given, policy(**words), tokens, sequences=given, report=told.append)
        assert 0 < found.tokens <= tokens, tokens
        asked.append(len(found.sequences))
        counts.append(found.tokens)
        assert f"{asked[-1]} of 20 problems" in told[0]
    stands_alone = words.get("schedule") in ("full_sequence", "recompute")
    assert (asked == [20] * 4) == stands_alone and counts == sorted(counts)
    assert stands_alone or asked[0] == 1 <= asked[1] < asked[2] < asked[3] < 20


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


@pytest.mark.parametrize("attention", ["block_causal", "full"])
def test_rates_of_random_masks_are_uniform(attention):
    """Of 80 answers of a block of 48: their shares are spread from 0 to 1 as evenly as drawn rates are."""
    model, draw = tiny_model(1, attention=attention, block_size=48), np.random.default_rng(0)
    given = [CalibrationSequence(draw.integers(0, MASK_ID, 48), draw.integers(0, MASK_ID, 48)) for _ in range(80)]
    found = [each for each in random(model.config, given, 10**6).forwards if (each.ids_N == MASK_ID).any()]
    shares = np.sort([(each.ids_N[-48:] == MASK_ID).mean() for each in found])
    assert 75 <= len(found) <= 80
    assert np.abs(shares - np.linspace(0, 1, len(shares))).max() < 0.2, "Kolmogorov's distance at one in a thousand"


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
