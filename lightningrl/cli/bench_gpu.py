"""`bench gpu` and `bench gpu-page`: the check of a GPU in parts, and the page that shows its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli import options
from lightningrl.cli.outputs import say
from lightningrl.utils.files import write_text


def gpu(
    part: Annotated[
        list[str] | None, typer.Option(help="A part of the check; may be repeated. Default: all, in order.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures, a file a part.")] = Path("gpu-check"),
    size: Annotated[str, typer.Option(help="miniature, 0.1b, 0.3b, 1.7b, 4b, 8b: random weights.")] = "8b",
    device: Annotated[str, typer.Option(help="cuda; cpu only tries what can be tried.")] = "cuda",
    checkpoint: Annotated[Path | None, typer.Option(help="Real weights, for the part that needs them.")] = None,
    plugins: options.Plugins = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Minutes a part may take; the next call does what is left.")
    ] = 8.0,
    small: Annotated[bool, typer.Option("--small", help="Sizes that a processor can try.")] = False,
) -> None:
    """Everything that wants a GPU, in parts of minutes; a case whose figures are there is not run again.

    What needs real weights or two GPUs is skipped, and said. Exit code 1: a case failed or was left for another call.
    """
    from lightningrl.bench.gpu.parts import PARTS, Setting, part_of, run_part

    options.require_device(device)
    names = part or list(PARTS)
    for name in names:
        part_of(name)
    setting = Setting(out, device, size, checkpoint, small=small, plugins=tuple(plugins or ()))
    are_whole = [run_part(name, setting, say, 60 * minutes) for name in names]
    if not all(are_whole):
        raise typer.Exit(1)


def gpu_page(
    folder: Annotated[Path, typer.Argument(help="Where `bench gpu` wrote.")] = Path("gpu-check"),
    page: Annotated[Path | None, typer.Option(help="Write it into this page; default: print it.")] = None,
) -> None:
    """The GPU section of docs/benchmarks.md, from the figures of `bench gpu`; nothing is measured."""
    from lightningrl.bench.gpu.page import section, written

    if page is None:
        typer.echo(section(folder)[0], nl=False)
    else:
        write_text(page, written(page.read_text(encoding="utf-8"), folder))
