"""Laws of decoders over a canvas: what prefix and dual caches change, counts of forwards, options for the end token."""

import dataclasses

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.naive import Masked
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import NegEntropy, Random
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.rl.likelihood import check_scorable

CACHES = {"none": FullSequence, "prefix": PrefixCache, "dual": DualCache}
SELECTORS = [Threshold(0.4, inclusive=True), Factor(1.0), Factor(1.0, compat=True), Quota(3), Entropy(1.5)]
STOPS = (3, 7)
NEW = 12


def full_model(seed=5, **changes):
    return tiny_model(seed, torch.float64, attention="full", **changes)


def policy_of(selector, cache="none", least=1, **rest):
    return DecodePolicy(selector, schedule=CACHES[cache](4, least), stop=WholeCanvas(), **rest)


def decode(model, policy, lengths=(5, 2, 7), new=NEW, stops=()):
    return BlockDecoder(model, stops).decode(requests_of(lengths, new), policy)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(0, 9), st.sampled_from(SELECTORS), st.sampled_from(list(CACHES)), st.sampled_from([0.0, 1.0]),
    st.sampled_from([1, 2, 6]),
)  # fmt: skip
def test_every_position_is_revealed_once_in_its_block_and_the_last_forwards_of_a_block_may_be_empty(
    seed, selector, cache, temperature, least
):
    model = full_model(seed)
    decoder, requests = BlockDecoder(model, STOPS), requests_of([5, 2, 7], NEW)
    found = decoder.decode(requests, policy_of(selector, cache, least, temperature=temperature))
    revealed = sum(part.revealed for forward in decoder.ledger.forwards for part in forward.parts)
    assert revealed == NEW * len(found) == sum(each.stats.emitted_tokens for each in found)
    for each in found:
        blocks = each.reveal_step.reshape(-1, 4)
        assert (blocks > 0).all() and len(each.token_ids) == NEW and each.origin == len(each.prompt_ids)
        assert each.stats.denoise_forwards >= least * 3 and each.exact_cache == (cache == "none")
        assert each.stats.commit_forwards == each.stats.prefill_forwards == 0
        firsts = blocks.min(1)
        assert (np.diff(firsts) >= least).all(), "a block has its least forwards before the next one begins"


@pytest.mark.parametrize("cache", CACHES)
def test_a_threshold_nothing_passes_is_a_quota_of_one_and_dparallels_rule_below_zero_one_token_a_forward(cache):
    model = full_model()
    sure, static, below = (decode(model, policy_of(s, cache)) for s in (Threshold(1.1), Quota(4), Entropy(-1.0)))
    same(sure, static)
    ranked = decode(model, policy_of(Entropy(-1.0), cache, ranking=NegEntropy()))
    for each in (*sure, *below, *ranked):
        assert each.stats.denoise_forwards == NEW and sorted(each.reveal_step) == list(range(1, NEW + 1))


@pytest.mark.parametrize(("cache", "least", "forwards"), [("none", 1, 3), ("prefix", 1, 3), ("dual", 1, 3),
                                                          ("prefix", 2, 6), ("dual", 2, 6)])  # fmt: skip
