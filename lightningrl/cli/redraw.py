"""`lightningrl redraw`: tables and figures from a results folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli.outputs import Overwrite, check_out, say
from lightningrl.errors import StageError
from lightningrl.results.folders import find_release
from lightningrl.results.redraw import Redraw


def redraw(
    results: Annotated[Path, typer.Argument(help="A results folder, or one experiment's in it; copies will do.")],
    out: Annotated[Path, typer.Option(help="Folder that gets tables/ and figures/.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this one; repeat.")] = None,
    figure: Annotated[list[str] | None, typer.Option(help="Only this one; repeat.")] = None,
    release: Annotated[str, typer.Option(help="`latest`, a key, or <experiment>/<key>.")] = "latest",
    overwrite: Overwrite = False,
) -> None:
    """Make a release's tables and figures again with today's code, from its collected results.

    Needs the release's, the tables' and figures' manifests and collect/ with its manifest; where its CSV files are not
    there, records.jsonl of evaluate/ and metrics.jsonl of train/. Needs no config, GPU, data or checkpoints.

    \b
    lightningrl redraw copied/miniature --out again
    lightningrl redraw copied/miniature --out again --figure frontier --table main
    """
    record = find_release(results, release)
    if out.resolve().is_relative_to(record.root.resolve()):
        raise StageError(f"--out {out} is inside the results that are read; choose another folder.")
    again = Redraw(record, out, say)
    wanted = [("table", name) for name in table or []] + [("figure", name) for name in figure or []]
    if not wanted:
        wanted = [(kind, name) for kind in ("table", "figure") for name in again.names(kind)]
    for path in (path for kind, name in wanted for path in again.there(kind, name)):
        check_out(path, overwrite)
    try:
        for kind, name in wanted:
            for path in again.draw(kind, name):
                typer.echo(str(path))
    finally:
        shutil.rmtree(out / ".state", ignore_errors=True)
