"""Laws of Dream's decoders: the timestep quota, rankings, filters, Fast-dLLM v1's openings, infilling; and the
reference as a second opinion on random shapes."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, Margin, NegEntropy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache, WholeSequence
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota_threshold import QuotaThreshold
from lightningrl.decoding.selectors.random_timestep import RandomTimestep
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.selectors.timestep import Timestep
from lightningrl.decoding.stops import FinishBlock, WholeCanvas
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.rl.likelihood import check_scorable

STOPS, NEW = (3, 7), 12
WHOLE = {"stop": WholeCanvas()}
OPENING = {"opens_first": True}
SCHEDULES = [
    WholeSequence(), FullSequence(4), PrefixCache(4, **OPENING), PrefixCache(3, 2, 2, **OPENING), DualCache(4,
    **OPENING), DualCache(3, 2, **OPENING), DualCache(4, most_forwards=2, **OPENING), PrefixCache(4),
]  # fmt: skip
SELECTORS = [
    Timestep(5), Timestep(12, 0.1), Timestep(24), RandomTimestep(5), Timestep(3, opening=True), QuotaThreshold(0.15, 4),
    Threshold(0.15, inclusive=True), Entropy(2.4, strict=True), Factor(1.0),
]  # fmt: skip
RANKINGS = [Confidence(), Confidence(0.2), Margin(), Margin(0.1), NegEntropy(), NegEntropy(0.5)]


def dream(seed=5, **changes):
    return tiny_model(seed, torch.float64, **({"attention": "full", "logit_shift": True} | changes))


def decode(model, policy, lengths=(5, 2, 7), new=NEW, **options):
    return BlockDecoder(model, (), **options).decode(requests_of(lengths, new), policy)


POLICY = st.builds(
    DecodePolicy, st.sampled_from(SELECTORS), temperature=st.sampled_from([0.0, 1.0, 0.4]),
    top_k=st.sampled_from([0, 3]), top_p=st.sampled_from([1.0, 0.7]), ranking=st.sampled_from(RANKINGS),
    schedule=st.sampled_from(SCHEDULES), stop=st.sampled_from([WholeCanvas(), FinishBlock()]),
    logits=st.sampled_from([Logits(), Logits(filtered=True), Logits(filtered_greedy=True), Logits(untempered=True)]),
    seed=st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_decodes_like_the_reference(data):
    """Rows of all schedules, of blocks of different sizes too, in one call; some of them have masks to fill."""
    model = dream(data.draw(st.integers(0, 9)))
    requests = []
    for request in requests_of(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)), NEW, seed=2):
        policy, prompt = data.draw(POLICY), request.prompt_ids.copy()
        infills = policy.schedule == WholeSequence() and data.draw(st.booleans())
        prompt[1::3] = np.where(infills, model.config.mask_token_id, prompt[1::3])
        requests.append(dataclasses.replace(request, policy=policy, prompt_ids=prompt, infills=infills))
    decoder = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 4)))
    same(decoder.decode(requests, requests[0].policy), [decode_one(model, r, r.policy, STOPS) for r in requests])
    assert sum(part.revealed for forward in decoder.ledger.forwards for part in forward.parts) > 0


def quotas(masks, steps, **options):
    """How many of so many masks each step reveals, by the selector itself."""
    selector, left, found = Timestep(steps, **options), masks, []
    for step in range(int(steps)):
        is_open = torch.arange(masks)[None] < left
        score = torch.rand(1, masks)
        given = Proposals(is_open, score, score, score.masked_fill(~is_open, -torch.inf), torch.tensor([step]))
        found.append(int(selector.select(given).sum()))
        left -= found[-1]
    assert left == 0
    return found


@pytest.mark.parametrize(("masks", "steps", "expected"), [
    (16, 7, [2] * 6 + [4]), (32, 5, [6] * 4 + [8]), (24, 12, [1, *[2] * 10, 3]), (16, 16, [0, *[1] * 14, 2]),
    (256, 256, [0, *[1] * 254, 2]),
])  # fmt: skip
def test_published_examples_of_the_timestep_quota(masks, steps, expected):
    assert quotas(masks, steps) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 120), st.sampled_from([1e-3, 0.1, 0.5]))
def test_the_timestep_quota_reveals_every_mask_and_leaves_some_for_the_last_step(masks, steps, eps):
    found = quotas(masks, steps, eps=eps)
    assert sum(found) == masks and found[-1] >= 1 and min(found) >= 0


@pytest.mark.parametrize("steps", [1, 5, 12, 25])
def test_dream_runs_all_its_steps_whatever_they_reveal(steps):
    for got in decode(dream(), DecodePolicy(Timestep(steps), ranking=NegEntropy(), schedule=WholeSequence(), **WHOLE)):
        assert got.stats.denoise_forwards == steps and (got.reveal_step > 0).all()
        assert np.bincount(got.reveal_step, minlength=steps + 1)[1:].tolist() == quotas(NEW, steps)
        assert got.block_size == NEW and got.origin == len(got.prompt_ids) and got.exact_cache


def test_origin_reveals_each_mask_by_chance_with_the_share_of_its_step():
    """Over many rows, the counts of each step are those of independent draws of its share, within five deviations; the
    last step leaves nothing, and with `least_forwards` all steps are run, as published."""
    steps, new, rows = 6, 24, 60
    policy = DecodePolicy(RandomTimestep(steps), schedule=WholeSequence(least_forwards=steps), **WHOLE)
    found = decode(dream(), policy, lengths=[3] * rows, new=new)
    assert all(got.stats.denoise_forwards == steps and (got.reveal_step > 0).all() for got in found)
    reveal = np.stack([got.reveal_step for got in found])
    assert len({tuple(row) for row in reveal.tolist()}) == rows, "the draws of one row are not another's"
    times = np.linspace(1, 1e-3, steps + 1)
    for step in range(1, steps):
        masked, share = int((reveal >= step).sum()), 1 - times[step] / times[step - 1]
        assert abs((reveal == step).sum() - masked * share) < 5 * np.sqrt(masked * share * (1 - share))
    early = decode(dream(), dataclasses.replace(policy, schedule=WholeSequence()), lengths=[3] * rows, new=2)
    assert {got.stats.denoise_forwards for got in early} > {1, steps} and all((e.reveal_step > 0).all() for e in early)
    with pytest.raises(DecodeError, match=r"steps is 2\.5"):
        RandomTimestep(2.5)
    with pytest.raises(DecodeError, match="eps is 0"):
        RandomTimestep(4, 0)


@pytest.mark.parametrize("ranking", [Confidence(), Margin(), NegEntropy()])
def test_names_of_tokens_do_not_matter(ranking):
    """The vocabulary permuted, prompts with it, gives the same response permuted."""
    model, other = dream(), dream()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    order = torch.cat([order, torch.tensor([23])])  # the mask token stays
    with torch.no_grad():
        other.model.embed_tokens.weight[order] = model.model.embed_tokens.weight
        other.lm_head.weight[order] = model.lm_head.weight
    policy = DecodePolicy(Timestep(7), ranking=ranking, schedule=WholeSequence(), **WHOLE)
    requests = requests_of([5, 2, 7], NEW)
    renamed = [dataclasses.replace(r, prompt_ids=order.numpy()[r.prompt_ids]) for r in requests]
    found = BlockDecoder(model, ()).decode(requests, policy), BlockDecoder(other, ()).decode(renamed, policy)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(order.numpy()[a.token_ids], b.token_ids)
        np.testing.assert_array_equal(a.reveal_step, b.reveal_step)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.sampled_from([0.1, 0.2, 0.5]), st.integers(1, 6))
def test_without_a_cache_no_more_are_revealed_than_are_due_and_what_is_due_stays_so(seed, tau, steps):
    policy = DecodePolicy(QuotaThreshold(tau, steps), schedule=WholeSequence(), **WHOLE)
    for got in decode(dream(seed), policy):
        forwards = got.stats.denoise_forwards
        revealed = np.cumsum(np.bincount(got.reveal_step, minlength=forwards + 1)[1:])
        due = np.minimum(np.ceil(NEW * np.arange(1, forwards + 1) / steps), NEW)
        assert (revealed <= due).all() and revealed[-1] == NEW and (np.diff(revealed) >= 1).all()
        assert forwards >= min(steps, NEW)
    everything = decode(dream(seed), dataclasses.replace(policy, selector=QuotaThreshold(0.0, steps)))
    assert {got.stats.denoise_forwards for got in everything} == {steps}


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.sampled_from(SELECTORS[4:5] + SELECTORS[6:]), st.sampled_from([0.0, 1.0]))
def test_an_opening_reveals_the_first_position_alone_and_caches_agree_where_they_must(seed, selector, temperature):
    model, runs = dream(seed), {}
    for kind in (PrefixCache, DualCache):
        policy = DecodePolicy(selector, temperature, schedule=kind(4, **OPENING), **WHOLE)
        runs[kind] = decode(model, policy)
        for got in runs[kind]:
            blocks = got.reveal_step.reshape(-1, 4)
            assert (blocks[:, 0] < blocks[:, 1:].min(1)).all() and not got.exact_cache
            assert (np.r_[0, blocks.max(1)[:-1]] + 1 == blocks[:, 0]).all()
    one = {"new": 4}
    same(*(decode(model, DecodePolicy(selector, temperature, schedule=kind(4, **OPENING), **WHOLE), **one)
           for kind in (PrefixCache, DualCache)), but=("schedule",))  # fmt: skip
    for prefix, dual in zip(runs[PrefixCache], runs[DualCache], strict=True):
        assert prefix.token_ids[0] == dual.token_ids[0], "the opening forward has no cache"


def test_a_block_of_one_position_costs_one_forward_and_two_as_published():
    for least in (1, 2):
        policy = DecodePolicy(Threshold(0.9), schedule=PrefixCache(1, least, **OPENING), **WHOLE)
        assert {got.stats.denoise_forwards for got in decode(dream(), policy)} == {least * NEW}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_block_that_is_given_up_keeps_its_masks_and_the_corrected_one_has_none(steps):
    mask = dream().config.mask_token_id
    for compat in (False, True):
        schedule = DualCache(4, most_forwards=max(2, steps) if compat else None, **OPENING)
        selector = Timestep(steps, opening=True, compat=compat)
        for got in decode(dream(), DecodePolicy(selector, ranking=NegEntropy(), schedule=schedule, **WHOLE)):
            left = got.token_ids.reshape(-1, 4) == mask
            expected = [False, *[compat and steps == 1] * 3]
            assert (left == expected).all() and got.stats.denoise_forwards == 2 * NEW // 4


def test_masks_of_a_prompt_are_filled_and_other_schedules_say_that_they_cannot():
    model = dream()
    mask, prompt = model.config.mask_token_id, np.array([4, 5, 23, 6, 23, 1])
    policy = DecodePolicy(Timestep(4), schedule=WholeSequence(), **WHOLE)
    decoder = BlockDecoder(model, ())
    [got] = decoder.decode([Request("t/fill", 0, prompt, 6, infills=True)], policy)
    assert (got.prompt_ids[[0, 1, 3, 5]] == prompt[[0, 1, 3, 5]]).all() and mask not in got.prompt_ids
    assert len(got.token_ids) == 6 == got.stats.emitted_tokens and got.origin == 2
    assert sum(part.revealed for forward in decoder.ledger.forwards for part in forward.parts) == 8
    [kept] = decoder.decode([Request("t/context", 0, prompt, 6)], policy)
    np.testing.assert_array_equal(kept.prompt_ids, prompt)
    with pytest.raises(DecodeError, match=r"t/fill: the prompt has masks to be filled.*whole_sequence"):
        decoder.decode(
            [Request("t/fill", 0, prompt, 8, infills=True)], DecodePolicy(Threshold(0.5), schedule=FullSequence(4))
        )


def test_top_p_and_top_k_come_before_rankings_as_written_out():
    """One row at a time in plain Python: top-p first (strictly over), then top-k among what is left, then
    renormalised."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        logits, top_p, top_k = (
            rng.normal(size=9) * 2,
            float(rng.choice([1.0, 0.9, 0.5, 0.2])),
            int(rng.choice([0, 1, 3])),
        )
        p = np.exp(logits) / np.exp(logits).sum()
        order, kept, before = np.argsort(-p), [], 0.0
        for place, token in enumerate(order):
            if place == 0 or top_p == 1 or before <= top_p:
                kept.append(token)
            before += p[token]
        kept = kept[: top_k or None]
        expected = np.zeros(9)
        expected[kept] = p[kept] / p[kept].sum()
        log_probs, limits = torch.from_numpy(np.log(p))[None], (torch.tensor([top_k]), torch.tensor([top_p]))
        for rule, sampled in ((Logits(filtered_greedy=True), False), (Logits(filtered=True), True)):
            found = rule.narrowed(log_probs, torch.tensor([sampled]), *limits).exp()
            np.testing.assert_allclose(found[0], expected, atol=1e-12)
        same_as = Logits(filtered=True).narrowed(log_probs, torch.tensor([False]), *limits).exp()
        np.testing.assert_allclose(same_as[0], p, atol=1e-12)


