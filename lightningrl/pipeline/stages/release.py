"""Gather the finished tables, figures and replays in one release folder, and point `latest` at it.

Copies, so that a release can be handed on as a folder. Beside them: what every stage upstream read of the config, and
from which code and inputs it was made, out of their manifests; and `report.html`, on which a release opens. Snakemake's
own page, `workflow.html`, is put there later.
"""

from __future__ import annotations

import csv
import io as text
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightningrl.errors import StageError
from lightningrl.pipeline.stages.collected import read_collected
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.report.findings import differences
from lightningrl.report.overview import Overview, overview_page
from lightningrl.report.page import html_page
from lightningrl.utils.files import canonical_json, fsync_dir, read_json, sha256_text, write_bytes, write_text

HEAD = "# What each stage read of the experiment's config, by stage; not a config to run again.\n"
MANIFEST = "manifest.json"
REPORT = "report.html"
"""The page on which a release opens."""
WORKFLOW = "workflow.html"
"""Snakemake's report, which the run that makes a release writes when all its jobs are done."""
COLUMNS = (
    "stage", "key", "commit", "uncommitted_changes", "code_sha256", "pinned", "pinned_code_sha256", "outputs", "bytes",
    "outputs_sha256", "from",
)  # fmt: skip
"""`code_sha256` is of the code that ran, `pinned_code_sha256` of the one in the key where that is another."""


def run(context: StageContext) -> None:
    """Copy what is shown, write `configuration.yaml` and `provenance.csv`, move the link."""
    for role, source in context.inputs.items():
        kind, _, name = role.partition("/")
        if name in context.config.get(f"{kind}s", ()):
            for file in read_json(source / MANIFEST)["outputs"]:
                target = context.folder / copy_of(kind, name, file)
                write_bytes(target, (source / file).read_bytes())
                context.report(str(target))
    found: dict[Path, Any] = {}
    for folder in context.inputs.values():
        _upstream(folder, found)
    science = {_label(manifest): manifest["preimage"]["science"] for manifest in found.values()}
    told = yaml.safe_dump(science, sort_keys=True, allow_unicode=True)
    write_text(context.folder / "configuration.yaml", HEAD + told)
    rows = provenance([*found.values(), *_checks(found)])
    write_text(context.folder / "provenance.csv", rows)
    write_text(context.folder / "provenance.html", html_page("provenance", _markdown(rows, told)))
    write_text(context.folder / REPORT, overview_page(_overview(context)))
    link(context.folder)


def _overview(context: StageContext) -> Overview:
    """What the release's page shows: the copies in the config's order, and what the headline says in words."""

    def copies(kind: str, ending: str) -> dict[str, Path]:
        names = context.config.get(f"{kind}s", ())
        files = {name: read_json(context.inputs[f"{kind}/{name}"] / MANIFEST)["outputs"] for name in names}
        return {file.removesuffix(ending): context.folder / copy_of(kind, name, file)
                for name in names for file in files[name] if file.endswith(ending)}  # fmt: skip

    files = [path for ending in (".csv", ".tex") for path in copies("table", ending).values()]
    files += copies("figure", ".pdf").values()
    return Overview(
        context.folder.parent.name,
        differences(read_collected(context.inputs["collect"], "headline")),
        {name: path.read_text(encoding="utf-8") for name, path in copies("table", ".md").items()},
        {name: path.read_bytes() for name, path in copies("figure", ".png").items()},
        {name: path.read_text(encoding="utf-8") for name, path in copies("replay", ".html").items()},
        {
            "How it was made": "provenance.html",
            "Snakemake's page of the run": WORKFLOW,
            "Settings": "configuration.yaml",
        }
        | {path.name: path.relative_to(context.folder).as_posix() for path in files},
    )


