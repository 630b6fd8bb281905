"""Figures and tables by name: strings that are resolved when they are used, so that editing one reruns only that one.

A figure is `draw(*tables, out_dir, **options) -> list[Path]`, of which the options that it names are given: `policies`,
all of the experiment with the base first, and those of the config's `report.plot`. A table is
`build(*tables) -> Table | Sections`. `INPUTS` names the collected tables that each one takes, in this order: `frontier`
and `headline` (`frontier.collect`), `pooled`, `curves`, `steps` and `speed` (`series`), `probes`. An experiment's YAML
may name figures and tables of other packages as `module:attribute`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightningrl.report.paper.printed import BENCHMARKS, printed

_FIGURES, _PAPER = "lightningrl.report.figures", "lightningrl.report.paper"
FIGURES = {
    "frontier": f"{_FIGURES}.frontier:frontier",
    "rewards": f"{_FIGURES}.curves:rewards",
    "steps": f"{_FIGURES}.steps:steps",
    "collapse": f"{_FIGURES}.curves:collapse",
    "study": f"{_FIGURES}.frontier:study",
    "ablations": f"{_FIGURES}.frontier:ablations",
    "reliability": f"{_FIGURES}.probes:reliability",
    "together": f"{_FIGURES}.probes:together",
    "figure1": f"{_PAPER}.bars:figure1",
    **{f"figure{number}": f"{_PAPER}.figures:figure{number}" for number in range(3, 9)},
}

TABLES = {
    "main": "lightningrl.report.tables:main",
    "frontier": "lightningrl.report.tables:frontier",
    "study": "lightningrl.report.study:study",
    "criteria": "lightningrl.report.study:criteria",
    "phrasing": "lightningrl.report.study:phrasing",
    **{f"table{number}": f"{_PAPER}.tables:table{number}" for number in range(1, 7)},
    "table7": f"{_PAPER}.speed:table7",
}

INPUTS = {
    "figures": {
        "frontier": ("frontier",), "rewards": ("curves",), "steps": ("steps",), "collapse": ("curves",),
        "study": ("pooled",), "ablations": ("pooled",), "reliability": ("probes", "pooled"),
        "together": ("probes", "pooled"), "figure1": ("headline",), "figure3": ("curves",), "figure4": ("curves",),
        "figure5": ("curves",), "figure6": ("curves",), "figure7": ("steps",), "figure8": ("curves", "frontier"),
    },
    "tables": {
        "main": ("headline",), "frontier": ("frontier",), "study": ("pooled",), "criteria": ("pooled",),
        "phrasing": ("probes",), "table1": ("headline",), "table2": ("headline", "frontier"), "table3": ("headline",),
        "table4": ("headline",), "table5": ("headline",), "table6": ("headline",), "table7": ("speed",),
    },
}  # fmt: skip

_GSM8K = ("gsm8k",)
_SDAR, _OURS, _TRACERL, _GRPO = "SDAR-8B-b32", "LightningRL-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32"


def _need(rows: Iterable[str], benchmarks: Iterable[str], *kinds: str) -> dict[str, tuple[str, ...]]:
    return {"rows": tuple(rows), "benchmarks": tuple(benchmarks), "of": kinds}


def _table(name: str, kind: str = "evaluations") -> dict[str, tuple[str, ...]]:
    """Returns the need of a printed table: its rows but for the systems that are not run here."""
    rows = [row for row in printed(name) if not row.other_system]
    return _need([row.identity for row in rows], dict.fromkeys(name for row in rows for name, _ in row.numbers), kind)


NEEDS = {
    **{name: _table(name) for name in ("table1", "table2", "table3", "table4", "table5", "table6")},
    "table7": _table("table7", "speed"),
    "figure1": _need([_OURS], BENCHMARKS, "evaluations"),
    "figure3": _need([_OURS, "w/o Decoupled normalization"], _GSM8K, "training"),
    "figure4": _need([_OURS, "w/o NLL loss"], _GSM8K, "training"),
    "figure5": _need([_OURS, "w/o TPF-aware filtering"], _GSM8K, "training"),
    "figure6": _need([_TRACERL, _OURS, _GRPO], _GSM8K, "training"),
    "figure7": _need([_SDAR, _OURS], _GSM8K, "evaluations"),
    "figure8": _need([_SDAR, _TRACERL, _OURS], _GSM8K, "training", "evaluations"),
}
"""What the paper's tables and figures need, so that each one can be made without the runs of the others: the policies
that stand for these published rows (`published` in the config) on these benchmarks, and the kind of their results. All
other tables and figures need everything in the experiment."""
