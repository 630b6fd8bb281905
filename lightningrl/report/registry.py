"""Figures and tables by name: literal strings, resolved when used, so that editing one figure reruns only that one.

A figure is `draw(table, out_dir, options=None) -> list[Path]`; a table is `build(table) -> tables.Table`. `INPUTS`
says which collected table each takes: `frontier` and `headline` (`frontier.collect`), `curves` and `steps`
(`series`). An outsider's figure is named by its own `module:attribute` in the experiment's YAML.
"""

from __future__ import annotations

FIGURES = {
    "frontier": "lightningrl.report.figures.frontier:draw",
    "rewards": "lightningrl.report.figures.rewards:draw",
    "steps": "lightningrl.report.figures.steps:draw",
    "collapse": "lightningrl.report.figures.collapse:draw",
}

TABLES = {
    "main": "lightningrl.report.tables:main",
    "frontier": "lightningrl.report.tables:frontier",
}

INPUTS = {
    "figures": {"frontier": "frontier", "rewards": "curves", "steps": "steps", "collapse": "curves"},
    "tables": {"main": "headline", "frontier": "frontier"},
}
