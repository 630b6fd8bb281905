"""The differences of two releases by their manifests: config, members, code, packages, machine, and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightningrl.errors import StageError
from lightningrl.pipeline.graph import Made, chain
from lightningrl.results.versions import HEADLINE, headline
from lightningrl.utils.files import canonical_json

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs in the second release."""

    what: str
    before: str
    after: str
    stages: tuple[str, ...]
    """The stages that it concerns."""


@dataclass(frozen=True, slots=True)
class Number:
    """A headline number in both releases."""

    row: str
    """`<policy>/<benchmark>`."""
    column: str
    before: float
    after: float


@dataclass(frozen=True)
class Difference:
    """Everything that differs."""

    only_before: list[str]
    only_after: list[str]
    config: list[Change]
    """Changes by path of the key in the config that the stages read; members (`module:attribute`) too."""
    code: list[Change]
    """Changes by file: digests of its normalised text."""
    inputs: list[Change]
    """Changes by role: keys of the stages' inputs."""
    outputs: list[Change]
    """Files that differ although the keys of their stages are equal."""
    surroundings: list[Change]
    """Changes of packages, Python, hardware, threads, commits."""
    numbers: list[Number]
    rows_before: list[str]
    """Rows of the first release only."""
    rows_after: list[str]
    notes: list[str]

    def is_empty(self) -> bool:
        same = all(number.before == number.after or math.isnan(number.before + number.after) for number in self.numbers)
        stages = (self.only_before, self.only_after, self.config, self.code, self.inputs, self.outputs)
        return same and not any((*stages, self.surroundings, self.rows_before, self.rows_after))


def difference(before: Made, after: Made) -> Difference:
    """Returns what distinguishes two releases, as far as the folders behind them exist."""
    chains = chain(before), chain(after)
    a, b = chains[0].by_stage(), chains[1].by_stage()
    both = [stage for stage in b if stage in a]
    notes = [
        f"{made.key}: {folder} is not here"
        for made, c in zip((before, after), chains, strict=True)
        for folder in c.gone
    ]
    notes += [message for c in chains for message in c.damaged]
    config = _gather((stage, _settings(a[stage]), _settings(b[stage])) for stage in both)
    code = _gather((stage, _code(a[stage]), _code(b[stage])) for stage in both)
    same = [stage for stage in both if a[stage].key == b[stage].key]
    outputs = _gather((stage, _hashes(a[stage]), _hashes(b[stage])) for stage in same)
    inputs = _gather((stage, _upstream(a[stage]), _upstream(b[stage])) for stage in both)
    surroundings = _gather((stage, _surroundings(a[stage]), _surroundings(b[stage])) for stage in both)
    numbers, rows_before, rows_after = _numbers(before, after, notes)
    return Difference(
        [stage for stage in a if stage not in b], [stage for stage in b if stage not in a], config, code, inputs,
        outputs, surroundings, numbers, rows_before, rows_after, notes,
    )  # fmt: skip


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


def _settings(made: Made) -> dict[str, str]:
    members = {f"members.{role}": member for role, member in made.manifest["preimage"].get("members", {}).items()}
    return flat(made.science) | members


def _code(made: Made) -> dict[str, str]:
    files = {name: digest[:12] for name, digest in made.manifest["preimage"]["code"].items()}
    return files | ({"(pinned)": made.code[:12]} if made.pinned else {})


def _upstream(made: Made) -> dict[str, str]:
    return {role: record["key"] for role, record in made.manifest["inputs"].items()}


def _hashes(made: Made) -> dict[str, str]:
    return {name: entry["sha256"][:12] for name, entry in made.manifest["outputs"].items()}


def _surroundings(made: Made) -> dict[str, str]:
    manifest = made.manifest
    found = {f"package {name}": str(version) for name, version in manifest.get("packages", {}).items()}
    found |= {f"hardware {name}": _plain(value) for name, value in manifest.get("hardware", {}).items()}
    found |= {name: _plain(manifest.get(name)) for name in ("python", "threads", "torch_threads")}
    return found | {"commit": made.commit}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _gather(pairs: Iterable[tuple[str, Mapping[str, str], Mapping[str, str]]]) -> list[Change]:
    """Returns the changes, equal ones of several stages as one, in the order of their first stage."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage, before, after in pairs:
        for what in dict.fromkeys((*before, *after)):
            values = before.get(what, ABSENT), after.get(what, ABSENT)
            if values[0] != values[1]:
                found.setdefault((what, *values), []).append(stage)
    return [Change(*change, tuple(stages)) for change, stages in found.items()]


def _numbers(before: Made, after: Made, notes: list[str]) -> tuple[list[Number], list[str], list[str]]:
    try:
        tables = headline(before), headline(after)
    except StageError as error:
        notes.append(f"numbers are not compared: {error}")
        return [], [], []
    at_one = all(not table.duplicated(["policy", "benchmark"]).any() for table in tables)
    rows = [{_row(row, not at_one): row for row in table.to_dict("records")} for table in tables]
    found = []
    for name, row in rows[1].items():
        if (old := rows[0].get(name)) is None:
            continue
        if at_one and old["threshold"] != row["threshold"]:
            notes.append(f"{name}: shown at threshold {old['threshold']:g} before and {row['threshold']:g} after")
        columns = [column for column in HEADLINE if column in old and column in row]
        found += [Number(name, column, float(old[column]), float(row[column])) for column in columns]
    return found, [name for name in rows[0] if name not in rows[1]], [name for name in rows[1] if name not in rows[0]]


def _row(row: Mapping[Any, Any], with_threshold: bool) -> str:
    return f"{row['policy']}/{row['benchmark']}" + (f"@{row['threshold']:g}" if with_threshold else "")
