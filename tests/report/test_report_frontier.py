"""The collected tables: numbers against the functions they come from, pairing, refusals, and the paper's rules."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from paper_runs import policy, table_2_runs

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import aup, aup_anchored
from lightningrl.evaluation.intervals import triple
from lightningrl.evaluation.metrics import problem_sums, summarise
from lightningrl.report import compat
from lightningrl.report.formats import csv_text
from lightningrl.report.frontier import HEADLINE_COLUMNS, SUMMARY_COLUMNS, collect, groups
from lightningrl.report.series import CURVE_COLUMNS, STEP_COLUMNS, curves, steps


def row_of(table, policy, benchmark="gsm-mini", **more):
    chosen = table[(table["policy"] == policy) & (table["benchmark"] == benchmark)]
    for key, value in more.items():
        chosen = chosen[chosen[key] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def quick(*evaluations, **more):
    return collect(groups(evaluations, n_bootstrap=20, **more), "toy").headline


def test_frontier_rows_are_the_summaries_of_each_policy_benchmark_and_threshold(collected, evaluations):
    keys = ["experiment", "policy", "role", "algorithm", "benchmark", "threshold"]
    assert list(collected.frontier.columns[:6]) == keys
    assert len(collected.frontier) == 6 * 7 == len(collected.frontier[keys].drop_duplicates())
    assert collected.frontier["is_primary"].sum() == 6 == len(collected.headline)
    expected = summarise([each for each in evaluations[1].records if each.threshold == 0.7], 200).to_json()
    row = row_of(collected.frontier, "LightningRL", threshold=0.7)
    assert {key: row[key] for key in SUMMARY_COLUMNS} == {key: expected[key] for key in SUMMARY_COLUMNS}
    assert {key: row[f"status_{key}"] for key in expected["status"]} == expected["status"]


def test_aup_uses_one_y_max_a_benchmark_and_the_base_for_the_anchor(collected, evaluations):
    of = {each.policy: problem_sums(each.records).points() for each in evaluations if each.benchmark == "gsm-mini"}
    y_max = max(accuracy for points in of.values() for _, accuracy in points)
    y_min = min(of["SDAR"])[1] - 5  # the base's smallest TPF
    for name, points in of.items():
        row = row_of(collected.headline, name)
        assert (row["y_max"], row["y_min"], row["base"]) == (y_max, y_min, "SDAR")
        assert row["aup"] == aup(points, y_max) and row["aup_anchored"] == aup_anchored(points, y_min, y_max)
        assert row["aup_low"] <= row["aup"] <= row["aup_high"]
    published = row_of(quick(*evaluations[:3], y_max={"gsm-mini": 98.0}), "SDAR")
    assert published["y_max"] == 98.0 and published["aup"] == aup(of["SDAR"], 98.0)


def test_differences_are_to_the_base_paired_and_blank_for_it(collected, evaluations):
    base, after = row_of(collected.headline, "SDAR"), row_of(collected.headline, "LightningRL")
    assert after["accuracy_difference"] == pytest.approx(after["accuracy_pct"] - base["accuracy_pct"])
    assert after["aup_anchored_difference"] == pytest.approx(after["aup_anchored"] - base["aup_anchored"])
    assert after["aup_anchored_difference_low"] > 0  # the synthetic policy is far better
    assert np.isnan(base["accuracy_difference"]) and np.isnan(base["aup_anchored_difference_low"])
    apart = np.hypot(*(row["accuracy_pct_high"] - row["accuracy_pct_low"] for row in (base, after)))
    assert after["accuracy_difference_high"] - after["accuracy_difference_low"] < 0.85 * apart
    twin = dataclasses.replace(evaluations[0], policy="twin", role="control")
    row = row_of(quick(evaluations[0], twin), "twin")
    for name in ("accuracy_difference", "aup_anchored_difference"):
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (0.0, 0.0, 0.0)
    [group] = groups(evaluations[:3], n_bootstrap=20)
    value, low, high = group.difference("tokens_TN", "forwards_TN", "LightningRL", "SDAR")
    assert value == pytest.approx(after["tpf"] - base["tpf"]) and low <= value <= high


def test_order_of_records_other_benchmarks_and_the_seed(collected, evaluations):
    alone = [dataclasses.replace(each, records=each.records[::-1]) for each in evaluations[:3]]
    again = collect(groups(alone, n_bootstrap=200), "toy").headline
    kept = collected.headline[collected.headline["benchmark"] == "gsm-mini"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, kept, check_exact=True)
    other = collect(groups(alone, n_bootstrap=200, seed=1), "toy").headline  # moves intervals and nothing else
    for name in ("accuracy_pct", "tpf", "aup", "aup_anchored", "accuracy_pct_low"):
        pd.testing.assert_series_equal(other[name], again[name], check_exact=True)
    assert (other["tpf_low"] != again["tpf_low"]).any()


def test_what_has_no_sweep_nothing_right_or_no_base(evaluations):
    single = dataclasses.replace(evaluations[2], records=[r for r in evaluations[2].records if r.threshold == 0.5])
    row = row_of(quick(evaluations[0], single), "TraceRL")
    assert row["threshold"] == 0.5 and row["thresholds"] == "0.5"
    wrong = [dataclasses.replace(r, correct=False, status="wrong") for r in evaluations[0].records]
    row = quick(dataclasses.replace(evaluations[0], records=wrong)).iloc[0]
    assert (row["accuracy_pct"], row["y_max"], row["aup"], row["aup_anchored"]) == (0.0, 0.0, 0.0, 0.0)
    for alone in (quick(evaluations[1]), quick(evaluations[0], dataclasses.replace(evaluations[1], base=""))):
        row = row_of(alone, "LightningRL")
        assert np.isnan(row[["aup_anchored", "y_min", "accuracy_difference"]].astype(float)).all()
        assert row["base"] == "" and row["aup"] > 0


def test_what_cannot_be_compared_is_refused(evaluations):
    base, after, _ = evaluations[:3]
    fewer = dataclasses.replace(after, records=[r for r in after.records if not r.uid.endswith("00003")])
    no_primary = dataclasses.replace(after, records=[r for r in after.records if r.threshold != 0.9])
    second = dataclasses.replace(base, policy="SDAR-b4")
    for group, message in (
        ([base, fewer], "gsm-mini/test/00003"),
        ([base, no_primary], "primary threshold 0.9"),
        ([base, second, after], "several policies of role 'before'"),
        ([base, dataclasses.replace(after, base="Dream")], "compared with Dream"),
        ([base, base], "comes twice"),
    ):
        with pytest.raises(StageError, match=message):
            quick(*group)
    named = quick(base, second, dataclasses.replace(after, base="SDAR-b4"))
    assert row_of(named, "LightningRL")["base"] == "SDAR-b4"


def test_curves_are_one_sorted_row_a_run_and_step_and_the_last_logged_wins(metrics_rows):
    again = {**metrics_rows[5], "tpf": 99.0}
    table = curves([*metrics_rows[::-1], again])
    assert len(table) == len(metrics_rows) and tuple(table.columns[2:14]) == CURVE_COLUMNS
    assert table[(table["run"] == "LightningRL") & (table["step"] == 6)]["tpf"].item() == 99.0
    assert all(rows["step"].is_monotonic_increasing for _, rows in table.groupby("run"))
    assert "seconds_note" not in table and table["nll"].isna().all()
    assert csv_text(table) == csv_text(curves([*metrics_rows[::-1], again]))
    with pytest.raises(StageError, match="run and step"):
        curves([{"step": 1}])


def test_steps_average_over_the_samples_still_running(evaluations):
    def traced(number, counts):
        return dataclasses.replace(
            evaluations[0].records[0], uid=f"b/test/{number}", threshold=0.9, tokens_by_step=counts,
            emitted_tokens=sum(counts), denoise_forwards=len(counts),
        )  # fmt: skip

    group = dataclasses.replace(evaluations[0], benchmark="b", records=[traced(0, [4, 2, 1]), traced(1, [2, 2])])
    table = steps(groups([group]))
    assert tuple(table.columns) == STEP_COLUMNS
    assert table["tokens_mean"].tolist() == [3.0, 2.0, 1.0] and table["tokens_std"].tolist() == [1.0, 0.0, 0.0]
    assert table["samples_running"].tolist() == [2, 2, 1] and table["decoding_step"].tolist() == [1, 2, 3]
    damaged = dataclasses.replace(group, records=[dataclasses.replace(traced(0, [4, 2]), emitted_tokens=7)])
    with pytest.raises(StageError, match="6 tokens by step, but 7 emitted"):
        steps(groups([damaged]))


@pytest.fixture(scope="module")
def paper():
    return collect(groups(table_2_runs(), n_bootstrap=200), "e")


@pytest.fixture(scope="module")
def headline(paper):
    return paper.headline


def changed(change):
    """The headline row of a policy whose records were changed, and of the policy as it was."""
    one = policy("base", "before", "")
    both = (one, dataclasses.replace(one, records=[change(record) for record in one.records]))
    was, row = (collect(groups([each], n_bootstrap=20), "e").headline.iloc[0] for each in both)
    return row, was


def test_numbers_by_the_papers_rules_are_those_of_the_records(paper, headline):
    runs = [each for each in table_2_runs() if each.benchmark == "gsm8k"]
    points = {}
    for run in runs:
        for threshold in sorted({each.threshold for each in run.records}):
            rows = [each for each in run.records if each.threshold == threshold]
            tpf = sum(r.visible_tokens for r in rows) / sum(len(r.tokens_by_step) for r in rows)
            points.setdefault(run.policy, {})[threshold] = (tpf, 100 * sum(r.compat for r in rows) / len(rows))
    best = max(accuracy for curve in points.values() for _, accuracy in curve.values())
    for name, curve in points.items():
        swept = paper.frontier.query("policy == @name and benchmark == 'gsm8k'").set_index("threshold")
        found = swept[["tpf_paper", "compat_accuracy_pct"]].apply(tuple, axis=1).to_dict()
        assert all(found[threshold] == pytest.approx(point) for threshold, point in curve.items())
        row = row_of(headline, name, "gsm8k")
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
    row = row_of(headline, "lightningrl-gsm8k", "gsm8k")
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
