"""From a cell of a table back to its origins (records, weights, training, base, data), as plain data for any printer.

Of a missing folder, the manifest of its consumer still has the key and the hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.errors import LightningRLError, StageError
from lightningrl.pipeline.graph import Made, chain, read_made
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.results.cell import Cell
from lightningrl.results.recollect import runs_of, settings
from lightningrl.utils.files import canonical_json, read_json, read_jsonl

SOURCES = {kind.name: kind.collected for kind in KINDS.values() if kind.per_system}
"""The kinds of stages that say something of a system -> the file that says it."""
QUANTIZATION = "quantization.json"
"""The file in which a quantised checkpoint describes its quantizer."""


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


def links(cell: Cell, collect: Made | None) -> list[Link]:
    """Returns the whole way, the table first and each folder once. Raises StageError where a manifest was changed."""
    found: dict[str, Link] = {}
    for link in _links(cell, collect):
        found.setdefault(link.folder, link)
    return list(found.values())


def _links(cell: Cell, collect: Made | None) -> Iterator[Link]:
    table = cell.table
    if table.owner.kind == "release":
        yield _link("release", table.owner, [table.file.relative_to(table.owner.folder).as_posix()])
    if table.stage is not None:
        yield _link("table", table.stage, [f"{table.stage.name}.csv"])
    if collect is None:
        yield Link("collected", str(table.collect), False)
        return
    _here(table.reader, table.role)
    yield _link(
        "collected",
        collect,
        [name for name in collect.manifest["outputs"] if name.endswith(".csv")],
        {name: _text(value) for name, value in collect.science.items() if isinstance(value, str | int | float)},
    )
    for policy in runs_of(cell, collect):
        for kind in _kinds(cell):
            if (role := f"{kind}/{policy}/{cell.benchmark}") in collect.inputs:
                yield from _records(cell, collect, kind, role)


def stage_links(made: Made) -> list[Link]:
    """Returns a stage of any kind and all that it was made from, what was made later first. Raises StageError where an
    input is not the one that was read."""
    found = chain(made)
    links = []
    for each in found.made:
        for role in each.inputs:
            _here(each, role)
        facts = {name: _text(value) for name, value in each.science.items()}
        links.append(_link(each.kind, each, list(each.manifest["outputs"]), facts))
    return links + [Link("elsewhere", str(folder), False) for folder in found.gone]


def _kinds(cell: Cell) -> Sequence[str]:
    """Returns the kinds of stages behind the cell's table; evaluations where they are no longer known."""
    try:
        named = settings(cell.table.stage, "table", cell.table.file.stem)["collected"]
    except (LightningRLError, KeyError):
        return ["evaluate"]
    names = {named} if isinstance(named, str) else set(named)
    return [kind for kind in SOURCES if names & set(KINDS[kind].collected_in)] or ["evaluate"]


def _records(cell: Cell, collect: Made, kind: str, role: str) -> Iterator[Link]:
    """Yields the measurement of one policy, and everything behind it."""
    name = SOURCES[kind]
    title = name.partition(".")[0]
    evaluation = _here(collect, role)
    if evaluation is None:
        yield _elsewhere(title, collect, role)
        return
    facts = {}
    if (file := evaluation.folder / "records.jsonl").is_file():
        rows = list(read_jsonl(file))
        facts["records"] = str(len(rows))
        if cell.threshold is not None:
            at = sum(abs(row["threshold"] - cell.threshold) < 1e-9 for row in rows)
            facts["records"] += f", {at} of them at threshold {cell.threshold:g}"
    facts |= {name: _text(value) for name, value in evaluation.science.items() if name not in ("policy", "benchmark")}
    for role, after in evaluation.manifest.get("after", {}).items():
        for proof in after.get("found", {}).values():
            facts[f"proof {role}"] = _text({name: _counts(entry) for name, entry in proof.items()})
    yield _link(title, evaluation, [name], facts)
    data: dict[Path, tuple[Made, str]] = {}
    yield from _policy("weights", evaluation, "policy", data)
    if "data" in evaluation.inputs:
        data = {evaluation.inputs["data"]: (evaluation, "data")} | data
    for consumer, role in data.values():
        yield _data(consumer, role)


