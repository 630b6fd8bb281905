"""What goes wrong inside a step: counted, bounded, and never a reward of 0."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.tiny import CoinJudge, answer_of, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.answering import answer
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import DecodeError, JudgeError, SandboxUnavailable, TrainingError
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.health import RolloutLosses, StallGuard, roll_out
from lightningrl.rl.rollout import RolloutBatch
from lightningrl.types import Example, Verdict

RESPONSES = 2


class Judge(CoinJudge):
    """A coin, but for what the test says of an example."""

    def __init__(self, verdict=None, error=None):
        self.verdict, self.error, self.asked = verdict, error, []

    def judge(self, examples, responses):
        self.asked += [example.uid for example in examples]
        if self.error is not None:
            raise self.error
        found = super().judge(examples, responses)
        return [self.verdict(e, v) if self.verdict else v for e, v in zip(examples, found, strict=True)]


def rolled(tmp_path, judge=None, examples=3, long=None, decoder=None):
    """Groups and tally of a round over the tiny set-up; `long`: the number of a prompt that does not fit the model."""
    setup = tiny_setup(tmp_path, judge=judge)
    chosen = list(setup.train[:examples])
    if long is not None:
        words = ({"role": "user", "content": "2 pens" + " and 2 cups" * 60},)
        chosen[long] = Example(chosen[long].uid, words, {"answer": "0"})
    asked = [(example, sample) for example in chosen for sample in range(RESPONSES)]
    policy, tally = replace(setup.policy, temperature=1.0, seed=1), RolloutLosses()
    decoder = decoder(setup) if decoder else setup.decoder
    groups = roll_out(decoder, setup.tokenizer, setup.task, asked, policy, RESPONSES, tally)
    return groups, tally, (setup, asked, policy)


def ids(groups):
    return [[a.trajectory.token_ids.tolist() for a in group] for group in groups]


def test_without_failures_it_is_answer_in_groups(tmp_path):
    groups, tally, (setup, asked, policy) = rolled(tmp_path)
    expected = answer(setup.decoder, setup.tokenizer, setup.task, asked, policy)
    flat = [a for group in groups for a in group]
    assert [len(group) for group in groups] == [RESPONSES] * 3
    assert [(a.example, a.text, a.verdict) for a in flat] == [(a.example, a.text, a.verdict) for a in expected]
    assert ids([flat]) == ids([expected])
    assert tally == RolloutLosses()


def test_a_refused_row_costs_its_group_and_leaves_the_others_as_they_were(tmp_path):
    whole, _, _ = rolled(tmp_path)
    judge = Judge()
    groups, tally, _ = rolled(tmp_path, judge, long=1)
    assert ids(groups) == ids([whole[0], whole[2]])
    assert (tally.rows_refused, tally.groups_refused) == (RESPONSES, 1)
    assert "t/train/001: " in tally.first_refusal and "the model has 128" in tally.first_refusal
    assert "t/train/001" not in judge.asked, "a group that is left out is not judged"
    assert tally.metrics() == {"rows_refused": 2, "groups_refused": 1, "judge_errors": 0, "groups_unjudged": 0}


def test_a_group_with_one_refused_row_is_left_out_whole(tmp_path):
    class Refusing:
        """Refuses one row, as the engine does when a row's probabilities are not finite."""

        def __init__(self, decoder):
            self.decoder = decoder

        def stream(self, requests, policy):
            for outcome in self.decoder.stream(requests, policy):
                if outcome.index == 3:
                    outcome = replace(outcome, trajectory=None, error=DecodeError("not finite"))
                yield outcome

    groups, tally, _ = rolled(tmp_path, decoder=lambda setup: Refusing(setup.decoder))
    assert [group[0].example.uid for group in groups] == ["t/train/000", "t/train/002"]
    assert (tally.rows_refused, tally.groups_refused, tally.first_refusal) == (1, 1, "not finite")


def test_ruined_weights_are_refused_rows_and_no_rewards(tmp_path):
    def ruined(setup):
        with torch.no_grad():
            setup.model.lm_head.weight.fill_(float("nan"))
        return BlockDecoder(setup.model, [setup.tokenizer.eos_token_id])

    groups, tally, _ = rolled(tmp_path, decoder=ruined)
    assert groups == [] and (tally.rows_refused, tally.groups_refused) == (6, 3)
    assert "not finite" in tally.first_refusal


def test_a_judge_that_raises_gives_no_group_and_no_reward(tmp_path, caplog):
    groups, tally, _ = rolled(tmp_path, Judge(error=RuntimeError("the server is gone")))
    assert groups == []
    assert (tally.judge_errors, tally.groups_unjudged, tally.rows_refused) == (1, 3, 0)
    assert tally.first_judge_error == "RuntimeError: the server is gone"
    assert "the judge failed over 6 responses" in caplog.text and "Traceback" in caplog.text


def test_an_error_that_is_the_users_to_mend_stops_at_once(tmp_path):
    with pytest.raises(SandboxUnavailable):
        rolled(tmp_path, Judge(error=SandboxUnavailable("no jail")))


def test_a_response_without_a_value_is_told_and_its_group_is_returned_for_the_sampler_to_count(tmp_path):
    def no_gold(example, verdict):
        return Verdict(False, None, "gold_error", detail="no answer") if example.uid.endswith("1") else verdict

    groups, tally, _ = rolled(tmp_path, Judge(no_gold))
    assert len(groups) == 3 and tally.first_unscored == "t/train/001: gold_error, no answer"


