"""The terms of `lightningrl plan` beside arithmetic, by hand."""

import pytest

from lightningrl.bench.costs import Lengths, Shares, decoding_cost, training_work
from lightningrl.bench.disk import TrainingDisk
from lightningrl.bench.estimate.budget import DEVICES
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.overheads import Overheads, judging_cost, rounds_of, saving_cost, tails_cost
from lightningrl.errors import ConfigError

EIGHT, GSM8K = TrainingDisk(Shape.of_size("8b", 32), 8, 2), Lengths(120, 151, 2.85)


def test_rounds_ask_for_what_is_missing_until_less_than_a_group_is():
    """128, 45, 16, 5.5 groups are missing before the rounds; 1.9 after the fourth."""
    assert [rounds_of(128, 0.65, most) for most in (1, 4, 9)] == [1, 4, 5]
    assert rounds_of(1, 0.5, 4) == 1


def test_a_tail_is_the_longest_responses_forwards_past_the_means():
    """8,192 tokens at 2.85 a forward, without the 53 of a mean response: 2,821.4 forwards."""
    found = tails_cost(GSM8K, 8192, Overheads(turn_s=0.01, in_rounds=True), 4)
    assert found.seconds == pytest.approx(4 * 28.214, rel=1e-4) and found.bound == "launches"
    assert tails_cost(GSM8K, 8192, Overheads(turn_s=0.01), 4).seconds == pytest.approx(28.214, rel=1e-4)
    assert tails_cost(GSM8K, 8192, Overheads(turn_s=0.01, tails=2.5), 4).seconds == pytest.approx(70.535, rel=1e-4)
    assert tails_cost(GSM8K, 8192, Overheads(longest_tokens=151), 4).seconds == 0


def test_a_state_as_it_was_is_written_by_the_first_process_and_hashed_by_it_alone():
    """8.19 G parameters on eight: 12.3 GB of its own and 32.8 GB of chosen weights to write, 131 GB to hash: 129 s."""
    saved = saving_cost(EIGHT, (1, 10), Overheads(whole_states=True))
    assert saved.seconds == pytest.approx((12.286e9 + 32.763e9) / 1.3e9 + 131.05e9 / 1.39e9, rel=1e-3)
    tenth = saving_cost(EIGHT, (10, 10), Overheads(whole_states=True))
    assert tenth.seconds == pytest.approx(saved.seconds / 10)


def test_parts_are_hashed_by_each_and_chosen_weights_are_written_apart():
    """12.3 GB each to write and hash, and every tenth step 16.4 GB of bf16; a value model adds as much to a state."""
    saved = saving_cost(EIGHT, (1, 10), Overheads())
    assert saved.seconds == pytest.approx((12.286e9 + 1.6381e9) * (1 / 1.3e9 + 1 / 1.39e9), rel=1e-3)
    two = TrainingDisk(EIGHT.shape, 8, 2, has_value_model=True)
    assert saving_cost(two, (1, 10), Overheads()).seconds == pytest.approx(1.85 * saved.seconds, rel=0.02)


def test_programs_are_judged_slower_than_answers():
    assert judging_cost(480, 2, True, Overheads(programs_per_s=24)).seconds == 10
    assert judging_cost(480, 2, False, Overheads()).seconds < 0.1


def test_judging_is_waited_for_where_it_takes_longer_than_decoding_and_for_the_last_group():
    assert judging_cost(480, 2, True, Overheads(programs_per_s=24), beside_s=4, last=48).seconds == 6
    assert judging_cost(480, 2, True, Overheads(programs_per_s=24), beside_s=60, last=48).seconds == 1


def test_the_samples_of_a_prompt_share_its_computation():
    """Of 120 prompt positions 96 are whole blocks of 32; 64 responses of 8 prompts compute them eight times."""
    setting = EIGHT.shape, DEVICES["h100"], Shares(), GSM8K, 64, 64
    each, shared = decoding_cost(*setting), decoding_cost(*setting, samples=8)
    assert each.positions - shared.positions == 96 * (64 - 8)
    assert 0 < each.seconds - shared.seconds < each.seconds / 10


def test_a_share_of_the_states_leaves_the_clean_positions():
    """256 clean positions and 32 copies of each of 53 forwards."""
    whole, part = (training_work(GSM8K, 32, share) for share in (1.0, 0.25))
    assert (part[0] - 256) == pytest.approx((whole[0] - 256) / 4) and part[1] == whole[1] / 4


def test_negative_rates_are_refused():
    with pytest.raises(ConfigError, match="turn_s"):
        Overheads(turn_s=-1)