@pytest.mark.parametrize("selector", [Threshold(0.0, inclusive=True), Entropy(100.0), CumulativeEntropy(1e9)])
def test_a_rule_everything_passes_reveals_a_block_in_a_forward_and_every_cache_gives_the_same(
    cache, least, forwards, selector
):
    """A block that its first forward finishes reads nothing stale; by the June 2025 count it has one more forward."""
    model = full_model()
    found = decode(model, policy_of(selector, cache, least))
    assert {each.stats.denoise_forwards for each in found} == {forwards}
    same(found, decode(model, policy_of(selector)), but=() if (cache, least) == ("none", 1) else
         ("schedule", "exact_cache", "stats", "reveal_step"))  # fmt: skip


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
def test_in_one_layer_no_cache_is_ever_stale_and_in_two_it_is(selector):
    """Keys of the first layer depend on the tokens there alone, and those outside the block do not change meanwhile."""
    for layers in (1, 2):
        model = full_model(num_hidden_layers=layers)
        none, prefix, dual = (decode(model, policy_of(selector, cache)) for cache in CACHES)
        if layers == 1:
            for cached in (prefix, dual):
                same(cached, none, but=("schedule", "exact_cache", "work"))
                saved = [
                    (a.stats.decode_positions, b.stats.decode_positions) for a, b in zip(cached, none, strict=True)
                ]
                assert all(mine <= whole for mine, whole in saved) and sum(a < b for a, b in saved) > 1
        else:
            for cached in (prefix, dual):
                gaps = [abs(a.behaviour_logp - b.behaviour_logp).max() for a, b in zip(none, cached, strict=True)]
                assert max(gaps) > 1e-3
            first = [each.reveal_step == 1 for each in none]
            for cached in (prefix, dual):  # the first forward of all is computed whole
                for a, b, at in zip(none, cached, first, strict=True):
                    np.testing.assert_allclose(a.behaviour_logp[at], b.behaviour_logp[at], atol=1e-6)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_refreshed_in_every_forward_is_no_cache(cache):
    model, selector = full_model(), Threshold(0.2)
    refreshed = DecodePolicy(selector, 1.0, schedule=CACHES[cache](4, refresh_every=1), stop=WholeCanvas())
    same(decode(model, refreshed), decode(model, policy_of(selector, temperature=1.0)), but=("schedule", "exact_cache"))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.sampled_from(SELECTORS), st.sampled_from(["prefix", "dual"]))
def test_the_june_count_adds_one_forward_for_each_block_that_its_first_forward_finished(seed, selector, cache):
    model = full_model(seed)
    later, june = (decode(model, policy_of(selector, cache, least)) for least in (1, 2))
    for a, b in zip(later, june, strict=True):
        blocks = a.reveal_step.reshape(-1, 4)
        at_once = int((blocks.min(1) == blocks.max(1)).sum())
        assert b.stats.denoise_forwards == a.stats.denoise_forwards + at_once
        np.testing.assert_array_equal(a.token_ids, b.token_ids)


@pytest.mark.parametrize(("steps", "forwards"), [(1, 3), (2, 6), (4, 12), (7, 21)])
def test_vanilla_runs_all_its_steps_whatever_they_reveal(steps, forwards):
    found = decode(full_model(), policy_of(Quota(steps), least=steps))
    assert {each.stats.denoise_forwards for each in found} == {forwards}
    same(found, decode(full_model(), policy_of(Quota(steps))), but=("stats", "reveal_step"))


def test_logits_of_a_canvas_do_not_see_hidden_padding_and_see_every_future_mask():
    model, length = full_model(), 9
    ids = torch.randint(0, 22, (1, length), generator=torch.Generator().manual_seed(1))
    everything = Masked(torch.ones(1, 1, length, length, dtype=torch.bool))
    padded = torch.cat([torch.full((1, 3), 7), ids], dim=1)
    seen = Masked(
        (torch.arange(length + 3) >= 3).expand(1, 1, length + 3, -1) | torch.eye(length + 3, dtype=torch.bool)
    )
    with torch.no_grad():
        alone = model.hidden(ids, torch.arange(length)[None], everything)
        behind = model.hidden(padded, torch.arange(length + 3)[None], seen)[:, 3:]
        torch.testing.assert_close(alone, behind, rtol=0, atol=1e-10)
        changed = ids.clone()
        changed[0, -1] = model.config.mask_token_id
        assert (model.hidden(changed, torch.arange(length)[None], everything)[:, 0] - alone[:, 0]).abs().max() > 1e-4


def test_the_end_tokens_options_do_what_their_names_say():
    model = full_model()
    with torch.no_grad():
        model.lm_head.weight[3] *= 3.0  # so that the end token is often the likeliest
    usual = decode(model, policy_of(Quota(4)))
    assert any((each.token_ids == 3).any() for each in usual)
    banned = decode(model, policy_of(Quota(4), logits=Logits(logits_eos_inf=True, eos_id=3)))
    assert not any((each.token_ids == 3).any() for each in banned)
    last = decode(model, policy_of(Quota(4), logits=Logits(confidence_eos_eot_inf=True, eos_id=3, eot_id=7)))
    assert any((each.token_ids == 3).any() for each in last)
    for each in last:
        for ids, steps in zip(each.token_ids.reshape(-1, 4), each.reveal_step.reshape(-1, 4), strict=True):
            # When one was revealed nothing else was drawn at the block's open positions in that forward, so what comes
            # after it in the block was an end token too at that time.
            ends = np.isin(ids, (3, 7))
            assert not ends.any() or steps[ends].max() == steps.max()


