"""Facts of a machine and a site, which enter no stage's key: resources and jobs, where data are, the jail, the pin."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lightningrl.config.section import Section

ACKNOWLEDGEMENT = "I run model-written code without a jail"


class Data(Section):
    """Places, which enter no key: the files' hashes are checked, whatever the place."""

    mirror: str | None = None
    """Folder with the files, laid out as the benchmarks' sources say. The environment variable LIGHTNINGRL_DATA_MIRROR
    goes before it. Default: the Hugging Face hub."""
    lock: str = Field("config/data.lock.json", min_length=1)
    """File that the first fetch from the hub writes (commit, sha256, bytes); later fetches must agree with it."""
    require_pins: bool = False
    """Refuse files that neither a mirror's hash, nor the hub's commit and hash, nor the lock pins."""


class Job(Section):
    """What a job of a rule asks of a cluster; one node."""

    gpus: int = Field(0, ge=0)
    """GPUs of one node. A training has one process on each, but where `train_processes` says otherwise."""
    cpus: int = Field(1, gt=0)
    """CPUs of the same node: a job that asks for 96 never starts where nodes have 64 cores."""
    memory_gb: float = Field(4.0, ge=0.001)
    """The node's memory that a job asks for, not the GPUs', in 10^9 bytes. A second attempt asks for 1.5 times as much,
    later ones for twice: ask for at most half of what a node has."""
    hours: float = Field(1.0, gt=0, le=8760)
    """Time limit. Shortly before it a training, pre-training or evaluation saves; the next attempt goes on. A
    preemption gives notice of a minute or two, mostly less than a step takes, and so costs all since the last save."""

    def memory_mb(self, attempt: int) -> int:
        """Returns 10^6 bytes, by attempt from 1 on.

        >>> [Job(memory_gb=4).memory_mb(attempt) for attempt in (1, 2, 3, 4)]
        [4000, 6000, 8000, 8000]
        """
        return round(1000 * self.memory_gb * min(1.0 + 0.5 * (attempt - 1), 2.0))

    @property
    def minutes(self) -> int:
        """The time limit, in whole minutes."""
        return max(1, round(60 * self.hours))


class Resources(Section):
    """Machine facts: they change how long things take, no key and no name of a result (`device`: see there)."""

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
    """Where models run. cuda is experimental: no recorded run yet; results on it have no promise of equal bits. It
    decides what `evaluation.precision: auto` stands for, which is in keys."""
    train_processes: int | None = Field(None, gt=0)
    """Processes of a training run: the rule launches so many with torchrun, each on its own device. Default: one on
    each GPU of its job, one where `jobs` names none."""
    checkpoint_activations: bool = False
    """Training computes each layer's activations again in the backward instead of keeping them."""
    max_minutes: float | None = Field(None, gt=0)
    """Time budget of a training process: it saves and exits 75 shortly before."""
    jobs: dict[str, Job] = {}
    """What jobs ask of a cluster, by rule (`evaluate`) or by rule and size of the model (`train/8b`), which goes before
    and takes nothing from it; `evaluate` is also what speeds, probes, replays and quantisations ask for.
    Without an entry: the values below. Default: the profile's defaults for all. Where a site sets SLURM_CONF, the
    executor plugin's step inside a job drops it: docs/cluster.md has the way round."""

    def job(self, rule: str, size: str = "") -> Job:
        """Returns what a job of this rule, with a model of this size, asks for.

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


class Sandbox(Section):
    """The jail for model-written programs; in no stage's key, each record names the level that judged it."""

    level: Literal["auto", "bwrap", "unshare", "landlock", "none"] = "auto"
    """`auto`: the best that holds on this machine (or the environment variable LIGHTNINGRL_SANDBOX names one). A named
    level that does not hold stops the judging. `none` is no jail: see SECURITY.md."""
    acknowledge: str = Field("", max_length=200)
    """For the level `none` only: the sentence `I run model-written code without a jail`."""

    @model_validator(mode="after")
    def _none_is_acknowledged(self) -> Sandbox:
        if self.level == "none" and self.acknowledge != ACKNOWLEDGEMENT:
            raise ValueError(
                f"level `none` runs model-written code with your rights. If nothing on this machine is of value, "
                f"set `acknowledge: {ACKNOWLEDGEMENT}`; found {self.acknowledge!r}"
            )
        return self


class Code(Section):
    """Part of no stage's config; a pin changes keys only where today's code differs from the pinned one."""

    pin: str | None = None
    """A file that `lightningrl pin` writes, relative to the YAML file that names it: digests by stage, which keys take
    in place of today's code, so that a refactoring makes no finished stage run again."""
