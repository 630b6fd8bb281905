"""Figures and tables by name: literal strings, resolved when used, so that editing one figure reruns only that one.

A figure is `draw(*tables, out_dir, options=None) -> list[Path]`; a table is `build(*tables) -> tables.Printed`.
`INPUTS` says which collected tables each takes, in this order: `frontier` and `headline` (`frontier.collect`),
`pooled`, `curves`, `steps` and `speed` (`series`), `probes`. The paper's own, `table1` and so on, are `report.paper`.
An outsider's figure is named by its own `module:attribute` in the experiment's YAML.
"""

from __future__ import annotations

FIGURES = {
    "frontier": "lightningrl.report.figures.frontier:draw",
    "rewards": "lightningrl.report.figures.rewards:draw",
    "steps": "lightningrl.report.figures.steps:draw",
    "collapse": "lightningrl.report.figures.collapse:draw",
    "study": "lightningrl.report.figures.pooled:draw",
    "ablations": "lightningrl.report.figures.pooled:ablations",
    "reliability": "lightningrl.report.figures.probes:reliability",
    "together": "lightningrl.report.figures.probes:together",
    "figure1": "lightningrl.report.paper.bars:draw",
    "figure3": "lightningrl.report.paper.curves:figure3",
    "figure4": "lightningrl.report.paper.curves:figure4",
    "figure5": "lightningrl.report.paper.curves:figure5",
    "figure6": "lightningrl.report.paper.curves:figure6",
    "figure7": "lightningrl.report.paper.steps:draw",
    "figure8": "lightningrl.report.paper.overview:draw",
}

TABLES = {
    "main": "lightningrl.report.tables:main",
    "frontier": "lightningrl.report.tables:frontier",
    "study": "lightningrl.report.study:study",
    "criteria": "lightningrl.report.study:criteria",
    "phrasing": "lightningrl.report.study:phrasing",
    "table1": "lightningrl.report.paper.tables:table1",
    "table2": "lightningrl.report.paper.tables:table2",
    "table3": "lightningrl.report.paper.tables:table3",
    "table4": "lightningrl.report.paper.tables:table4",
    "table5": "lightningrl.report.paper.tables:table5",
    "table6": "lightningrl.report.paper.tables:table6",
    "table7": "lightningrl.report.paper.speed:table7",
}

INPUTS = {
    "figures": {
        "frontier": ("frontier",), "rewards": ("curves",), "steps": ("steps",), "collapse": ("curves",),
        "study": ("pooled",), "ablations": ("pooled",), "reliability": ("probes", "pooled"),
        "together": ("probes", "pooled"),
        "figure1": ("headline",), "figure3": ("curves",), "figure4": ("curves",), "figure5": ("curves",),
        "figure6": ("curves",), "figure7": ("steps",), "figure8": ("curves", "frontier"),
    },
    "tables": {
        "main": ("headline",), "frontier": ("frontier",), "study": ("pooled",), "criteria": ("pooled",),
        "phrasing": ("probes",), "table1": ("headline",), "table2": ("headline", "frontier"),
        "table3": ("headline",), "table4": ("headline",), "table5": ("headline",), "table6": ("headline",),
        "table7": ("speed",),
    },
}  # fmt: skip

NEEDS = {
    "table1": {
        "rows": ("SDAR-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32", "LightningRL-8B-b32"),
        "benchmarks": ("gsm8k", "math500", "mbpp", "humaneval"),
        "of": ("evaluations",),
    },
    "table2": {
        "rows": ("SDAR-8B-b32", "LightningRL-8B-b32"),
        "benchmarks": ("gsm8k", "math500", "mbpp", "humaneval"),
        "of": ("evaluations",),
    },
    "table3": {
        "rows": ("LightningRL-8B-b32", "w/o NLL loss", "w/o Decoupled normalization", "w/o TPF-aware filtering"),
        "benchmarks": ("gsm8k",),
        "of": ("evaluations",),
    },
    "table4": {
        "rows": ("LightningRL-8B-b32", "Seq-Seq-Seq", "Seq-Tok-Seq", "Tok-Tok-Tok"),
        "benchmarks": ("gsm8k",),
        "of": ("evaluations",),
    },
    "table5": {
        "rows": ("LightningRL-8B-b32", "w/ Value Model"),
        "benchmarks": ("gsm8k",),
        "of": ("evaluations",),
    },
    "table6": {
        "rows": (
            "SDAR-1.7B-b32", "LightningRL-1.7B-b32", "SDAR-4B-b32", "LightningRL-4B-b32", "SDAR-8B-b32",
            "LightningRL-8B-b32", "SDAR-8B-b8", "LightningRL-8B-b8", "SDAR-8B-b4", "LightningRL-8B-b4",
        ),
        "benchmarks": ("gsm8k", "math500", "mbpp", "humaneval"),
        "of": ("evaluations",),
    },
    "table7": {"rows": ("SDAR-8B-b32", "LightningRL-8B-b32"), "benchmarks": ("gsm8k",), "of": ("speed",)},
    "figure1": {
        "rows": ("LightningRL-8B-b32",),
        "benchmarks": ("gsm8k", "math500", "mbpp", "humaneval"),
        "of": ("evaluations",),
    },
    "figure3": {
        "rows": ("LightningRL-8B-b32", "w/o Decoupled normalization"), "benchmarks": ("gsm8k",), "of": ("training",)
    },
    "figure4": {"rows": ("LightningRL-8B-b32", "w/o NLL loss"), "benchmarks": ("gsm8k",), "of": ("training",)},
    "figure5": {
        "rows": ("LightningRL-8B-b32", "w/o TPF-aware filtering"), "benchmarks": ("gsm8k",), "of": ("training",)
    },
    "figure6": {
        "rows": ("TraceRL-8B-b32", "LightningRL-8B-b32", "GRPO(traj)-8B-b32"),
        "benchmarks": ("gsm8k",),
        "of": ("training",),
    },
    "figure7": {"rows": ("SDAR-8B-b32", "LightningRL-8B-b32"), "benchmarks": ("gsm8k",), "of": ("evaluations",)},
    "figure8": {
        "rows": ("SDAR-8B-b32", "TraceRL-8B-b32", "LightningRL-8B-b32"),
        "benchmarks": ("gsm8k",),
        "of": ("training", "evaluations"),
    },
}  # fmt: skip
"""What the paper's tables and figures are made of, so that each can be had without the others' runs: the policies that
stand for these published rows (`published` in the config) on these benchmarks, and what of theirs. Tables and figures
that are not here are made of everything in the experiment."""
