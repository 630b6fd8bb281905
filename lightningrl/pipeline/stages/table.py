"""Write one table of the experiment as CSV, Markdown, LaTeX and HTML, with what each of its rows was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightningrl.pipeline.stages.collected import read_all
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.sources import read_rows, row_sources
from lightningrl.report import tables
from lightningrl.utils.files import read_json, write_json
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write `<name>.csv`, `.md`, `.tex`, `.html` and `.sources.json`."""
    collect = context.inputs["collect"]
    for path in write_table(context.config, collect, context.folder, collect):
        context.report(str(path))


def write_table(config: Mapping[str, Any], collected: Path, folder: Path, collect: Path | None = None) -> list[Path]:
    """Writes a table into a folder and returns its files.

    collected: the folder of the collected tables. collect: that of the stage that collected them, whose manifest tells
    what they were made from; without it there are no `.sources.json`.
    """
    name, build = config["name"], resolve(config["members"]["table"])
    table = replace(build(*read_all(collected, config["collected"])), name=name)
    paths = tables.write(table, folder)
    if collect is not None and (collect / "manifest.json").is_file():
        manifest, paths = read_json(collect / "manifest.json"), [*paths, folder / f"{name}.sources.json"]
        rows = read_rows(folder / f"{name}.csv")
        write_json(paths[-1], row_sources(rows, manifest, collected, config["measured"]))
    return paths
