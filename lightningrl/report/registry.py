"""Figures and tables by name: strings that are resolved when they are used, so that editing one reruns only that one.

A figure is `draw(*tables, out_dir, **options) -> list[Path]`, of which the options that it names are given: `policies`,
all of the experiment with the base first, and those of the config's `report.plot`. A table is
`build(*tables) -> Table | Sections`. Behind the member stand the collected tables that it takes, in this order:
`frontier` and `headline` (`frontier.collect`), `pooled`, `curves`, `steps` and `speed` (`series`), `probes`,
`quantized`, `trainings`. An experiment's YAML may name figures and tables of other packages as `module:attribute`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightningrl.report.paper.printed import printed

_FIGURES: dict[str, tuple[str, ...]] = {
    "frontier": ("figures.frontier:frontier", "frontier"),
    "rewards": ("figures.curves:rewards", "curves"),
    "steps": ("figures.steps:steps", "steps"),
    "collapse": ("figures.curves:collapse", "curves"),
    "study": ("figures.frontier:study", "pooled"),
    "ablations": ("figures.frontier:ablations", "pooled"),
    "reliability": ("figures.probes:reliability", "probes", "pooled"),
    "together": ("figures.probes:together", "probes", "pooled"),
    "work": ("figures.work:work", "frontier"),
    "bits": ("figures.bits:bits", "quantized"),
    "calibrations": ("figures.calibrations:calibrations", "quantized", "probes"),
    "outliers": ("figures.outliers:outliers", "probes"),
    "surface": ("figures.outliers:surface", "probes"),
    "figure1": ("paper.bars:figure1", "headline"),
    "figure3": ("paper.figures:figure3", "curves"),
    "figure4": ("paper.figures:figure4", "curves"),
    "figure5": ("paper.figures:figure5", "curves"),
    "figure6": ("paper.figures:figure6", "curves"),
    "figure7": ("paper.figures:figure7", "steps"),
    "figure8": ("paper.figures:figure8", "curves", "frontier"),
}
_TABLES: dict[str, tuple[str, ...]] = {
    "main": ("tables:main", "headline"),
    "frontier": ("tables:frontier", "frontier"),
    "rivals": ("rivals:rivals", "headline", "speed"),
    "trained": ("trained:trained", "headline", "trainings"),
    "study": ("study:study", "pooled"),
    "criteria": ("study:criteria", "pooled"),
    "phrasing": ("study:phrasing", "probes"),
    "quantization": ("quantization:quantization", "quantized", "probes"),
    "bought_back": ("quantization:bought_back", "quantized"),
    "table1": ("paper.tables:table1", "headline"),
    "table2": ("paper.tables:table2", "headline", "frontier"),
    "table3": ("paper.tables:table3", "headline"),
    "table4": ("paper.tables:table4", "headline"),
    "table5": ("paper.tables:table5", "headline"),
    "table6": ("paper.tables:table6", "headline"),
    "table7": ("paper.tables:table7", "speed"),
    "published_quantization": ("paper.quantization:published_quantization", "headline"),
}
FIGURES, TABLES = (
    {name: f"lightningrl.report.{member}" for name, (member, *_) in known.items()} for known in (_FIGURES, _TABLES)
)
INPUTS = {
    kind: {name: tuple(inputs) for name, (_, *inputs) in known.items()}
    for kind, known in (("figures", _FIGURES), ("tables", _TABLES))
}

_GSM8K = ("gsm8k",)
_SDAR, _OURS, _TRACERL, _GRPO = "SDAR-8B-b32", "LightningRL-8B-b32", "TraceRL-8B-b32", "GRPO(traj)-8B-b32"


EVERY = ("*",)
"""Every system, or every benchmark."""


def _need(rows: Iterable[str], benchmarks: Iterable[str], *kinds: str) -> dict[str, tuple[str, ...]]:
    return {"rows": tuple(rows), "benchmarks": tuple(benchmarks), "of": kinds}


def concerns(names: tuple[str, ...], name: str) -> bool:
    """Returns whether a need's `rows` or `benchmarks` have this one."""
    return names == EVERY or name in names


def _table(name: str, kind: str = "evaluations") -> dict[str, tuple[str, ...]]:
    """Returns the need of a printed table: policies that stand for its rows, a server for another system's too."""
    rows = printed(name)
    return _need([row.identity for row in rows], dict.fromkeys(name for row in rows for name, _ in row.numbers), kind)


NEEDS = {
    **{name: _table(name) for name in ("table1", "table2", "table3", "table4", "table5", "table6")},
    "table7": _table("table7", "speed"),
    "rivals": _need(EVERY, EVERY, "evaluations", "speed"),
    "figure1": _table("table2"),
    "figure3": _need([_OURS, "w/o Decoupled normalization"], _GSM8K, "training"),
    "figure4": _need([_OURS, "w/o NLL loss"], _GSM8K, "training"),
    "figure5": _need([_OURS, "w/o TPF-aware filtering"], _GSM8K, "training"),
    "figure6": _need([_TRACERL, _OURS, _GRPO], _GSM8K, "training"),
    "figure7": _need([_SDAR, _OURS], _GSM8K, "evaluations"),
    "figure8": _need([_SDAR, _TRACERL, _OURS], _GSM8K, "training", "evaluations"),
}
"""What the paper's tables and figures need, so that each one can be made without the runs of the others: the policies
that stand for these published rows (`published` in the config) on these benchmarks, and the kind of their results; and
what measures speeds. All other tables and figures need everything in the experiment but speeds."""

ROLES = {"ablations": "ablation"}
"""Figures that show the runs of one role, which must then be there."""
