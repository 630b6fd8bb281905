"""Gather the finished tables, figures and replays in one release folder, and point `latest` at it.

Copies, so that a release can be handed on as a folder. The HTML report is Snakemake's and is put beside them later.
"""

from __future__ import annotations

import os
from pathlib import Path

from lightningrl.io import fsync_dir, write_bytes
from lightningrl.stages.context import StageContext


def run(context: StageContext) -> None:
    """Copy into `tables/`, `figures/` and `replays/`, then move the link."""
    for kind in ("table", "figure", "replay"):
        for name in context.config[f"{kind}s"]:
            for source in sorted(context.inputs[f"{kind}/{name}"].glob(f"{name}[.-]*")):
                target = context.folder / f"{kind}s" / source.name
                write_bytes(target, source.read_bytes())
                context.report(str(target))
    link(context.folder)


def link(folder: Path) -> None:
    """Make `latest`, beside the folder, a link to it; whoever follows it meanwhile sees the old one or the new."""
    temporary = folder.parent / f".latest.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    os.replace(temporary, folder.parent / "latest")
    fsync_dir(folder.parent)
