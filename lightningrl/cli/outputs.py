"""What verbs print and write: never over something that is there, unless it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.errors import ConfigError

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names.")]
Results = Annotated[Path, typer.Option(help="A results folder, or one experiment's in it; copies will do.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
RESULTS = Path("results")


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


def say(line: str) -> None:
    """Prints a line about the work, on standard error."""
    typer.echo(line, err=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints columns, two blanks apart: the first to the left, the others, which have numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
        typer.echo("  ".join(cells).rstrip())


def summary_line(title: str, summary: Mapping[str, Any]) -> str:
    """Returns the numbers of one policy and threshold as a line; what needs a count that is lacking is unknown."""

    def number(name: str, form: str = "{:.2f}", interval: bool = False) -> str:
        if summary[name] is None:
            return "unknown"
        ends = f" [{form}, {form}]".format(summary[f"{name}_low"], summary[f"{name}_high"]) if interval else ""
        return form.format(summary[name]) + ends

    status = ", ".join(f"{count} {name}" for name, count in summary["status"].items() if count)
    samples, problems = summary["n_samples"], summary["n_problems"]
    return (
        f"{title}: accuracy {number('accuracy_pct', '{:.1f}')} % [{summary['accuracy_pct_low']:.1f}, "
        f"{summary['accuracy_pct_high']:.1f}], compat {number('compat_accuracy_pct', '{:.1f}')}; TPF "
        f"{number('tpf', interval=True)} (true {number('tpf_true')}, paper's {number('tpf_paper')}); "
        f"{number('forwards_per_problem', '{:.1f}')} forwards per problem, {number('response_tokens_mean', '{:.1f}')} "
        f"tokens per answer; truncated {number('truncated_pct', '{:.1f} %')}; {samples} response"
        f"{'' if samples == 1 else 's'} to {problems} problem{'' if problems == 1 else 's'}: {status}"
    )
