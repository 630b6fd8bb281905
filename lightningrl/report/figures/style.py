"""What all figures share: the look, colours, options, smoothing, legends, label placement, and saving with fixed bytes.

Figures are drawn on `matplotlib.figure.Figure` objects, without pyplot and its global state, at their printed size with
text of 8 points or more. The same data gives the same PDF, PNG and CSV bytes on one machine and matplotlib version:
there are no dates or versions in the files, and the user's matplotlibrc is not used.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lightningrl.errors import ConfigError
from lightningrl.report.formats import csv_text
from lightningrl.utils.files import write_bytes

Options = TypeVar("Options")

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's colour-blind safe palette, without its yellow, which is too faint for lines."""
GREY, INK = "#595959", "#222222"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")
"""Dashes of lines that share a colour; their markers differ, too."""

COLUMN_WIDTH_IN, PAGE_WIDTH_IN = 3.4, 6.9
"""The width of a column and of the whole text of a two-column paper, inches."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8.5, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.major.size": 3, "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.5, "lines.markersize": 4.5, "legend.frameon": False, "legend.handlelength": 1.8,
    "figure.dpi": 100, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "lightningrl",
    "figure.constrained_layout.use": True, "axes.unicode_minus": True,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Applies our style over matplotlib's defaults while the context lasts; figures are drawn and saved inside it."""
    with rc_context():
        matplotlib.style.use(["default", STYLE])
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Returns an empty figure of a printed size, which can be measured (labels are placed by their drawn boxes)."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure


def read_options(cls: type[Options], options: Options | Mapping[str, Any] | None) -> Options:
    """Returns a figure's options from the experiment's YAML. Raises ConfigError for an unknown key."""
    if isinstance(options, cls):
        return options
    values = dict(options or {})  # type: ignore[call-overload]
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown figure option {', '.join(unknown)}; the options are {', '.join(known)}.")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def require_columns(table: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raises ConfigError when the table lacks a column or has no rows."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ConfigError(f"the {figure} figure needs the column(s) {', '.join(missing)}; check the table it is given.")
    if table.empty:
        raise ConfigError(f"the {figure} figure was given an empty table; run the stages that fill it, or drop it.")


def policy_colours(drawn: Iterable[str], policies: Sequence[str] = ()) -> dict[str, str]:
    """Returns each policy's colour: grey for the first of `policies`, the base, and the palette for the others.

    Policies that are not in the list take the colours behind it, in order.
    """
    known = list(policies) or [""]
    known += [policy for policy in dict.fromkeys(drawn) if policy not in known]
    return {policy: GREY if place == 0 else PALETTE[(place - 1) % len(PALETTE)] for place, policy in enumerate(known)}


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Returns the centred running mean over `window` values, narrower at both ends; NaN values are skipped."""
    series = pd.Series(np.asarray(values, float))
    return series.rolling(max(1, window), center=True, min_periods=1).mean().to_numpy()


def running_line(
    axes: Axes, along: Sequence[float], values: Sequence[float], window: int, colour: str, **line: Any
) -> np.ndarray:
    """Draws a training curve, raw values faint and their running mean on top; returns the running mean.

    line: matplotlib's properties of the running mean's line.
    """
    smoothed = smooth(values, window)
    axes.plot(along, values, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
    axes.plot(along, smoothed, color=colour, zorder=3, **line)
    return smoothed


def legend(figure: Figure, panels: Iterable[Axes], more: Mapping[str, Any] | None = None) -> None:
    """Writes one legend above the figure for the lines of all panels, each name once; more: further handles."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    found |= more or {}
    if found:
        widest = max(len(name) for name in found) * 0.085 + 0.6  # inches: letters, and the handle
        columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
        figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns)