def test_filters_change_the_order_alone_at_temperature_zero_and_confidences_are_of_what_is_left():
    """With one token left everywhere all confidences are 1: positions are revealed from left to right, with the tokens
    of the unfiltered run at each state."""
    model = dream()
    policy = DecodePolicy(
        Timestep(12), top_p=1e-9, schedule=WholeSequence(), logits=Logits(filtered_greedy=True), **WHOLE
    )
    for got in decode(model, policy):
        assert got.reveal_step.tolist() == [*range(2, 13), 12] and (got.behaviour_logp < -0.01).any()
    usual = decode(model, dataclasses.replace(policy, logits=Logits()))
    assert any(got.reveal_step.tolist() != [*range(2, 13), 12] for got in usual)


def test_the_margin_is_the_difference_of_the_two_likeliest():
    model, [request] = dream(), requests_of([5], 6)
    logits_seen = []
    of = Logits.of

    class Watching(Logits):
        def of(self, model, hidden_nH, twin_nH):
            logits_seen.append(of(self, model, hidden_nH, twin_nH))
            return logits_seen[-1]

    policy = DecodePolicy(
        Timestep(6, 0.5), ranking=Margin(), schedule=WholeSequence(), logits=Watching(untempered=True), **WHOLE
    )
    [got] = BlockDecoder(model, ()).decode([request], policy)
    open_at = list(range(6))
    for forward, logits in enumerate(logits_seen, 1):
        logits[:, model.config.mask_token_id] = -torch.inf
        p = logits.softmax(-1).sort(-1, descending=True).values
        order = (p[:, 1] - p[:, 0]).argsort(stable=True).tolist()
        revealed = sorted(i for i in open_at if got.reveal_step[i] == forward)
        assert revealed == sorted(open_at[i] for i in order[: len(revealed)])
        open_at = [i for i in open_at if i not in revealed]
    assert not open_at


