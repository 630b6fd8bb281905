"""From a cell of a table back to its origins (records, weights, training, base, data), as plain data for any printer.

Of a missing folder, the manifest of its consumer, or the table's list of sources, still has the key and the hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightningrl.errors import DamagedError, LightningRLError, StageError
from lightningrl.pipeline.graph import Graph, StageRecord
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results.tables import Cell, check_recorded, collect_role
from lightningrl.utils.files import canonical_json, read_json
from lightningrl.utils.numbers import shortest

TITLES = {"policy": "weights", "base": "base", "matched": "matched run", "data": "data"}
"""Role of an input that is followed -> what it is to the cell."""
TOLD = {
    "checkpoint.json": ("from", "repo", "revision", "sha256"),
    "quantization.json": ("quantizer", "bits_per_weight"),
}
"""A file in which a checkpoint describes itself -> what is told of it."""
MAPPINGS = ("chosen", "sources")
"""Keys of such files whose values are mappings."""
TOLD_FILES = (".safetensors", "train.jsonl", "test.jsonl", "sources.json", "config.json")
"""Endings of the files whose hashes are told of a folder that is not here."""


@dataclass(frozen=True, slots=True)
class Link:
    """One folder on the way back to the origins."""

    title: str
    """What it is to the cell: `table`, `records`, `weights`, `base`, `data`, ..."""
    folder: str
    is_here: bool
    finished: str = ""
    commit: str = ""
    """The commit, `with changes` if the checkout had some; empty where the folder is missing."""
    pinned: bool = False
    """Whether its key belongs to pinned code."""
    ran_other_code: bool = False
    """Whether other code than the pinned one made it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> recorded sha256."""
    facts: Mapping[str, str] = field(default_factory=dict)


def links(cell: Cell) -> list[Link]:
    """Returns the whole way, the table first and each folder once. Raises StageError where a manifest was changed."""
    found: dict[str, Link] = {}
    for link in _links(cell):
        found.setdefault(link.folder, link)
    return list(found.values())


def _links(cell: Cell) -> Iterator[Link]:
    table = cell.table
    if table.owner.kind == "release":
        yield _link("release", table.owner, [table.file.relative_to(table.owner.folder).as_posix()])
    if table.stage is not None:
        yield _link("table", table.stage, [f"{table.stage.name}.csv"])
    try:
        collect, damage = table.reader.input_record(collect_role(table.reader)), {}
    except DamagedError as error:
        collect, damage = None, {"damaged": str(error)}
    if collect is None:
        yield Link("collected", str(table.collect_folder), False, facts=damage)
        return
    facts = {name: _text(value) for name, value in collect.science.items() if isinstance(value, str | int | float)}
    yield _link("collected", collect, [name for name in collect.outputs if name.endswith(".csv")], facts)
    try:
        sources = cell.sources()
    except LightningRLError:  # of an older table, of which only a missing stage knows what was collected
        return
    for source in (source for source in sources if source["stage"] in collect.inputs):
        [file] = source["files"]
        found = list(_behind(file.partition(".")[0], collect, source["stage"], source))
        yield from sorted(found, key=lambda link: link.title == "data")


def stage_links(end: StageRecord) -> list[Link]:
    """Returns a stage of any kind and all that it was made from, what was made later first. Raises StageError where an
    input is not the one that was read."""
    graph = Graph.from_manifests(end)
    for record in graph:
        for role in record.inputs:
            record.input_record(role)
    found = [_link(record.kind, record, record.outputs, _science(record)) for record in reversed(graph.stages)]
    return found + [Link("elsewhere", str(folder), False) for folder in graph.gone]


def _behind(title: str, consumer: StageRecord, role: str, source: Mapping[str, Any] | None = None) -> Iterator[Link]:
    """Yields an input and what it was made from, back to the base and to the data.

    source: what the table says of a measurement that it is made from."""
    record = consumer.input_record(role)
    if record is None:
        recorded = {name: entry["sha256"] for name, entry in consumer.manifest["inputs"][role]["outputs"].items()}
        shown = tuple(source["files"]) if source else TOLD_FILES
        files = {name: sha256 for name, sha256 in recorded.items() if name.endswith(shown)}
        yield Link(title, str(consumer.inputs[role]), False, files=files)
        return
    facts, names = _facts(record), list(record.outputs)
    if source:
        names = list(source["files"])
        facts = {name: text for name, text in facts.items() if name not in ("policy", "benchmark")} | _proofs(record)
        if "records" in source:
            at = f"{source['records_at_threshold']} of them at threshold {shortest(source['threshold'])}"
            facts = {"records": f"{source['records']}, {at}"} | facts
    elif title != "data":
        names = [name for name in names if name.endswith(".safetensors")]
    yield _link(title, record, names, facts)
    for each in record.inputs:
        if found := TITLES.get(each.split("/")[0]):
            yield from _behind("unquantised" if record.kind == "quantize" and each == "policy" else found, record, each)


def _facts(record: StageRecord) -> dict[str, str]:
    """Returns what a stage read of the config, and what its files tell of its making. Raises DamagedError for a file
    that is not the one in the manifest, or not what such a file holds."""
    facts = _science(record)
    for name in ("selection.json", "sources.json", *TOLD):
        if name not in record.outputs or not (record.folder / name).is_file():
            continue
        check_recorded(record.folder / name, record.outputs[name], record.folder / MANIFEST)
        found = read_json(record.folder / name)
        if not isinstance(found, Mapping) or not all(isinstance(found.get(key, {}), Mapping) for key in MAPPINGS):
            told = f"expected a mapping, with mappings at {' and '.join(MAPPINGS)}, found {canonical_json(found)[:60]}"
            raise DamagedError(f"{record.folder / name} is damaged: {told}. Delete {record.folder} and run again.")
        if name == "selection.json":
            facts = _selection(found) | facts
        elif name == "sources.json":
            sources = found.get("sources", {})
            facts |= {f"source {key}": _text(source) for key, source in sources.items()}
            facts |= {} if sources else {"source": "generated, from the seed"}
        else:
            facts = {key: _text(found[key]) for key in TOLD[name] if found.get(key)} | facts
    return facts


def _proofs(record: StageRecord) -> dict[str, str]:
    """Returns what the self-checks found that had to be finished before a stage."""
    found = {}
    for role, after in record.manifest.get("after", {}).items():
        for proof in after.get("found", {}).values():
            found[f"proof {role}"] = _text({name: _counts(entry) for name, entry in proof.items()})
    return found


def _selection(found: Mapping[str, Any]) -> dict[str, str]:
    chosen = found.get("chosen", {})
    found = {name: value for name, value in chosen.items() if name.startswith("validation_")}
    figures = ", ".join(f"{n} {f'{v:g}' if isinstance(v, float) else _text(v)}" for n, v in found.items())
    return {"chosen": f"step {chosen.get('step')}: {figures}", "rule": str(found.get("rule", ""))}


def _science(record: StageRecord) -> dict[str, str]:
    return {name: _text(value) for name, value in record.science.items()}


def _link(title: str, record: StageRecord, names: Iterable[str], facts: Mapping[str, str] | None = None) -> Link:
    if not record.is_of_its_key():
        raise StageError(f"{record.folder / MANIFEST} was changed: its key does not follow from what it says.")
    return Link(
        title,
        str(record.folder),
        True,
        record.finished,
        record.commit,
        record.is_pinned,
        record.ran != record.code,
        {name: record.outputs[name] for name in names},
        facts or {},
    )


def _counts(entry: Any) -> Any:
    return f"{entry['correct']} of {entry['judged']} right" if isinstance(entry, dict) and "judged" in entry else entry


def _text(value: Any) -> str:
    """Returns a value for people in one line, with mappings as `name value, name value`."""
    if isinstance(value, Mapping):
        texts = {name: f"({_text(item)})" if isinstance(item, Mapping) else _text(item) for name, item in value.items()}
        return ", ".join(f"{name} {text}" for name, text in texts.items())
    return shortest(value) if isinstance(value, float) else value if isinstance(value, str) else canonical_json(value)
