"""`lightningrl doctor`: what will work on this machine, and what will not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli.errors import user_errors

Config = Annotated[Path | None, typer.Option("--config", help="Look at this experiment's data mirror.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")]
Online = Annotated[bool, typer.Option("--online", help="Also ask whether the Hugging Face hub answers.")]


def doctor(config: Config = None, as_json: AsJson = False, online: Online = False) -> None:
    """Python, torch, CUDA, jails, disk, Snakemake, Slurm, data mirror: what works here, and the remedy where not.

    `ok`: it works. `note`: what will not work here, or should be known. `missing`: the default experiment needs it.
    Exit codes: 0, or 1 when something is missing. Nothing is changed, and nothing is asked of the network but with
    --online.
    """
    with user_errors(resumes=False):
        from lightningrl.cli.doctor_checks import examine, report
        from lightningrl.config.experiment import load

        findings = []
        for finding in examine(None if config is None else load(config), online):
            findings.append(finding)
            if not as_json:
                remedy = f" -> {finding.remedy}" if finding.remedy and finding.grade != "ok" else ""
                typer.echo(f"{finding.grade:8}{finding.name:16}{finding.what}{remedy}")
        found = report(findings)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        if not found["ok"]:
            raise typer.Exit(1)
