"""Write one table of the experiment as CSV, Markdown and LaTeX, from the collected results."""

from __future__ import annotations

from dataclasses import replace

from lightningrl.pipeline.stages.collected import read_all
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.report import tables
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write `<name>.csv`, `.md` and `.tex`."""
    build = resolve(context.config["members"]["table"])
    table = build(*read_all(context.inputs["collect"], context.config["collected"]))
    for path in tables.write(replace(table, name=context.config["name"]), context.folder):
        context.report(str(path))