def test_a_confidence_without_the_end_tokens_is_relative_to_what_is_left_and_theirs_is_zero():
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.5], [0.0, 3.0, 1.0, 1.0]], dtype=torch.float64)
    token, log_probs = torch.tensor([0, 1]), logits.log_softmax(-1)
    for compat, eos_counts in ((False, False), (True, True)):
        rule = Logits(confidence_eos_eot_inf=True, eos_id=1, eot_id=2, compat=compat)
        sampled = torch.tensor([True, True])
        found = rule.confidence(log_probs, token, sampled)
        kept = [0, 1, 3] if eos_counts else [0, 3]
        p = logits.exp()
        assert found[0].item() == pytest.approx((p[0, 0] / p[0, kept].sum()).item())
        assert found[1].item() == pytest.approx((p[1, 1] / p[1, kept].sum()).item() if eos_counts else 0.0)


def test_guidance_of_zero_is_none_and_guidance_pushes_away_from_the_prompt_of_masks():
    """Written out for the first forward: logits are twin + (s + 1)(own - twin)."""
    model, [request] = full_model(), requests_of([5], 4)
    same(decode(model, policy_of(Quota(4), logits=Logits(untempered=True))), decode(model, policy_of(Quota(4))))
    policy = policy_of(Quota(1), logits=Logits(cfg_scale=1.5))
    found = BlockDecoder(model, ()).decode([request], policy)[0]
    mask, everything = model.config.mask_token_id, Masked(torch.ones(1, 1, 9, 9, dtype=torch.bool))
    own = torch.tensor([[*request.prompt_ids.tolist(), *[mask] * 4]])
    with torch.no_grad():
        c, u = (
            model.logits(model.hidden(ids, torch.arange(9)[None], everything))[0, 5:]
            for ids in (own, torch.full_like(own, mask))
        )
    expected = u + 2.5 * (c - u)
    expected[:, mask] = -torch.inf
    assert found.token_ids.tolist() == expected.argmax(-1).tolist()
    np.testing.assert_allclose(found.behaviour_logp, expected.log_softmax(-1).amax(-1), atol=1e-6)
    assert found.stats.denoise_forwards == 1, "the pair counts once"


def test_confidences_at_temperature_one_order_positions_whatever_tokens_are_drawn_at():
    """The log-probability that is kept stays that of the draw."""
    model = full_model()
    hot = decode(model, policy_of(Threshold(0.5), temperature=3.0, seed=1))
    cool = decode(model, policy_of(Threshold(0.5), temperature=3.0, seed=1, logits=Logits(untempered=True)))
    assert any((a.reveal_step != b.reveal_step).any() for a, b in zip(hot, cool, strict=True))
    first = [(a.reveal_step == 1) & (b.reveal_step == 1) for a, b in zip(hot, cool, strict=True)]
    assert any(at.any() for at in first)
    for a, b, at in zip(hot, cool, first, strict=True):
        np.testing.assert_array_equal(a.token_ids[at], b.token_ids[at])
        np.testing.assert_allclose(a.behaviour_logp[at], b.behaviour_logp[at], atol=1e-6)


def test_random_remasking_orders_positions_by_keyed_uniforms_that_are_not_those_of_the_tokens():
    model = full_model()
    requests = requests_of([3] * 60, 4)
    found = BlockDecoder(model, ()).decode(requests, policy_of(Quota(4), ranking=Random()))
    steps = np.stack([each.reveal_step for each in found])
    assert (np.bincount(steps.argmin(1), minlength=4) > 4).all() and len({tuple(row) for row in steps.tolist()}) > 12
    alone = [BlockDecoder(model, ()).decode([each], policy_of(Quota(4), ranking=Random()))[0] for each in requests[:6]]
    same(found[:6], alone)
    # Drawing tokens changes no order: the uniforms are others.
    hot = BlockDecoder(model, ()).decode(requests, policy_of(Quota(4), ranking=Random(), temperature=1.0))
    assert [each.reveal_step.tolist() for each in hot] == steps.tolist()


