"""When a finished stage is made again: because somebody insists (`snakemake -R evaluate`), or what it read has changed.

Snakemake would delete the old results first. Here it deletes nothing (`provenance.snakemake`): it tells its jobs, in an
environment variable, which results they are to replace, each by the hash of its manifest. So a job that starts late, or
a second time, replaces just what was there when somebody insisted, and never what was finished since.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lightningrl.io import sha256_file
from lightningrl.provenance import manifest
from lightningrl.provenance.stage import TIMING, Stage

VARIABLE = "LIGHTNINGRL_AGAIN"


def request(stages: Iterable[Stage]) -> str:
    """The variable's value that asks for those of the stages again that are finished now."""
    return " ".join(_identity(stage) for stage in stages if stage.manifest.is_file())


def reason(stage: Stage) -> str:
    """Why a stage whose results are all there is made again; empty when it is not."""
    if _identity(stage) in os.environ.get(VARIABLE, "").split():
        return "as asked"
    changed = manifest.changed_inputs(stage)
    return f"because what it was made from has been made anew, with other content: {', '.join(changed)}" * bool(changed)


def is_finished(stage: Stage) -> bool:
    """Whether all of a stage's results are there, and there is no reason to make them again."""
    return not manifest.missing(stage) and not reason(stage)


def set_aside(stage: Stage) -> Path:
    """Move a finished stage's results into its state, which goes when the new ones are finished. Returns where to.

    Whoever calls it holds the stage's lease.
    """
    aside = stage.folder / "state" / ".replaced"
    for name in (manifest.MANIFEST, *stage.written, TIMING):  # the manifest first: from then on it is not finished
        if (stage.folder / name).is_file():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage.folder / name, aside / name)
    return aside


def _identity(stage: Stage) -> str:
    return f"{stage.key}:{sha256_file(stage.manifest)[:16]}"
