"""Summaries of evaluation records: each number by hand, and what they must not depend on."""

import dataclasses
import json

import numpy as np
import pytest

from lightningrl.errors import StageError
from lightningrl.evaluation.intervals import bootstrap_weights, wilson_by_problem
from lightningrl.evaluation.metrics import STATUSES, EvalSummary, problem_sums, summarise
from lightningrl.types import EvalRecord


def record(problem, sample=0, tokens=10, forwards=5, commits=0, correct=True, threshold=0.9, **changes) -> EvalRecord:
    made = EvalRecord(
        policy="base", uid=f"toy/test/{problem:05d}", sample=sample, threshold=threshold, prompt_sha256="00",
        response="4", extracted="4", correct=correct, value=float(correct), status="ok" if correct else "wrong",
        detail="", response_tokens=tokens, emitted_tokens=tokens + 2, denoise_forwards=forwards,
        commit_forwards=commits, prefill_forwards=1, stop="eos",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


FOUR = [  # lengths and forwards
    record(0, tokens=200, forwards=100, commits=10),
    record(1, tokens=240, forwards=60, commits=20),
    record(2, tokens=150, forwards=50, commits=0, correct=False),
    record(3, tokens=300, forwards=60, commits=15, correct=False, stop="length"),
]


def test_pooled_tpf_and_the_mean_of_ratios_are_different_numbers():
    summary = summarise(FOUR)
    # pooled TPF and the mean of ratios are different numbers: 890 / 270 = 3.296296; (2 + 4 + 3 + 5) / 4 = 3.5
    assert (summary.tpf, summary.tpf_mean) == pytest.approx((3.296296, 3.5), abs=1e-6)
    # with separate commits, forwards are 110, 80, 50, 75: 890 / 315; mean of 200/110, 3, 3, 4
    true = (890 / 315, (200 / 110 + 3 + 3 + 4) / 4)
    assert (summary.tpf_true, summary.tpf_true_mean) == pytest.approx(true)
    assert (summary.n_problems, summary.n_samples, summary.accuracy_pct) == (4, 4, 50.0)
    assert (summary.forwards_per_problem, summary.response_tokens_mean, summary.truncated_pct) == (67.5, 222.5, 25.0)
    assert summary.status == {**dict.fromkeys(STATUSES, 0), "ok": 2, "wrong": 2}
    assert (summary.policy, summary.benchmark, summary.threshold) == ("base", "toy", 0.9)
    assert EvalSummary(**json.loads(json.dumps(summary.to_json()))) == summary
    fused = summarise([dataclasses.replace(each, commit_forwards=0) for each in FOUR])
    assert fused.tpf == fused.tpf_true and fused.tpf_mean == fused.tpf_true_mean


def test_every_way_to_count_from_the_same_records():
    """By hand: 5 tokens with the stop token in 4 + 1 forwards and a prefill, and 3 without one in 2 and a prefill."""
    work = {"prefill_positions": 4, "prefill_keys": 16, "decode_positions": 20, "decode_keys": 192, "family": "sdar"}
    less = {"prefill_positions": 8, "prefill_keys": 48, "decode_positions": 8, "decode_keys": 96, "family": "sdar"}
    records = [
        record(0, tokens=5, forwards=4, commits=1, **work),
        record(1, tokens=3, forwards=2, stop="length", **less),
    ]
    summary = summarise(records)
    assert (summary.tpf, summary.tpf_true) == (8 / 6, 8 / 7)
    assert summary.tpf_harness == (4 + 3) / (6 + 3) and summary.tpf_rounds_mean == (5 / 6 + 3 / 3) / 2
    assert (summary.positions_per_token, summary.positions_per_token_decode) == ((24 + 16) / 8, (20 + 8) / 8)
    assert (summary.keys_per_token, summary.keys_per_token_decode) == ((208 + 144) / 8, (192 + 96) / 8)
    assert summary.family == "sdar"
    assert summarise([records[0], dataclasses.replace(records[1], family="dream")]).family == "dream sdar"
    assert EvalSummary(**json.loads(json.dumps(summary.to_json()))) == summary


def test_work_per_token_has_intervals_over_problems_of_the_same_draws_as_tpf():
    """Each replicate by hand: problems drawn with all of their samples, positions and keys over tokens."""
    rng = np.random.default_rng(5)
    names = ("prefill_positions", "prefill_keys", "decode_positions", "decode_keys")
    records = [
        dataclasses.replace(
            record(problem, tokens=int(rng.integers(5, 60)), forwards=int(rng.integers(4, 30)), sample=sample),
            **{name: int(rng.integers(10, 500)) for name in names},
        )
        for problem in range(12) for sample in range(2)
    ]  # fmt: skip
    found = summarise(records, 300, 4)
    weights_RN = bootstrap_weights(12, 300, 4, "toy")
    by_problem = {uid: [each for each in records if each.uid == uid] for uid in sorted({r.uid for r in records})}
    for work in ("positions", "keys"):
        replicates = []
        for weights_N in weights_RN:
            drawn = [(w, r) for w, mine in zip(weights_N, by_problem.values(), strict=True) for r in mine]
            above = sum(w * (getattr(r, f"prefill_{work}") + getattr(r, f"decode_{work}")) for w, r in drawn)
            replicates.append(above / sum(w * r.response_tokens for w, r in drawn))
        low, high = np.quantile(replicates, [0.025, 0.975])
        name = f"{work}_per_token"
        ends = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
        assert ends == pytest.approx((low, high)) and ends[0] < getattr(found, name) < ends[1]
    same = dataclasses.replace(records[0], uid="toy/test/99", prefill_positions=None)
    missing = summarise([*records, same])
    assert missing.positions_per_token_low is None and missing.keys_per_token_low is not None


def test_records_of_before_the_counts_of_work_are_read_and_lack_them():
    new = {"prefill_positions", "prefill_keys", "decode_positions", "decode_keys", "family"}
    old = [EvalRecord.from_json({k: v for k, v in each.to_json().items() if k not in new}) for each in FOUR]
    summary = summarise(old)
    assert summary.tpf == 890 / 270 and summary.tpf_harness == (890 - 3) / (270 + 45 + 4)
    unknown = {name for name, value in summary.to_json().items() if value is None}
    work = {f"{what}_per_token{end}" for what in ("positions", "keys") for end in ("", "_low", "_high", "_decode")}
    assert unknown == work | {"family", "tpf_paper", "tpf_paper_mean", "compat_accuracy_pct"}, "absent, never 0"


def test_the_second_judges_accuracy_is_over_the_records_that_have_its_verdict():
    records = [record(0, compat=True), record(1, compat=False), record(2, compat=False), record(3)]
    assert summarise(records).compat_accuracy_pct == pytest.approx(100 / 3)
    assert summarise(records[3:]).compat_accuracy_pct is None


def test_accuracy_is_over_samples_its_interval_over_problems_and_a_defective_gold_counts():
    records = [record(p, s, correct=p % 2 == 0) for p in range(10) for s in range(8)]
    summary = summarise(records)
    assert (summary.n_problems, summary.n_samples, summary.accuracy_pct) == (10, 80, 50.0)
    expected = wilson_by_problem(np.array([1, 0] * 5), np.ones(10))
    assert (summary.accuracy_pct_low, summary.accuracy_pct_high) == pytest.approx(expected)
    records = [
        record(0),
        record(1, correct=False, value=0.9),
        record(2, correct=False, value=None, status="gold_error"),
    ]
    summary = summarise(records)
    assert summary.accuracy_pct == pytest.approx(100 / 3) and summary.status["gold_error"] == 1


def test_intervals_hold_the_estimate_and_the_order_of_records_changes_nothing():
    rng = np.random.default_rng(0)
    records = [
        record(p, s, tokens=int(rng.integers(40, 90)), forwards=int(rng.integers(9, 30)), correct=p % 3 > 0)
        for p in range(100) for s in range(2)
    ]  # fmt: skip
    summary = summarise(records)
    assert summary.tpf_low < summary.tpf < summary.tpf_high
    assert summary.forwards_per_problem_low < summary.forwards_per_problem < summary.forwards_per_problem_high
    for _ in range(5):
        assert summarise([records[i] for i in rng.permutation(len(records))]) == summary


def test_problem_sums_add_samples_and_sort_thresholds():
    records = [record(p, s, tokens=10 * (p + 1), threshold=t) for t in (0.9, 0.5) for p in (1, 0) for s in (0, 1)]
    sums = problem_sums(records)
    assert sums.thresholds == (0.5, 0.9) and sums.uids == ("toy/test/00000", "toy/test/00001")
    assert sums.tokens_TN.tolist() == [[20, 40], [20, 40]] and sums.samples_TN.tolist() == [[2, 2], [2, 2]]
    assert sums.points() == [(3.0, 100.0), (3.0, 100.0)]  # 60 tokens / 20 forwards


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no evaluation records"),
        ([record(0), record(1, policy="after")], "one policy"),
        ([record(0), record(0, uid="other/test/0")], "one benchmark"),
        ([record(0), record(0)], "comes twice"),
        ([record(0, forwards=0)], "no denoise forward"),
        ([record(0, forwards=None)], "no counts of tokens and forwards"),
        ([record(0), record(1), record(1, threshold=0.5)], "toy/test/00000 has no record at threshold 0.5"),
        ([record(0), record(0, threshold=0.5)], "one threshold"),
    ],
)
def test_records_that_cannot_be_summarised_say_why(records, message):
    with pytest.raises(StageError, match=message):
        summarise(records)
