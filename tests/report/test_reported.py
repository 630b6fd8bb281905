"""A server's word in tables: beside our own numbers, under its own names, and with its mark."""

from __future__ import annotations

import dataclasses
import math

import pytest
from paper_runs import records

from lightningrl.errors import StageError
from lightningrl.evaluation.aup import aup
from lightningrl.report import tables
from lightningrl.report.figures import frontier
from lightningrl.report.frontier import Evaluation, collect, groups
from lightningrl.report.paper import tables as paper
from lightningrl.report.pooled import pooled

ROW = "EAGLE-3 (LLaMA-3.1)"
NONE = dict.fromkeys(
    ("response_tokens", "emitted_tokens", "denoise_forwards", "commit_forwards", "prefill_forwards", "visible_tokens")
)


def served(forwards=20, tokens=100, lossless=True, **changes):
    """The word of a server on 20 problems of GSM8K: 100 tokens in 20 forwards each."""
    made = [record for record in records("eagle", "gsm8k", 20, 0.7, 3, 1) if record.threshold == 0.9]
    word = {"completion_tokens": tokens, "forwards": forwards, "accepted": None, "doubts": [], "lossless": lossless}
    return [dataclasses.replace(r, threshold=0.0, tokens_by_step=[], reported=word | changes, **NONE) for r in made]


def collected(server, **keys):
    ours = records("SDAR", "gsm8k", 20, 0.6, 3, 0)
    mine = Evaluation("eagle", "released", "endpoint", "gsm8k", server, base="eagle", published=ROW, **keys)
    base = Evaluation("SDAR", "before", "threshold", "gsm8k", ours, base="SDAR", published="SDAR-8B-b32")
    return groups([base, mine], 0.9, n_bootstrap=20)


def row_of(found, policy="eagle"):
    return found.headline.set_index("policy").loc[policy]


def test_its_numbers_have_names_of_their_own():
    found = collect(collected(served()), "toy")
    row, ours = row_of(found), row_of(found, "SDAR")
    assert (row["tpf_reported"], row["tpf_reported_low"], row["tpf_reported_high"]) == (5.0, 5.0, 5.0)
    assert row["response_tokens_reported_mean"] == 100.0 and row["reported_samples"] == 20
    assert row[["tpf", "tpf_true", "aup", "aup_anchored", "tpf_paper", "response_tokens_mean"]].isna().all()
    assert ours[["tpf_reported", "aup_reported", "reported_samples", "reported_lossless"]].isna().all()
    alone = collect(groups([collected(served())[0].evaluations["SDAR"]], 0.9, n_bootstrap=20), "toy")
    for name in ("tpf", "tpf_low", "accuracy_pct", "forwards_per_problem"):
        assert row_of(alone, "SDAR")[name] == ours[name]  # a server beside it changes none of ours


def test_the_area_by_its_word():
    """A lossless server's curve begins at one token a forward; another's at its own TPF."""
    for lossless in (True, False):
        row = row_of(collect(collected(served(lossless=lossless)), "toy"))
        accuracy, y_max = row["accuracy_pct"], row["y_max"]
        points = [(1.0, accuracy), (5.0, accuracy)] if lossless else [(5.0, accuracy)]
        assert row["aup_reported"] == pytest.approx(aup(points, y_max))
        assert row["aup_reported_low"] <= row["aup_reported"] <= row["aup_reported_high"]


def test_records_without_counts_are_left_out_of_the_ratio_and_counted():
    doubtful = served()
    lost = {"completion_tokens": None, "doubts": ["usage: -3"], "forwards": 7, "lossless": True}
    doubtful[0] = dataclasses.replace(doubtful[0], reported=lost)
    doubtful[1] = dataclasses.replace(
        doubtful[1], status="no_answer", correct=False, value=None, stop=None, reported={"model": "m", "doubts": []}
    )
    found = collect(collected(doubtful), "toy")
    row = row_of(found)
    assert (row["tpf_reported"], row["reported_samples"], row["reported_doubted"]) == (5.0, 18, 1)
    text = tables.main(found.headline).markdown()
    assert "‡ eagle on gsm8k: forwards told of 18 of 20 answers; 1 with contradictory counts" in text
    assert "1 without an answer, counted as wrong" in text and not math.isnan(row["truncated_pct"])


@pytest.mark.parametrize("changes", [{"forwards": None}, {"tokens": None}])
def test_a_server_that_tells_no_forwards_has_an_accuracy_alone(changes, tmp_path):
    found = collect(collected(served(**changes)), "toy")
    row = row_of(found)
    assert row["accuracy_pct"] > 0 and row[["tpf_reported", "aup_reported"]].isna().all()
    assert row["reported_samples"] == 0
    for made in (tables.main(found.headline), paper.table2(found.headline, found.frontier)):
        assert "eagle" in made.markdown() and made.latex()
    with pytest.raises(StageError, match="no system here has a TPF to draw"):
        frontier.frontier(found.frontier[found.frontier.policy == "eagle"], tmp_path)


def test_the_published_table_shows_it_beside_the_printed_row_and_marks_it():
    found = collect(collected(served()), "toy")
    made = paper.table2(found.headline, found.frontier)
    line = next(row for row in made.parts[1].rows if row[0] == "GSM8K" and row[1].startswith(ROW))
    assert line[1] == f"{ROW}, released checkpoint" and line[2] == "eagle"
    assert "5.00 [5.00, 5.00]‡" in line and any("‡ by the word of the server" in note for note in made.parts[1].notes)
    ours = next(row for row in made.parts[1].rows if row[0] == "GSM8K" and row[2] == "SDAR")
    assert not any("‡" in cell for cell in ours)
    data = made.data.set_index(["part", "benchmark", "policy", "metric"])
    assert data.loc[("measured", "gsm8k", "eagle", "tpf_reported"), "mark"] == "server's word"
    assert ("measured", "gsm8k", "eagle", "tpf") not in data.index
    assert data.loc[("difference", "gsm8k", "eagle", "tpf_reported"), "value"] == pytest.approx(5.0 - 5.12)
    accuracy = row_of(found)["accuracy_pct"]
    y_max = data.loc[("measured", "gsm8k", "eagle", "aup_one_y_max"), "y_max"]
    expected = aup([(1.0, accuracy), (5.0, accuracy)], y_max)
    assert data.loc[("measured", "gsm8k", "eagle", "aup_one_y_max"), "value"] == pytest.approx(expected)


def test_terminal_and_series():
    made = collected(served())
    shown = tables.console(collect(made, "toy").headline)
    assert "5.00‡" in shown and "100.0‡" in shown and max(map(len, shown.splitlines())) <= 112
    rows = pooled(made).set_index("series")
    assert math.isnan(rows.loc["eagle", "tpf"]) and rows.loc["eagle", "accuracy_pct"] > 0