def test_a_drawn_order_has_the_chances_of_drawing_without_replacement():
    """`alg_temp`: the first and the first two places over many keyed uniforms, against the product of the weights."""
    score = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)
    n, temperature = 20000, 0.5
    noise = torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = NegEntropy(temperature).drawn(score.expand(n, -1), noise).argsort(-1, descending=True)
    weight = (score[0] / temperature).softmax(-1)
    for a in range(3):
        first = weight[a]
        assert abs((order[:, 0] == a).double().mean() - first) < 4 * (first * (1 - first) / n) ** 0.5
        for b in {0, 1, 2} - {a}:
            both = first * weight[b] / (1 - first)
            seen = ((order[:, 0] == a) & (order[:, 1] == b)).double().mean()
            assert abs(seen - both) < 4 * (both * (1 - both) / n) ** 0.5
    still = NegEntropy().drawn(score, None)
    assert still is score
    policy = DecodePolicy(Timestep(12), ranking=Confidence(0.3), schedule=WholeSequence(), **WHOLE)
    runs = [decode(dream(), dataclasses.replace(policy, seed=seed)) for seed in (0, 0, 1)]
    same(runs[0], runs[1])
    assert any((a.reveal_step != b.reveal_step).any() for a, b in zip(runs[0], runs[2], strict=True))


