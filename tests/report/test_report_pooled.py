"""Series of runs pooled over seeds: against sums taken by hand, coverage of intervals, refusals; and their tables."""

from __future__ import annotations

import dataclasses
from statistics import mean

import numpy as np
import pandas as pd
import pytest
from fixtures.synthetic import make_evaluation

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import aup_anchored
from lightningrl.evaluation.intervals import triple
from lightningrl.evaluation.metrics import problem_sums
from lightningrl.report.figures.frontier import ablations
from lightningrl.report.figures.frontier import study as draw_study
from lightningrl.report.frontier import collect, groups
from lightningrl.report.pooled import BY_THRESHOLD, COLUMNS, pooled
from lightningrl.report.study import criteria, study

N = 60


def accuracy(drop):
    return lambda threshold: 0.9 - drop * (1 - threshold) ** 1.2


def series(name, role, peak, drop, seeds, algorithm="lightningrl"):
    made = (make_evaluation(f"{name}-{s}", role, algorithm, "gsm-mini", N, peak, accuracy(drop), 10 + s) for s in seeds)
    return [dataclasses.replace(each, series=name, seed=s) for each, s in zip(made, seeds, strict=True)]


@pytest.fixture(scope="module")
def runs():
    base = make_evaluation("SDAR", "before", "threshold", "gsm-mini", N, 3.0, accuracy(0.6), 1)
    return [
        base,
        *series("ours", "after", 6.0, 0.3, (0, 1, 2)),
        *series("better", "after", 7.5, 0.05, (0, 1, 2)),
        *series("other", "ablation", 4.0, 0.5, (1, 2)),
    ]


@pytest.fixture(scope="module")
def grouped(runs):
    return groups(runs, n_bootstrap=300)


@pytest.fixture(scope="module")
def table(grouped):
    return pooled(grouped)


@pytest.fixture(scope="module")
def single(grouped):
    return collect(grouped, "e").headline.set_index("policy")


def at(table, name, threshold=0.9):
    return table[(table["series"] == name) & (table["threshold"] == threshold)].iloc[0]


def by_seed(text):
    return [float(value) for value in text.split()]


def test_a_row_a_series_and_threshold(table):
    assert list(table.columns) == list(COLUMNS)
    assert list(dict.fromkeys(table["series"])) == ["SDAR", "ours", "better", "other"]
    assert (table.groupby("series").size() == 7).all() and table["is_primary"].sum() == 4
    assert dict(zip(table["series"], table["seeds"], strict=True)) == {
        "SDAR": "", "ours": "0 1 2", "better": "0 1 2", "other": "1 2",
    }  # fmt: skip
    assert list(pooled([]).columns) == list(COLUMNS) and pooled([]).empty


def test_numbers_are_means_over_runs(runs, table):
    def ratio(records):
        return sum(r.response_tokens for r in records) / sum(r.denoise_forwards for r in records)

    def swept(run, threshold):
        return [record for record in run.records if record.threshold == threshold]

    base = {record.uid: record for record in swept(runs[0], 0.8)}
    own = [swept(run, 0.8) for run in runs[1:4]]
    mine = [record for records in own for record in records]
    primary = [record for run in runs[1:4] for record in swept(run, 0.9)]
    right, tpf = 100 * mean(r.correct for r in mine), mean(map(ratio, own))
    row = at(table, "ours", 0.8)
    assert row["n_problems"] == N and len(mine) == 3 * N
    assert row[[*BY_THRESHOLD]].to_dict() == pytest.approx({
        "accuracy_pct": right,
        "accuracy_difference": 100 * mean(int(r.correct) - int(base[r.uid].correct) for r in mine),
        "accuracy_drop": 100 * mean(r.correct for r in primary) - right,
        "tpf": tpf,
        "tpf_ratio": tpf / ratio(list(base.values())),
        "forwards_per_problem": mean(r.denoise_forwards for r in mine),
        "response_tokens_mean": mean(r.response_tokens for r in mine),
        "response_tokens_difference": mean(r.response_tokens - base[r.uid].response_tokens for r in mine),
    })  # fmt: skip
    right_by_seed = [100 * mean(r.correct for r in records) for records in own]
    assert by_seed(row["accuracy_pct_by_seed"]) == pytest.approx(right_by_seed, abs=1e-4)
    assert np.isnan(row["aup_anchored"]) and not np.isnan(row["y_max"])


def test_aups_are_those_of_single_runs_and_their_mean(runs, table, single):
    row = at(table, "ours")
    values = [single.loc[f"ours-{seed}", "aup_anchored"] for seed in (0, 1, 2)]
    by_hand = [aup_anchored(problem_sums(run.records).points(), row["y_min"], row["y_max"]) for run in runs[1:4]]
    assert values == pytest.approx(by_hand) and by_seed(row["aup_anchored_by_seed"]) == pytest.approx(values, abs=1e-4)
    assert row["aup_anchored"] == pytest.approx(mean(values))
    assert row["aup_anchored_difference"] == pytest.approx(mean(values) - single.loc["SDAR", "aup_anchored"])
    assert (row["y_min"], row["y_max"]) == (single.loc["ours-0", "y_min"], single.loc["ours-0", "y_max"])


