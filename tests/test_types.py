"""The vocabulary of data: what a trajectory refuses, and the numbers that come from a ledger."""

import dataclasses

import numpy as np
import pytest
from fixtures.tiny import trajectory_of

from lightningrl.types import DecodeStats, EvalRecord, Example


def test_tpf_counts_denoise_forwards_and_tpf_true_the_separate_commits_too():
    """Separate commits: 5 tokens, 4 denoise forwards, 1 commit: 1.25 and 1.0; prefill is not counted."""
    stats = DecodeStats(5, 6, 4, 1, 1)
    assert (stats.tpf, stats.tpf_true) == (1.25, 1.0)
    fused = dataclasses.replace(stats, commit_forwards=0, prefill_forwards=0)
    assert fused.tpf == fused.tpf_true == 1.25


def test_response_ends_with_the_first_stop_token_and_the_tail_is_kept():
    trajectory = trajectory_of(2, [1, 1, 2, 3, 4, 3], response_len=3)
    assert trajectory.response_ids.tolist() == [1, 2, 3] and len(trajectory.token_ids) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reveal_step": np.array([1, 2, 3])}, "must have one length"),
        ({"behaviour_logp": np.zeros(5)}, "must have one length"),
        ({"response_len": 0}, r"response_len 0 outside 1\.\.4"),
        ({"response_len": 5}, r"response_len 5 outside 1\.\.4"),
        ({"prompt_ids": np.arange(5)}, "must end on the block grid of 4"),
        ({"reveal_step": np.array([0, 1, 2, 2])}, "a response token was never revealed"),
        ({"reveal_step": np.array([1, 1, 2, -1]), "response_len": 3}, r"reveal steps must lie in 1\.\.2"),
        ({"reveal_step": np.array([1, 2, 3, 3])}, r"reveal steps must lie in 1\.\.2"),
        ({"behaviour_logp": np.array([0, -np.inf, 0, 0])}, "non-finite"),
        ({"behaviour_logp": np.array([0, np.nan, 0, 0])}, "non-finite"),
    ],
)
def test_a_trajectory_that_cannot_have_happened_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(trajectory_of(4, [1, 2, 2, 1]), **changes)


@pytest.mark.parametrize(
    ("prompt", "reveal"),
    [
        (4, [1, 3, 2, 2, 3, 4, 4, 4]), (4, [1, 2, 2, 3, 3, 4, 4, 4]), (4, [5, 5, 5, 5, 1, 2, 3, 4]),
        (6, [2, 1, 2, 3, 4, 5]),  # the mixed block counts as a block of the order
    ],
)  # fmt: skip
def test_a_block_revealed_before_its_predecessor_was_finished_is_refused(prompt, reveal):
    assert trajectory_of(6, [2, 1, 3, 3, 4, 5]).block_size == 4
    with pytest.raises(ValueError, match="before its predecessor was finished"):
        trajectory_of(prompt, reveal)


def test_a_uid_says_benchmark_and_split_and_a_record_survives_json():
    example = Example("gsm-mini/test/00017", (), {})
    assert (example.benchmark, example.split) == ("gsm-mini", "test")
    record = EvalRecord(
        "base", "b/test/0", 0, 0.9, "h", "four", "4", True, 1.0, "ok", "", 5, 6, 4, 0, 1, "eos", [2, 1, 1, 2]
    )
    assert EvalRecord.from_json(record.to_json()) == record
    with pytest.raises(TypeError):
        EvalRecord.from_json(record.to_json() | {"unknown": 1})
