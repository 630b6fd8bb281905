"""`lightningrl diff`: what distinguishes two versions of results, and what that did to the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli.errors import user_errors

Version = Annotated[str, typer.Argument(help="`latest`, a release's key, <experiment>/<key>, or a release's folder.")]
NAMED = 4
"""Stages that are listed of one change; of more, how many."""


def diff(
    before: Version,
    after: Version = "latest",
    results: Annotated[Path, typer.Option(help="A results folder, or one experiment's in it; copies will do.")] = Path(
        "results"
    ),
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare two releases: config, code, packages, machine, and the headline numbers; from their manifests.

    \b
    lightningrl diff 683a1180 latest
    lightningrl diff nano/latest miniature/latest
    lightningrl diff copied/miniature/release-683a1180 results/miniature/latest
    """
    with user_errors():
        from lightningrl.results.diff import difference, is_empty
        from lightningrl.results.folders import find_release
        from lightningrl.utils.files import canonical_json

        a, b = find_release(results, before), find_release(results, after)
        found = difference(a, b)
        if json:
            typer.echo(canonical_json(_without_nan(found)))
            return
        for name, each in (("before", a), ("after", b)):
            typer.echo(f"{name:7}{each.root.name}/{each.key}  {each.finished}  commit {each.commit}")
        if is_empty(found):
            typer.echo("\nnothing is another")
        _print(found)


def _print(found: dict[str, Any]) -> None:
    _print_list("stages that only the first has", found["only_before"])
    _print_list("stages that only the second has", found["only_after"])
    _print_changes("config", found["config"])
    _print_changes("code (files, digests)", found["code"])
    _print_changes("inputs (roles, keys)", found["inputs"])
    _print_changes("same key, other files", found["outputs"])
    _print_changes("packages, machine, commit", found["surroundings"])
    if found["numbers"]:
        typer.echo("\nheadline")
        previous = ""
        for number in found["numbers"]:
            row = "" if number["row"] == previous else number["row"]
            previous = number["row"]
            values = f"{_number(number['before']):>10} → {_number(number['after']):>10}"
            typer.echo(f"  {row:34}{number['column']:22}{values}   {_change(number['before'], number['after'])}")
    _print_list("rows that only the first has", found["rows_before"])
    _print_list("rows that only the second has", found["rows_after"])
    for note in found["notes"]:
        typer.echo(f"note: {note}", err=True)


def _print_list(title: str, names: list[str]) -> None:
    if names:
        typer.echo(f"\n{title}: {', '.join(names)}")


def _print_changes(title: str, changes: list[dict[str, Any]]) -> None:
    if changes:
        typer.echo(f"\n{title}")
    for change in changes:
        stages, more = change["stages"][:NAMED], len(change["stages"]) - NAMED
        stages = [*stages, f"{more} more"] if more > 0 else stages
        typer.echo(f"  {change['what']}: {change['before']} → {change['after']}   ({', '.join(stages)})")


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.4g}"


def _change(before: float, after: float) -> str:
    if before != before or after != after:
        return ""
    return "the same" if before == after else f"{after - before:+.4g}"


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
