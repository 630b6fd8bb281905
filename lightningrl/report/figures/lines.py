"""A training curve as figures draw it: raw values faint, their centred running mean on top. Nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lightningrl.report.figures.style import smooth


def running_line(
    axes: Axes, along: Sequence[float], values: Sequence[float], window: int, colour: str, **style: Any
) -> np.ndarray:
    """Draw `values` against `along`; returns the running mean over `window` values. `style` is the thick line's."""
    smoothed = smooth(values, window)
    axes.plot(along, values, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
    axes.plot(along, smoothed, color=colour, zorder=3, **style)
    return smoothed
