"""`lightningrl explain`: a number in a table, followed back to records, weights, config, commit and data."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli.outputs import RESULTS, Json, Results
from lightningrl.errors import DamagedError, LightningRLError, StageError
from lightningrl.results.explain import Link, links, stage_links
from lightningrl.results.redraw import Recomputed, recompute
from lightningrl.results.tables import Cell, find_table, stage_in
from lightningrl.utils.files import canonical_json

WIDTH = 120


def explain(
    table: Annotated[str, typer.Argument(help="A table's name, its CSV file, or any stage's folder.")],
    cell: Annotated[str, typer.Option(help="POLICY/BENCHMARK:COLUMN, or POLICY/BENCHMARK@THRESHOLD:COLUMN.")] = "",
    results: Results = RESULTS,
    release: Annotated[str, typer.Option(help="`latest`, a key, or <experiment>/<key>.")] = "latest",
    json: Json = False,
) -> None:
    """Follow a number of a table back to where it comes from, and compute it again from the records.

    Reads only manifests and records: no config, no GPU, no checkpoint. For a missing folder, shows what its consumer
    recorded. An error, exit code 2: another number in the records than in the table, a record file or a
    manifest that was changed since. Without --cell: the rows and columns there are. Of a stage that is not made from
    collected results: what it was made from.

    \b
    lightningrl explain main --cell lightningrl/gsm-mini:tpf
    lightningrl explain study --cell lightningrl/gsm-mini:tpf --release study/latest
    lightningrl explain frontier --cell base/gsm-mini@0.9:accuracy_pct --results copied/miniature
    lightningrl explain results/miniature/latest/tables/main.csv --cell base/gsm-mini:aup
    """
    if not cell and (stage := stage_in(Path(table))) is not None:
        upstream = stage_links(stage)
        if json:
            typer.echo(canonical_json({"stage": stage.label, "links": [asdict(link) for link in upstream]}))
        else:
            for link in upstream:
                _print_link(link)
        return
    found = find_table(table, results, release)
    if not cell:
        typer.echo(f"{found.file}: say --cell ROW:COLUMN")
        typer.echo(_wrapped("rows", ", ".join(found.labels) or "none of a policy and a benchmark"))
        typer.echo(_wrapped("columns", ", ".join(found.numbers) or "none"))
        return
    asked = found.cell(cell)
    found.check(found.file)
    number = asked.text or "empty: it does not apply to this row"
    name = f"{found.file}, {asked.label}, {asked.column}"
    again, says, problem = _again(asked, name, number)
    chain = links(asked)
    if json:
        tree = {"table": str(found.file), "row": asked.row, "column": asked.column, "text": asked.text}
        blank = {"value": None} if again and math.isnan(again.value) else {}
        tree |= {"recomputed": asdict(again) | blank if again else None, "links": [asdict(link) for link in chain]}
        typer.echo(canonical_json(tree))
    else:
        typer.echo(f"{name} = {number}")
        typer.echo(_wrapped("recomputed", says))
        for link in chain:
            _print_link(link)
    problem = problem or next((link.facts["damaged"] for link in chain if link.facts and not link.is_here), "")
    if problem:
        raise StageError(problem)


def _again(asked: Cell, name: str, number: str) -> tuple[Recomputed | None, str, str]:
    """The number computed again; what to say of it; what is wrong, if anything."""
    try:
        again = recompute(asked)
    except LightningRLError as error:
        return None, f"not done: {error}", str(error) if isinstance(error, DamagedError) else ""
    is_same = again.is_cells(asked.text)
    says = f"{again.value!r}, {'the same' if is_same else 'NOT THE SAME'}: {again.how}"
    problem = f"{name}: the table says {number}, its records, read by today's code, give {again.value!r}."
    return again, says, "" if is_same else problem


def _print_link(link: Link) -> None:
    typer.echo("")
    if not link.is_here:
        typer.echo(f"{link.title:12}{link.folder}  (not here; recorded by what was made from it:)")
    else:
        typer.echo(f"{link.title:12}{link.folder}")
        pinned = "; key of pinned code" if link.pinned else ""
        pinned += ", but other code ran" if link.ran_other_code else ""
        typer.echo(_wrapped("made", f"{link.finished}, commit {link.commit}{pinned}"))
    for name, sha256 in link.files.items():
        typer.echo(_wrapped("sha256", f"{sha256}  {name}"))
    for name, text in link.facts.items():
        typer.echo(_wrapped(name, text))


def _wrapped(name: str, text: str) -> str:
    return textwrap.fill(
        f"{name + ':':12} {text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 15, break_on_hyphens=False
    )
