"""`lightningrl results`: the table of an experiment; all versions there are; what can be removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli.outputs import RESULTS, say
from lightningrl.config.experiment import load
from lightningrl.errors import StageError
from lightningrl.pipeline.plan import plan
from lightningrl.results.folders import experiments, freed, human, names_of
from lightningrl.results.prune import KEEPS, NoRelease, Pruning, carry_out, what_goes
from lightningrl.results.versions import Version, Versions, changed, current_releases, headline, released, versions_of
from lightningrl.utils.numbers import shortest

Keep = Annotated[
    list[str] | None,
    typer.Option(help="With --prune: latest, current (of a config), all-releases, or a release's key; repeat."),
]

SHOWN = {"accuracy_pct": "accuracy % {:5.1f}", "tpf": "TPF {:5.2f}", "aup_anchored": "anchored AUP {:6.1f}"}


def results(
    folder: Annotated[Path, typer.Argument(help="A results folder, or one experiment's in it.")] = RESULTS,
    config: Annotated[Path | None, typer.Option("--config", help="The experiment's YAML file.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="List what no kept release or config reaches.")] = False,
    keep: Keep = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also what was begun and not finished.")] = False,
    caches: Annotated[bool, typer.Option("--caches", help="Also the caches of what is kept.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
) -> None:
    """All versions of all results; with --config the results table of its release, and where figures and report are.

    A version is a release: key, date, commit, stages that are here of those it was made from, headline. `latest` (the
    newest) and `current` (of a config in config/, with today's code) are marked.

    --prune lists what no kept release reaches and no config plans (--config, or else those in config/), with the bytes
    it would free, and removes it only with --yes. Finished stages of a version without release go, too, unless a config
    plans them. Never removes unfinished stages (except with --unfinished), damaged manifests, files that no stage made,
    or what links lead to; names them. Removes nothing while a stage is at work. Of several experiments, one that would
    be left without a release is named and left as it is.

    \b
    lightningrl results
    lightningrl results --config config/nano.yaml
    lightningrl results --prune --keep latest
    lightningrl results results/nano --prune --keep all-releases --config config/nano.yaml --yes
    """
    of_prune = {"--keep": keep, "--unfinished": unfinished, "--caches": caches, "--yes": yes}
    if (stray := [name for name, given in of_prune.items() if given]) and not prune:
        raise StageError(f"{', '.join(stray)}: only with --prune.")
    if prune:
        _prune(folder, config, keep or [], unfinished, caches, yes)
    elif config is not None:
        _print_release(config)
    else:
        _print_all(folder)


def _print_release(config: Path) -> None:
    lines, note = released(plan(load(config)))
    if note:
        say(note)
    for line in lines:
        typer.echo(line)


def _print_all(folder: Path) -> None:
    roots = experiments(folder)
    if not roots:
        raise StageError(
            f"{folder} holds no results. Run an experiment first: in the clone, `snakemake --cores 2`; or name the "
            "folder: lightningrl results FOLDER."
        )
    current, notes = current_releases(sorted(Path("config").glob("*.yaml")), [root.name for root in roots])
    for root in roots:
        _print_versions(versions_of(root, current))
    for note in notes:
        say(f"note: {note}")


def _print_versions(found: Versions) -> None:
    parts = [f"{name} {human(size)}" for name, size in found.bytes.items() if name != "total" and size]
    typer.echo(f"{found.root}  {human(found.bytes['total'])}" + (f"; of it {', '.join(parts)}" if parts else ""))
    for version in found.versions:
        _print_version(version, [each.config for each in found.current if each.key == version.release.key])
    if not found.versions:
        typer.echo("  no finished release")
    released = {version.release.key for version in found.versions}
    for each in found.current:
        if each.key not in released:
            done = f"{each.n_done(found.root)} of {len(each.plan.stages)} stages done"
            typer.echo(f"  {each.key}  not released yet: {each.config} with today's code, {done}")
    for text in found.running:
        typer.echo(f"  at work: {text}")
    for message in found.damaged:
        say(f"  damaged: {message}")


def _print_version(version: Version, configs: list[str]) -> None:
    release, graph = version.release, version.graph
    marks = (["latest"] if version.is_latest else []) + [f"current ({config})" for config in configs]
    n_lost = len(graph.gone) + len(graph.damaged)
    stages = f"{len(graph.stages)} stages" + (f" of {len(graph.stages) + n_lost} known" if n_lost else "")
    commits = version.commits
    commit = commits[0] + (f" and {len(commits) - 1} earlier" if len(commits) > 1 else "")
    finished = release.finished[:16].replace("T", " ")
    typer.echo(f"  {release.key}  {finished}  commit {commit}  {stages}  {', '.join(marks)}".rstrip())
    if other := [each.label for each in reversed(graph.stages) if each.ran != each.code]:
        typer.echo(f"    under pinned code, by other code: {', '.join(other)}")
    for message in changed(graph):
        typer.echo(f"    damaged: {message}")
    try:
        table = headline(graph, release)
    except StageError as error:
        typer.echo(f"    {error}")
        return
    shown = table[table["role"].isin(("before", "after"))] if "role" in table else table
    for row in (shown if len(shown) else table).to_dict("records"):
        there = {column: form for column, form in SHOWN.items() if column in row and row[column] == row[column]}
        figures = [form.format(row[column]) for column, form in there.items()]
        typer.echo(f"    {row['benchmark']:14}{row['policy']:20}τ {shortest(row['threshold']):6}{'   '.join(figures)}")


def _prune(folder: Path, config: Path | None, keep: list[str], unfinished: bool, caches: bool, yes: bool) -> None:
    if not keep:
        raise StageError(f"--prune needs --keep, once or several times: {', '.join(KEEPS)} or a release's key")
    roots = experiments(folder)
    configs = [config] if config is not None else sorted(Path("config").glob("*.yaml"))
    loaded = {path: load(path) for path in configs}
    if config is not None:
        name = loaded[config].experiment
        roots = [root for root in roots if name in names_of(root)]
        if not roots:
            raise StageError(f"{folder} holds no results of {name}, the experiment of {config}.")
    found = []
    for root in roots:  # all of them before any goes, so that an error leaves everything
        plans = {path: plan(each) for path, each in loaded.items() if each.experiment in names_of(root)}
        try:
            found.append(what_goes(root, keep, list(plans.values()), unfinished=unfinished, caches=caches))
        except NoRelease as error:
            if len(roots) == 1:
                raise
            say(f"left as it is: {error}")
            continue
        _print_pruning(found[-1], list(plans))
    if not yes and any(each.folders for each in found):
        typer.echo("nothing was removed; --yes removes it")
    if yes:
        gone = sum(carry_out(each, _say_gone) for each in found)
        typer.echo(f"{gone} folders removed")


def _print_pruning(found: Pruning, configs: list[Path]) -> None:
    kept = [f"release {each.key} ({each.finished[:16].replace('T', ' ')})" for each in found.kept]
    kept += [f"today's stages of {config}" for config in configs]
    typer.echo(f"{found.root}: kept, with what it needs: {', '.join(kept)}")
    for folder in found.folders:
        typer.echo(f"  {human(freed([folder])):>9}  {folder}")
    typer.echo(f"  {human(found.bytes):>9}  in all, in {len(found.folders)} folders")
    if found.link is not None:
        typer.echo(f"  `latest` will point to {found.link}" if found.link else "  `latest` goes, too")
    for text in found.named:
        typer.echo(f"  left alone: {text}")
    for note in found.notes:
        say(f"note: {note}")


def _say_gone(folder: Path, size: Any) -> None:
    if size is None:
        say(f"left: {folder}, somebody works on it now")
    else:
        typer.echo(f"removed {folder} ({human(size)})")
