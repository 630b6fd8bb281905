"""What Snakemake may do to results: start the commands that make them, and nothing else.

Left to itself, Snakemake deletes the outputs of a job before the job starts and after it failed, because they might be
half-written. That danger does not exist here: a stage's command takes the folder's lease, goes on from what is there,
and writes the manifest last. But what Snakemake deletes may by then be somebody else's finished work: that of another
Snakemake, of a command by hand, or of an earlier job of its own that it took for lost.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.io import _IOFile
from snakemake.jobs import Job
from snakemake.settings.types import RerunTrigger

from lightningrl.pipeline import again, manifest
from lightningrl.pipeline.final_failures import mark_of, reason_in
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import RESULTS, Stage
from lightningrl.pipeline.stages.release import WORKFLOW, link

NOTES = Path(".snakemake/incomplete")


def protect_results() -> None:
    """Keeps Snakemake from deleting anything below results/. Called whenever the Snakefile is read, in jobs too.

    Raises WorkflowError when this Snakemake deletes in a way that is not known here.
    """
    remove = getattr(_IOFile, "remove", None)
    if not inspect.iscoroutinefunction(remove):
        raise WorkflowError("this version of Snakemake is not known here: install the one in requirements.lock")
    if hasattr(remove, "keeps_results"):
        return

    async def kept_or_removed(file: Any, *arguments: Any, **options: Any) -> None:
        path = os.path.relpath(str(file))
        if Path(path).parts[: len(RESULTS.parts)] != RESULTS.parts:
            await remove(file, *arguments, **options)

    kept_or_removed.keeps_results = True  # type: ignore[attr-defined]
    _IOFile.remove = kept_or_removed  # type: ignore[method-assign]


def end_what_cannot_succeed() -> None:
    """Keeps Snakemake from starting a job again that left a mark: every attempt of it would end in the same way.

    Raises WorkflowError when this Snakemake counts attempts in a way that is not known here.
    """
    before = getattr(Job, "restart_times", None)
    if not isinstance(before, property) or before.fget is None:
        raise WorkflowError("this version of Snakemake is not known here: install the one in requirements.lock")
    attempts = before.fget
    if hasattr(attempts, "looks_for_marks"):
        return

    def none_or_attempts(job: Any) -> int:
        reasons = [reason for log in job.log if (reason := reason_in(mark_of(Path(log))))]
        if not reasons:
            return attempts(job)
        sys.stderr.write(f"not tried again, every attempt would end in the same way: {reasons[0]}\n")
        return 0

    none_or_attempts.looks_for_marks = True  # type: ignore[attr-defined]
    Job.restart_times = property(none_or_attempts)  # type: ignore[method-assign]


def forget_interrupted_jobs() -> None:
    """Drops Snakemake's notes of outputs that a stopped job had begun.

    A folder with a manifest is whole, and one without is gone on with; with the notes Snakemake would refuse to go on,
    or run what is whole once more.
    """
    for note in NOTES.glob("*"):
        note.unlink(missing_ok=True)


def settle(workflow: Any) -> None:
    """Overrules settings of Snakemake's, once they are known: when the DAG is built, not yet when rules are read.

    Only missing files and times make a job run: a folder's name holds the key of all that could change its content, so
    Snakemake's own guesses (other code, parameters, another set of inputs) can only be wrong. And the outputs of a job
    that failed are kept, here and in jobs on a cluster.
    """
    workflow.dag_settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    if workflow.execution_settings is not None:  # there are none where nothing is to run
        workflow.execution_settings.keep_incomplete = True


def made_again(workflow: Any, plan: Plan) -> set[Path]:
    """Returns the folders of the stages that -R (by rule or file), -f or -F names, and of all that follows from them;
    and of those whose inputs have other content than when they were made. The jobs that start from here are asked for
    the named ones again, where they are finished now.
    """
    settings = workflow.dag_settings
    names = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}

    def is_named(stage: Stage) -> bool:
        files = {(stage.folder / name).as_posix() for name in stage.outputs}
        return settings.forceall or stage.kind in names or not names.isdisjoint(files)

    forced = plan.downstream(is_named)
    os.environ[again.VARIABLE] = again.request(stage for stage in plan if stage.folder in forced)
    return plan.downstream(lambda stage: stage.folder in forced or manifest.changed_inputs(stage))


def show_results(plan: Plan, config: Path, root: Path) -> None:
    """Says after a run what is stale; where it reached the release, makes Snakemake's own page beside it, then prints
    the table and the paths."""
    release = plan.release
    if stale := [stage.label for stage in plan if stage.manifest.is_file() and manifest.changed_inputs(stage)]:
        told = "what they were made from has other content now. Run the same command again."
        sys.stderr.write(f"{', '.join(stale)}: {told}\n")
    if not release.manifest.is_file():
        return
    link(release.folder)  # `latest` is what was asked for last, also where nothing had to run
    page = release.folder / WORKFLOW
    if not page.is_file() or page.stat().st_mtime < release.manifest.stat().st_mtime:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
        command += ["--configfile", str(config), "--report", str(page)]
        command += ["--nolock", "--cores", "1", "--quiet"]  # the lock is this very run's, whose jobs are all done
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(f"Snakemake's page could not be made:\n{done.stderr}\n")
    if "LIGHTNINGRL_RESULTS_LATER" not in os.environ:  # `make demo` prints them itself, also when nothing had to run
        subprocess.run([sys.executable, "-m", "lightningrl", "results", "--config", str(config)], check=False)
