"""What each row of a table was made from: stages with their keys, the hashes of what was read of them, and counts.

Tables with a row for each number (`metric`, `value`, `low`, `high`, as the paper's) are read as if they had a column
for each metric: measured ones by their name, others with their part in front (`published.tpf`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightningrl.utils.numbers import shortest

Row = dict[str, str]


def row_sources(
    rows: Sequence[Row], collect: Mapping[str, Any], collected: Path, measured: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Returns the stages behind each row that is of a policy, or a series of runs, on a benchmark, by the row's label.

    collect: the manifest of the stage that collected the results. collected: the folder of the collected results, which
    say how many records there are. measured: the kinds of stages behind the table -> the file that was read of them.
    Folders are relative to results/.
    """
    science, inputs = collect["preimage"]["science"], collect["inputs"]
    counts: dict[tuple[str, str], dict[float, int]] = {}
    for row in read_rows(collected / "frontier.csv") if (collected / "frontier.csv").is_file() else ():
        here = counts.setdefault((row["policy"], row["benchmark"]), {})
        here[float(row["threshold"])] = int(row["n_samples"])
    found: dict[str, list[dict[str, Any]]] = {}
    for label, row in zip(labels_of(rows), rows, strict=False):
        key = "policy" if "policy" in row else "series"
        sources = found[label] = []
        for policy in science["policies"]:
            name, benchmark = policy["name"], row["benchmark"]
            if row[key] != (name if key == "policy" else policy.get("series") or name):
                continue
            threshold = float(row.get("threshold") or policy.get("primary_threshold") or science["primary_threshold"])
            for kind, file in measured.items():
                if record := inputs.get(f"{kind}/{name}/{benchmark}"):
                    source: dict[str, Any] = {
                        "stage": f"{kind}/{name}/{benchmark}",
                        "folder": str(PurePosixPath(record["folder"]).relative_to("results")),
                        "key": record["key"],
                        "files": {file: record["outputs"][file]["sha256"]},
                        "threshold": threshold,
                    }
                    if kind == "evaluate" and (n := counts.get((name, benchmark))):
                        source |= {"records": sum(n.values()), "records_at_threshold": n.get(threshold, 0)}
                    sources.append(source)
    return found


def read_rows(file: Path) -> list[Row]:
    """Reads the rows of a table's CSV file, made `wide`."""
    with open(file, newline="", encoding="utf-8") as text:
        return wide(list(csv.DictReader(text)))


def wide(rows: list[Row]) -> list[Row]:
    """Turns the rows of a long table, which has one number in each, into one for each (policy, benchmark, threshold).

    Rows without a policy (nothing was measured) are left out; the rows of other tables stay as they are.

    >>> wide([{"part": "measured", "policy": "a", "benchmark": "b", "metric": "tpf", "value": "2.0", "low": "1.5"}])
    [{'policy': 'a', 'benchmark': 'b', 'tpf': '2.0', 'tpf_low': '1.5'}]
    """
    if not rows or not {"policy", "benchmark", "metric", "value"} <= set(rows[0]):
        return rows
    found: dict[tuple[str, ...], Row] = {}
    for row in (row for row in rows if row["policy"]):
        names = {name: row[name] for name in ("policy", "benchmark", "threshold") if row.get(name)}
        part = row.get("part", "measured")
        metric = row["metric"] if part == "measured" else f"{part}.{row['metric']}"
        ends = {f"{metric}_{end}": row[end] for end in ("low", "high") if row.get(end)}
        found.setdefault(tuple(names.values()), names).update({metric: row["value"]} | ends)
    columns = dict.fromkeys(column for row in found.values() for column in row)
    return [{column: row.get(column, "") for column in columns} for row in found.values()]


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Returns the names of a table's rows, with their thresholds only where rows differ in nothing else; none where
    rows are not of a policy, or a series of runs, on a benchmark."""
    if not rows or "benchmark" not in rows[0] or not {"policy", "series"} & set(rows[0]):
        return []
    plain = [f"{who(row)}/{row['benchmark']}" for row in rows]
    return [label_at(row) if plain.count(label) > 1 else label for label, row in zip(plain, rows, strict=True)]


def label_at(row: Row) -> str:
    """Returns `<policy>/<benchmark>@<threshold>`, without the threshold where the row has none."""
    return f"{who(row)}/{row['benchmark']}" + (f"@{shortest(float(row['threshold']))}" if row.get("threshold") else "")


def who(row: Row) -> str:
    """Returns the row's policy, or its series of runs."""
    return row["policy"] if "policy" in row else row["series"]
