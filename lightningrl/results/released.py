"""What an experiment has released: the results table, the figures, the HTML report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightningrl.errors import StageError
from lightningrl.pipeline.plan import Plan
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.utils.files import read_json

REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Released:
    """What `lightningrl results` shows."""

    table: str
    """The headline table for a terminal."""
    findings: list[str]
    """Sentences about significant differences, and about its place among other seeds."""
    paths: list[Path]
    """The figures, the tables, and the HTML report if there is one."""
    note: str
    """A note if this is not the release of today's config and code; else empty."""


def released(plan: Plan) -> Released:
    """Returns the release of this config and code, or else the newest. Raises StageError when there is none."""
    from lightningrl.pipeline.stages.collected import read_collected
    from lightningrl.report.findings import among_seeds, differences, read_seeds
    from lightningrl.report.tables import console

    folder, note = plan.release.folder, ""
    if not (folder / MANIFEST).is_file():
        latest = folder.parent / "latest"
        if not (latest / MANIFEST).is_file():
            raise StageError(
                f"{folder.parent} holds no finished release. Run the experiment first: in the clone, "
                "`snakemake --cores 2` (with --configfile and the same file, if it is not the default one)."
            )
        folder = folder.parent / latest.readlink()
        note = f"note: {folder} was made from another config or other code than today's, which has no release yet"
    manifest = read_json(folder / MANIFEST)
    collected = Path(manifest["inputs"]["collect"]["folder"])
    shown = [name for name in manifest["outputs"] if name.endswith((".pdf", ".png", ".md"))]
    paths = [folder / name for name in sorted(shown)]
    if (folder / REPORT).is_file():
        paths.append(folder / REPORT)
    headline = read_collected(collected, "headline")
    findings, seeds = differences(headline), plan.experiment.report.seeds
    if seeds is not None and Path(seeds).is_file():
        findings += among_seeds(headline, read_seeds(Path(seeds)))
    return Released(console(headline), findings, paths, note)
