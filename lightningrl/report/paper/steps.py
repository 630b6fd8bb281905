"""Figure 7 of the paper: tokens revealed at each decoding step (left) and samples still running (right), GSM8K test.

Solid lines and bands are the mean and one standard deviation over the samples still running; dashed lines, on the right
axis, count those. `figures.steps` shows the same for any experiment, in two panels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from lightningrl.report.figures import style
from lightningrl.report.figures.steps import policy_lines
from lightningrl.report.paper.panels import NOT_RUN, OURS, SDAR, name_of, not_run, standing_for

WIDTH_IN = 4.6


@dataclass(frozen=True, slots=True)
class Figure7Options:
    """Options of Figure 7."""

    min_running: int = 5
    """The least number of running samples for which the mean is drawn."""
    height_in: float = 3.0
    """Height of the figure, inches."""


def draw(steps: pd.DataFrame, out_dir: Path, options: Figure7Options | Mapping[str, Any] | None = None) -> list[Path]:
    """Writes figure7.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(Figure7Options, options)
    drawn = []
    with style.styled():
        figure = style.new_figure(WIDTH_IN, chosen.height_in)
        left = figure.subplots()
        right = left.twinx()
        for row in (SDAR, OURS):
            found = list(standing_for(steps, row, "policy"))
            for name, colour, rows in found:
                rows = rows.sort_values("decoding_step")
                policy_lines(left, right, rows, name, {name: colour}, chosen.min_running, True, "--")
                drawn.append(rows.assign(name=name, note=""))
            if not found:
                not_run(left, row, "")
                drawn.append(pd.DataFrame([{"name": name_of(row), "published": row, "note": NOT_RUN}]))
        left.set_xlabel("Decoding step (denoise forward)")
        left.set_ylabel("Tokens revealed (mean ± 1 std)")
        right.set_ylabel("Samples running (dashed)")
        right.spines["right"].set_visible(True)
        right.grid(False)
        for axes in (left, right):
            axes.set_ylim(bottom=0.0)
        left.margins(x=0.01)
        left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        style.legend(figure, [left])
        columns = ["name", "note", *steps.columns]
        return style.save(figure, pd.concat(drawn, ignore_index=True).reindex(columns=columns), out_dir, "figure7")
