"""The collected tables: numbers against the functions they come from, pairing, and refusals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import aup, aup_anchored
from lightningrl.evaluation.metrics import problem_sums, summarise
from lightningrl.report.compat import COMPAT
from lightningrl.report.formats import csv_text
from lightningrl.report.frontier import SUMMARY_COLUMNS, collect
from lightningrl.report.series import CURVE_COLUMNS, STEP_COLUMNS, curves, steps


@pytest.fixture(scope="module")
def collected(evaluations):
    return collect(evaluations, "toy")


def row_of(table, policy, benchmark="gsm-mini", **more):
    chosen = table[(table["policy"] == policy) & (table["benchmark"] == benchmark)]
    for key, value in more.items():
        chosen = chosen[chosen[key] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_one_frontier_row_a_policy_benchmark_and_threshold(collected, evaluations):
    keys = ["experiment", "policy", "role", "algorithm", "benchmark", "threshold"]
    assert list(collected.frontier.columns[:6]) == keys
    assert len(collected.frontier) == 6 * 7 == len(collected.frontier[keys].drop_duplicates())
    assert collected.frontier["is_primary"].sum() == 6 == len(collected.headline)


def test_frontier_rows_are_the_summaries(collected, evaluations):
    records = [each for each in evaluations[1].records if each.threshold == 0.7]
    expected = summarise(records).to_json()
    row = row_of(collected.frontier, "LightningRL", threshold=0.7)
    assert {key: row[key] for key in SUMMARY_COLUMNS} == {key: expected[key] for key in SUMMARY_COLUMNS}
    assert {key: row[f"status_{key}"] for key in expected["status"]} == expected["status"]


def test_the_second_judges_accuracy_is_a_column_where_a_record_has_its_verdict(collected, evaluations):
    assert collected.frontier[COMPAT].isna().all() and collected.headline[COMPAT].isna().all()
    judged = [dataclasses.replace(record, compat=record.threshold < 0.9) for record in evaluations[0].records]
    tables = collect([dataclasses.replace(evaluations[0], records=judged), *evaluations[1:]], "e")
    shown = row_of(tables.frontier, "SDAR", threshold=0.5)[COMPAT], row_of(tables.headline, "SDAR")[COMPAT]
    assert shown == (100.0, 0.0)  # the headline is at 0.9
    assert np.isnan(row_of(tables.headline, "TraceRL")[COMPAT])


def test_aup_uses_one_y_max_a_benchmark_and_the_base_for_the_anchor(collected, evaluations):
    of = {each.policy: problem_sums(each.records).points() for each in evaluations if each.benchmark == "gsm-mini"}
    y_max = max(accuracy for points in of.values() for _, accuracy in points)
    y_min = of["SDAR"][-1][1] - 5  # the base's smallest TPF is at its largest threshold
    assert min(of["SDAR"])[1] == of["SDAR"][-1][1]
    for policy, points in of.items():
        row = row_of(collected.headline, policy)
        assert (row["y_max"], row["y_min"], row["base"]) == (y_max, y_min, "SDAR")
        assert row["aup"] == aup(points, y_max) and row["aup_anchored"] == aup_anchored(points, y_min, y_max)
        assert row["aup_low"] <= row["aup"] <= row["aup_high"]


def test_differences_are_to_the_base_and_blank_for_it(collected):
    base, after = row_of(collected.headline, "SDAR"), row_of(collected.headline, "LightningRL")
    assert after["accuracy_difference"] == pytest.approx(after["accuracy_pct"] - base["accuracy_pct"])
    assert after["aup_anchored_difference"] == pytest.approx(after["aup_anchored"] - base["aup_anchored"])
    assert after["aup_anchored_difference_low"] > 0  # the synthetic policy is far better
    assert np.isnan(base["accuracy_difference"]) and np.isnan(base["aup_anchored_difference_low"])


def test_paired_accuracy_interval_is_narrower_than_the_two_apart(collected):
    base, after = row_of(collected.headline, "SDAR"), row_of(collected.headline, "LightningRL")
    apart = np.hypot(*(row["accuracy_pct_high"] - row["accuracy_pct_low"] for row in (base, after)))
    assert after["accuracy_difference_high"] - after["accuracy_difference_low"] < 0.85 * apart


def test_a_copy_of_the_base_differs_by_exactly_nothing(evaluations):
    twin = dataclasses.replace(evaluations[0], policy="twin", role="control")
    row = row_of(collect([evaluations[0], twin], "toy").headline, "twin")
    for name in ("accuracy_difference", "aup_anchored_difference"):
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (0.0, 0.0, 0.0)


def test_order_of_records_and_other_benchmarks_change_no_number(collected, evaluations):
    alone = [dataclasses.replace(each, records=each.records[::-1]) for each in evaluations[:3]]
    again = collect(alone, "toy")
    kept = collected.headline[collected.headline["benchmark"] == "gsm-mini"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.headline, kept, check_exact=True)


def test_the_seed_moves_intervals_and_nothing_else(collected, evaluations):
    other = collect(evaluations, "toy", seed=1).headline
    for name in ("accuracy_pct", "tpf", "aup", "aup_anchored", "accuracy_pct_low"):
        pd.testing.assert_series_equal(other[name], collected.headline[name], check_exact=True)
    assert (other["tpf_low"] != collected.headline["tpf_low"]).any()


def test_y_max_can_be_a_published_tables(evaluations):
    row = row_of(collect(evaluations[:3], "toy", y_max={"gsm-mini": 98.0}).headline, "SDAR")
    assert row["y_max"] == 98.0 and row["aup"] == aup(problem_sums(evaluations[0].records).points(), 98.0)


def test_a_rival_without_a_sweep_is_shown_at_its_own_threshold(evaluations):
    single = dataclasses.replace(evaluations[2], records=[r for r in evaluations[2].records if r.threshold == 0.5])
    row = row_of(collect([evaluations[0], single], "toy").headline, "TraceRL")
    assert row["threshold"] == 0.5 and row["thresholds"] == "0.5"


def test_nothing_right_anywhere_still_makes_tables(evaluations):
    wrong = [dataclasses.replace(r, correct=False, status="wrong") for r in evaluations[0].records]
    row = collect([dataclasses.replace(evaluations[0], records=wrong)], "toy", n_bootstrap=20).headline.iloc[0]
    assert (row["accuracy_pct"], row["y_max"], row["aup"], row["aup_anchored"]) == (0.0, 0.0, 0.0, 0.0)


def test_without_a_base_there_is_no_anchor(evaluations):
    row = row_of(collect([evaluations[1]], "toy", n_bootstrap=20).headline, "LightningRL")
    assert np.isnan(row["aup_anchored"]) and np.isnan(row["y_min"]) and row["base"] == ""


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
            collect(group, "toy", n_bootstrap=5)
    named = collect([base, second, dataclasses.replace(after, base="SDAR-b4")], "toy", n_bootstrap=5)
    assert row_of(named.headline, "LightningRL")["base"] == "SDAR-b4"


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
    table = steps([group])
    assert tuple(table.columns) == STEP_COLUMNS
    assert table["tokens_mean"].tolist() == [3.0, 2.0, 1.0] and table["tokens_std"].tolist() == [1.0, 0.0, 0.0]
    assert table["samples_running"].tolist() == [2, 2, 1] and table["decoding_step"].tolist() == [1, 2, 3]
    damaged = dataclasses.replace(group, records=[dataclasses.replace(traced(0, [4, 2]), emitted_tokens=7)])
    with pytest.raises(StageError, match="6 tokens by step, but 7 emitted"):
        steps([damaged])
