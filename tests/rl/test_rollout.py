"""Prompt order, and resampling until the batch is full."""

from collections import Counter
from dataclasses import replace

from fixtures.tiny import answer_of, tiny_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.rollout import PromptOrder, RolloutLosses, draw_groups
from lightningrl.types import Verdict


@settings(max_examples=50, deadline=None, derandomize=True)
@given(size=st.integers(1, 12), seed=st.integers(0, 99), counts=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_prompt_order_is_a_permutation_each_pass_however_it_is_taken(size, seed, counts):
    order = PromptOrder(size, seed)
    taken = [index for count in counts for index in order.take(count)]
    assert order.cursor == len(taken) == sum(counts)
    assert taken == PromptOrder(size, seed).take(len(taken)), "how it is cut makes no difference"
    for start in range(0, len(taken), size):
        chunk = taken[start : start + size]
        assert len(set(chunk)) == len(chunk) and set(chunk) <= set(range(size))


def test_prompt_order_is_reshuffled_each_pass_and_differs_by_seed():
    """The published sampler repeats one order for ever. Over 600 passes of 3 prompts each of the 6 orders comes about
    100 times: sd 9.1, bound 5 sd."""
    order = PromptOrder(50, 7)
    passes = [tuple(order.take(50)) for _ in range(5)]
    assert len(set(passes)) == 5 and passes[0] != tuple(range(50))
    assert tuple(PromptOrder(50, 8).take(50)) not in passes
    order = PromptOrder(3, 1)
    counts = Counter(tuple(order.take(3)) for _ in range(600))
    assert len(counts) == 6 and all(abs(count - 100) < 46 for count in counts.values())


def test_prompt_order_goes_on_from_a_saved_cursor():
    whole = PromptOrder(7, 3).take(40)
    for cut in (0, 5, 7, 23):
        assert PromptOrder(7, 3, cursor=cut).take(40 - cut) == whole[cut:]


EXAMPLES = tiny_examples("train", 100)


def group(spread, correct=True, scorable=True):
    """Two responses of 8 tokens: TPF 4 and, with spread, 2; unscorable: the judge gives the second no value."""
    other = answer_of(8, 4 if spread else 2, correct)
    if not scorable:
        other = replace(other, verdict=Verdict(False, None, "gold_error", detail="no answer"))
    return [answer_of(8, 2, correct), other]


def draw(rule, wanted=4, rounds=5, **method):
    """Groups by a rule on the running number of the prompt asked for; also what was asked, round by round."""
    asked, order = [], PromptOrder(100, 0)

    def roll(groups):
        first = sum(map(len, asked))
        assert all([sample for _, sample in pairs] == [0, 1] for pairs in groups)
        asked.append([pairs[0][0] for pairs in groups])
        return [rule(first + i) for i in range(len(groups))], RolloutLosses(rows_refused=1, first_refusal=str(first))

    keep = LightningRL(LightningRL.Config(**method)).keep
    return draw_groups(EXAMPLES, order, wanted, 2, rounds, roll, keep, Groups), asked, order


def test_resampling_fills_the_batch_and_asks_each_round_for_what_is_missing():
    """Numbers 0, 1, 4 fail: round 1 asks for 4 and keeps 2, round 2 asks for 2 and keeps 1, round 3 asks for 1."""
    found, asked, order = draw(lambda i: group(spread=i not in (0, 1, 4)))
    assert [len(examples) for examples in asked] == [4, 2, 1]
    assert (len(found.kept.answers), len(found.sampled.answers), found.rounds, order.cursor) == (4, 7, 3, 7)
    flat = [EXAMPLES.index(example) for examples in asked for example in examples]
    assert flat == PromptOrder(100, 0).take(7), "failed prompts are replaced by the next in order, none asked twice"
    assert found.losses == RolloutLosses(rows_refused=3, first_refusal="0"), "of all rounds, and the first reason"


def test_resampling_stops_at_the_cap_with_what_there_is_and_at_once_when_every_group_passes():
    found, asked, _ = draw(lambda i: group(spread=i == 2), rounds=3)
    assert [len(examples) for examples in asked] == [4, 3, 3]
    assert (len(found.kept.answers), len(found.sampled.answers), found.rounds) == (1, 10, 3)
    found, _, _ = draw(lambda i: group(spread=True, correct=False), filter_all_wrong=False)
    assert (len(found.kept.answers), found.rounds) == (4, 1)


def test_groups_that_the_judge_could_not_score_are_left_out_and_counted():
    found, _, _ = draw(lambda i: group(spread=True, scorable=i not in (1, 4)))
    assert (found.losses.groups_unscorable, found.rounds) == (2, 3)
    assert found.losses.first_unscored == "t/train/0: gold_error, no answer"
    assert len(found.kept.answers) == len(found.sampled.answers) == 4
    assert all(a.verdict.value is not None for g in found.sampled.answers for a in g)
