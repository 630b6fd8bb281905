"""The rules that Snakemake is given: one for each kind of stage, made from the table of kinds and the plan.

A rule's wildcards are a stage's name and key. Everything that depends on them is a function here, which Snakemake calls
when it builds the DAG or starts a job; the Snakefile itself only puts the rules in a loop.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.io import ancient, is_flagged, report

from lightningrl.config.machine import Job, Resources
from lightningrl.pipeline.kinds import Kind
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.sharded_evaluation import marker, marker_file
from lightningrl.pipeline.snakemake import made_again, settle
from lightningrl.pipeline.stage import MANIFEST, Stage, folder_of, last_log_of, log_of


@dataclass(frozen=True)
class Rule:
    """What the Snakefile says in a rule."""

    name: str
    inputs: Callable[[Any], list[Any]]
    outputs: list[Any]
    log: str
    benchmark: str
    is_local: bool
    threads: int | Callable[[Any], int]
    resources: Mapping[str, Callable[..., Any]]
    command: Callable[[Any, Any], str]


@dataclass(frozen=True)
class Rules:
    """The rules and targets of an experiment, and where their jobs run."""

    plan: Plan
    config: Path
    """The experiment's file, an absolute path."""
    python: str
    """The words of a shell that start a job's Python."""
    workflow: Any
    """Snakemake's own object, whose settings are known only when the DAG is built."""
    conda: str = ""
    """The file of the environment that `--sdm conda` makes."""
    image: str = ""
    """The image in which `--sdm apptainer` runs jobs; empty without."""

    @property
    def experiment(self) -> str:
        return self.plan.experiment.experiment

    @property
    def resources(self) -> Resources:
        return self.plan.experiment.resources

    def __iter__(self) -> Iterator[Rule]:
        for kind in self.plan.kinds.values():
            yield self._rule(kind)
            if kind.in_parts:
                yield self._rule(kind, part=True)

    def targets(self) -> dict[str, list[str]]:
        """Returns what may be asked for by name -> its files: every stage (`train_lightningrl`, `table1`); all of the
        experiment, by its own name and by its file's."""
        found = {stage.target: files_of(stage) for stage in self.plan.stages if stage is not self.plan.release}
        taken = {*found, *(rule.name for rule in self), "all"}
        for name in sorted({self.experiment, self.config.stem} - taken):
            found[name] = files_of(self.plan.release)
        return found

    def _rule(self, kind: Kind, part: bool = False) -> Rule:
        """Returns the rule that makes a kind's stages, or the rule of one job of those over which their work is spread;
        the stage's own then gathers it."""
        name = "release" if kind.name == "release" else "{name}"
        log = log_of(self.experiment, kind.name, name, "{key}")
        mark = marker_file(self.experiment, name, "{key}", "{part}", "{parts}").as_posix()
        ends = ".{part}-of-{parts}" if part else ""
        threads, resources = self._asked(kind)
        return Rule(
            name=kind.name + "_part" * part,
            inputs=self._inputs(kind, gathers=not part),
            outputs=[mark] if part else self._outputs(kind, name),
            log=last_log_of(log, ("{part}", "{parts}") if part else None).as_posix(),
            benchmark=f"benchmarks/{self.experiment}/{kind.name}/{name}-{{key}}{ends}.tsv",
            is_local=not kind.job,
            threads=threads,
            resources=resources,
            command=self._command(kind, " --part {0.part}/{0.parts}" if part else ""),
        )

    def _outputs(self, kind: Kind, name: str) -> list[Any]:
        """Returns the patterns of a kind's final files: first those that the HTML report shows, whose captions rely on
        it, then the others, the manifest last."""
        files = kind.files_in(self.plan.experiment) if kind.name != "release" else self.plan.release.files
        folder = folder_of(self.experiment, kind.name, name, "{key}")
        found = [shown_in_report(kind, file, (folder / file).as_posix()) for file in (*files, MANIFEST)]
        return sorted(found, key=lambda each: not is_flagged(each, "report"))

    def _stage(self, kind: Kind, wildcards: Any) -> Stage:
        return self.plan.stage(kind.name, wildcards.get("name", "release"))

    def _inputs(self, kind: Kind, gathers: bool) -> Callable[[Any], list[Any]]:
        """Returns the input function of a rule: the manifests of what its stage reads, which are written last; the
        stage itself checks the files behind them. gathers: whether it waits for the jobs that share its work.

        A folder's name says what is in it, so times mean nothing: inputs of a finished stage are ancient, unless it is
        to be made again. An unfinished stage has ordinary inputs, because Snakemake would leave it out of a run that
        makes an existing ancient input again. What must only be finished before it (the self-check of a judge) concerns
        it until it is made: a finished stage has its result in its manifest.
        """

        def inputs(wildcards: Any) -> list[Any]:
            forced_here = self._forced
            stage = self._stage(kind, wildcards)
            if wildcards.key != stage.key:
                raise WorkflowError(
                    f"{kind.name} {stage.name}: {wildcards.key} is not the key of today's config and code "
                    f"({stage.key}); an older version cannot be made again from here"
                )
            is_finished = stage.manifest.is_file()
            if is_finished and stage.folder not in forced_here:
                return [ancient(source.manifest.as_posix()) for source in stage.inputs.values()]
            count = self.resources.evaluate_parts if gathers and stage.spec.in_parts and not is_finished else 1
            parts = [marker(stage, (index, count)).as_posix() for index in range(1, count + 1)] if count > 1 else []
            return [source.manifest.as_posix() for source in stage.upstream] + parts

        return inputs

    @cached_property
    def _forced(self) -> set[Path]:
        """The folders of the stages that are made again; in a job of a cluster there are none, because there Snakemake
        forces the job itself. This is known when the DAG is built, not yet when the rules are read."""
        settle(self.workflow)
        return made_again(self.workflow, self.plan) if self.workflow.is_main_process else set()

    def _asked(self, kind: Kind) -> tuple[int | Callable[[Any], int], dict[str, Callable[..., Any]]]:
        """Returns the CPUs of a job, and what else it asks a cluster for, by the size of its model; where the config
        says nothing of jobs, the threads of a stage's own computations, and the profile's defaults.

        A job asks for one node: Slurm may otherwise take its GPUs from several, of which its step would see one.
        """
        one = {"nodes": lambda wildcards: 1} if kind.job else {}
        if not self.resources.jobs or not kind.job:
            return kind.threads_in(self.resources), one

        def job(wildcards: Any) -> Job:
            return self.resources.job(kind.job, self._stage(kind, wildcards).size)

        return lambda wildcards: job(wildcards).cpus, one | {
            "gpu": lambda wildcards: job(wildcards).gpus or None,
            "mem_mb": lambda wildcards, attempt: job(wildcards).memory_mb(attempt),
            "runtime": lambda wildcards: job(wildcards).minutes,
        }

    def _command(self, kind: Kind, part: str) -> Callable[[Any, Any], str]:
        """Returns the function that gives a rule's command line. part: a format of the wildcards."""

        def command(wildcards: Any, resources: Any) -> str:
            stage = self._stage(kind, wildcards)
            count = self.resources.processes(stage.size) if kind.launched else 1  # one on each GPU of one node
            launcher = f" -m torch.distributed.run --standalone --nproc-per-node {count}" if count > 1 else ""
            name = "" if kind.name == "release" else f" --name {stage.name}"
            what = f"{kind.name} --config {shlex.quote(str(self.config))}{name} --key {wildcards.key}"
            ends = part.format(wildcards) + self._until(kind, resources)
            return f"{self.python}{launcher} -m lightningrl {what}{ends}"

        return command

    def _until(self, kind: Kind, resources: Any) -> str:
        """Returns, in a cluster's job, the option with which a stage saves and ends by itself before the time limit.

        It is less than what Slurm says is left by now, because two starts of Snakemake, maybe from a slow disk, came
        before."""
        limit = resources.get("runtime")
        if not kind.saves or not self.workflow.remote_exec or not limit:
            return ""
        return f" --max-minutes {max(0.0, minutes_left(limit) - min(5.0, 0.1 * limit)):.2f}"


