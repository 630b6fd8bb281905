"""Statistics and looks of the results; resources, which never enter a key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightningrl.config.section import Section


class Report(Section):
    """What is drawn, and how intervals are computed."""

    bootstrap: int = Field(1000, gt=0)
    """Replicates of the bootstrap over problems."""
    tables: list[str] = ["main", "frontier"]
    figures: list[str] = ["frontier", "rewards", "steps", "collapse"]
    replays: list[str] = []
    """Runs of which pages are made that replay test problems, forward by forward, beside the base's answer."""
    replayed_problems: int = Field(2, gt=0)
    """Pages of each: the first test problems of the benchmark it was trained on."""
    plot: Plot = Field(default_factory=lambda: Plot())


class Plot(Section):
    """Looks of the figures."""

    smooth_steps: int = Field(5, gt=0)
    """Window of the running mean in reward curves."""


class Resources(Section):
    """Machine facts: they change how long things take, no key and no name of a result."""

    pretrain_threads: int = Field(2, gt=0)
    train_threads: int = Field(1, gt=0)
    evaluate_threads: int = Field(1, gt=0)
    evaluate_parts: int = Field(1, gt=0)
    """Jobs that an evaluation's problems are spread over; each loads the model once and decodes all thresholds."""
    judge_workers: int = Field(1, gt=0)
    """Jails that run candidate programs at the same time, in each process."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run. cuda is experimental: no recorded run yet; results on it have no promise of equal bits."""
    train_processes: int = Field(1, gt=0)
    """Processes of a training run: the rule launches so many with torchrun, each on its own device."""
    checkpoint_activations: bool = False
    """Training computes each layer's activations again in the backward instead of keeping them."""
    max_minutes: float | None = Field(None, gt=0)
    """Time budget of a training process: it saves and exits 75 shortly before."""


Report.model_rebuild()
