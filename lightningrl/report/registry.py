"""Figures and tables by name: strings that are resolved when they are used, so that editing one reruns only that one.

A figure is `draw(*tables, out_dir, options=None) -> list[Path]`; a table is `build(*tables) -> tables.Printed`.
`INPUTS` names the collected tables that each one takes, in this order: `frontier` and `headline` (`frontier.collect`),
`pooled`, `curves`, `steps` and `speed` (`series`), `probes`. The paper's own, `table1` and so on, are in
`report.paper`. An experiment's YAML may name figures and tables of other packages as `module:attribute`.
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

_ALL = ("gsm8k", "math500", "mbpp", "humaneval")
_GSM8K = ("gsm8k",)
_SDAR, _OURS, _TRACERL, _GRPO = "SDAR-8B-b32", "LightningRL-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32"
_SIZES = ("1.7B-b32", "4B-b32", "8B-b32", "8B-b8", "8B-b4")
_NO_NLL, _NO_DECOUPLING, _NO_FILTER = "w/o NLL loss", "w/o Decoupled normalization", "w/o TPF-aware filtering"


def _need(rows: tuple[str, ...], benchmarks: tuple[str, ...], *kinds: str) -> dict[str, tuple[str, ...]]:
    return {"rows": rows, "benchmarks": benchmarks, "of": kinds}


NEEDS = {
    "table1": _need((_SDAR, _TRACERL, _GRPO, _OURS), _ALL, "evaluations"),
    "table2": _need((_SDAR, _OURS), _ALL, "evaluations"),
    "table3": _need((_OURS, _NO_NLL, _NO_DECOUPLING, _NO_FILTER), _GSM8K, "evaluations"),
    "table4": _need((_OURS, "Seq-Seq-Seq", "Seq-Tok-Seq", "Tok-Tok-Tok"), _GSM8K, "evaluations"),
    "table5": _need((_OURS, "w/ Value Model"), _GSM8K, "evaluations"),
    "table6": _need(
        tuple(f"{model}-{size}" for size in _SIZES for model in ("SDAR", "LightningRL")), _ALL, "evaluations"
    ),
    "table7": _need((_SDAR, _OURS), _GSM8K, "speed"),
    "figure1": _need((_OURS,), _ALL, "evaluations"),
    "figure3": _need((_OURS, _NO_DECOUPLING), _GSM8K, "training"),
    "figure4": _need((_OURS, _NO_NLL), _GSM8K, "training"),
    "figure5": _need((_OURS, _NO_FILTER), _GSM8K, "training"),
    "figure6": _need((_TRACERL, _OURS, _GRPO), _GSM8K, "training"),
    "figure7": _need((_SDAR, _OURS), _GSM8K, "evaluations"),
    "figure8": _need((_SDAR, _TRACERL, _OURS), _GSM8K, "training", "evaluations"),
}
"""What the paper's tables and figures need, so that each one can be made without the runs of the others: the policies
that stand for these published rows (`published` in the config) on these benchmarks, and the kind of their results. All
other tables and figures need everything in the experiment."""
