"""When a finished stage is made again: because somebody insists (`snakemake -R evaluate`), or what it read has changed.

Snakemake would delete the old results first. Here it deletes nothing (`pipeline.snakemake`): it tells its jobs, in an
environment variable, which results they are to replace, each by the hash of its manifest. So a job that starts late, or
a second time, replaces just what was there when somebody insisted, and never what was finished since.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline import manifest
from lightningrl.pipeline.stage import MANIFEST, TIMING, Stage
from lightningrl.utils.files import sha256_file
from lightningrl.utils.lease import lease

VARIABLE = "LIGHTNINGRL_AGAIN"
ASIDE = Path("state/.replaced")
"""In a stage's folder: its finished results while it is made again."""


def request(stages: Iterable[Stage]) -> str:
    """Returns the variable's value that asks for those of the stages again that are finished now."""
    return " ".join(_identity(stage) for stage in stages if stage.manifest.is_file())


def _identity(stage: Stage) -> str:
    return f"{stage.key}:{sha256_file(stage.manifest)[:16]}"


def reason(stage: Stage) -> str:
    """Returns why a stage whose results are all there is made again; empty when it is not."""
    if _identity(stage) in os.environ.get(VARIABLE, "").split():
        return "as asked"
    if changed := manifest.changed_inputs(stage):
        return f"because what it was made from has been made anew, with other content: {', '.join(changed)}"
    return ""


def is_finished(stage: Stage) -> bool:
    """Returns whether all of a stage's results are there, and there is no reason to make them again."""
    return not manifest.missing(stage) and not reason(stage)


def set_aside(stage: Stage) -> Path:
    """Moves a finished stage's results into its state, which goes when the new ones are finished; returns where to.

    Whoever calls it holds the stage's lease.
    """
    aside = stage.folder / ASIDE
    for name in (MANIFEST, *stage.written, TIMING):  # the manifest first: from then on it is not finished
        if (stage.folder / name).is_file():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage.folder / name, aside / name)
    return aside


def is_set_aside(folder: Path) -> bool:
    """Returns whether a stage's folder holds finished results that were to be replaced, and have not been."""
    return (folder / ASIDE / MANIFEST).is_file() and not (folder / MANIFEST).is_file()


def put_back(folder: Path) -> bool:
    """Puts results back that were set aside in a stage's folder and have not been replaced; False: there are none.

    Whoever calls it holds the stage's lease. What the interrupted attempt has saved stays in the state.
    """
    if not is_set_aside(folder):
        return False
    aside = folder / ASIDE
    for path in sorted((path for path in aside.rglob("*") if path.is_file()), key=lambda path: path.name == MANIFEST):
        os.replace(path, folder / path.relative_to(aside))  # the manifest last: from then on it is finished
    shutil.rmtree(aside)
    return True


def put_back_all(stages: Iterable[Stage]) -> None:
    """Puts back what attempts have left set aside that were killed; stages that are being made are left alone."""
    for stage in stages:
        if is_set_aside(stage.folder):
            with suppress(StageError), lease(stage.folder / "state"):
                put_back(stage.folder)
