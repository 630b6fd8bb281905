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
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.io import _IOFile
from snakemake.settings.types import RerunTrigger

from lightningrl.pipeline import again, manifest
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import RESULTS, Stage
from lightningrl.pipeline.stages.release import link

NOTES = Path(".snakemake/incomplete")


def protect_results() -> None:
    """Keep Snakemake from deleting anything below results/. Called whenever the Snakefile is read, in jobs too.

    Raises WorkflowError when this Snakemake deletes in a way that is not known here.
    """
    remove = getattr(_IOFile, "remove", None)
    if not inspect.iscoroutinefunction(remove):
        raise WorkflowError("this version of Snakemake is not known here: install the one in requirements.lock")
    if not hasattr(remove, "keeps_results"):
        _IOFile.remove = _keeping_results(remove)


def forget_interrupted_jobs() -> None:
    """Drop Snakemake's notes of outputs that a stopped job had begun.

    A folder with a manifest is whole, and one without is gone on with; with the notes Snakemake would refuse to go on,
    or run what is whole once more.
    """
    for note in NOTES.glob("*"):
        note.unlink(missing_ok=True)


def settle(workflow: Any) -> None:
    """Overrule settings of Snakemake's, once they are known: when the DAG is built, not yet when rules are read.

    Only missing files and times make a job run: a folder's name holds the key of all that could change its content, so
    Snakemake's own guesses (other code, parameters, another set of inputs) can only be wrong. And the outputs of a job
    that failed are kept, here and in jobs on a cluster.
    """
    workflow.dag_settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    if workflow.execution_settings is not None:  # there are none where nothing is to run
        workflow.execution_settings.keep_incomplete = True


def forced(workflow: Any, stages: Iterable[Stage]) -> set[Path]:
    """Folders of the stages that -R (by rule or file), -f or -F names, and of all that follows from them.

    stages: upstream first. Known when the DAG is built, as those of `settle` are.
    """
    settings, found = workflow.dag_settings, set[Path]()
    names = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
    for stage in stages:
        files = {(stage.folder / name).as_posix() for name in stage.outputs}
        is_named = settings.forceall or stage.kind in names or names & files
        if is_named or found & {source.folder for source in stage.inputs.values()}:
            found.add(stage.folder)
    return found


def reconsidered(folders: set[Path], stages: Iterable[Stage]) -> set[Path]:
    """These stages, those whose inputs have other content than when they were made, and all that follows from them."""
    found = set(folders)
    for stage in stages:
        if found & {source.folder for source in stage.inputs.values()} or manifest.changed_inputs(stage):
            found.add(stage.folder)
    return found


def told_when_stale(stages: Iterable[Stage]) -> str:
    """After a run: what was made from results that have other content now, and what to do; empty where nothing was."""
    stale = [stage.label for stage in stages if stage.manifest.is_file() and manifest.changed_inputs(stage)]
    if not stale:
        return ""
    return f"{', '.join(stale)}: what they were made from has other content now. Run the same command again.\n"


def show_results(plan: Plan, config: Path, root: Path) -> None:
    """After a run that reached the release: makes the HTML report beside it, then prints the table and the paths."""
    release = plan.release
    page = release.folder / "report.html"
    sys.stderr.write(told_when_stale(plan))
    if not release.manifest.is_file():
        return
    link(release.folder)  # `latest` is what was asked for last, also where nothing had to run
    if not page.is_file() or page.stat().st_mtime < release.manifest.stat().st_mtime:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
        command += ["--configfile", str(config), "--report", str(page)]
        command += ["--nolock", "--cores", "1", "--quiet"]  # the lock is this very run's, whose jobs are all done
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(f"the HTML report could not be made:\n{done.stderr}\n")
    if "LIGHTNINGRL_RESULTS_LATER" not in os.environ:  # `make demo` prints them itself, also when nothing had to run
        subprocess.run([sys.executable, "-m", "lightningrl", "results", "--config", str(config)], check=False)


def tell_jobs(folders: set[Path], stages: Iterable[Stage], environment: MutableMapping[str, str] = os.environ) -> None:
    """Ask the jobs that start from here for these stages again, where they are finished now."""
    environment[again.VARIABLE] = again.request(stage for stage in stages if stage.folder in folders)


def _keeping_results(remove: Any) -> Any:
    async def kept_or_removed(file: Any, *arguments: Any, **options: Any) -> None:
        path = os.path.relpath(str(file))
        if Path(path).parts[: len(RESULTS.parts)] != RESULTS.parts:
            await remove(file, *arguments, **options)

    kept_or_removed.keeps_results = True  # type: ignore[attr-defined]
    return kept_or_removed
