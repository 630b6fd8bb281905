"""What goes wrong inside a step: counted, bounded, and never a reward of 0."""

import logging
from dataclasses import replace

import pytest
from fixtures.tiny import CoinJudge, answer_of, tiny_setup

from lightningrl.answering import answer
from lightningrl.errors import DecodeError, JudgeError, SandboxUnavailable, TrainingError
from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.health import StallGuard
from lightningrl.rl.rollout import RolloutBatch, RolloutLosses
from lightningrl.rl.rollout_stream import roll_out
from lightningrl.types import Example, Verdict

RESPONSES = 2


class Judge(CoinJudge):
    """A coin that keeps what it was asked, or raises."""

    def __init__(self, error=None):
        self.error, self.asked = error, []

    def judge(self, examples, responses):
        self.asked += [example.uid for example in examples]
        if self.error is not None:
            raise self.error
        return super().judge(examples, responses)


@pytest.fixture
def rolled(folder):
    def roll(judge=None, long=None, decoder=None):
        """Groups and losses of three prompts over the tiny set-up; `long`: the one that does not fit the model."""
        setup = tiny_setup(folder, judge=judge)
        chosen = list(setup.train[:3])
        if long is not None:
            words = ({"role": "user", "content": "2 pens" + " and 2 cups" * 60},)
            chosen[long] = Example(chosen[long].uid, words, {"answer": "0"})
        asked = [[(example, sample) for sample in range(RESPONSES)] for example in chosen]
        policy = replace(setup.policy, temperature=1.0, seed=1)
        decoder = decoder(setup) if decoder else setup.decoder
        found = roll_out(decoder, setup.tokenizer, setup.task, asked, policy)
        return found.groups, found.losses, (setup, asked, policy)

    return roll


def ids(groups):
    return [[a.trajectory.token_ids.tolist() for a in group] for group in groups]


def test_without_failures_it_is_answer_in_groups(rolled):
    groups, losses, (setup, asked, policy) = rolled()
    expected = answer(setup.decoder, setup.tokenizer, setup.task, [pair for group in asked for pair in group], policy)
    flat = [a for group in groups for a in group]
    assert [len(group) for group in groups] == [RESPONSES] * 3 and ids([flat]) == ids([expected])
    assert [(a.example, a.text, a.verdict) for a in flat] == [(a.example, a.text, a.verdict) for a in expected]
    assert losses == RolloutLosses()


def test_a_refused_row_costs_its_group_and_leaves_the_others_as_they_were(rolled):
    whole, judge = rolled()[0], Judge()
    groups, losses, _ = rolled(judge, long=1)
    assert ids(groups) == ids([whole[0], [], whole[2]])
    assert "t/train/001: " in losses.first_refusal and "the model has 128" in losses.first_refusal
    assert "t/train/001" not in judge.asked, "a group that is left out is not judged"
    nothing = {"judge_errors": 0, "groups_unjudged": 0, "groups_unscorable": 0}
    assert losses.counts() == {"rows_refused": RESPONSES, "groups_refused": 1} | nothing


def test_a_group_with_one_refused_row_is_left_out_whole(rolled):
    class Refusing:
        """Refuses one row, as the engine does when a row's probabilities are not finite."""

        def __init__(self, setup):
            self.decoder = setup.decoder

        def stream(self, requests, policy, **options):
            for outcome in self.decoder.stream(requests, policy, **options):
                if outcome.index == 3:
                    outcome = replace(outcome, trajectory=None, error=DecodeError("not finite"))
                yield outcome

    groups, losses, _ = rolled(decoder=Refusing)
    assert [[a.example.uid for a in group[:1]] for group in groups] == [["t/train/000"], [], ["t/train/002"]]
    assert (losses.rows_refused, losses.groups_refused, losses.first_refusal) == (1, 1, "not finite")


