"""Figure 1 of the paper: accuracy on four benchmarks, average TPF and average AUP, beside other systems.

Solid bars were measured here; hatched ones are printed in the paper's Table 2. The paper draws five other systems; the
CSV has all of Table 2, published, measured, and what was measured minus what was published. There are averages over all
four benchmarks only. Measured accuracies have 95 % intervals. The published AUPs have several y_max, none of which is
ours (see `published/README.md`); our Table 2 recomputes them with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lightningrl.evaluation.intervals import triple
from lightningrl.report.figures import style
from lightningrl.report.paper.figures import NOT_RUN, OURS, colour_of, name_of
from lightningrl.report.paper.lines import Line, lines
from lightningrl.report.paper.printed import BENCHMARKS

OTHERS = {
    "EAGLE-3 (LLaMA-3.1)": style.ORANGE,
    "d3LLM-Dream": style.GREEN,
    "dParallel-LLaDA": style.PURPLE,
    "Fast-dLLM-v2": style.SKY,
    "Qwen-2.5-7B-Instruct": style.GREY,
}
PUBLISHED, MEASURED = "as published", "measured here"
AVERAGES = {"tpf": "Average TPF", "aup": "Average AUP"}


@style.drawing("figure1")
def figure1(headline: pd.DataFrame) -> style.Drawn:
    """Draws the accuracies above, the averages below."""
    every = bars(headline)
    data = every[every["is_drawn"]]
    figure = style.new_figure(style.PAGE_WIDTH_IN, 4.2)
    grid = figure.add_gridspec(2, 2)
    above = figure.add_subplot(grid[0, :])
    _draw(above, data[data["metric"] == "accuracy_pct"])
    above.set_xticks(range(len(BENCHMARKS)), BENCHMARKS.values())
    above.set_title("Accuracy (%)")
    for n, (metric, title) in enumerate(AVERAGES.items()):
        axes = figure.add_subplot(grid[1, n])
        _draw(axes, data[data["metric"] == metric])
        axes.set_xticks([])
        axes.set_title(title)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure, every.drop(columns=["colour", "low", "high"])


def bars(headline: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each bar: LightningRL as measured (on each benchmark its first policy), its released checkpoint
    if measured, the others if measured; LightningRL and the others as published. NaN where a system was not run, or not
    on all four. Those of other rows of Table 2 are not drawn."""
    every = lines("table2", headline)
    of = {
        row: [line for line in every if line.row.identity == row]
        for row in dict.fromkeys(line.row.identity for line in every)
    }
    colours = {OURS: colour_of(OURS), **OTHERS}
    systems = []
    for role in ("", "released"):
        own = [one for one in of[OURS] if one.measured is not None and (one.measured.role == "released") == bool(role)]
        if own or not role:
            systems.append((name_of(OURS, role), colour_of(OURS, role), MEASURED, own))
    for row in (*OTHERS, *(row for row in of if row not in colours)):
        if own := [line for line in of[row] if line.measured is not None]:
            systems.append((name_of(row), colours.get(row, style.GREY), MEASURED, own))
    for row in (*colours, *(row for row in of if row not in colours)):
        systems.append((name_of(row), colours.get(row, style.GREY), PUBLISHED, of[row]))
    drawn = {name_of(row) for row in colours} | {name_of(OURS, "released")}
    return pd.DataFrame([bar | {"is_drawn": bar["system"] in drawn} for each in systems for bar in _bars_of(*each)])


def _bars_of(name: str, colour: str, source: str, own: Sequence[Line]) -> Iterator[dict[str, Any]]:
    first = {line.benchmark: line for line in reversed(own)}

    def printed(benchmark: str, column: str) -> float:
        return first[benchmark].published(column) if benchmark in first else np.nan

    def value(benchmark: str, column: str) -> float:
        if source == PUBLISHED or benchmark not in first:
            return printed(benchmark, column)
        line = first[benchmark]
        return line.value(line.shown(column)[0] if column in AVERAGES else column)

    system = {"system": name, "source": source}
    for benchmark in BENCHMARKS:
        accuracy, low, high = (value(benchmark, column) for column in triple("accuracy_pct"))
        bar = {"benchmark": benchmark, "metric": "accuracy_pct", "value": accuracy}
        bar |= {"note": NOT_RUN if np.isnan(accuracy) else "", "colour": colour, "low": low, "high": high}
        yield system | bar | _minus_published(source, accuracy, printed(benchmark, "accuracy_pct"))
    for metric in AVERAGES:
        average = np.mean([value(benchmark, metric) for benchmark in BENCHMARKS])
        known = np.mean([printed(benchmark, metric) for benchmark in BENCHMARKS])
        bar = {"benchmark": "average", "metric": metric, "value": average, "colour": colour}
        marks = {line.shown(metric)[1] for line in first.values()} if source == MEASURED else set()
        bar["note"] = "not run on all four" if np.isnan(average) else "server's word" if marks - {""} else ""
        yield system | bar | _minus_published(source, average, known)


def _minus_published(source: str, value: float, published: float) -> dict[str, float]:
    return {"published": published, "difference": value - published if source == MEASURED else np.nan}


def _draw(axes: Axes, data: pd.DataFrame) -> None:
    """Draws a group of bars for each benchmark, with one bar for each system."""
    groups = list(data.groupby(["system", "source"], sort=False))
    width = 0.84 / len(groups)
    for number, ((name, source), rows) in enumerate(groups):
        at, colour = np.arange(len(rows)) + (number - (len(groups) - 1) / 2) * width, rows["colour"].iloc[0]
        hatched = {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        label = f"{name}, {source}" + (f" ({NOT_RUN})" if rows["value"].isna().all() else "")
        look = {"color": colour} if source == MEASURED else hatched
        axes.bar(at, rows["value"], 0.9 * width, label=label, linewidth=0.8, **look)
        axes.vlines(at, rows["low"], rows["high"], color=style.INK, linewidth=1.0, zorder=3)
    axes.grid(axis="x", visible=False)
