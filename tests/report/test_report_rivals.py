"""The table and the figure of systems of several families."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lightningrl.errors import ConfigError, StageError
from lightningrl.report.figures import style
from lightningrl.report.figures.work import work
from lightningrl.report.rivals import rivals
from lightningrl.report.series import SPEED_COLUMNS, speeds

FAMILIES = {"SDAR": "sdar", "LightningRL": "llada", "TraceRL": "sdar"}


def with_work(table):
    """The synthetic systems as ones of two families, with positions: 40 a forward, and keys."""
    positions = 40 / table["tpf"]
    return table.assign(
        family=table["policy"].map(FAMILIES), positions_per_token=positions, positions_per_token_low=positions - 1,
        positions_per_token_high=positions + 1, keys_per_token=50 * positions,
    )  # fmt: skip


def measured(policy, value):
    row = dict.fromkeys(SPEED_COLUMNS, 1.0) | {"policy": policy, "benchmark": "gsm-mini", "device": "a CPU"}
    row |= {"tokens_per_second": value, "tokens_per_second_low": value - 5, "tokens_per_second_high": value + 5}
    return row | {"dtype": "float32", "batch": 1, "threads": 2, "prompts": 20}


def test_rows_stand_by_family_with_every_count_and_the_speed_where_one_was_measured(collected):
    headline = with_work(collected.headline)
    table = rivals(headline, speeds([measured("LightningRL", 300.0), measured("SDAR", 100.0)]))
    rows = [row[:3] for row in table.rows]
    assert rows[:3] == [
        ("gsm-mini", "SDAR", "sdar"), ("gsm-mini", "TraceRL", "sdar"), ("gsm-mini", "LightningRL", "llada"),
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["gsm-mini"] * 3 + ["math-mini"] * 3
    cells = {row[:2]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    speed = [cells["gsm-mini", name]["Tokens (per second)"] for name in ("SDAR", "LightningRL", "TraceRL")]
    assert speed == ["100 [95, 105]", "300 [295, 305]", "–"]
    source = headline.set_index(["policy", "benchmark"]).loc[("SDAR", "gsm-mini")]
    shown = cells["gsm-mini", "SDAR"]
    value = source["positions_per_token"]
    assert shown["Positions (per token)"] == f"{value:.1f} [{value - 1:.1f}, {value + 1:.1f}]"
    assert shown["tpf_true"] == f"{source['tpf_true']:.2f}" and shown["Parameter"] == "0.9"
    assert len(table.data) == 6 and table.data["tokens_per_second"].notna().sum() == 2
    notes = "\n".join(table.notes)
    assert "one engine on a CPU, float32, threads: 2, requests at a time: 1, problems: 20" in notes
    assert f"gsm-mini: n = 120 problems; y_max = {source['y_max']:.1f} %." in notes


def test_without_speeds_or_rows_the_table_is_written_all_the_same(collected):
    headline = with_work(collected.headline)
    assert {row[-2] for row in rivals(headline, speeds([])).rows} == {"–"}
    assert rivals(headline[:0], speeds([])).rows == ()


def drawn(table):
    with style.styled():
        return work.__wrapped__(table)


def test_a_family_has_a_colour_and_work_falls_to_the_right(collected):
    table = with_work(collected.frontier)
    figure, data = drawn(table)
    pd.testing.assert_frame_equal(data, table)
    panels = figure.axes
    assert len(panels) == 4 and [axes.get_title("left") for axes in panels[::2]] == ["gsm-mini", "math-mini"]
    for left, right in (panels[:2], panels[2:]):
        lines = {line.get_label(): line for line in left.get_lines() if line.get_label() in FAMILIES}
        colours = {name: line.get_color() for name, line in lines.items()}
        assert colours["SDAR"] == colours["TraceRL"] == style.GREY != colours["LightningRL"]
        assert lines["SDAR"].get_marker() != lines["TraceRL"].get_marker()
        low, high = right.get_xlim()
        assert low > high and right.get_xscale() == "log"
        line = next(line for line in right.get_lines() if line.get_label() == "SDAR")
        curve = table[(table["policy"] == "SDAR") & (table["benchmark"] == left.get_title("left"))].sort_values("tpf")
        if curve.empty:
            continue
        np.testing.assert_allclose(line.get_xdata(), curve["positions_per_token"])
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == set(FAMILIES)


def test_systems_without_counted_positions_have_no_place(collected):
    table = with_work(collected.frontier)
    table.loc[table["policy"] == "TraceRL", "positions_per_token"] = np.nan
    assert set(drawn(table)[1]["policy"]) == {"SDAR", "LightningRL"}
    with pytest.raises(StageError, match=r"leave it out of `report\.figures`"):
        drawn(table.assign(positions_per_token=np.nan))
    with pytest.raises(ConfigError, match="family"):
        drawn(table.drop(columns="family"))