def test_what_cannot_be_is_refused_with_what_to_do():
    class Blind(PrefixCache):
        """Opens the first position of a block whose predecessor it does not compute."""

        knows_first = True

        def interval(self, at, size):
            return super().interval(at._replace(step_B=at.step_B + 1), size)

    with pytest.raises(DecodeError, match="opens positions whose logits its forward does not compute"):
        decode(dream(), DecodePolicy(Threshold(0.3), schedule=Blind(4)))
    with pytest.raises(DecodeError, match=r"shifted logits \(Dream\).*full attention and unshifted.*opens_first out"):
        decode(dream(logit_shift=False), DecodePolicy(Threshold(0.3), schedule=DualCache(4, **OPENING)))
    for wrong, match in ((lambda: WholeSequence(4), "takes no block_size"), (lambda: Timestep(0), "steps is 0"),
                         (lambda: Timestep(4, 1.5), "eps is 1.5"), (lambda: Margin(-1), "Margin: alg_temp is -1"),
                         (lambda: QuotaThreshold(float("nan")), "tau is no number")):  # fmt: skip
        with pytest.raises(DecodeError, match=match):
            wrong()
    with pytest.raises(ConfigError, match="stale keys and values"):
        check_scorable("full", [DecodePolicy(Threshold(0.3), schedule=DualCache(4, **OPENING))], False)


