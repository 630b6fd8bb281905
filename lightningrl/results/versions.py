"""The versions of an experiment's results: its releases, their numbers, which one is current, and their disk space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightningrl.errors import LightningRLError, StageError
from lightningrl.pipeline import graph
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results.disk import holders, used

if TYPE_CHECKING:
    import pandas as pd

ROW = ("benchmark", "policy", "threshold")
HEADLINE = ("accuracy_pct", "tpf", "forwards_per_problem", "aup", "aup_anchored")


@dataclass(frozen=True, eq=False)
class Version:
    """One release."""

    made: graph.Made
    chain: graph.Chain
    is_latest: bool

    @property
    def commits(self) -> list[str]:
        """The commits of all stages that exist, the newest first."""
        newest = sorted(self.chain.made, key=lambda made: made.finished, reverse=True)
        return list(dict.fromkeys(made.commit for made in newest))


@dataclass(frozen=True, eq=False)
class Versions:
    """The versions of an experiment."""

    root: Path
    versions: list[Version]
    """Oldest first."""
    damaged: list[str]
    """Messages about unreadable manifests."""
    bytes: Mapping[str, int]
    """`total`, and the parts `cache`, `states` of unfinished or running stages, and finished stages `of no release`."""
    running: list[str]
    """The stages at work and their holders."""
    todays: list[Todays]
    """The current releases by the config files of this experiment."""


@dataclass(frozen=True, slots=True)
class Todays:
    """The release that a config file gives with today's code."""

    config: str
    experiment: str
    key: str
    """The key of the release."""
    folders: tuple[Path, ...]
    """The folders of its stages, relative to the experiment's."""

    def n_done(self, root: Path) -> int:
        return sum((root / folder / MANIFEST).is_file() for folder in self.folders)


def versions_of(root: Path, todays: Sequence[Todays] = ()) -> Versions:
    """Returns the versions of one experiment. todays: releases of any config files."""
    made, damaged = graph.releases(root)
    newest = graph.latest(root)
    found = []
    for each in made:
        is_latest = newest is not None and newest.name == each.folder.name
        found.append(Version(each, graph.chain(each), is_latest))
        damaged += [message for message in found[-1].chain.damaged if message not in damaged]
    reached = {link.folder for version in found for link in version.chain.made}
    folders = list(graph.stage_folders(root))
    orphans = [path for path in folders if path not in reached and (path / MANIFEST).is_file()]
    sizes = {
        "total": used([root]),
        "cache": used([root / "cache"]),
        "states": used(path / "state" for path in folders),
        "of no release": used(orphans),
    }
    running = [f"{path.relative_to(root)} by {who}" for path, who in holders(root).items()]
    return Versions(root, found, damaged, sizes, running, [each for each in todays if each.experiment == root.name])


def todays_releases(configs: Sequence[Path], experiments: Sequence[str]) -> tuple[list[Todays], list[str]]:
    """Returns the current releases by config files of these experiments, and why other files cannot be used."""
    from lightningrl.config.experiment import load
    from lightningrl.pipeline.plan import plan

    found: list[Todays] = []
    notes = []
    for path in configs:
        try:
            loaded = load(path)
            if loaded.experiment in experiments:
                planned = plan(loaded)
                folders = tuple(Path(*stage.folder.parts[2:]) for stage in planned)
                found.append(Todays(str(path), loaded.experiment, planned.release.key, folders))
        except LightningRLError as error:
            notes.append(f"{path} cannot be used: {str(error).splitlines()[0]}")
    return found, notes


def headline(made: graph.Made) -> pd.DataFrame:
    """Returns a release's headline rows from its collected results, or else from its copies of tables.

    The columns are the experiment's names, `threshold` and numbers. Raises StageError when neither exists.
    """
    import pandas as pd

    from lightningrl.pipeline.stages.collected import read_collected

    places = [each.folder for each in graph.chain(made).of("collect")]
    tables = [read_collected(folder, "headline") for folder in places if (folder / "headline.csv").is_file()]
    if not tables:
        copies = sorted((made.folder / "tables").glob("*.csv"))
        tables = [read_collected(path.parent, path.stem) for path in copies]
        tables = [table for table in tables if {*ROW, "accuracy_pct", "tpf"} <= set(table.columns)]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise StageError(f"{made.folder}: neither its collected results nor a table with a headline is here.")
    return pd.concat(tables, ignore_index=True).drop_duplicates(list(ROW), ignore_index=True)
