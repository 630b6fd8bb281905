"""The tables and figures of an experiment, and their looks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightningrl.config.section import Section


class Plot(Section):
    """Looks of the figures."""

    smooth_steps: int = Field(5, gt=0)
    """Window of the running mean in reward curves."""


class Report(Section):
    """The tables and figures of an experiment, and how their intervals are computed."""

    bootstrap: int = Field(1000, gt=0)
    """Replicates of the bootstrap over problems."""
    tables: list[str] = ["main", "frontier"]
    figures: list[str] = ["frontier", "rewards", "steps", "collapse"]
    replays: list[str] = []
    """Runs of which pages are made that replay test problems, forward by forward, beside the base's answer."""
    replayed_problems: int = Field(2, gt=0)
    """Pages of each: the first test problems of the benchmark it was trained on."""
    probes: list[str] = []
    """Systems to look into, `base`, runs or others; `["*"]`: all. How honest their confidence is, what they reveal
    together, how many phrasings are left; on validation problems of what they were trained on (`base`: of all that the
    others were; where nothing is trained, of what they are evaluated on by decoding)."""
    probed_problems: int = Field(300, gt=0)
    """Problems of each, the first ones; all where there are fewer."""
    looks: list[Literal["answers", "states", "inputs"]] = Field(["answers"], min_length=1)
    """What a probe looks at: `answers`, as said; `states`, how a quantised system's confidence, tokens and
    distributions differ from its float weights' on the states that those visit; `inputs`, outliers among the inputs of
    linear layers."""
    seeds: str | None = None
    """CSV file with the headlines of runs of this experiment under other seeds, in the columns of `headline.csv`;
    `lightningrl results` then says where this one lies among them. A path from the working folder; changes no key."""
    plot: Plot = Plot()
