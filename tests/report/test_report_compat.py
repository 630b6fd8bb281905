"""The paper's grader and count beside ours: by hand, what adds up, and what is not known."""

import dataclasses

import numpy as np
import pytest
from paper_runs import policy, table_2_runs

from lightningrl.evaluation.aup import aup
from lightningrl.report import compat
from lightningrl.report.columns import triple
from lightningrl.report.frontier import HEADLINE_COLUMNS, collect


@pytest.fixture(scope="module")
def headline():
    return collect(table_2_runs(), "e", n_bootstrap=200).headline


def row_of(table, policy, benchmark="gsm8k"):
    return table[(table["policy"] == policy) & (table["benchmark"] == benchmark)].iloc[0]


def test_numbers_by_the_papers_rules_are_those_of_the_records(headline):
    records = [each for each in table_2_runs()[1].records if each.threshold == 0.9]
    row = row_of(headline, "lightningrl-gsm8k")
    assert row["compat_accuracy_pct"] == pytest.approx(100 * np.mean([each.compat for each in records]))
    steps = sum(sum(count > 0 for count in each.tokens_by_step) for each in records)
    assert row["tpf_paper"] == sum(each.visible_tokens for each in records) / steps
    assert row["compat_unknown"] == 0


def test_forwards_that_revealed_nothing_are_not_in_the_papers_count():
    one = policy("base", "before", "")
    made = [dataclasses.replace(r, tokens_by_step=[*r.tokens_by_step, 0, 0]) for r in one.records]
    before, after = (collect([dataclasses.replace(one, records=each)], "e").headline for each in (one.records, made))
    assert before["tpf_paper"].item() == after["tpf_paper"].item()


def test_our_number_minus_the_difference_is_theirs(headline):
    for ours, theirs, minus in (
        ("accuracy_pct", "compat_accuracy_pct", "accuracy_pct_minus_compat"),
        ("tpf", "tpf_paper", "tpf_minus_paper"),
        ("aup", "aup_compat", "aup_minus_compat"),
    ):
        known = headline.dropna(subset=[minus])
        np.testing.assert_allclose(known[ours] - known[minus], known[theirs], atol=1e-9)
        assert (known[f"{minus}_low"] <= known[minus] + 1e-9).all()
        assert (known[f"{minus}_high"] >= known[minus] - 1e-9).all()


def test_the_difference_is_paired_its_interval_is_narrower_than_either_accuracys(headline):
    row = row_of(headline, "lightningrl-gsm8k")
    width = {name: row[f"{name}_high"] - row[f"{name}_low"] for name in ("accuracy_pct_minus_compat", "accuracy_pct")}
    assert width["accuracy_pct_minus_compat"] < width["accuracy_pct"] * 1.3


def test_aup_by_the_papers_rules_has_its_own_y_max(headline):
    best, runs = 0.0, [each for each in table_2_runs() if each.benchmark == "gsm8k"]
    points = {}
    for run in runs:
        points[run.policy] = []
        for threshold in sorted({each.threshold for each in run.records}):
            rows = [each for each in run.records if each.threshold == threshold]
            tpf = sum(r.visible_tokens for r in rows) / sum(len(r.tokens_by_step) for r in rows)
            points[run.policy].append((tpf, 100 * sum(r.compat for r in rows) / len(rows)))
        best = max([best, *(accuracy for _, accuracy in points[run.policy])])
    for name, curve in points.items():
        row = row_of(headline, name)
        assert row["y_max_compat"] == best and row["aup_compat"] == pytest.approx(aup(curve, best))
        assert row["y_max"] > best


def test_without_the_second_verdict_its_columns_are_nan_and_the_counts_are_not(headline):
    row = row_of(headline, "base", "mbpp")
    for name in ("compat_accuracy_pct", "aup_compat", "accuracy_pct_minus_compat", "aup_minus_compat"):
        assert np.isnan([row[each] for each in triple(name)]).all()
    assert row["tpf_paper"] > row["tpf"] and np.isnan(row["compat_unknown"])


def test_where_the_published_rules_do_not_say_ours_stands():
    one = policy("base", "before", "")
    some = [dataclasses.replace(r, compat=None) if r.uid.endswith("3") else r for r in one.records]
    row = collect([dataclasses.replace(one, records=some)], "e").headline.iloc[0]
    shown = [r for r in some if r.threshold == 0.9]
    expected = np.mean([r.correct if r.compat is None else r.compat for r in shown])
    assert row["compat_unknown"] == 6 and row["compat_accuracy_pct"] == pytest.approx(100 * expected)


def test_records_that_do_not_tell_their_visible_tokens_have_no_count():
    one = policy("base", "before", "")
    untold = [dataclasses.replace(one.records[0], visible_tokens=None), *one.records[1:]]
    row = collect([dataclasses.replace(one, records=untold)], "e").headline.iloc[0]
    assert np.isnan(row["tpf_paper"]) and np.isnan(row["aup_compat"]) and row["compat_accuracy_pct"] > 0


def test_answers_without_any_visible_token_have_no_aup_by_the_papers_count():
    one = policy("base", "before", "")
    blank = [dataclasses.replace(r, visible_tokens=0) for r in one.records]
    row = collect([dataclasses.replace(one, records=blank)], "e").headline.iloc[0]
    assert row["tpf_paper"] == 0.0 and np.isnan(row["aup_compat"]) and row["aup"] > 0


def test_all_columns_are_always_there(headline):
    assert tuple(headline.columns) == HEADLINE_COLUMNS and set(compat.COLUMNS) < set(HEADLINE_COLUMNS)
    assert not headline[["policy", "published", "y_max", "aup", "aup_anchored", "tpf"]].isna().any().any()
    assert tuple(collect([], "e").headline.columns) == HEADLINE_COLUMNS
    assert headline["published"].tolist()[:2] == ["SDAR-8B-b32", "LightningRL-8B-b32"]


def test_a_policy_with_an_empty_base_is_compared_with_none():
    runs = [policy("base", "before", ""), policy("other", "after", "", base="", seed=3)]
    row = row_of(collect(runs, "e").headline, "other")
    assert row["base"] == "" and np.isnan(row["accuracy_difference"]) and np.isnan(row["aup_anchored"])
    assert row["aup"] > 0