def copy_of(kind: str, name: str, file: str) -> str:
    """Returns the place of a file in a release, below the stage's name where the file's own does not begin with that.

    >>> copy_of("table", "main", "main.csv"), copy_of("histogram", "base/sums", "histogram.csv")
    ('tables/main.csv', 'histograms/base/sums/histogram.csv')
    """
    return f"{kind}s/{file if file.startswith(name) else f'{name}/{file}'}"


def _upstream(folder: Path, found: dict[Path, Any]) -> None:
    """Adds the manifests of a stage's folder and of all that it was made from.

    Raises StageError where one of those is gone: Snakemake does not make again what nothing but a release needs.
    """
    if folder not in found:
        if not (folder / MANIFEST).is_file():
            kind, name = folder.parts[2], "/".join(folder.parts[3:]).rpartition("-")[0]
            raise StageError(
                f"{folder}, which the release's tables were made from, is gone, and a release says how all of it was "
                f"made. Make it again by its name, `snakemake {kind}_{name.replace('/', '_')}`, then run this again."
            )
        found[folder] = read_json(folder / MANIFEST)
        for source in found[folder]["inputs"].values():
            _upstream(Path(source["folder"]), found)


def _checks(manifests: Mapping[Path, Any]) -> list[Any]:
    """Returns manifests of what had to be finished before: self-checks of judges, and what those were made from. One
    that is gone has the rest of its row empty: what it found is in the manifest of the stage that waited for it."""
    found: dict[Path, Any] = {}
    for record in (record for manifest in manifests.values() for record in manifest.get("after", {}).values()):
        folder = Path(record["folder"])
        if (folder / MANIFEST).is_file():
            _upstream(folder, found)
        else:
            name = folder.name.removesuffix(f"-{record['key']}")
            found[folder] = {"kind": folder.parent.name, "name": name, "key": record["key"]}
    return [manifest for folder, manifest in found.items() if folder not in manifests]


def _label(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['name']}"


def provenance(manifests: Iterable[Mapping[str, Any]]) -> str:
    """Returns CSV with a row a stage; hashes are of what the manifest lists, in canonical JSON."""
    out = text.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    for manifest in sorted(manifests, key=lambda manifest: (_label(manifest), manifest["key"])):
        if "outputs" not in manifest:
            rows.writerow([_label(manifest), manifest["key"], *[""] * (len(COLUMNS) - 2)])
            continue
        outputs, code = manifest["outputs"], manifest.get("code", {})
        ran = code.get("live") or sha256_text(canonical_json(manifest["preimage"]["code"]))
        in_key = code.get("digest", ran)
        hashes = {name: record["sha256"] for name, record in outputs.items()}
        sources = [f"{source['folder'].partition('/')[2].partition('/')[2]}" for source in manifest["inputs"].values()]
        rows.writerow([
            _label(manifest), manifest["key"], manifest["git"]["commit"] or "", manifest["git"]["dirty"] or "",
            ran, code.get("pinned") or "", in_key if in_key != ran else "", len(outputs),
            sum(record["bytes"] for record in outputs.values()), sha256_text(canonical_json(hashes)),
            " ".join(sorted(sources)),
        ])  # fmt: skip
    return out.getvalue()


def _markdown(rows: str, told: str) -> str:
    """Returns the table, hashes cut short, and the configuration."""
    table = [
        [cell[:12] if name.endswith("sha256") else cell for name, cell in zip(COLUMNS, row, strict=True)]
        for row in list(csv.reader(text.StringIO(rows)))[1:]
    ]
    lines = [f"| {' | '.join(row)} |" for row in ([*COLUMNS], ["---"] * len(COLUMNS), *table)]
    return "\n".join(
        ["## How each stage was made", "", *lines, "", "## What each read of the config", "", "```", told, "```"]
    )


def link(folder: Path) -> None:
    """Makes `latest`, beside the folder, a link to it; whoever follows it meanwhile sees the old one or the new."""
    temporary = folder.parent / f".latest.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    os.replace(temporary, folder.parent / "latest")
    fsync_dir(folder.parent)
