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
from lightningrl.report.figures.pooled import ablations, draw
from lightningrl.report.frontier import collect
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
def table(runs):
    return pooled(runs, n_bootstrap=300)


def ratio(records):
    return sum(r.response_tokens for r in records) / sum(r.denoise_forwards for r in records)


def at(records, threshold):
    return [record for record in records if record.threshold == threshold]


def test_a_row_a_series_and_threshold(table):
    assert list(table.columns) == list(COLUMNS)
    assert list(dict.fromkeys(table["series"])) == ["SDAR", "ours", "better", "other"]
    assert (table.groupby("series").size() == 7).all() and table["is_primary"].sum() == 4
    assert dict(zip(table["series"], table["seeds"], strict=True)) == {
        "SDAR": "", "ours": "0 1 2", "better": "0 1 2", "other": "1 2",
    }  # fmt: skip


def test_numbers_are_means_over_runs(runs, table):
    base = {record.uid: record for record in at(runs[0].records, 0.8)}
    mine = [record for run in runs[1:4] for record in at(run.records, 0.8)]
    row = table[(table["series"] == "ours") & (table["threshold"] == 0.8)].iloc[0]
    assert row["n_problems"] == N and len(mine) == 3 * N
    assert row["accuracy_pct"] == pytest.approx(100 * mean(r.correct for r in mine))
    tpf = [ratio(at(run.records, 0.8)) for run in runs[1:4]]
    assert row["tpf"] == pytest.approx(mean(tpf)) and row["tpf_ratio"] == pytest.approx(
        mean(tpf) / ratio(list(base.values()))
    )
    assert row["forwards_per_problem"] == pytest.approx(mean(r.denoise_forwards for r in mine))
    paired = mean(int(r.correct) - int(base[r.uid].correct) for r in mine)
    assert row["accuracy_difference"] == pytest.approx(100 * paired)
    tokens = mean(r.response_tokens - base[r.uid].response_tokens for r in mine)
    assert row["response_tokens_difference"] == pytest.approx(tokens)
    primary = [record for run in runs[1:4] for record in at(run.records, 0.9)]
    drop = 100 * (mean(r.correct for r in primary) - mean(r.correct for r in mine))
    assert row["accuracy_drop"] == pytest.approx(drop)
    by_seed = [100 * mean(r.correct for r in at(run.records, 0.8)) for run in runs[1:4]]
    assert [float(value) for value in row["accuracy_pct_by_seed"].split()] == pytest.approx(by_seed, abs=1e-4)
    assert np.isnan(row["aup_anchored"]) and not np.isnan(row["y_max"])


def test_aups_are_those_of_single_runs_and_their_mean(runs, table):
    single = collect(runs, "e", n_bootstrap=300).headline.set_index("policy")
    row = table[(table["series"] == "ours") & table["is_primary"]].iloc[0]
    values = [single.loc[f"ours-{seed}", "aup_anchored"] for seed in (0, 1, 2)]
    assert [float(value) for value in row["aup_anchored_by_seed"].split()] == pytest.approx(values, abs=1e-4)
    assert row["aup_anchored"] == pytest.approx(mean(values))
    assert row["aup_anchored_difference"] == pytest.approx(mean(values) - single.loc["SDAR", "aup_anchored"])
    assert (row["y_min"], row["y_max"]) == (single.loc["ours-0", "y_min"], single.loc["ours-0", "y_max"])


def test_a_series_of_one_is_the_policy_itself(runs, table):
    """Interval for interval: the same problems are drawn."""
    single = collect(runs, "e", n_bootstrap=300).headline.set_index("policy").loc["SDAR"]
    row = table[(table["series"] == "SDAR") & table["is_primary"]].iloc[0]
    for name in ("tpf", "forwards_per_problem", "aup_anchored"):
        for column in (name, f"{name}_low", f"{name}_high"):
            assert row[column] == pytest.approx(single[column]), column
    assert np.isnan(row["accuracy_difference"]) and np.isnan(row["tpf_ratio_low"])


def test_intervals_hold_their_estimates_and_are_wider_where_seeds_differ(table):
    for name in BY_THRESHOLD:
        rows = table.dropna(subset=[name])
        assert (rows[f"{name}_low"] <= rows[name] + 1e-9).all() and (rows[name] <= rows[f"{name}_high"] + 1e-9).all()
    unlike = series("unlike", "after", 6.0, 0.3, (0,)) + series("unlike", "after", 3.0, 0.3, (1,))
    base = make_evaluation("SDAR", "before", "threshold", "gsm-mini", N, 3.0, accuracy(0.6), 1)
    width = {}
    for name, made in (("alike", series("alike", "after", 6.0, 0.3, (0, 1))), ("unlike", unlike)):
        row = pooled([base, *made], n_bootstrap=300)
        row = row[(row["series"] == name) & row["is_primary"]].iloc[0]
        width[name] = row["tpf_high"] - row["tpf_low"]
    assert width["unlike"] > 3 * width["alike"]


