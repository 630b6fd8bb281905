"""The differences of two releases by their manifests: config, members, code, packages, machine, and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightningrl.errors import StageError
from lightningrl.pipeline.graph import Graph, StageRecord
from lightningrl.results.versions import HEADLINE, changed, headline
from lightningrl.utils.files import canonical_json
from lightningrl.utils.numbers import shortest

ABSENT = "–"
Changes = list[dict[str, Any]]
"""What differs, as mappings of `what`, `before`, `after`, and `stages`: the stages that it concerns."""


def difference(before: StageRecord, after: StageRecord) -> dict[str, Any]:
    """Returns what distinguishes two releases, as far as the folders behind them exist.

    `only_before`, `only_after`: stages. Changes of `config` (keys of the config that the stages read, and members),
    `code` (files), `inputs` (roles, keys), `outputs` (files of stages with equal keys) and `surroundings` (packages,
    Python, hardware, threads, commits). `numbers` of the headline by `row` and `column`. `rows_before`, `rows_after`:
    rows of one release only. `notes` for people.
    """
    graphs = Graph.from_manifests(before), Graph.from_manifests(after)
    a, b = ({record.label: record for record in reversed(graph.stages)} for graph in graphs)
    both = [(label, a[label], b[label]) for label in b if label in a]
    same = [(label, one, other) for label, one, other in both if one.key == other.key]
    releases = list(zip((before, after), graphs, strict=True))
    notes = [f"{release.key}: {folder} is not here" for release, graph in releases for folder in graph.gone]
    notes += dict.fromkeys(message for graph in graphs for message in (*graph.damaged, *changed(graph)))
    return {
        "only_before": [label for label in a if label not in b],
        "only_after": [label for label in b if label not in a],
        "config": _changes(both, _settings),
        "code": _changes(both, _code),
        "inputs": _changes(both, lambda record: {r: each["key"] for r, each in record.manifest["inputs"].items()}),
        "outputs": _changes(same, lambda record: {name: sha256[:12] for name, sha256 in record.outputs.items()}),
        "surroundings": _changes(both, _surroundings),
        **_numbers(releases, notes),
        "notes": notes,
    }


def is_empty(found: Mapping[str, Any]) -> bool:
    """Returns whether nothing differs."""
    numbers = [(number["before"], number["after"]) for number in found["numbers"]]
    is_same = all(before == after or math.isnan(before + after) for before, after in numbers)
    return is_same and not any(part for name, part in found.items() if name not in ("numbers", "notes"))


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Returns the leaves of nested settings by their path: entries of a list by their `name`, other lists as one value.

    >>> flat({"run": {"steps": 4, "method": {"kl": 0.5}}, "policies": [{"name": "base", "role": "before"}]})
    {'run.steps': '4', 'run.method.kl': '0.5', 'policies.base.name': 'base', 'policies.base.role': 'before'}
    """
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
        items = [(str(v["name"]), v) for v in value]
    else:
        return {path: value if isinstance(value, str) else canonical_json(value)}
    found: dict[str, str] = {}
    for name, item in items:
        found |= flat(item, f"{path}.{name}" if path else str(name))
    return found


def _settings(record: StageRecord) -> dict[str, str]:
    members = record.manifest["preimage"].get("members", {})
    return flat(record.science) | {f"members.{role}": member for role, member in members.items()}


def _code(record: StageRecord) -> dict[str, str]:
    files = {name: digest[:12] for name, digest in record.manifest["preimage"]["code"].items()}
    return files | ({"(pinned)": record.code[:12]} if record.is_pinned else {})


def _surroundings(record: StageRecord) -> dict[str, str]:
    manifest = record.manifest
    found = {f"{what} {name}": value for key, what in (("packages", "package"), ("hardware", "hardware"))
             for name, value in manifest.get(key, {}).items()}  # fmt: skip
    found |= {name: manifest.get(name) for name in ("python", "threads", "torch_threads")}
    plain = {name: value if isinstance(value, str) else canonical_json(value) for name, value in found.items()}
    return plain | {"commit": record.commit}


def _changes(
    stages: Iterable[tuple[str, StageRecord, StageRecord]], facts: Callable[[StageRecord], Mapping[str, str]]
) -> Changes:
    """Returns the changes, equal ones of several stages as one, in the order of their first stage."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for label, *records in stages:
        before, after = map(facts, records)
        before, after = _whole(before, after), _whole(after, before)
        for what in dict.fromkeys((*before, *after)):
            values = before.get(what, ABSENT), after.get(what, ABSENT)
            if values[0] != values[1]:
                found.setdefault((what, *values), []).append(label)
    return [{"what": what, "before": old, "after": new, "stages": labels} for (what, old, new), labels in found.items()]


def _whole(facts: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Returns facts with each named entry of a list that the others have nothing of as one fact."""
    alone = [what.removesuffix("name") for what in facts if what.endswith(".name")]
    alone = [path for path in alone if not any(what.startswith(path) for what in others)]
    found: dict[str, str] = {}
    for what, value in facts.items():
        path = next((path for path in alone if what.startswith(path)), "")
        key, told = (path[:-1], f"{what.removeprefix(path)} {value}") if path else (what, value)
        found[key] = f"{found[key]}, {told}" if key in found else told
    return found


def _numbers(releases: Iterable[tuple[StageRecord, Graph[StageRecord]]], notes: list[str]) -> dict[str, list[Any]]:
    try:
        tables = [headline(graph, release) for release, graph in releases]
    except StageError as error:
        notes.append(f"numbers are not compared: {error}")
        return {"numbers": [], "rows_before": [], "rows_after": []}
    at_one = all(not table.duplicated(["policy", "benchmark"]).any() for table in tables)
    before, after = ({_row(row, not at_one): row for row in table.to_dict("records")} for table in tables)
    numbers = []
    for name in (name for name in after if name in before):
        old, new = before[name], after[name]
        if at_one and old["threshold"] != new["threshold"]:
            notes.append(
                f"{name}: shown at threshold {shortest(old['threshold'])} before and {shortest(new['threshold'])} after"
            )
        for column in (column for column in HEADLINE if column in old and column in new):
            values = {"before": float(old[column]), "after": float(new[column])}
            numbers.append({"row": name, "column": column} | values)
    return {
        "numbers": numbers,
        "rows_before": [name for name in before if name not in after],
        "rows_after": [name for name in after if name not in before],
    }


def _row(row: Mapping[Any, Any], with_threshold: bool) -> str:
    return f"{row['policy']}/{row['benchmark']}" + (f"@{shortest(row['threshold'])}" if with_threshold else "")
