"""The paper's grader and count beside ours: by hand, what adds up, and what is not known."""

import dataclasses

import numpy as np
import pytest
from paper_runs import policy, table_2_runs

from lightningrl.evaluation.aup import aup
from lightningrl.evaluation.intervals import triple
from lightningrl.report import compat
from lightningrl.report.frontier import HEADLINE_COLUMNS, collect, groups


@pytest.fixture(scope="module")
def tables():
    return collect(groups(table_2_runs(), n_bootstrap=200), "e")


@pytest.fixture(scope="module")
def headline(tables):
    return tables.headline


def row_of(table, policy, benchmark="gsm8k"):
    return table[(table["policy"] == policy) & (table["benchmark"] == benchmark)].iloc[0]


def changed(change):
    """The headline row of a policy whose records were changed, and of the policy as it was."""
    one = policy("base", "before", "")
    both = (one, dataclasses.replace(one, records=[change(record) for record in one.records]))
    was, row = (collect(groups([each], n_bootstrap=20), "e").headline.iloc[0] for each in both)
    return row, was


def test_numbers_by_the_papers_rules_are_those_of_the_records(tables, headline):
    runs = [each for each in table_2_runs() if each.benchmark == "gsm8k"]
    points = {}
    for run in runs:
        for threshold in sorted({each.threshold for each in run.records}):
            rows = [each for each in run.records if each.threshold == threshold]
            tpf = sum(r.visible_tokens for r in rows) / sum(len(r.tokens_by_step) for r in rows)
            points.setdefault(run.policy, {})[threshold] = (tpf, 100 * sum(r.compat for r in rows) / len(rows))
    best = max(accuracy for curve in points.values() for _, accuracy in curve.values())
    for name, curve in points.items():
        swept = tables.frontier.query("policy == @name and benchmark == 'gsm8k'").set_index("threshold")
        found = swept[["tpf_paper", "compat_accuracy_pct"]].apply(tuple, axis=1).to_dict()
        assert all(found[threshold] == pytest.approx(point) for threshold, point in curve.items())
        row = row_of(headline, name)
        assert (row["tpf_paper"], row["compat_accuracy_pct"]) == pytest.approx(curve[0.9])
        assert row["compat_unknown"] == 0 and row["y_max_compat"] == best < row["y_max"]
        assert row["aup_compat"] == pytest.approx(aup(curve.values(), best))


def test_our_number_minus_the_difference_is_theirs_and_the_difference_is_paired(headline):
    for ours, theirs, minus in (
        ("accuracy_pct", "compat_accuracy_pct", "accuracy_pct_minus_compat"),
        ("tpf", "tpf_paper", "tpf_minus_paper"),
        ("aup", "aup_compat", "aup_minus_compat"),
    ):
        known = headline.dropna(subset=[minus])
        np.testing.assert_allclose(known[ours] - known[minus], known[theirs], atol=1e-9)
        assert (known[f"{minus}_low"] <= known[minus] + 1e-9).all()
        assert (known[f"{minus}_high"] >= known[minus] - 1e-9).all()
    row = row_of(headline, "lightningrl-gsm8k")
    width = {name: row[f"{name}_high"] - row[f"{name}_low"] for name in ("accuracy_pct_minus_compat", "accuracy_pct")}
    assert width["accuracy_pct_minus_compat"] < width["accuracy_pct"] * 1.3


def test_all_columns_are_always_there_and_nan_without_the_second_verdict(headline):
    assert tuple(headline.columns) == HEADLINE_COLUMNS == tuple(collect([], "e").headline.columns)
    assert set(compat.COLUMNS) < set(HEADLINE_COLUMNS)
    assert not headline[["policy", "published", "y_max", "aup", "aup_anchored", "tpf"]].isna().any().any()
    assert headline["published"].tolist()[:2] == ["SDAR-8B-b32", "LightningRL-8B-b32"]
    row = row_of(headline, "base", "mbpp")
    for name in ("compat_accuracy_pct", "aup_compat", "accuracy_pct_minus_compat", "aup_minus_compat"):
        assert np.isnan([row[each] for each in triple(name)]).all()
    assert row["tpf_paper"] > row["tpf"] and np.isnan(row["compat_unknown"])


def test_where_the_published_rules_or_records_do_not_say():
    row, was = changed(lambda r: dataclasses.replace(r, compat=None) if r.uid.endswith("3") else r)
    shown = [r for r in policy("base", "before", "").records if r.threshold == 0.9]
    expected = np.mean([r.correct if r.uid.endswith("3") else r.compat for r in shown])  # there ours stands
    assert row["compat_unknown"] == 6 and row["compat_accuracy_pct"] == pytest.approx(100 * expected)
    first = policy("base", "before", "").records[0]
    row, _ = changed(lambda r: dataclasses.replace(r, visible_tokens=None) if r == first else r)
    assert np.isnan(row["tpf_paper"]) and np.isnan(row["aup_compat"]) and row["compat_accuracy_pct"] > 0
    row, _ = changed(lambda r: dataclasses.replace(r, visible_tokens=0))
    assert row["tpf_paper"] == 0.0 and np.isnan(row["aup_compat"]) and row["aup"] > 0
    row, was = changed(lambda r: dataclasses.replace(r, tokens_by_step=[*r.tokens_by_step, 0, 0]))
    assert row["tpf_paper"] == was["tpf_paper"]  # forwards that revealed nothing do not count