def test_the_interval_covers_the_mean_over_all_seeds_and_problems():
    """Accuracy p + seed's effect + problem's effect: 95 % intervals from 8 seeds hold p in most of 60 draws."""
    rng = np.random.default_rng(3)
    held = 0
    base = make_evaluation("SDAR", "before", "threshold", "gsm-mini", N, 3.0, accuracy(0.6), 1)
    one = at(base.records, 0.9)
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
        row = pooled([dataclasses.replace(base, records=one), *made], n_bootstrap=200).iloc[-1]
        held += row["accuracy_pct_low"] <= 70 <= row["accuracy_pct_high"]
    assert held >= 52  # 57 expected; 51 or fewer have a chance of 1 in 100


def test_what_is_no_series_is_refused(runs):
    ours, other = runs[1], runs[7]
    with pytest.raises(StageError, match=r"series ours have more than one role \(ablation, after\)"):
        pooled([runs[0], ours, dataclasses.replace(other, series="ours")])
    with pytest.raises(StageError, match="same seed"):
        pooled([runs[0], ours, dataclasses.replace(runs[2], seed=0)])
    fewer = [record for record in runs[2].records if record.threshold != 0.5]
    with pytest.raises(StageError, match="more than one sweep of thresholds"):
        pooled([runs[0], ours, dataclasses.replace(runs[2], records=fewer)])


def test_without_evaluations_there_is_an_empty_table_with_its_header():
    assert list(pooled([]).columns) == list(COLUMNS) and pooled([]).empty


def test_the_study_table_shows_each_series_once(table):
    shown = study(table)
    assert [row[1] for row in shown.rows] == ["SDAR", "ours", "better", "other"]
    assert [row[2] for row in shown.rows] == ["–", "3", "3", "2"]
    assert " to " in shown.rows[1][4] and shown.rows[0][4] == "–"
    assert "y_min" in shown.markdown() and "\\begin{table}" in shown.latex()


def test_criteria_are_met_or_not_by_the_numbers_beside_them(runs, table):
    data = criteria(table).data.set_index("series")
    assert list(data.index) == ["ours", "better", "other"]
    row = table[(table["series"] == "better") & table["is_primary"]].iloc[0]
    assert data.loc["better", "ratio_met"] == (row["tpf_ratio"] >= 2) and data.loc["better", "aup_wins"] == "3 of 3"
    assert data.loc["better", "accuracy_met"] == (row["accuracy_difference_low"] > -2)
    low = table[(table["series"] == "better") & (table["threshold"] == 0.7)].iloc[0]
    assert data.loc["better", "cliff"] == low["accuracy_drop"] and data.loc["better", "cliff_met"] == (
        low["accuracy_drop"] <= 5
    )
    assert data.loc["other", "aup_wins"] == "0 of 2" and not data.loc["other", "all_met"]
    assert (
        data.loc["ours", "aup_wins"] == "–" and not data.loc["ours", "aup_met"]
    )  # it is what others are compared with
    by_hand = [aup_anchored(points_of(run), row["y_min"], row["y_max"]) for run in runs[4:7]]
    assert [float(value) for value in row["aup_anchored_by_seed"].split()] == pytest.approx(by_hand, abs=1e-4)


def points_of(run):
    found = []
    for threshold in sorted({record.threshold for record in run.records}):
        here = at(run.records, threshold)
        tpf = sum(r.response_tokens for r in here) / sum(r.denoise_forwards for r in here)
        found.append((tpf, 100 * mean(r.correct for r in here)))
    return found


def test_the_figures_draw_what_they_say(table, tmp_path):
    for function, name, left_out in ((draw, "study", "other"), (ablations, "ablations", "better")):
        paths = function(table, tmp_path)
        assert [path.name for path in paths] == [f"{name}.pdf", f"{name}.png", f"{name}.csv"]
        drawn = set(pd.read_csv(tmp_path / f"{name}.csv")["policy"])
        assert left_out not in drawn and {"SDAR", "ours"} <= drawn


def test_criteria_say_nothing_of_what_cannot_be_compared(runs):
    """A released checkpoint is not judged; a series of other seeds wins against none of the method's."""
    released = dataclasses.replace(runs[4], policy="theirs", role="released", series="", seed=None, base="SDAR")
    released = dataclasses.replace(
        released, records=[dataclasses.replace(each, policy="theirs") for each in released.records]
    )
    others = [dataclasses.replace(run, seed=run.seed + 7) for run in runs[4:7]]
    partly = [runs[4], *(dataclasses.replace(run, seed=run.seed + 7) for run in runs[5:7])]
    for better, wins in ((others, "–"), (partly, "1 of 1")):
        data = criteria(pooled([*runs[:4], released, *better], n_bootstrap=50)).data.set_index("series")
        assert list(data.index) == ["ours", "better"]
        assert data.loc["better", "aup_wins"] == wins and not data.loc["better", "aup_met"]
    assert study(pooled([])).rows == () and criteria(pooled([])).rows == ()