@pytest.mark.parametrize("schedule", [*SCHEDULES[2:7], WholeSequence()], ids=repr)
def test_rows_that_wait_for_pages_or_are_put_off_end_as_alone_and_a_bad_or_too_large_one_fails_alone(schedule):
    """By force every other row leaves once in a while: its canvas is rebuilt as its last refresh had left it."""
    model, poison = dream(), 22
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = float("nan")
        model.lm_head.weight[poison] = 0.0
        model.usable_vocab = poison
    policy = DecodePolicy(Threshold(0.3), 1.0, schedule=schedule, seed=3, ranking=Confidence(0.2), **WHOLE)
    requests = requests_of([5, 2, 7, 3], NEW, vocab=poison)
    alone = [decode_one(model, request, policy, STOPS) for request in requests]
    requests.append(Request("t/bad", 0, np.array([4, poison, 2]), NEW))
    requests.append(Request("t/never", 0, np.arange(60) % 20, NEW))
    turns = itertools.count()

    def put_off(run):
        if next(turns) % 3 == 2 and run.rows.item:
            for slot in list(run.rows.item)[::2]:
                run.pool.cache.clear(run.rows.held[slot])
                run.waiting.appendleft(run.rows.save(slot))

    for rows, is_forced in ((4, False), (4, True), (1, False)):
        decoder = BlockDecoder(model, STOPS, rows=rows, page_tokens=4)
        decoder.memory_bytes = 13 * decoder.page_bytes
        with pytest.MonkeyPatch.context() as patch:
            if is_forced:
                patch.setattr(Scheduler, "_admit", lambda run, admit=Scheduler._admit: (put_off(run), admit(run)))
            found = {outcome.index: outcome for outcome in decoder.stream(requests, policy)}
        assert sorted(found) == list(range(6))
        same([found[i].trajectory for i in range(4)], alone)
        assert "not finite" in str(found[4].error) and "the budget is" in str(found[5].error)


@pytest.mark.parametrize("name", ["filtered", "filtered_greedy"])
def test_confidences_that_are_untempered_and_filtered_are_refused(name):
    """Tokens were drawn at temperature 1 then, and their log-probabilities were those at the asked one."""
    with pytest.raises(DecodeError, match=r"untempered confidences .* take one of them"):
        Logits(untempered=True, **{name: True})
