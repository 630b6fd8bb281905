"""The versions of an experiment's results: its releases, their numbers, which one is current, and their disk space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightningrl.errors import DamagedError, LightningRLError, StageError
from lightningrl.pipeline.graph import Graph, StageRecord, read_record
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.pipeline.stages.release import REPORT
from lightningrl.results.folders import LATEST, holders, latest, releases, stage_folders, used
from lightningrl.results.tables import check_recorded, collect_role

if TYPE_CHECKING:
    import pandas as pd

ROW = ("benchmark", "policy", "threshold")
HEADLINE = ("accuracy_pct", "tpf", "forwards_per_problem", "aup", "aup_anchored")
HEADLINES = "headline.csv"


@dataclass(frozen=True, eq=False)
class Version:
    """One release."""

    release: StageRecord
    graph: Graph[StageRecord]
    """The release and all that it was made from."""
    is_latest: bool

    @property
    def commits(self) -> list[str]:
        """The commits of all stages that exist, the newest first."""
        newest = sorted(self.graph, key=lambda record: record.finished, reverse=True)
        return list(dict.fromkeys(record.commit for record in newest))


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
    current: list[Current]
    """The current releases by the config files of this experiment."""


@dataclass(frozen=True, slots=True)
class Current:
    """The release that a config file gives with today's code."""

    config: str
    plan: Plan

    @property
    def key(self) -> str:
        return self.plan.release.key

    def n_done(self, root: Path) -> int:
        """Returns how many of its stages are finished in an experiment's folder."""
        return sum(root.joinpath(*stage.manifest.parts[2:]).is_file() for stage in self.plan)


def versions_of(root: Path, current: Sequence[Current] = ()) -> Versions:
    """Returns the versions of one experiment. current: releases of any config files."""
    records, damaged = releases(root)
    newest = latest(root)
    found = [Version(each, Graph.from_manifests(each), newest is not None and newest.name == each.folder.name)
             for each in records]  # fmt: skip
    damaged += dict.fromkeys(message for version in found for message in version.graph.damaged)
    reached = {record.folder for version in found for record in version.graph}
    folders = list(stage_folders(root))
    sizes = {
        "total": used([root]),
        "cache": used([root / "cache"]),
        "states": used(path / "state" for path in folders),
        "of no release": used(path for path in folders if path not in reached and (path / MANIFEST).is_file()),
    }
    running = [f"{path.relative_to(root)} by {who}" for path, who in holders(root).items()]
    mine = [each for each in current if each.plan.experiment.experiment == root.name]
    return Versions(root, found, damaged, sizes, running, mine)


def current_releases(configs: Sequence[Path], experiments: Sequence[str]) -> tuple[list[Current], list[str]]:
    """Returns the current releases by config files of these experiments, and why other files cannot be used."""
    from lightningrl.config.experiment import load
    from lightningrl.pipeline.plan import plan

    found, notes = list[Current](), list[str]()
    for path in configs:
        try:
            loaded = load(path)
            if loaded.experiment in experiments:
                found.append(Current(str(path), plan(loaded)))
        except LightningRLError as error:
            notes.append(f"{path} cannot be used: {str(error).splitlines()[0]}")
    return found, notes


def headline(graph: Graph[StageRecord], release: StageRecord) -> pd.DataFrame:
    """Returns a release's headline rows from its collected results, or else from its copies of tables.

    The columns are the experiment's names, `threshold` and numbers. Raises StageError when neither exists. `changed`
    says which files are not what was made.
    """
    import pandas as pd

    from lightningrl.pipeline.stages.collected import read_collected

    places = [record.folder for record in reversed(graph.of("collect"))]
    tables = [read_collected(folder, "headline") for folder in places if (folder / HEADLINES).is_file()]
    tables = [table for table in tables if {*ROW} <= set(table.columns)]
    if not tables:
        copies = sorted((release.folder / "tables").glob("*.csv"))
        tables = [read_collected(path.parent, path.stem) for path in copies]
        tables = [table for table in tables if {*ROW, "accuracy_pct", "tpf"} <= set(table.columns)]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise StageError(f"{release.folder}: neither its collected results nor a table with a headline is here.")
    return pd.concat(tables, ignore_index=True).drop_duplicates(list(ROW), ignore_index=True)


def changed(graph: Graph[StageRecord]) -> list[str]:
    """Returns a message about each headline, and copy of a table, that is not what its manifest, or that of a stage
    which read it, says."""
    found: dict[Path, str] = {}
    for record in graph:
        said = [(record.folder / name, sha256) for name, sha256 in record.outputs.items() if _shows(record.kind, name)]
        for role, folder in record.inputs.items():
            if role.split("/")[0] == "collect" and (read := record.manifest["inputs"][role]["outputs"].get(HEADLINES)):
                said.append((folder / HEADLINES, read["sha256"]))
        for file, sha256 in said:
            try:
                if file.is_file():
                    check_recorded(file, sha256, record.folder / MANIFEST)
            except StageError as error:
                found.setdefault(file, str(error))
    return list(found.values())


def _shows(kind: str, name: str) -> bool:
    is_copy = kind == "release" and name.startswith("tables/") and name.endswith(".csv")
    return is_copy or (kind == "collect" and name == HEADLINES)


def released(plan: Plan) -> tuple[list[str], str]:
    """Returns what is shown of the release of this config and code, or else of the newest: the headline table,
    sentences about it, the paths of figures, tables and the HTML report; and a note if it is not today's, or if its
    numbers are not those that were made.

    Raises StageError when there is none, DamagedError when its headline lacks columns.
    """
    from lightningrl.pipeline.stages.collected import read_collected
    from lightningrl.report.findings import among_seeds, differences, read_seeds
    from lightningrl.report.tables import console

    folder, note = plan.release.folder, ""
    if not plan.release.manifest.is_file():
        link = folder.parent / LATEST
        if not (link / MANIFEST).is_file():
            raise StageError(
                f"{folder.parent} holds no finished release. Run the experiment first: in the clone, "
                "`snakemake --cores 2` (with --configfile and the same file, if it is not the default one)."
            )
        folder = folder.parent / link.readlink()
        note = f"note: {folder} was made from another config or other code than today's, which has no release yet"
    record = read_record(folder)
    note = "\n".join(filter(None, (note, *changed(Graph.from_manifests(record)))))
    collected, seeds = record.inputs[collect_role(record)], plan.experiment.report.seeds
    table = read_collected(collected, "headline")
    try:
        lines = [console(table), *differences(table)]
    except (KeyError, AttributeError) as error:
        told = f"it has no column as {error}, which today's code reads"
        raise DamagedError(f"{collected / HEADLINES} is damaged: {told}. Delete {collected} and run again.") from error
    if seeds is not None and Path(seeds).is_file():
        lines += among_seeds(table, read_seeds(Path(seeds)))
    lines += [str(folder / name) for name in sorted(record.outputs) if name.endswith((".pdf", ".png", ".md"))]
    return lines + ([str(folder / REPORT)] if (folder / REPORT).is_file() else []), note
