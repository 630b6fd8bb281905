"""Families whose logits predict the next position: block-causal, full, and autoregressive, token by token."""

import dataclasses

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, POLICY, naive_of, same
from fixtures.naive import Masked
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.presets import PRESETS
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.autoregressive import Autoregressive
from lightningrl.decoding.schedules.block import FusedCommit, Recompute
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import InsideBlock
from lightningrl.errors import DecodeError
from lightningrl.models.checkpoint import load_model
from lightningrl.models.families.protocol import NO_MASK

STOPS = (3, 7)
GREEDY = DecodePolicy(Quota(1), schedule=Autoregressive(), stop=InsideBlock())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_block_causal_model_decodes_like_the_naive_decoder(data):
    """The oracle is a dense forward a step whose table of distributions is moved by one position."""
    size = data.draw(st.sampled_from([1, 2, 4]), "block_size")
    shape = {"block_size": size, "logit_shift": True}
    model = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, **shape)
    requests = requests_of(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), "prompts"), 9, seed=2)
    policies = [data.draw(POLICY) for _ in requests]
    requests = [dataclasses.replace(r, policy=p) for r, p in zip(requests, policies, strict=True)]
    for one, request in zip(BlockDecoder(model, STOPS, rows=2).decode(requests, policies[0]), requests, strict=True):
        naive = naive_of(model, request, request.policy, STOPS)
        assert one.token_ids.tolist() == naive.tokens and one.reveal_step.tolist() == naive.reveal
        np.testing.assert_allclose(one.behaviour_logp, naive.logp, atol=1e-6)


def test_a_denoise_forward_computes_one_position_more_and_a_commit_does_not():
    """Blocks of 4, a prompt of 8: the position before the block is a query, too, unless the block before it is."""
    [request] = requests_of([8], 8)
    queries = {}
    for logit_shift in (False, True):
        model = tiny_model(2, torch.float64, logit_shift=logit_shift)
        for name, schedule in CACHES.items():
            decoder = BlockDecoder(model, ())
            decoder.decode([request], DecodePolicy(Quota(2), schedule=schedule))
            parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
            queries[name, logit_shift] = [(part.kind, part.query_tokens) for part in parts]
    assert queries["fused", False] == [
        ("prefill", 8), ("denoise", 4), ("denoise", 4), ("fused", 8), ("denoise", 4)
    ]  # fmt: skip
    assert queries["fused", True] == [("prefill", 8), ("denoise", 5), ("denoise", 5), ("fused", 8), ("denoise", 5)]
    assert queries["separate", True] == [
        ("prefill", 8), ("denoise", 5), ("denoise", 5), ("commit", 4), ("denoise", 5), ("denoise", 5)
    ]  # fmt: skip
    assert queries["recompute", True] == queries["recompute", False]


@pytest.mark.parametrize("prompt_len", [1, 4, 6])
def test_a_full_sequence_is_read_one_position_earlier(prompt_len):
    """Dream's way, written out: the surest masked position of the block by the logits of the position before it."""
    model = tiny_model(5, torch.float64, attention="full", logit_shift=True)
    [request] = requests_of([prompt_len], 12)
    found = BlockDecoder(model, ()).decode([request], DecodePolicy(Quota(4), schedule=FullSequence(4)))[0]
    length, ids = prompt_len + 12, [int(i) for i in request.prompt_ids] + [model.config.mask_token_id] * 12
    everything = Masked(torch.ones(1, 1, length, length, dtype=torch.bool))
    for start in range(prompt_len, length, 4):
        masked = list(range(start, start + 4))
        while masked:
            with torch.no_grad():
                hidden = model.hidden(torch.tensor([ids]), torch.arange(length)[None], everything)[0]
                table = model.log_probs(hidden)
            best = max(masked, key=lambda p: float(table[p - 1].max()))
            ids[best] = int(table[best - 1].argmax())
            masked.remove(best)
    assert found.token_ids.tolist() == ids[prompt_len:]


@pytest.fixture(scope="module", params=["Qwen2", "Llama"])
def pair(request, tmp_path_factory):
    """(Hugging Face's random model in float64, the same checkpoint here)."""
    import transformers

    rope = {"rope_type": "default", "rope_theta": 500.0}
    if request.param == "Llama":
        rope |= {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = 16
    torch.manual_seed(1)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=40, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.5, rope_parameters=rope,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    theirs = getattr(transformers, f"{request.param}ForCausalLM")(config).double().eval()
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder, dtype=None)


def generated(theirs, request, stops):
    """Their greedy `generate` of one prompt."""
    ids = torch.from_numpy(np.asarray(request.prompt_ids))[None]
    found = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_new_tokens,
        eos_token_id=list(stops), pad_token_id=2,
    )  # fmt: skip
    return found[0, ids.shape[1] :].tolist()