def save(figure: Figure, data: pd.DataFrame, out_dir: Path, name: str) -> list[Path]:
    """Writes `name`.pdf, .png and .csv (the plotted data) into `out_dir`; returns their paths."""
    paths = []
    for suffix, metadata in (
        ("pdf", {"Creator": None, "Producer": None, "CreationDate": None}),
        ("png", {"Software": None}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        paths.append(Path(out_dir) / f"{name}.{suffix}")
        write_bytes(paths[-1], buffer.getvalue())
    paths.append(Path(out_dir) / f"{name}.csv")
    write_bytes(paths[-1], csv_text(data).encode())
    return paths


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[float, float, str, dict[str, Any]]],
    avoid: Sequence[tuple[float, float]],
    worst: float = math.inf,
) -> None:
    """Writes each (x, y, text, text style) near its point where it covers least of the points in `avoid`.

    It tries sixteen positions around each point, in the order of the labels (important ones first), and must be called
    when everything else is drawn, because it fixes the layout. `avoid` has data coordinates, with lines sampled
    densely. A label whose best place still costs more than `worst` (3 per covered point, 200 per covered label) is left
    out.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    obstacles = axes.transData.transform(np.array(avoid, float).reshape(-1, 2))
    frame = axes.get_window_extent(renderer)
    taken: list[tuple[float, float, float, float]] = []
    pixels = figure.dpi / 72
    directions = [(np.cos(a), np.sin(a)) for a in np.radians([45, 90, 0, -45, 135, -90, 180, -135])]
    for x, y, text, text_style in labels:
        note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", va="center", ha="center", **text_style)
        note.set_in_layout(False)
        box = note.get_window_extent(renderer)
        anchor = axes.transData.transform((x, y))
        best = None
        for gap in (4.0, 8.0):
            for c, s in directions:
                dx, dy = c * (box.width / 2 + gap * pixels), s * (box.height / 2 + gap * pixels)
                left, bottom = anchor[0] + dx - box.width / 2, anchor[1] + dy - box.height / 2
                right, top = left + box.width, bottom + box.height
                inside = (obstacles > (left - 2, bottom - 2)).all(1) & (obstacles < (right + 2, top + 2)).all(1)
                cost = 3.0 * inside.sum() + 0.2 * gap
                for l2, b2, r2, t2 in taken:
                    cost += 200.0 * (left < r2 + 2 and l2 < right + 2 and bottom < t2 + 1 and b2 < top + 1)
                cost += 1000.0 * (left < frame.x0 or right > frame.x1 or bottom < frame.y0 or top > frame.y1)
                if best is None or cost < best[0]:
                    best = (cost, dx, dy, (left, bottom, right, top))
        assert best is not None
        if best[0] > worst:
            note.remove()
            continue
        note.set_path_effects([withStroke(linewidth=1.6, foreground="white")])
        note.set_position((best[1] / pixels, best[2] / pixels))
        taken.append(best[3])


def label_line_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], gap_pt: float = 10.5) -> None:
    """Writes (y, text, colour) to the right of the axes at the lines' ends, pushed apart so that none overlap."""
    axes.figure.draw_without_rendering()
    height_pt = axes.get_window_extent().height / axes.figure.dpi * 72
    low, high = axes.get_ylim()
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    targets = np.array([(ends[i][0] - low) / (high - low) * height_pt for i in order])
    placed = targets.copy()
    lines = np.array([ends[i][1].count("\n") + 1 for i in order])
    gaps_pt = gap_pt * (lines[:-1] + lines[1:]) / 2
    for _ in range(200):  # push overlapping neighbours apart by equal shares until none overlaps
        overlap = gaps_pt - np.diff(placed)
        if (overlap <= 1e-6).all():
            break
        push = np.where(overlap > 0, overlap / 2, 0.0)
        placed[:-1] -= push
        placed[1:] += push
    for i, at in zip(order, placed, strict=True):
        _, text, colour = ends[i]
        axes.annotate(text, (1.015, at / height_pt), xycoords="axes fraction", color=colour, va="center", ha="left")
