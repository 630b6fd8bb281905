"""What must hold between the decoder's pieces, whatever the model says.

The model-free laws of selectors are checked on random numbers without ties, those of whole decodes in float64.
"""

import math

import numpy as np
import pytest
import torch
from fixtures import outsider
from fixtures.decodes import CACHES, NAIVE, RANKED, SELECTORS, same
from fixtures.naive import RANKINGS, Masked, Open, naive_decode, naive_threshold
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.config.experiment import Experiment, load
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Position
from lightningrl.decoding.schedules.block import FusedCommit
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota, step_quota
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.inference.policy import make_policy, policy_of
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

NANO = PACKAGE.parent / "config" / "nano.yaml"
PROMPTS = [1, 4, 6, 8, 11, 3]


def decode(policy, new=17, stops=(), model=None):
    return BlockDecoder(model or tiny_model(4, torch.float64), stops).decode(requests_of(PROMPTS, new), policy)


# Whole decodes.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("ranking, highest", [("confidence", 1.0), ("neg_entropy", 0.0), ("position", 0.0)])
def test_threshold_at_the_highest_score_is_a_quota_of_one_a_step(ranking, highest, temperature):
    policies = (DecodePolicy(each, temperature, ranking=RANKED[ranking]) for each in (Threshold(highest), Quota(4)))
    one, other = map(decode, policies)
    same(one, other)
    assert all(t.stats.denoise_forwards == len(t.token_ids) for t in one)


@torch.no_grad()
def test_blocks_of_one_and_argmax_are_greedy_decoding_from_left_to_right_on_a_causal_model():
    """The logit at a mask predicts the mask's own token, so greedy decoding appends a mask and takes its argmax."""
    model = tiny_model(4, torch.float64, block_size=1)
    expected = []
    for request in requests_of(PROMPTS, 9):
        ids = request.prompt_ids.tolist()
        for n in range(len(ids) + 1, len(ids) + 10):
            causal = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
            hidden = model.hidden(torch.tensor([[*ids, 23]]), torch.arange(n)[None], Masked(causal))
            ids.append(int(model.logits(hidden[0, -1])[:23].argmax()))
        expected.append(ids[-9:])
    for selector in (Threshold(0.5), Quota(1), Factor(1.0), CumulativeEntropy(1.0), Scripted(1)):
        found = decode(DecodePolicy(selector), 9, model=model)
        assert [got.token_ids.tolist() for got in found] == expected
        for got in found:
            assert got.reveal_step.tolist() == list(range(1, 10)) and got.stats.tpf == got.stats.tpf_true == 1


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cache_plans_agree_exactly(selector, temperature):
    found = [decode(DecodePolicy(selector, temperature, schedule=cache), stops=(3,)) for cache in CACHES.values()]
    for other in found[1:]:
        same(found[0], other, but=("stats", "schedule"))
    for fused, separate, recompute in zip(*found, strict=True):
        counts = {t.stats.denoise_forwards for t in (fused, separate, recompute)}
        assert len(counts) == 1 and fused.stats.commit_forwards == recompute.stats.commit_forwards == 0


# Selectors alone.

PARAMETERS = {
    Threshold: st.tuples(st.floats(-2, 1), st.booleans(), st.none() | st.integers(1, 9)),
    Quota: st.tuples(st.integers(1, 9)),
    Factor: st.tuples(st.floats(0, 3), st.booleans()),
    CumulativeEntropy: st.tuples(st.floats(-1, 9)),
    Scripted: st.tuples(st.floats(1, 9)),
}


def chosen_by(selector, confidence, entropy=None, open_=None, step=None, ranking=RANKED["confidence"]):
    """(B, K) bool, in float64; by default all positions are open, at the block's first step."""
    confidence = torch.tensor(confidence, dtype=torch.float64)
    entropy = torch.zeros_like(confidence) if entropy is None else torch.tensor(entropy, dtype=torch.float64)
    open_ = torch.ones_like(confidence, dtype=torch.bool) if open_ is None else torch.tensor(open_)
    score = ranking.score(OpenPositions(open_, confidence, entropy)).masked_fill(~open_, -torch.inf)
    return selector.select(Proposals(open_, confidence, entropy, score, torch.tensor(step or [0] * len(score))))


