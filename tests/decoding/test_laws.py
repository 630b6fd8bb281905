"""What must hold between the decoder's pieces, whatever the model says.

The model-free laws of selectors are checked on random numbers without ties, those of whole decodes in float64.
"""

import math

import numpy as np
import pytest
import torch
from fixtures import outsider
from fixtures.naive import (
    RANKINGS,
    Masked,
    Open,
    naive_cumulative_entropy,
    naive_decode,
    naive_factor,
    naive_quota,
    naive_scripted,
    naive_threshold,
)
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.config.experiment import Experiment, load
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Confidence, NegEntropy, Position
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota, step_quota
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.inference.policy import policy_of
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages.decoder import make_policy

NANO = PACKAGE.parent / "config" / "nano.yaml"
PROMPTS = [1, 4, 6, 8, 11, 3]
RANKED = [Confidence(), NegEntropy(), Position()]


def decode(policy, block_size=4, new=17, stops=(), model=None, observer=None):
    model = model or tiny_model(4, torch.float64, block_size=block_size)
    return BlockDecoder(model, stops).decode(requests_of(PROMPTS, new), policy, observer)


def same_but_forwards(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_array_equal(a.reveal_step, b.reveal_step)
        np.testing.assert_allclose(a.behaviour_logp, b.behaviour_logp, atol=1e-6)


# Whole decodes.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("ranking, highest", list(zip(RANKED, [1.0, 0.0, 0.0], strict=True)))
def test_threshold_at_the_highest_score_is_a_quota_of_one_a_step(ranking, highest, temperature):
    one, other = (
        decode(DecodePolicy(selector, temperature, ranking=ranking)) for selector in (Threshold(highest), Quota(4))
    )
    same_but_forwards(one, other)
    assert all(t.stats.denoise_forwards == len(t.token_ids) for t in one)


def test_threshold_zero_commits_the_whole_scope():
    for trajectory in decode(DecodePolicy(Threshold(0.0), 1.0)):
        blocks = -(-(len(trajectory.prompt_ids) % 4 + len(trajectory.token_ids)) // 4)
        assert trajectory.stats.denoise_forwards == blocks == len(set(trajectory.reveal_step.tolist()))


@torch.no_grad()
def test_blocks_of_one_and_argmax_are_greedy_decoding_from_left_to_right_on_a_causal_model():
    """The logit at a mask predicts the mask's own token, so greedy decoding appends a mask and takes its argmax."""
    model = tiny_model(4, torch.float64, block_size=1)
    for selector in (Threshold(0.5), Quota(1), Factor(1.0), CumulativeEntropy(1.0), Scripted(1)):
        for request, got in zip(
            requests_of(PROMPTS, 9), decode(DecodePolicy(selector), 1, 9, model=model), strict=True
        ):
            ids = request.prompt_ids.tolist()
            for _ in range(9):
                n = len(ids) + 1
                causal = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
                hidden = model.hidden(torch.tensor([[*ids, 23]]), torch.arange(n)[None], Masked(causal))
                ids.append(int(model.logits(hidden[0, -1])[:23].argmax()))
            assert [*request.prompt_ids.tolist(), *got.token_ids.tolist()] == ids
            assert got.reveal_step.tolist() == list(range(1, 10)) and got.stats.tpf == got.stats.tpf_true == 1


@pytest.mark.parametrize("selector", [Threshold(0.3), Quota(3), Factor(1.0), CumulativeEntropy(3.0), Scripted(2.5)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cache_plans_agree_exactly(selector, temperature):
    plans = [FusedCommit(), SeparateCommit(), Recompute()]
    found = [decode(DecodePolicy(selector, temperature, schedule=cache), stops=(3,)) for cache in plans]
    same_but_forwards(found[0], found[1])
    same_but_forwards(found[0], found[2])
    for fused, separate, recompute in zip(*found, strict=True):
        counts = {t.stats.denoise_forwards for t in (fused, separate, recompute)}
        assert len(counts) == 1 and fused.stats.commit_forwards == recompute.stats.commit_forwards == 0


class Revealed:
    """An observer that counts how often each position was open and revealed."""

    alternatives = 0

    def __init__(self):
        self.times, self.open_after = {}, []

    def observe(self, seen):
        for index, position, chosen in zip(seen.index_n, seen.position_n, seen.chosen_n, strict=True):
            key = int(index), int(position)
            self.open_after += [key] if self.times.get(key, 0) else []
            self.times[key] = self.times.get(key, 0) + bool(chosen)


@pytest.mark.parametrize("selector", [Threshold(0.3), Quota(3), Factor(1.0), CumulativeEntropy(3.0), Scripted(2.5)])
def test_every_masked_position_is_committed_once_and_never_open_again(selector):
    seen = Revealed()
    for index, got in enumerate(decode(DecodePolicy(selector, 1.0), observer=seen)):
        first, end = len(got.prompt_ids), len(got.prompt_ids) + len(got.token_ids)
        assert {p: n for (i, p), n in seen.times.items() if i == index} == dict.fromkeys(range(first, end), 1)
        assert got.stats.emitted_tokens == end - first and (got.reveal_step > 0).all()
    assert seen.open_after == []


@pytest.mark.parametrize("selector", [Threshold(0.3), Quota(2), Quota(4)])
def test_separate_commits_cost_a_forward_a_block_and_fused_ones_none(selector):
    """With T tokens a denoise forward a block of B takes B / T of them and a commit: T * B / (B + T) tokens a forward.

    So it would be if the last block were committed too; nothing would read it, which saves one forward.
    """
    model = tiny_model(4, torch.float64)
    requests = requests_of([4, 8, 12], 20)
    for cache in (SeparateCommit(), FusedCommit()):
        for got in BlockDecoder(model, ()).decode(requests, DecodePolicy(selector, 1.0, schedule=cache)):
            stats, blocks = got.stats, len(got.token_ids) // 4
            if isinstance(cache, FusedCommit):
                assert stats.tpf_true == stats.tpf
            else:
                tpf, all_committed = stats.tpf, stats.denoise_forwards + stats.commit_forwards + 1
                assert stats.commit_forwards == blocks - 1
                assert stats.response_tokens / all_committed == pytest.approx(tpf * 4 / (4 + tpf))
                assert stats.tpf_true == stats.response_tokens / (all_committed - 1)


# Selectors alone.

SELECTORS = {
    "threshold": (
        Threshold,
        naive_threshold,
        st.tuples(st.floats(-2, 1), st.booleans(), st.none() | st.integers(1, 9)),
    ),
    "quota": (Quota, naive_quota, st.tuples(st.integers(1, 9))),
    "factor": (Factor, naive_factor, st.tuples(st.floats(0, 3), st.booleans())),
    "cumulative_entropy": (CumulativeEntropy, naive_cumulative_entropy, st.tuples(st.floats(-1, 9))),
    "scripted": (Scripted, naive_scripted, st.tuples(st.floats(1, 9))),
}


def chosen_by(selector, ranking, confidence, entropy, open_, step):
    """(B, K) bool, in float64."""
    confidence, entropy = (torch.tensor(v, dtype=torch.float64) for v in (confidence, entropy))
    open_ = torch.tensor(open_)
    score = ranking.score(OpenPositions(open_, confidence, entropy)).masked_fill(~open_, -torch.inf)
    return selector.select(Proposals(open_, confidence, entropy, score, torch.tensor(step)))


@st.composite
def blocks_without_ties(draw):
    """(confidence, entropy, open, step) of a few rows of one block size."""
    size, rows = draw(st.integers(1, 8)), draw(st.integers(1, 3))

    def table(low, high):
        return [draw(st.lists(st.floats(low, high), min_size=size, max_size=size, unique=True)) for _ in range(rows)]

    open_ = [draw(st.lists(st.booleans(), min_size=size, max_size=size)) for _ in range(rows)]
    return table(0.01, 1.0), table(0.0, 4.0), open_, [draw(st.integers(0, 9)) for _ in range(rows)]


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_selectors_are_the_literal_loops_never_empty_and_do_not_look_at_the_order_of_positions(name, data):
    product, naive, parameters = SELECTORS[name]
    given_parameters = data.draw(parameters)
    confidence, entropy, open_, step = data.draw(blocks_without_ties())
    size = len(confidence[0])
    for ranking in RANKED:
        key = RANKINGS[{Confidence: "confidence", NegEntropy: "neg_entropy", Position: "position"}[type(ranking)]]
        selector = product(*given_parameters)
        chosen = chosen_by(selector, ranking, confidence, entropy, open_, step)
        for row in range(len(open_)):
            opened = [
                Open(i, 0, math.log(confidence[row][i]), entropy[row][i], i) for i in range(size) if open_[row][i]
            ]
            # exp(log(c)) is not c to the last digit: compare what is far from every bound.
            want = naive(*given_parameters)(opened, key, step[row], size) if opened else []
            assert {o.position for o in want} == set(chosen[row].nonzero().flatten().tolist())
            assert bool(chosen[row].any()) == any(open_[row])
            assert not (chosen[row] & ~torch.tensor(open_[row])).any()
        if not isinstance(ranking, Position):
            order = data.draw(st.permutations(range(size)))
            moved = [[[row[i] for i in order] for row in table] for table in (confidence, entropy, open_)]
            shuffled = chosen_by(selector, ranking, *moved, step)
            assert torch.equal(shuffled, chosen[:, order])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=blocks_without_ties(), gamma=st.floats(0, 8))
def test_cumulative_entropy_stays_within_gamma_but_for_a_single_position_and_could_not_take_one_more(rows, gamma):
    confidence, entropy, open_, step = rows
    chosen = chosen_by(CumulativeEntropy(gamma), Confidence(), confidence, entropy, open_, step)
    for row in range(len(open_)):
        taken = [e for e, c in zip(entropy[row], chosen[row].tolist(), strict=True) if c]
        left = [e for e, o, c in zip(entropy[row], open_[row], chosen[row].tolist(), strict=True) if o and not c]
        assert len(taken) <= 1 or sum(sorted(taken)) <= gamma
        assert not left or (max(taken) < min(left) and sum(sorted(taken)) + min(left) > gamma)


def test_cumulative_entropy_may_use_gamma_up():
    rows = [[0.5] * 3], [[2.0, 1.0, 4.0]], [[True] * 3], [0]
    assert chosen_by(CumulativeEntropy(3.0), Confidence(), *rows).tolist() == [[True, True, False]]
    assert chosen_by(CumulativeEntropy(2.9), Confidence(), *rows).tolist() == [[False, True, False]]


@pytest.mark.parametrize("compat, expected", [(False, [1, 1, 2, 2, 3]), (True, [2, 1, 3, 2, 4])])
def test_factor_worked_examples_and_the_reference_implementations_off_by_one(compat, expected):
    """factor 1: token n passes with 1 - 1/(n+1), so 2/3, 3/4, 4/5 for the second, third and fourth.

    Rows: two open, the second fails; three open, the second fails, so two are left; three open, only the last fails;
    four open, two fail; four open, only the last fails.
    """
    rows = [[0.9, 0.5], [0.9, 0.5, 0.4], [0.9, 0.7, 0.74], [0.9, 0.7, 0.71, 0.1], [0.9, 0.8, 0.78, 0.77]]
    for row, count in zip(rows, expected, strict=True):
        chosen = chosen_by(Factor(1.0, compat), Confidence(), [row], [[0.0] * len(row)], [[True] * len(row)], [0])
        assert (row, int(chosen.sum())) == (row, count)


@pytest.mark.parametrize(
    "size, steps, schedule",
    [(32, 32, [1] * 32), (8, 3, [3, 3, 2]), (4, 4, [1] * 4), (32, 5, [7, 7, 6, 6, 6]), (4, 8, [1] * 8)],
)
def test_quota_schedules(size, steps, schedule):
    """K // steps and one more for the first K mod steps; never less than 1, where the official schedule has zeros."""
    assert step_quota(size, steps, torch.arange(steps)).tolist() == schedule
    if sum(schedule) == size:
        model = tiny_model(4, torch.float64, block_size=size, num_hidden_layers=1)
        got = BlockDecoder(model, ()).decode(requests_of([size], size), DecodePolicy(Quota(steps)))[0]
        assert np.bincount(got.reveal_step)[1:].tolist() == schedule


def test_more_steps_than_positions_still_reveal_one_in_each():
    got = BlockDecoder(tiny_model(4), ()).decode(requests_of([4], 8), DecodePolicy(Quota(8)))[0]
    assert np.bincount(got.reveal_step)[1:].tolist() == [1] * 8
    dynamic = BlockDecoder(tiny_model(4), ()).decode(requests_of([4], 8), DecodePolicy(Threshold(1.0, steps=8)))[0]
    assert np.bincount(dynamic.reveal_step)[1:].tolist() == [1] * 8


def test_inclusive_threshold_oracle():
    """phi 0.9, confidences [.95,.90,.40,.91], [.,.92,.30,.], [.,.,.20,.]: `>=` gives [1,1,2,1], `>` gives [1,2,3,1]."""
    rows = [[0.95, 0.90, 0.40, 0.91], [0.0, 0.92, 0.30, 0.0], [0.0, 0.0, 0.20, 0.0]]
    for inclusive, expected in ((True, [1, 1, 2, 1]), (False, [1, 2, 3, 1])):
        steps, number, selector = [0] * 4, 0, Threshold(0.9, inclusive)
        while not all(steps):
            chosen = chosen_by(selector, Confidence(), [rows[number]], [[0.0] * 4], [[not s for s in steps]], [number])
            number += 1
            steps = [number if c else s for c, s in zip(chosen[0].tolist(), steps, strict=True)]
        assert steps == expected


@pytest.mark.parametrize("steps", [0, 0.5, 2.5, -1, math.inf, math.nan])
def test_no_whole_number_of_steps_is_refused(steps):
    with pytest.raises(DecodeError, match=rf"quota: steps is {steps}, expected a whole number of 1 or more"):
        Quota(steps)
    with pytest.raises(DecodeError, match=rf"threshold: steps is {steps}, expected a whole number of 1 or more"):
        Threshold(0.9, steps=steps)


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


def test_a_sub_block_as_wide_as_the_block_is_the_block():
    model = tiny_model(4, torch.float64, block_size=8)
    for selector, parameter in (("threshold", 0.3), ("quota", 3), ("cumulative_entropy", 3.0)):
        own = policy_of(selector, parameter, temperature=1.0, schedule="fixtures.outsider:whole_block")
        assert own.schedule == outsider.SubBlock(8)
        found = decode(own, model=model)
        expected = decode(policy_of(selector, parameter, temperature=1.0), model=model)
        same_but_forwards(found, expected)


def test_an_outsiders_sub_block_decodes_its_halves_in_turn_as_the_naive_decoder_does():
    model = tiny_model(4, torch.float64, block_size=8)
    for new in (17, 24):
        policy = policy_of("threshold", 0.3, temperature=1.0, schedule="fixtures.outsider:half_block")
        found = decode(policy, new=new, model=model)
        for request, got in zip(requests_of(PROMPTS, new), found, strict=True):
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