def _policy(title: str, consumer: Made, role: str, data: dict[Path, tuple[Made, str]]) -> Iterator[Link]:
    """Yields a checkpoint and what it was trained from, back to the base; `data` gathers the data on the way."""
    if role not in consumer.inputs:
        return
    made = _here(consumer, role)
    if made is None:
        yield _elsewhere(title, consumer, role)
        return
    facts = {}
    if made.kind == "train":
        facts |= _selection(made.folder / "selection.json")
    elif made.kind == "checkpoint" and (made.folder / "checkpoint.json").is_file():
        found = read_json(made.folder / "checkpoint.json")
        facts |= {name: _text(found[name]) for name in ("from", "repo", "revision", "sha256") if found.get(name)}
    elif made.kind == "quantize" and (made.folder / QUANTIZATION).is_file():
        found = read_json(made.folder / QUANTIZATION)
        facts |= {name: _text(found[name]) for name in ("quantizer", "bits_per_weight")}
    facts |= {name: _text(value) for name, value in made.science.items()}
    yield _link(title, made, [name for name in made.manifest["outputs"] if name.endswith(".safetensors")], facts)
    data |= {folder: (made, name) for name, folder in made.inputs.items() if name.split("/")[0] == "data"}
    yield from _policy("unquantised", made, "policy", data)
    yield from _policy("base", made, "base", data)
    yield from _policy("matched run", made, "matched", data)


def _data(consumer: Made, role: str) -> Link:
    made = _here(consumer, role)
    if made is None:
        return _elsewhere("data", consumer, role)
    facts = {name: _text(value) for name, value in made.science.items()}
    if (made.folder / "sources.json").is_file():
        for key, source in read_json(made.folder / "sources.json").get("sources", {}).items():
            facts[f"source {key}"] = _text(source)
        if not any(name.startswith("source ") for name in facts):
            facts["source"] = "generated, from the seed"
    return _link("data", made, list(made.manifest["outputs"]), facts)


def _selection(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    found = read_json(path)
    chosen = found.get("chosen", {})
    figures = ", ".join(f"{n} {_text(v)}" for n, v in chosen.items() if n.startswith("validation_"))
    return {"chosen": f"step {chosen.get('step')}: {figures}", "rule": str(found.get("rule", ""))}


def _here(consumer: Made, role: str) -> Made | None:
    """Returns an input if it exists. Raises StageError when it is not the one that was read."""
    folder = consumer.inputs[role]
    if not (folder / MANIFEST).is_file():
        return None
    made, recorded = read_made(folder), consumer.manifest["inputs"][role]
    if made.key != recorded["key"] or made.manifest["outputs"] != recorded["outputs"]:
        raise StageError(
            f"{folder / MANIFEST} is not what {consumer.folder} was made from: key or hashes differ from those that "
            "were recorded. It was made again with another result, or is of another copy. Make the tables and the "
            "release again (`snakemake --cores 2 --configfile` and the experiment's config), or name the release's own "
            "results folder."
        )
    return made


def _link(title: str, made: Made, names: list[str], facts: Mapping[str, str] | None = None) -> Link:
    if not made.is_of_its_key():
        raise StageError(f"{made.folder / MANIFEST} was changed: its key does not follow from what it says.")
    files = {name: made.manifest["outputs"][name]["sha256"] for name in names}
    return Link(
        title, str(made.folder), True, made.finished, made.commit, made.pinned, made.ran_other_code, files, facts or {}
    )


def _elsewhere(title: str, consumer: Made, role: str) -> Link:
    recorded = consumer.manifest["inputs"][role]["outputs"]
    names = (".safetensors", "train.jsonl", "test.jsonl", "sources.json", "config.json")
    names += tuple(SOURCES.values())
    files = {name: entry["sha256"] for name, entry in recorded.items() if name.endswith(names)}
    return Link(title, str(consumer.inputs[role]), False, files=files)


def _counts(entry: Any) -> Any:
    return f"{entry['correct']} of {entry['judged']} right" if isinstance(entry, dict) and "judged" in entry else entry


def _text(value: Any) -> str:
    """Returns a value for people in one line, with mappings as `name value, name value`."""
    if isinstance(value, Mapping):
        pairs = (
            (name, f"({_text(item)})" if isinstance(item, Mapping) else _text(item)) for name, item in value.items()
        )
        return ", ".join(f"{name} {text}" for name, text in pairs)
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else canonical_json(value)
