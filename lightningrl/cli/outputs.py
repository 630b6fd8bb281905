"""What a verb writes where the user says: never over something that is there, unless it is told to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.errors import ConfigError

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the --out file if it exists.")]


def check_out(out: Path | None, overwrite: bool, *, inputs: Iterable[Path] = (), beside: Iterable[Path] = ()) -> None:
    """Raises ConfigError when `out` may not be written; called before the work, which may be long.

    out: the file of `--out`; None: nothing is written. inputs: files that are read; `out` is never one of them.
    beside: more files that are written with it.
    """
    if out is None:
        return
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise ConfigError(f"--out {out} is the input; name another file")
    for path in (out, *beside):
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no ordinary file, and would be replaced by one; name another file")
        if (path.exists() or path.is_symlink()) and not overwrite:
            raise ConfigError(f"{path} already exists; name another file, or give --overwrite to replace it")