@st.composite
def blocks_without_ties(draw):
    """(confidence, entropy, open, step) of a few rows of one block size."""
    size, rows = draw(st.integers(1, 8)), draw(st.integers(1, 3))

    def table(low, high):
        # Far enough from each other and from round bounds that rounding decides nothing.
        numbers = st.integers(round(low * 1e6), round(high * 1e6) - 1).map(lambda n: (n + 0.37) / 1e6)
        return [draw(st.lists(numbers, min_size=size, max_size=size, unique=True)) for _ in range(rows)]

    open_ = [draw(st.lists(st.booleans(), min_size=size, max_size=size)) for _ in range(rows)]
    return table(0.01, 1.0), table(0.0, 4.0), open_, [draw(st.integers(0, 9)) for _ in range(rows)]


@pytest.mark.parametrize("selector", PARAMETERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_selectors_are_the_literal_loops_never_empty_and_do_not_look_at_the_order_of_positions(selector, data):
    parameters = data.draw(PARAMETERS[selector])
    confidence, entropy, open_, step = data.draw(blocks_without_ties())
    size = len(confidence[0])
    for name, ranking in RANKED.items():
        chosen = chosen_by(selector(*parameters), confidence, entropy, open_, step, ranking)
        for row in range(len(open_)):
            opened = [
                Open(i, 0, math.log(confidence[row][i]), entropy[row][i], i) for i in range(size) if open_[row][i]
            ]
            # exp(log(c)) is not c to the last digit: compare what is far from every bound.
            want = NAIVE[selector](*parameters)(opened, RANKINGS[name], step[row], size) if opened else []
            assert {o.position for o in want} == set(chosen[row].nonzero().flatten().tolist())
            assert bool(chosen[row].any()) == any(open_[row])
        if not isinstance(ranking, Position):
            order = data.draw(st.permutations(range(size)))
            moved = [[[row[i] for i in order] for row in table] for table in (confidence, entropy, open_)]
            assert torch.equal(chosen_by(selector(*parameters), *moved, step, ranking), chosen[:, order])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=blocks_without_ties(), taus=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_lower_threshold_reveals_no_less(rows, taus):
    low, high = (chosen_by(Threshold(tau), *rows) for tau in sorted(taus))
    assert not (high & ~low).any()


def test_cumulative_entropy_may_use_gamma_up():
    for gamma, expected in ((3.0, [True, True, False]), (2.9, [False, True, False])):
        assert chosen_by(CumulativeEntropy(gamma), [[0.5] * 3], [[2.0, 1.0, 4.0]]).tolist() == [expected]


@pytest.mark.parametrize("compat, expected", [(False, [1, 1, 2, 2, 3]), (True, [2, 1, 3, 2, 4])])
def test_factor_worked_examples_and_the_reference_implementations_off_by_one(compat, expected):
    """factor 1: token n passes with 1 - 1/(n+1), so 2/3, 3/4, 4/5 for the second, third and fourth.

    Rows: two open, the second fails; three open, the second fails, so two are left; three open, only the last fails;
    four open, two fail; four open, only the last fails.
    """
    rows = [[0.9, 0.5], [0.9, 0.5, 0.4], [0.9, 0.7, 0.74], [0.9, 0.7, 0.71, 0.1], [0.9, 0.8, 0.78, 0.77]]
    assert [int(chosen_by(Factor(1.0, compat), [row]).sum()) for row in rows] == expected


@pytest.mark.parametrize(
    "size, steps, schedule",
    [(32, 32, [1] * 32), (8, 3, [3, 3, 2]), (4, 4, [1] * 4), (32, 5, [7, 7, 6, 6, 6]), (4, 8, [1] * 8)],
)
def test_quota_schedules(size, steps, schedule):
    """K // steps and one more for the first K mod steps; never less than 1, where the official schedule has zeros."""
    assert step_quota(size, steps, torch.arange(steps)).tolist() == schedule
    model = tiny_model(4, torch.float64, block_size=size, num_hidden_layers=1)
    for selector in (Quota(steps), Threshold(1.0, steps=steps)):
        got = BlockDecoder(model, ()).decode(requests_of([size], size), DecodePolicy(selector))[0]
        assert np.bincount(got.reveal_step)[1:].tolist() == schedule[:size]


@pytest.mark.parametrize(
    ("inclusive", "rows", "expected"),
    [
        (True, [[0.95, 0.90, 0.40, 0.91], [0.0, 0.92, 0.30, 0.0], [0.0, 0.0, 0.20, 0.0]], [1, 1, 2, 1]),
        (False, [[0.95, 0.90, 0.40, 0.91], [0.0, 0.92, 0.30, 0.0], [0.0, 0.0, 0.20, 0.0]], [1, 2, 3, 1]),
        (False, [[0.5, 0.6, 0.3, 0.2]] * 4, [2, 1, 3, 4]),
    ],
    ids=["inclusive", "strict", "all below: the surest first, not the left-most"],
)
def test_threshold_oracles(inclusive, rows, expected):
    """tau 0.9; a row of confidences each forward, and by hand the forward that reveals each position."""
    steps, number = [0] * 4, 0
    while not all(steps):
        chosen = chosen_by(Threshold(0.9, inclusive), [rows[number]], open_=[[not s for s in steps]], step=[number])
        number += 1
        steps = [number if c else s for c, s in zip(chosen[0].tolist(), steps, strict=True)]
    assert steps == expected


@pytest.mark.parametrize("steps", [0, 0.5, 2.5, -1, math.inf, math.nan])
def test_no_whole_number_of_steps_is_refused(steps):
    for make in (lambda: Quota(steps), lambda: Threshold(0.9, steps=steps)):
        with pytest.raises(DecodeError, match=rf"steps is {steps}, expected a whole number of 1 or more"):
            make()


@pytest.mark.parametrize(
    ("made", "message"),
    [(lambda: Threshold(math.nan), "tau is no number"), (lambda: CumulativeEntropy(math.nan), "gamma is no number"),
     (lambda: Factor(math.nan), "factor is nan"), (lambda: Factor(-0.5), "factor is -0.5, expected 0 or more"),
     (lambda: DecodePolicy(Threshold(0.9), top_k=10**400), "top_k is 1000")],
)  # fmt: skip
def test_parameters_without_a_meaning_are_refused(made, message):
    with pytest.raises(DecodeError, match=message):
        made()


# A schedule from outside the package.


def test_an_outsiders_sub_block_decodes_its_halves_in_turn_as_the_naive_decoder_does():
    model = tiny_model(4, torch.float64, block_size=8)
    policy = policy_of("threshold", 0.3, temperature=1.0, schedule="fixtures.outsider:half_block")
    for request, got in zip(requests_of(PROMPTS, 17), decode(policy, model=model), strict=True):
        want = naive_decode(model, request, naive_threshold(0.3), temperature=1.0, sub_block=4)
        assert (got.token_ids.tolist(), got.reveal_step.tolist()) == (want.tokens, want.reveal)
        half = (len(got.prompt_ids) + np.arange(len(got.token_ids))) // 4
        for one in range(half[0], half[-1]):
            assert got.reveal_step[half == one].max() < got.reveal_step[half == one + 1].min()


def test_a_config_names_an_outsiders_schedule_and_its_file_is_part_of_the_keys():
    tree = load(NANO).model_dump()
    own = plan(Experiment.model_validate(tree | {"decoding": {"schedule": "fixtures.outsider:half_block"}}))
    stage, usual = (of.stage("evaluate", "base/gsm-mini") for of in (own, plan(load(NANO))))
    policy = make_policy(stage.config | {"members": stage.members}, 0.3)
    assert policy.schedule == outsider.SubBlock(4) and policy.selector == Threshold(0.3)
    assert stage.key != usual.key
    assert make_policy(usual.config | {"members": usual.members}, 0.3).schedule == FusedCommit()