GROUP = [answer_of(8, 2), answer_of(8, 4)]


def drawn(sampled=0, kept=0, unscorable=0):
    return RolloutBatch(Groups([GROUP] * sampled), Groups([GROUP] * kept), 1, unscorable)


FRUITFUL = (drawn(2, 1), RolloutLosses())
UNSCORABLE = (drawn(unscorable=3), RolloutLosses(first_unscored="t/train/1: gold_error, no answer"))
UNJUDGED = (drawn(), RolloutLosses(judge_errors=1, groups_unjudged=3, first_judge_error="OSError: gone"))
REFUSED = (drawn(), RolloutLosses(rows_refused=5, groups_refused=3, first_refusal="t/train/1: too long"))
UNKEPT = (drawn(4), RolloutLosses())


def see(watch, *steps, dropped=None):
    for number, (found, tally) in enumerate(steps, 1):
        watch.see(number, found, tally, dropped or {})


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (UNSCORABLE, JudgeError, r"in 3 steps running: the judge gave no value .* 3 groups .*t/train/1: gold_error"),
        (UNJUDGED, JudgeError, r"in 3 steps running: the judge failed \(OSError: gone\)\. Mend the judge; .*again"),
        (REFUSED, TrainingError, r"in 3 steps running: in the last one .* refused rows of 3 groups .*too long"),
    ],
)
def test_steps_that_score_nothing_are_bounded_and_the_error_says_why_and_what_to_do(step, error, message):
    see(StallGuard(), step, step)
    with pytest.raises(error, match=message):
        see(StallGuard(), step, step, step)


def test_a_filter_that_never_keeps_is_bounded_and_named():
    see(StallGuard(), *[UNKEPT] * 19)
    reasons = r"of the last one's 4 groups filter_tpf_range drops 3, filter_all_wrong drops 1\."
    with pytest.raises(TrainingError, match=rf"filter in 20 steps running: {reasons} .*Loosen those filters"):
        see(StallGuard(), *[UNKEPT] * 20, dropped={"filter_tpf_range": 3, "filter_all_wrong": 1})


def test_one_fruitful_step_begins_the_count_anew():
    watch = StallGuard(max_unscorable_steps=2, max_unkept_steps=3)
    see(watch, UNSCORABLE, UNKEPT, FRUITFUL, UNKEPT, UNSCORABLE, FRUITFUL, UNSCORABLE)
    assert watch.state_dict() == {"without_scorable": 1, "without_kept": 1, "without_update": 0}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([FRUITFUL, UNSCORABLE, UNKEPT, REFUSED]), max_size=12), st.integers(0, 12))
def test_a_resumed_watch_stops_where_an_undisturbed_one_does(steps, cut):
    def stop(watch, some, first=1):
        for number, (found, tally) in enumerate(some, first):
            try:
                watch.see(number, found, tally, {})
            except (JudgeError, TrainingError) as error:
                return number, str(error)
        return None

    def watch():
        return StallGuard(max_unscorable_steps=2, max_unkept_steps=4)

    whole = stop(watch(), steps)
    first = watch()
    stopped = stop(first, steps[:cut])
    if stopped is None:
        second = watch()
        second.load_state_dict(first.state_dict())
        stopped = stop(second, steps[cut:], first=min(cut, len(steps)) + 1)
    assert stopped == whole


def test_what_was_lost_is_logged_with_the_first_reason(caplog):
    with caplog.at_level(logging.WARNING):
        see(StallGuard(), REFUSED, UNSCORABLE, FRUITFUL)
    assert [r.getMessage() for r in caplog.records] == [
        "step 1: the decoder refused 5 rows of 3 groups: t/train/1: too long",
        "step 2: 3 groups could not be scored: t/train/1: gold_error, no answer",
    ]


def test_dropped_groups_are_counted_by_the_filters_key():
    """Spread and right, spread and wrong, even and right, even and wrong."""
    groups = [[answer_of(8, 2, right), answer_of(8, other, right)] for other in (4, 2) for right in (True, False)]
    counts = {"filter_tpf_range": 2, "filter_all_wrong": 2, "filter_accuracy": 0}

    def dropped(**keys):
        failed = LightningRL(LightningRL.Config(**keys)).dropped(Groups(groups))
        return {name: failed_N.sum() for name, failed_N in failed.items()}

    assert dropped() == counts
    assert dropped(filter_all_wrong=False) == counts | {"filter_all_wrong": 0}
    assert dropped(filter_accuracy=(0.2, 0.8)) == counts | {"filter_accuracy": 4}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.booleans(), st.floats(0, 2))
def test_a_group_is_kept_when_no_filter_drops_it(seed, drop_all_wrong, spread):
    rng = np.random.default_rng(seed)
    groups = Groups([[answer_of(60, int(rng.integers(20, 60)), bool(rng.random() < 0.3)) for _ in range(3)]
                     for _ in range(6)])  # fmt: skip
    algorithm = LightningRL(LightningRL.Config(filter_tpf_range=spread, filter_all_wrong=drop_all_wrong))
    kept_N, failed = algorithm.keep(groups), algorithm.dropped(groups)
    assert (kept_N == ~np.any(list(failed.values()), axis=0)).all()
    reference = np.ptp(groups.tpf_NG, axis=1) >= spread
    correct_N = groups.correct_NG.any(axis=1)
    assert (kept_N == (reference & correct_N if drop_all_wrong else reference)).all()
