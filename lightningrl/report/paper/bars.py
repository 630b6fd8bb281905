"""Figure 1 of the paper: accuracy on four benchmarks, average TPF and average AUP, beside other systems.

Solid bars were measured here; hatched ones are printed in the paper's Table 2. There are averages over all four
benchmarks only. Measured accuracies have 95 % intervals. The published AUPs have several y_max, none of which is ours
(see `published/README.md`); our Table 2 recomputes them with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.report.figures import style
from lightningrl.report.paper.lines import Line, lines
from lightningrl.report.paper.panels import NOT_RUN, OURS, colour_of, name_of
from lightningrl.report.paper.printed import BENCHMARKS

OTHERS = {
    "EAGLE-3 (LLaMA-3.1)": style.ORANGE,
    "d3LLM-Dream": style.GREEN,
    "dParallel-LLaDA": style.PURPLE,
    "Fast-dLLM-v2": style.SKY,
    "Qwen-2.5-7B-Instruct": style.GREY,
}
LOW, HIGH = "accuracy_pct_low", "accuracy_pct_high"
PUBLISHED, MEASURED = "as published", "measured here"
AVERAGES = {"tpf": "Average TPF", "aup": "Average AUP"}


@dataclass(frozen=True, slots=True)
class Figure1Options:
    """Options of Figure 1."""

    height_in: float = 4.2
    """Height of the figure, inches."""


@dataclass(frozen=True, slots=True)
class SystemBars:
    """One system's bars."""

    name: str
    colour: str
    source: str
    values: Mapping[tuple[str, str], float]
    """(benchmark, metric) -> value, for what was run."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Benchmark -> 95 % interval of a measured accuracy."""

    def average(self, metric: str) -> float:
        """Returns the mean over the four benchmarks, or NaN where one is missing."""
        return float(np.mean([self.values.get((benchmark, metric), np.nan) for benchmark in BENCHMARKS]))


def draw(
    headline: pd.DataFrame, out_dir: Path, options: Figure1Options | Mapping[str, Any] | None = None
) -> list[Path]:
    """Writes figure1.pdf, .png and .csv; returns their paths."""
    chosen = style.read_options(Figure1Options, options)
    found = systems(headline)
    with style.styled():
        figure = style.new_figure(style.PAGE_WIDTH_IN, chosen.height_in)
        grid = figure.add_gridspec(2, 2)
        above = figure.add_subplot(grid[0, :])
        names = tuple(BENCHMARKS)
        _bars(above, found, [[each.values.get((name, "accuracy_pct"), np.nan) for name in names] for each in found])
        _intervals(above, found)
        above.set_xticks(range(len(names)), BENCHMARKS.values())
        above.set_title("Accuracy (%)")
        for axes, (metric, title) in zip(
            (figure.add_subplot(grid[1, n]) for n in (0, 1)), AVERAGES.items(), strict=True
        ):
            _bars(axes, found, [[each.average(metric)] for each in found])
            axes.set_xticks([])
            axes.set_title(title)
        handles, labels = above.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        return style.save(figure, _data(found), out_dir, "figure1")


def systems(headline: pd.DataFrame) -> list[SystemBars]:
    """Returns LightningRL as measured, its released checkpoint if measured, LightningRL and the others as published."""
    every = lines("table2", headline)
    ours = [line for line in every if line.row.identity == OURS]
    found = []
    for released in (False, True):
        chosen = [each for each in ours if each.measured is not None and (each.measured.role == "released") == released]
        if chosen or not released:
            role = "released" if released else ""
            bounds = {each.benchmark: (each.value(LOW), each.value(HIGH)) for each in reversed(chosen)}
            found.append(SystemBars(name_of(OURS, role), colour_of(OURS, role), MEASURED, _measured(chosen), bounds))
    found.append(SystemBars(name_of(OURS), colour_of(OURS), PUBLISHED, ours[0].row.numbers))
    for name, colour in OTHERS.items():
        own = [line for line in every if line.row.identity == name]
        found.append(SystemBars(name, colour, PUBLISHED, own[0].row.numbers))
    return found


def _measured(chosen: Sequence[Line]) -> dict[tuple[str, str], float]:
    """Returns the values of the first policy on each benchmark."""
    values: dict[tuple[str, str], float] = {}
    for line in chosen:
        for metric in ("accuracy_pct", "tpf", "aup"):
            values.setdefault((line.benchmark, metric), line.value(metric))
    return values


def _bars(axes: Any, found: Sequence[SystemBars], values: Sequence[Sequence[float]]) -> None:
    """Draws a group of bars for each value, with one bar for each system."""
    width = 0.84 / len(found)
    for number, (system, heights) in enumerate(zip(found, values, strict=True)):
        solid = system.source == MEASURED
        label = f"{system.name}, {system.source}" + ("" if system.values else f" ({NOT_RUN})")
        style = (
            {"color": system.colour} if solid else {"facecolor": "white", "edgecolor": system.colour, "hatch": "////"}
        )
        at = np.arange(len(heights)) + (number - (len(found) - 1) / 2) * width
        axes.bar(at, heights, 0.9 * width, label=label, linewidth=0.8, **style)
    axes.grid(axis="x", visible=False)


def _intervals(axes: Any, found: Sequence[SystemBars]) -> None:
    width = 0.84 / len(found)
    for number, system in enumerate(found):
        for place, benchmark in enumerate(BENCHMARKS):
            if benchmark in system.intervals:
                at = place + (number - (len(found) - 1) / 2) * width
                axes.plot([at, at], system.intervals[benchmark], color=style.INK, linewidth=1.0)


def _data(found: Sequence[SystemBars]) -> pd.DataFrame:
    rows = []
    for system in found:
        named = {"system": system.name, "source": system.source}
        for benchmark in BENCHMARKS:
            value = system.values.get((benchmark, "accuracy_pct"), np.nan)
            note = NOT_RUN if np.isnan(value) else ""
            rows.append({**named, "benchmark": benchmark, "metric": "accuracy_pct", "value": value, "note": note})
        for metric in AVERAGES:
            value = system.average(metric)
            note = "not run on all four" if np.isnan(value) else ""
            rows.append({**named, "benchmark": "average", "metric": metric, "value": value, "note": note})
    return pd.DataFrame(rows)