def test_greedy_decoding_is_hugging_faces_generate_token_for_token(pair):
    """Rows of different lengths in one run, three at a time; some end at a stop token, one that the first response
    has."""
    theirs, ours = pair
    requests = requests_of([1, 2, 5, 9, 17, 30, 3, 4], 24, vocab=40)
    stops = [generated(theirs, requests[0], [39])[5]]
    decoder = BlockDecoder(ours, stops, rows=3)
    found = decoder.decode(requests, GREEDY)
    for request, one in zip(requests, found, strict=True):
        expected = generated(theirs, request, stops)
        assert one.response_ids.tolist() == one.token_ids.tolist() == expected
        assert one.reveal_step.tolist() == list(range(1, len(expected) + 1))
        assert one.stats.denoise_forwards == len(expected) and one.stats.commit_forwards == 0
        assert one.stats.prefill_forwards == 1 and one.stats.tpf == 1.0
    assert {one.stop for one in found} == {"eos", "length"}
    parts = [part for forward in decoder.ledger.forwards for part in forward.parts]
    assert {part.query_tokens for part in parts if part.kind != "prefill"} == {1}
    assert sum(part.revealed for part in parts) == sum(one.stats.denoise_forwards for one in found)


def test_a_response_does_not_depend_on_its_neighbours_its_order_or_on_being_put_off(pair):
    """Greedy and sampled rows, alone, together in two orders, and through a third of their memory."""
    _, ours = pair
    policies = [
        GREEDY,
        dataclasses.replace(GREEDY, temperature=1.0, seed=3),
        dataclasses.replace(GREEDY, temperature=0.6),
    ]
    requests = requests_of([3, 11, 1, 6, 20, 2, 8, 5], 16, vocab=40)
    requests = [dataclasses.replace(r, policy=policies[i % 3]) for i, r in enumerate(requests)]
    alone = [BlockDecoder(ours, STOPS, rows=1).decode([request], request.policy)[0] for request in requests]
    for order in (range(8), range(7, -1, -1)):
        found = BlockDecoder(ours, STOPS, rows=8).decode([requests[i] for i in order], GREEDY)
        same(found, [alone[i] for i in order])
    decoder = BlockDecoder(ours, STOPS, rows=8, page_tokens=4)
    decoder.memory_bytes = 16 * decoder.page_bytes
    same(decoder.decode(requests, GREEDY), alone)
    assert decoder.ledger.preemptions > 0
    with pytest.raises(DecodeError, match=r"65 prompt tokens and 16 new ones need .* the budget is"):
        decoder.decode([Request("t", 0, np.ones(65, dtype=np.int64), 16)], GREEDY)


def test_one_row_whose_probabilities_are_not_finite_leaves_the_others_alone(pair):
    _, ours = pair
    requests = requests_of([3, 5, 4], 8, vocab=39)
    requests[1].prompt_ids[2] = 39
    for request in (requests[0], requests[2]):
        request.prompt_ids[request.prompt_ids == 39] = 0
    expected = [BlockDecoder(ours, ()).decode([request], GREEDY)[0] for request in requests[::2]]
    weight = ours.model.embed_tokens.weight
    kept = weight[39].clone()
    ours.usable_vocab = 39
    try:
        with torch.no_grad():
            weight[39] = float("nan")
        outcomes = {each.index: each for each in BlockDecoder(ours, ()).stream(requests, GREEDY)}
        assert "not finite" in str(outcomes[1].error)
        alone = [BlockDecoder(ours, ()).decode([request], GREEDY)[0] for request in requests[::2]]
        same([outcomes[0].trajectory, outcomes[2].trajectory], alone)
        assert all(len(one.token_ids) == len(other.token_ids) for one, other in zip(alone, expected, strict=True))
    finally:
        ours.usable_vocab = 40
        with torch.no_grad():
            weight[39] = kept


def test_what_does_not_fit_a_family_is_refused_before_a_forward(pair):
    causal, requests = pair[1], requests_of([3], 4)
    assert causal.config.mask_token_id == NO_MASK
    blocks = DecodePolicy(Threshold(0.9), schedule=FusedCommit())
    cases = [
        (causal, blocks, r"has no mask token; take the preset or the schedule autoregressive"),
        (causal, dataclasses.replace(blocks, schedule=FullSequence(4)), "has no mask token"),
        (tiny_model(1, logit_shift=True), GREEDY, r"is no autoregressive one; it has block_causal attention.*fused"),
        (tiny_model(1, attention="full", logit_shift=True), dataclasses.replace(GREEDY, schedule=Recompute()), "later"),
        (tiny_model(1, attention="causal"), GREEDY, "is no autoregressive one"),
    ]
    for model, policy, message in cases:
        decoder = BlockDecoder(model, ())
        with pytest.raises(DecodeError, match=message):
            decoder.decode(requests, policy)
        assert not decoder.ledger.forwards
    with pytest.raises(DecodeError, match="shifted logits has 'spans' only"):
        BlockDecoder(tiny_model(1, logit_shift=True), (), forwards="gathered")


def test_the_preset_is_that_decoder():
    from lightningrl.config.decoding import DirectDecoding
    from lightningrl.inference.policy import direct_policy

    assert direct_policy(DirectDecoding.model_validate({"preset": "autoregressive"})) == GREEDY
    assert PRESETS["autoregressive"]["parameter"] == 1