def test_a_judge_that_raises_gives_no_group_and_no_reward_unless_its_error_is_the_users_to_mend(rolled, caplog):
    groups, losses, _ = rolled(Judge(RuntimeError("the server is gone")))
    assert groups == [[]] * 3
    assert (losses.judge_errors, losses.groups_unjudged, losses.rows_refused) == (3, 3, 0), "each group is a call"
    assert losses.first_judge_error == "RuntimeError: the server is gone"
    assert "the judge failed over 2 responses to t/train/000" in caplog.text and "Traceback" in caplog.text
    with pytest.raises(SandboxUnavailable):
        rolled(Judge(SandboxUnavailable("no jail")))


@pytest.mark.parametrize("wrong", [lambda verdicts: verdicts[:-1], lambda verdicts: None], ids=["fewer", "none"])
def test_a_judge_with_another_number_of_verdicts_costs_its_groups_and_not_the_run(rolled, wrong):
    class Odd(Judge):
        def judge(self, examples, responses):
            verdicts = super().judge(examples, responses)
            return wrong(verdicts) if examples[0].uid == "t/train/001" else verdicts

    groups, losses, _ = rolled(Odd())
    assert [len(group) for group in groups] == [RESPONSES, 0, RESPONSES]
    assert (losses.judge_errors, losses.groups_unjudged) == (1, 1)


def test_groups_that_the_judge_could_not_score_are_left_out_and_counted(rolled):
    class Unsure(Judge):
        def judge(self, examples, responses):
            verdicts = super().judge(examples, responses)
            if examples[0].uid == "t/train/001":
                verdicts[-1] = Verdict(False, None, "gold_error", detail="no answer")
            return verdicts

    groups, losses, _ = rolled(Unsure())
    assert [len(group) for group in groups] == [RESPONSES, 0, RESPONSES]
    assert losses == RolloutLosses(groups_unscorable=1, first_unscored="t/train/001: gold_error, no answer")


GROUP = [answer_of(8, 2), answer_of(8, 4)]


def drawn(sampled=0, kept=0, **losses):
    return RolloutBatch(Groups([GROUP] * sampled), Groups([GROUP] * kept), 1, RolloutLosses(**losses))


FRUITFUL, UNKEPT = drawn(2, 1), drawn(4)
UNSCORABLE = drawn(groups_unscorable=3, first_unscored="t/train/1: gold_error, no answer")
UNJUDGED = drawn(judge_errors=1, groups_unjudged=3, first_judge_error="OSError: gone")
REFUSED = drawn(rows_refused=5, groups_refused=3, first_refusal="t/train/1: too long")


def see(watch, *steps, dropped=None):
    for number, step in enumerate(steps, 1):
        watch.see(step, dropped or {}, {"step": number, "updates": 0})


@pytest.mark.parametrize(
    ("step", "limit", "error", "message"),
    [
        (UNSCORABLE, 3, JudgeError, r"3 steps running: the judge gave no value .* 3 groups .*t/train/1: gold_error"),
        (UNJUDGED, 3, JudgeError, r"3 steps running: the judge failed \(OSError: gone\)\. Fix the judge; .*again"),
        (REFUSED, 3, TrainingError, r"3 steps running: in the last one .* refused rows of 3 groups .*too long"),
        (UNKEPT, 20, TrainingError, r"filter in 20 steps .* 4 groups filter_tpf_range drops 3, .*Loosen those filters"),
    ],
)
def test_fruitless_steps_are_bounded_and_the_error_says_why_and_what_to_do(step, limit, error, message):
    dropped = {"filter_tpf_range": 3, "filter_all_wrong": 1}
    watch, resumed = StallGuard(), StallGuard()
    see(watch, *[step] * (limit - 1))
    resumed.load_state_dict(watch.state_dict())
    with pytest.raises(error, match=message):
        see(resumed, step, dropped=dropped)


def test_one_fruitful_step_begins_the_count_anew_and_what_was_lost_is_logged_with_the_first_reason(caplog):
    watch = StallGuard()
    see(watch, UNSCORABLE, UNKEPT, FRUITFUL, UNKEPT, REFUSED, FRUITFUL, UNSCORABLE)
    assert watch.state_dict() == {"without_scorable": 1, "without_kept": 1, "without_update": 0}
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING][:2] == [
        "step 1: 3 groups could not be scored: t/train/1: gold_error, no answer",
        "step 5: the decoder refused 5 rows of 3 groups: t/train/1: too long",
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
