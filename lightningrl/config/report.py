"""Statistics and looks of the results; resources, which never enter a key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lightningrl.config.section import Section


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
    """Policies to look into, `base` or runs: how honest their confidence is, what they reveal together, how many
    phrasings are left; on validation problems of what they were trained on (`base`: of all that the others were)."""
    probed_problems: int = Field(300, gt=0)
    """Problems of each, the first ones; all where there are fewer."""
    seeds: str | None = None
    """CSV file with the headlines of runs of this experiment under other seeds, in the columns of `headline.csv`;
    `lightningrl results` then says where this one lies among them. A path from the working folder; changes no key."""
    plot: Plot = Field(default_factory=lambda: Plot())


class Plot(Section):
    """Looks of the figures."""

    smooth_steps: int = Field(5, gt=0)
    """Window of the running mean in reward curves."""


class Job(Section):
    """What a job of a rule asks of a cluster; one node."""

    gpus: int = Field(0, ge=0)
    """GPUs of one node. A training has one process on each, but where `train_processes` says otherwise."""
    cpus: int = Field(1, gt=0)
    memory_gb: float = Field(4.0, gt=0)
    """The node's memory that a job asks for, not the GPUs', in 10^9 bytes. A second attempt asks for 1.5 times as much,
    later ones for twice: ask for at most half of what a node has."""
    hours: float = Field(1.0, gt=0)
    """Time limit. Shortly before it a training, pre-training or evaluation saves; the next attempt goes on."""

    def memory_mb(self, attempt: int) -> int:
        """In 10^6 bytes, by attempt from 1 on.

        >>> [Job(memory_gb=4).memory_mb(attempt) for attempt in (1, 2, 3, 4)]
        [4000, 6000, 8000, 8000]
        """
        return round(1000 * self.memory_gb * min(1.0 + 0.5 * (attempt - 1), 2.0))

    @property
    def minutes(self) -> int:
        """The time limit, in whole minutes."""
        return max(1, round(60 * self.hours))


class Resources(Section):
    """Machine facts: they change how long things take, no key and no name of a result."""

    pretrain_threads: int = Field(2, gt=0)
    """Micro-batches of pre-training that are computed side by side; their number changes no result."""
    train_threads: int = Field(1, gt=0)
    evaluate_threads: int = Field(1, gt=0)
    speed_threads: int = Field(1, gt=0)
    evaluate_parts: int = Field(1, gt=0)
    """Jobs that an evaluation's problems are spread over; each loads the model once and decodes all thresholds."""
    judge_workers: int = Field(1, gt=0)
    """Jails that run candidate programs at the same time, in each process."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run. cuda is experimental: no recorded run yet; results on it have no promise of equal bits."""
    train_processes: int | None = Field(None, gt=0)
    """Processes of a training run: the rule launches so many with torchrun, each on its own device. Left out: one on
    each GPU of its job, one where `jobs` names none."""
    checkpoint_activations: bool = False
    """Training computes each layer's activations again in the backward instead of keeping them."""
    max_minutes: float | None = Field(None, gt=0)
    """Time budget of a training process: it saves and exits 75 shortly before."""
    jobs: dict[str, Job] = {}
    """What jobs ask of a cluster, by rule (`evaluate`) or by rule and size of the model (`train/8b`), which goes before
    and takes nothing from it; `evaluate` is also what speeds, probes, replays and quantisations ask for.
    Without an entry: the values below. Left out: the profile's defaults for all."""

    @field_validator("jobs")
    @classmethod
    def _rules(cls, jobs: dict[str, Job]) -> dict[str, Job]:
        for name in jobs:
            rule, slash, size = name.partition("/")
            if size != size.lower():
                raise ValueError(f"found {name!r}: sizes of models are written like {rule}/{size.lower()}")
            if not rule or (slash and not size):
                raise ValueError(f"found {name!r}, allowed: a rule or <rule>/<size of a model>")
        return jobs

    def job(self, rule: str, size: str = "") -> Job:
        """What a job of this rule, with a model of this size, asks for.

        >>> resources = Resources(jobs={"train": Job(gpus=8), "train/1.7b": Job(gpus=2)})
        >>> [resources.job("train", size).gpus for size in ("8b", "1.7b", "")], resources.job("evaluate").gpus
        ([8, 2, 8], 0)
        """
        return self.jobs.get(f"{rule}/{size}") or self.jobs.get(rule) or Job()

    def processes(self, size: str = "") -> int:
        """Returns the number of processes of a training from a model of this size.

        >>> jobs = {"train": Job(gpus=8)}
        >>> Resources(jobs=jobs).processes(), Resources(jobs=jobs, train_processes=2).processes()
        (8, 2)
        """
        return self.train_processes or max(1, self.job("train", size).gpus)


Report.model_rebuild()