def shown_in_report(kind: Kind, file: str, path: str) -> Any:
    """Returns a final file's path, which carries caption, category and labels where the HTML report shows the file."""
    if kind.shown is None:
        return path
    pattern = re.escape(kind.shown.file).replace(re.escape("{number}"), "(?P<number>[0-9]+)")
    found = re.fullmatch(pattern, file)
    if found is None:
        return path
    number = found.groupdict().get("number", "")
    labels = {column: text.replace("{number}", number) for column, text in kind.shown.labels.items()}
    return report(path, caption=kind.shown.caption, category=kind.shown.category, labels=labels)


def files_of(stage: Stage) -> list[str]:
    """Returns the paths of a stage's final files, the manifest included."""
    return [(stage.folder / name).as_posix() for name in stage.outputs]


@cache
def minutes_left(limit: float) -> float:
    """Returns the minutes until this job's time limit, as Slurm says; all of the limit where Slurm cannot be asked."""
    command = ["squeue", "--noheader", "--format=%L", "--jobs", os.environ.get("SLURM_JOB_ID", "")]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return limit
    return min(limit, minutes_of(said, limit))


def minutes_of(said: str, otherwise: float) -> float:
    """Returns a time as Slurm writes it, `days-hours:minutes:seconds`, in minutes.

    >>> [minutes_of(said, 9.0) for said in ("1-00:30:00", "2:00:30", "1:30", "UNLIMITED")]
    [1470.0, 120.5, 1.5, 9.0]
    """
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", said)
    if not found:
        return otherwise
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return 60 * (24 * days + hours) + minutes + seconds / 60
