"""Prompt order, and resampling until the batch is full."""

from collections import Counter

from fixtures.tiny import answer_of, tiny_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.algorithms.lightningrl import LightningRL
from lightningrl.rl.groups import Groups
from lightningrl.rl.rollout import PromptOrder, RolledOut, RolloutLosses, draw_groups
from lightningrl.rl.rollout_stream import asked_by


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


def group(spread, correct=True):
    """Two responses of 8 tokens: TPF 4 and, with spread, 2."""
    return [answer_of(8, 4 if spread else 2, correct), answer_of(8, 2, correct)]


def draw(rule, wanted=4, rounds=5, **method):
    """Groups by a rule on the place of the prompt in the stream, where every group's fate is known at once; also the
    stream, and the order of prompts afterwards."""
    streams, order = [], PromptOrder(100, 0)

    def roll(stream, passes):
        streams.append(stream)
        found = [rule(place) for place in range(len(stream))]
        failed = {place for place, answers in enumerate(found) if not (answers and passes(answers))}
        asked, number = asked_by(failed, wanted, rounds)
        return RolledOut(found[:asked], set(range(asked)) - failed, number, RolloutLosses(groups_refused=1))

    keep = LightningRL(LightningRL.Config(**method)).keep
    return draw_groups(EXAMPLES, order, wanted, 2, rounds, roll, keep, Groups), streams[0], order


def test_resampling_fills_the_batch_in_the_order_of_the_stream_and_moves_the_cursor_by_what_was_asked_for():
    """Numbers 0, 1, 4 fail: of the first 4 two pass, of the next 2 one, and the next one does."""
    found, stream, order = draw(lambda place: group(spread=place not in (0, 1, 4)))
    assert (len(found.kept.answers), len(found.sampled.answers), found.rounds, order.cursor) == (4, 7, 3, 7)
    assert all([sample for _, sample in pairs] == [0, 1] for pairs in stream)
    assert [EXAMPLES.index(pairs[0][0]) for pairs in stream] == PromptOrder(100, 0).take(20), "four, five times over"
    assert found.losses == RolloutLosses(groups_refused=1)


def test_resampling_stops_at_the_cap_with_what_there_is_and_at_once_when_every_group_passes():
    found, _, order = draw(lambda place: group(spread=place == 2), rounds=3)
    assert (len(found.kept.answers), len(found.sampled.answers), found.rounds, order.cursor) == (1, 10, 3, 10)
    found, _, _ = draw(lambda place: group(spread=True, correct=False), filter_all_wrong=False)
    assert (len(found.kept.answers), found.rounds) == (4, 1)


def test_groups_that_were_lost_are_left_out_and_replaced():
    found, _, order = draw(lambda place: group(spread=True) if place not in (1, 4) else [])
    assert (len(found.kept.answers), len(found.sampled.answers), found.rounds, order.cursor) == (4, 4, 3, 6)


def test_losses_add_up_and_the_first_texts_stay():
    one, two = RolloutLosses(rows_refused=1, first_refusal="a"), RolloutLosses(rows_refused=2, first_judge_error="b")
    three = RolloutLosses(rows_refused=1, first_refusal="c")
    assert one + two + three == RolloutLosses(rows_refused=4, first_refusal="a", first_judge_error="b")
