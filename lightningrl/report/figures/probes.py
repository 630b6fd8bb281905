"""What probes found: `reliability`, and `together`, which tokens come with others. Both read the `probes` table, and of
`pooled` the order of series: a run has the colour that its series has in the `study` figure.

Reliability: open positions of a decode that reveals one token a forward, by the probability of their likeliest token;
how often that token is the one which ended there. On the diagonal confidence is honest; under it, revealing all
that is sure enough at once costs accuracy. The size of a point grows with how many positions it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lightningrl.report.figures.style import (
    GREY,
    MARKERS,
    PAGE_WIDTH_IN,
    legend_columns,
    new_figure,
    policy_colours,
    read_options,
    require_columns,
    save,
    styled,
)

RUNS = ("-", (0, (3, 1.2)), (0, (1, 1)))
"""Lines of the first, second and third run of a series."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Options of both figures.

    >>> ProbeOptions().panel_height_in
    2.8
    """

    panel_height_in: float = 2.8


def reliability(
    table: pd.DataFrame, pooled: pd.DataFrame, out_dir: Path, options: ProbeOptions | Mapping[str, Any] | None = None
) -> list[Path]:
    """Write reliability.pdf, .png and .csv; returns their paths."""
    chosen = read_options(ProbeOptions, options)
    table = table[table["measure"].isin(["confidence", "agreement"])]
    require_columns(table, ("policy", "benchmark", "label", "count", "value"), "reliability")
    keys = ["benchmark", "policy", "label", "count"]
    wide = table.pivot_table(index=keys, columns="measure", values="value", sort=False).reset_index()
    wide.columns.name = None
    benchmarks, looks, nth = list(dict.fromkeys(wide["benchmark"])), _looks(table, pooled), _nth(table)
    with styled():
        figure, panels = _panels(len(benchmarks), chosen)
        for axes, benchmark in zip(panels, benchmarks, strict=True):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
            for policy, look in looks.items():
                rows = wide[(wide["benchmark"] == benchmark) & (wide["policy"] == policy)].sort_values("confidence")
                if len(rows):
                    sizes = 8 + 90 * np.sqrt(rows["count"] / rows["count"].sum())
                    line = {
                        "label": policy,
                        "zorder": 2,
                        "markersize": 0.01,
                        "linestyle": RUNS[nth[policy] % len(RUNS)],
                    }
                    axes.plot(rows["confidence"], rows["agreement"], **line, **look)
                    axes.scatter(
                        rows["confidence"],
                        rows["agreement"],
                        s=sizes,
                        zorder=3,
                        edgecolor="white",
                        linewidth=0.5,
                        **look,
                    )
            axes.set(title=benchmark, xlim=(0, 1.03), ylim=(0, 1.03))
        figure.supxlabel("Probability of the likeliest token", fontsize=8.5)
        figure.supylabel("Share that ended there", fontsize=8.5)
        _legend(figure, list(looks))
        return save(figure, wide, out_dir, "reliability")


def together(
    table: pd.DataFrame, pooled: pd.DataFrame, out_dir: Path, options: ProbeOptions | Mapping[str, Any] | None = None
) -> list[Path]:
    """Write together.pdf, .png and .csv: by class of token, how many positions its forward revealed."""
    chosen = read_options(ProbeOptions, options)
    table = table[table["measure"] == "class_together"]
    require_columns(table, ("policy", "benchmark", "label", "count", "value"), "together")
    benchmarks, looks, nth = list(dict.fromkeys(table["benchmark"])), _looks(table, pooled), _nth(table)
    with styled():
        figure, panels = _panels(len(benchmarks), chosen)
        for axes, benchmark in zip(panels, benchmarks, strict=True):
            here = table[table["benchmark"] == benchmark]
            classes = list(dict.fromkeys(here["label"]))
            height = 0.8 / len(looks)
            for number, (policy, look) in enumerate(looks.items()):
                rows = here[here["policy"] == policy].set_index("label")["value"]
                at = [place + number * height for place, label in enumerate(classes) if label in rows]
                values = [rows[label] for label in classes if label in rows]
                shade = 0.6 ** nth[policy]
                axes.barh(at, values, height=0.9 * height, color=look["color"], alpha=shade, label=policy)
            axes.set_yticks([place + 0.4 - height / 2 for place in range(len(classes))], classes)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.set_title(benchmark)
        figure.supxlabel("Positions revealed by the token's forward (mean, itself included)", fontsize=8.5)
        _legend(figure, list(looks))
        return save(figure, table, out_dir, "together")


def _looks(table: pd.DataFrame, pooled: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and marker of those that were probed, what they were trained from first: their series' in `study`."""
    order = list(dict.fromkeys(pooled.loc[pooled["role"] != "ablation", "series"]))
    table = table.sort_values("role", key=lambda role: role != "before", kind="stable")
    series = dict(zip(table["policy"], table["series"], strict=True))
    colours = policy_colours(series.values(), order)
    places = list(colours)
    return {
        policy: {"color": colours[name], "marker": MARKERS[places.index(name) % len(MARKERS)]}
        for policy, name in series.items()
    }


def _nth(table: pd.DataFrame) -> dict[str, int]:
    """Of each run, how many of its series come before it: they share a colour."""
    runs = table.drop_duplicates("policy")
    return dict(zip(runs["policy"], runs.groupby("series").cumcount(), strict=True))


def _panels(count: int, chosen: ProbeOptions) -> tuple[Figure, np.ndarray]:
    """One beside the other, a benchmark each."""
    figure = new_figure(min(PAGE_WIDTH_IN, 3.6 * count + 0.4), chosen.panel_height_in + 0.4)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _legend(figure: Figure, names: Sequence[str]) -> None:
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    columns = legend_columns(names, figure.get_figwidth())
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns)