def test_the_mask_token_is_drawn_only_where_it_is_allowed_and_then_its_position_counts_as_revealed():
    model = full_model()
    with torch.no_grad():
        model.lm_head.weight[model.config.mask_token_id] *= 8.0
    allowed = decode(model, policy_of(Threshold(0.3), logits=Logits(bans_mask=False)))
    assert any((each.token_ids == model.config.mask_token_id).any() for each in allowed)
    assert all((each.reveal_step > 0).all() for each in allowed), "and it ends"
    for each in decode(model, policy_of(Threshold(0.3))):
        assert not (each.token_ids == model.config.mask_token_id).any()


def test_the_whole_canvas_is_decoded_and_cut_afterwards():
    model = full_model()
    whole, ended = (
        decode(model, dataclasses.replace(policy_of(Threshold(0.3), temperature=1.0), **stop), new=40, stops=STOPS)
        for stop in ({}, {"stop": DecodePolicy(Quota(1)).stop})
    )
    assert any(each.stop == "eos" and each.response_len < 30 for each in whole)
    for a, b in zip(whole, ended, strict=True):
        assert len(a.token_ids) == 40 and a.stats.denoise_forwards >= b.stats.denoise_forwards
        np.testing.assert_array_equal(a.response_ids, b.response_ids)
        assert a.stats.response_tokens == b.stats.response_tokens == a.response_len


@pytest.mark.parametrize("cache", CACHES)
def test_a_canvas_that_cannot_be_is_refused_alone_before_anything_is_computed(cache):
    model, policy = full_model(), policy_of(Quota(4), cache)
    new = {"odd": (3, 10), "small": (3, 3), "long": (100, 32), "good": (3, 8)}
    asked = [Request(f"t/{name}", 0, np.arange(prompt) % 20, length) for name, (prompt, length) in new.items()]
    decoder = BlockDecoder(model, ())
    found = sorted(decoder.stream(asked, policy), key=lambda outcome: outcome.index)
    said = [str(outcome.error) for outcome in found[:3]]
    assert said[0].startswith("t/odd: 10 new tokens are no whole blocks of 4") and "Ask for 8 or 12" in said[0]
    assert "Ask for 4, or" in said[1] and "need 132 positions, the model has 128" in said[2]
    assert len(decoder.ledger.forwards) == found[3].trajectory.stats.denoise_forwards
    decoder.memory_bytes, guided = decoder.page_bytes, dataclasses.replace(policy, logits=Logits(cfg_scale=1.0))
    budget = [outcome.error for outcome in decoder.stream([asked[3]], guided)]
    assert "bytes of KV cache, the budget is" in str(budget[0]), "a twin needs as many pages again"


def test_tokens_that_the_model_does_not_have_and_options_out_of_range_are_refused():
    with pytest.raises(DecodeError, match="eos_id 126081 or eot_id 126348 lies outside the vocabulary of 24"):
        decode(full_model(), policy_of(Quota(4), logits=Logits(confidence_eos_eot_inf=True)))
    with pytest.raises(DecodeError, match="cfg_scale is -1"):
        Logits(cfg_scale=-1)
    with pytest.raises(DecodeError, match="DualCache: refresh_every is -1"):
        DualCache(4, refresh_every=-1)
    with pytest.raises(DecodeError, match="PrefixCache: least_forwards is 0"):
        PrefixCache(4, 0)
    with pytest.raises(DecodeError, match="nats is no number"):
        Entropy(float("nan"))


@pytest.mark.parametrize("policy", [policy_of(Quota(4), "prefix"), policy_of(Quota(4), "dual")], ids=repr)
def test_training_refuses_stale_caches_and_distributions_that_are_not_the_models(policy):
    with pytest.raises(ConfigError, match="stale keys and values"):
        check_scorable("full", [policy], accepts_inexact_caches=False)
    for logits in (Logits(cfg_scale=1.0), Logits(logits_eos_inf=True), Logits(bans_mask=False)):
        with pytest.raises(ConfigError, match="not drawn from the model's own distribution"):
            check_scorable("block_causal", [DecodePolicy(Quota(4), logits=logits)], accepts_inexact_caches=True)
    check_scorable(
        "block_causal", [DecodePolicy(Quota(4), logits=Logits(untempered=True))], accepts_inexact_caches=False
    )
