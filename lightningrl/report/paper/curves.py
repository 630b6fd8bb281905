"""Figures 3 to 6 of the paper: training curves of methods and ablations on GSM8K.

Totals are accuracy reward (+1 or -1) plus TPF, as logged. In Figure 6, however, the speed reward is scaled to 0..1 by
the least and the greatest value of all drawn runs, as the paper's axis suggests; its band is taken to be one standard
deviation of the values in the window of the running mean. The paper's "epoch" of Figure 3 is taken to be an RL step, as
in its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.report.figures import style
from lightningrl.report.paper.panels import BENCHMARK, GRPO, OURS, TRACERL, CurveOptions, Panel, draw_panel

COLLAPSE, TOTAL, ACCURACY = "collapse_ratio_0.1", "reward_total_mean", "reward_accuracy_mean"
SPEED, SCALED = "reward_speed_mean", "reward_total_scaled"


def figure3(curves: pd.DataFrame, out_dir: Path, options: CurveOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Draws the collapse ratio (a) and the total reward (b) with and without decoupled normalisation."""
    rows, last = (OURS, "w/o Decoupled normalization"), 100
    panels = (
        Panel(COLLAPSE, "a  Collapse ratio (ε = 0.1)", rows, last),
        Panel(TOTAL, "b  Total reward (accuracy + TPF)", rows, last),
    )
    return _draw(curves, panels, out_dir, "figure3", options)


def figure4(curves: pd.DataFrame, out_dir: Path, options: CurveOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Draws the accuracy reward with and without the NLL term."""
    panel = Panel(ACCURACY, "Accuracy reward", (OURS, "w/o NLL loss"), 125)
    return _draw(curves, (panel,), out_dir, "figure4", options)


def figure5(curves: pd.DataFrame, out_dir: Path, options: CurveOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Draws the total reward with and without dynamic sampling (the TPF-aware filter)."""
    panel = Panel(TOTAL, "Total reward (accuracy + TPF)", (OURS, "w/o TPF-aware filtering"), 180)
    return _draw(curves, (panel,), out_dir, "figure5", options)


def figure6(curves: pd.DataFrame, out_dir: Path, options: CurveOptions | Mapping[str, Any] | None = None) -> list[Path]:
    """Draws the total reward of three methods, speed scaled to 0..1, with a band of one standard deviation."""
    panel = Panel(SCALED, "Total reward (accuracy + speed within 0–1)", (TRACERL, OURS, GRPO), 185, band=True)
    return _draw(scaled(curves, panel), (panel,), out_dir, "figure6", options)


def scaled(curves: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Returns the table with `reward_total_scaled`: accuracy reward plus speed reward, scaled over the panel's runs."""
    drawn = curves["published"].isin(panel.rows) & (curves["benchmark"] == BENCHMARK)
    speed = curves.loc[drawn & (curves["step"] <= panel.last_step), SPEED].astype(float)
    low, high = speed.min(), speed.max()
    width = high - low if high > low else 1.0
    total = curves[ACCURACY].astype(float) + (curves[SPEED].astype(float) - low) / width
    return curves.assign(**{SCALED: total.to_numpy(float) if len(curves) else np.empty(0)})


def _draw(
    curves: pd.DataFrame, panels: Sequence[Panel], out_dir: Path, name: str, options: Mapping[str, Any] | Any
) -> list[Path]:
    """Writes `name`.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(CurveOptions, options)
    columns = [panel.column for panel in panels]
    if len(curves):
        style.require_columns(curves, ("run", "step", "role", "benchmark", "published", *columns), name)
    width = 4.2 if len(panels) == 1 else style.PAGE_WIDTH_IN
    with style.styled():
        figure = style.new_figure(width, chosen.height_in + 0.3)
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        drawn = [draw_panel(axes, curves, panel, chosen.window) for axes, panel in zip(places, panels, strict=True)]
        for axes, panel in zip(places, panels, strict=True):
            axes.set_ylabel("Mean over rollouts" if panel.column != COLLAPSE else "Share of pairs")
        style.legend(figure, places)
        return style.save(figure, pd.concat(drawn, ignore_index=True), out_dir, name)
