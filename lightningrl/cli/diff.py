"""`lightningrl diff`: what distinguishes two versions of results, and what that did to the numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lightningrl.cli.outputs import RESULTS, Json, Results, say
from lightningrl.results.diff import difference, is_empty
from lightningrl.results.folders import find_release
from lightningrl.utils.files import canonical_json

Version = Annotated[str, typer.Argument(help="`latest`, a release's key, <experiment>/<key>, or a release's folder.")]
TITLES = {
    "config": "config", "code (files, digests)": "code", "inputs (roles, keys)": "inputs",
    "same key, other files": "outputs", "packages, machine, commit": "surroundings",
}  # fmt: skip
NAMED = 4
"""Stages that are listed of one change; of more, how many."""


def diff(
    before: Version,
    after: Version = "latest",
    results: Results = RESULTS,
    json: Json = False,
) -> None:
    """Compare two releases: config, code, packages, machine, and the headline numbers; from their manifests.

    \b
    lightningrl diff 683a1180 latest
    lightningrl diff nano/latest miniature/latest
    lightningrl diff copied/miniature/release-683a1180 results/miniature/latest
    """
    a, b = find_release(results, before), find_release(results, after)
    found = difference(a, b)
    if json:
        typer.echo(canonical_json(_without_nan(found)))
        return
    for name, each in (("before", a), ("after", b)):
        typer.echo(f"{name:7}{each.root.name}/{each.key}  {each.finished}  commit {each.commit}")
    if is_empty(found):
        typer.echo("\nno differences")
    _print(found)


def _print(found: dict[str, Any]) -> None:
    _print_list("stages that only the first has", found["only_before"])
    _print_list("stages that only the second has", found["only_after"])
    for title, changes in TITLES.items():
        if found[changes]:
            typer.echo(f"\n{title}")
        for change in found[changes]:
            stages, more = change["stages"][:NAMED], len(change["stages"]) - NAMED
            stages = [*stages, f"{more} more"] if more > 0 else stages
            typer.echo(f"  {change['what']}: {change['before']} → {change['after']}   ({', '.join(stages)})")
    if found["numbers"]:
        typer.echo("\nheadline")
    previous = ""
    for number in found["numbers"]:
        row, previous = "" if number["row"] == previous else number["row"], number["row"]
        values = f"{_number(number['before']):>10} → {_number(number['after']):>10}"
        typer.echo(f"  {row:34}{number['column']:22}{values}   {_change(number['before'], number['after'])}")
    for which, rows in (("first", found["rows_before"]), ("second", found["rows_after"])):
        if rows:
            typer.echo("\n  ".join([f"\nrows that only the {which} has", *rows]))
    for note in found["notes"]:
        say(f"note: {note}")


def _print_list(title: str, names: list[str]) -> None:
    if names:
        typer.echo(f"\n{title}: {', '.join(names)}")


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
