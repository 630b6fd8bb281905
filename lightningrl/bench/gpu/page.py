"""The GPU section of docs/benchmarks.md, from the files that `bench gpu` has written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightningrl.bench.gpu.parts import PARTS, recorded
from lightningrl.errors import ConfigError

START, END = "<!-- gpu: written by lightningrl bench gpu-page -->\n", "<!-- /gpu -->"


def section(folder: Path) -> tuple[str, set[str]]:
    """Returns the section's Markdown, and the kinds of devices that its figures are of.

    Of a case the last line counts. Raises ConfigError for a folder without any.
    """
    lines, kinds, machines, wanting = (
        ["| part | case | figures | seconds |", "| --- | --- | --- | ---: |"],
        set(),
        {},
        [],
    )
    for part, cases in PARTS.items():
        rows = {row["case"]: row for row in recorded(folder / f"{part}.jsonl")}
        for case in cases:
            row = rows.get(case.name)
            if row is None:
                wanting.append(f"{part}: {case.name}: not asked for yet")
            elif "figures" not in row:
                what = "skipped" if "skipped" in row else "failed"
                wanting.append(f"{part}: {case.name}: {what}: {row.get('skipped') or row.get('error')}".splitlines()[0])
            else:
                machines[f"{row['device']}, torch {row['torch']}, {row['size']}"] = None
                kinds.add(row["kind"])
                cell = "; ".join(_words(row["figures"]))
                lines.append(f"| {part} | {case.name} | {cell} | {row['seconds']:.1f} |")
    if not machines:
        raise ConfigError(
            f"{folder} has no figures of `lightningrl bench gpu`; run its parts first, or name their folder"
        )
    text = f"Measured on: {'; '.join(machines)}.\n\n" + "\n".join(lines) + "\n"
    if wanting:
        text += "\nNot measured:\n\n" + "\n".join(f"- {line}" for line in wanting) + "\n"
    return text, kinds


def _words(figures: Mapping[str, Any], within: str = "") -> list[str]:
    """Returns `name value` for each figure, those of tables within it too."""
    found = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += _words(value, f"{within}{name}: ")
        elif isinstance(value, list):
            rows = [each if isinstance(each, Mapping) else {"": each} for each in value]
            found += [
                word for number, each in enumerate(rows, 1) for word in _words(each, f"{within}{name} {number}: ")
            ]
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
            found.append(f"{within}{name} {shown}".replace("|", "/").replace("\n", " ").strip())
    return found


def written(page: str, folder: Path) -> str:
    """Returns the page with the section in its place. Raises ConfigError for figures that are not of a GPU."""
    text, kinds = section(folder)
    if kinds != {"cuda"}:
        raise ConfigError(
            f"the figures in {folder} are of {', '.join(sorted(kinds))}; the page's section is for a GPU's"
        )
    if START not in page or END not in page:
        raise ConfigError(f"the page has no place for it: write {START.strip()} and {END} where the section belongs")
    return page[: page.index(START) + len(START)] + text + page[page.index(END) :]