def test_a_series_of_one_is_the_policy_itself(table, single):
    """Interval for interval: the same problems are drawn."""
    row = at(table, "SDAR")
    for column in (*triple("tpf"), *triple("forwards_per_problem"), *triple("aup_anchored")):
        assert row[column] == pytest.approx(single.loc["SDAR", column]), column
    assert np.isnan(row["accuracy_difference"]) and np.isnan(row["tpf_ratio_low"])


def test_intervals_hold_their_estimates_and_are_wider_where_seeds_differ(runs, table):
    for name in BY_THRESHOLD:
        rows = table.dropna(subset=[name])
        assert (rows[f"{name}_low"] <= rows[name] + 1e-9).all() and (rows[name] <= rows[f"{name}_high"] + 1e-9).all()
    unlike = series("ours", "after", 3.0, 0.3, (1,))
    width = {}
    for name, made in (("alike", runs[1:3]), ("unlike", [runs[1], *unlike])):
        row = at(pooled(groups([runs[0], *made], n_bootstrap=300)), "ours")
        width[name] = row["tpf_high"] - row["tpf_low"]
    assert width["unlike"] > 3 * width["alike"]


def test_the_interval_covers_the_mean_over_all_seeds_and_problems(runs):
    """Accuracy p + seed's effect + problem's effect: 95 % intervals from 8 seeds hold p in most of 60 draws."""
    rng = np.random.default_rng(3)
    held, base = 0, runs[0]
    one = [record for record in base.records if record.threshold == 0.9]
    for _ in range(60):
        problem, made = rng.normal(0, 0.1, N), []
        for seed, effect in enumerate(rng.normal(0, 0.1, 8)):
            right = rng.random(N) < np.clip(0.7 + problem + effect, 0, 1)
            records = [
                dataclasses.replace(record, policy=f"r-{seed}", correct=bool(correct))
                for record, correct in zip(one, right, strict=True)
            ]
            made.append(
                dataclasses.replace(base, policy=f"r-{seed}", role="after", records=records, series="r", seed=seed)
            )
        row = pooled(groups([dataclasses.replace(base, records=one), *made], n_bootstrap=200)).iloc[-1]
        held += row["accuracy_pct_low"] <= 70 <= row["accuracy_pct_high"]
    assert held >= 52  # 57 expected; 51 or fewer have a chance of 1 in 100


def test_what_is_no_series_is_refused(runs):
    base, ours, second = runs[:3]
    fewer = [record for record in second.records if record.threshold != 0.5]
    for changed, message in (
        (dataclasses.replace(runs[7], series="ours"), r"series ours have more than one role \(ablation, after\)"),
        (dataclasses.replace(second, seed=0), "same seed"),
        (dataclasses.replace(second, records=fewer), "more than one sweep of thresholds"),
    ):
        with pytest.raises(StageError, match=message):
            pooled(groups([base, ours, changed], n_bootstrap=10))


def test_the_study_table_and_figures_show_each_series_once(table, tmp_path):
    shown = study(table)
    assert [row[1] for row in shown.rows] == ["SDAR", "ours", "better", "other"]
    assert [row[2] for row in shown.rows] == ["–", "3", "3", "2"]
    assert " to " in shown.rows[1][4] and shown.rows[0][4] == "–"
    assert "y_min" in shown.markdown() and "\\begin{table}" in shown.latex()
    for draw, left_out in ((draw_study, "other"), (ablations, "better")):
        drawn = set(pd.read_csv(draw(table, tmp_path)[2])["policy"])
        assert left_out not in drawn and {"SDAR", "ours"} <= drawn


def test_criteria_are_met_or_not_by_the_numbers_beside_them(table):
    data = criteria(table).data.set_index("series")
    assert list(data.index) == ["ours", "better", "other"]
    better, row, low = data.loc["better"], at(table, "better"), at(table, "better", 0.7)
    assert better["ratio_met"] == (row["tpf_ratio"] >= 2) and better["aup_wins"] == "3 of 3"
    assert better["accuracy_met"] == (row["accuracy_difference_low"] > -2)
    assert better["cliff"] == low["accuracy_drop"] and better["cliff_met"] == (low["accuracy_drop"] <= 5)
    assert data.loc["other", "aup_wins"] == "0 of 2" and not data.loc["other", "all_met"]
    assert data.loc["ours", "aup_wins"] == "–" and not data.loc["ours", "aup_met"]  # others are compared with it


def test_criteria_say_nothing_of_what_cannot_be_compared(runs):
    """A released checkpoint is not judged; a series of other seeds wins against none of the method's."""
    theirs = [dataclasses.replace(each, policy="theirs") for each in runs[4].records]
    released = dataclasses.replace(
        runs[4], policy="theirs", role="released", series="", seed=None, base="SDAR", records=theirs
    )
    others = [dataclasses.replace(run, seed=run.seed + 7) for run in runs[4:7]]
    for better, wins in ((others, "–"), ([runs[4], *others[1:]], "1 of 1")):
        data = criteria(pooled(groups([*runs[:4], released, *better], n_bootstrap=50))).data.set_index("series")
        assert list(data.index) == ["ours", "better"]
        assert data.loc["better", "aup_wins"] == wins and not data.loc["better", "aup_met"]
    assert study(pooled([])).rows == () and criteria(pooled([])).rows == ()
