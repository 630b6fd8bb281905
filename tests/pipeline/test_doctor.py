"""The doctor finds what there is and what is not, says the remedy, and never falls ill itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from fixtures.limits import HANG_S, processor_time
from fixtures.small_benchmarks import MIRROR
from typer.testing import CliRunner

from lightningrl.cli import doctor
from lightningrl.cli.app import app
from lightningrl.pipeline.code_digest import PACKAGE


def run(*arguments, cwd, **environment):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("LIGHTNINGRL_")} | environment
    variables |= {"PYTHONPATH": str(PACKAGE.parent) + os.pathsep + environment.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "lightningrl", "doctor", *arguments]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=HANG_S)


def findings(done):
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_it_reports_this_machine_quickly(tmp_path):
    with processor_time(30):
        done = run("--json", cwd=tmp_path)
    found = findings(done)
    assert {"python", "torch", "flash-attn", "C compiler", "kernel cache", "hub in jobs", "packages", "jail bwrap",
            "jail unshare", "jail landlock", "disk",
            "snakemake", "slurm", "data mirror", "checkout", "experimental"} <= set(found)  # fmt: skip
    assert found["python"]["grade"] == "ok" and sys.version.split()[0] in found["python"]["what"]
    assert all(finding["remedy"] for finding in found.values() if finding["grade"] == "missing")
    assert done.returncode == (0 if json.loads(done.stdout)["ok"] else 1)
    assert not list(tmp_path.iterdir()), "it left something behind"


def test_lines_are_for_people_and_a_mirror_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()

    def asked(mirror, *arguments):
        return CliRunner(env={"LIGHTNINGRL_DATA_MIRROR": str(mirror)}).invoke(app, ["doctor", *arguments])

    lines = asked(MIRROR).stdout.splitlines()
    assert all(line.split()[0] in ("ok", "note", "missing") for line in lines) and len(lines) >= 11
    assert any("9 of 16 files" in line and "piqa/validation.jsonl" in line for line in lines)
    found = findings(asked("empty", "--json"))["data mirror"]
    assert found["grade"] == "note" and "gsm8k/train.jsonl" in found["what"]


def test_a_broken_torch_is_a_finding(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('no such driver')\n")
    done = run("--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert findings(done)["torch"] == {
        "name": "torch", "grade": "missing", "what": "cannot be imported: RuntimeError: no such driver",
        "remedy": "install the packages of requirements.lock",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "paged", "grade", "what"),
    [
        (None, True, "ok", "not installed: torch's own"),
        (None, False, "note", "not installed, and this torch has no paged attention: decoding uses plain forwards"),
        ("2.8.3", False, "ok", "2.8.3: used for paged attention"),
        ("2.8.3", True, "ok", "2.8.3: torch's own paged attention is used"),
    ],
)
def test_it_says_which_paged_attention_is_used(monkeypatch, version, paged, grade, what):
    monkeypatch.setattr(doctor, "_version", lambda name: version)
    found = doctor._flash(paged)
    assert (found.grade, found.what.startswith(what), bool(found.remedy)) == (grade, True, grade == "note")


def test_without_a_jail_programs_cannot_be_judged(monkeypatch):
    from lightningrl.sandbox import probe

    monkeypatch.setattr(
        probe, "survey", lambda: (probe.LevelReport("bwrap", "bwrap is not on the PATH", "apt-get install bubblewrap"),)
    )
    found = {finding.name: finding for finding in doctor._jails()}
    assert found["jail bwrap"].grade == "note" and "apt-get install" in found["jail bwrap"].remedy
    assert found["jails"].grade == "missing"


SINFO = [("exit 1", "note", "sinfo fails"), ("echo gpu up 3", "ok", "gpu up 3")]


@pytest.mark.parametrize(("script", "grade", "what"), SINFO)
def test_slurm_is_asked_for_its_partitions(tmp_path, monkeypatch, script, grade, what):
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first = next(doctor._slurm())
    assert first.grade == grade and what in first.what


def test_a_folder_that_cannot_be_written_is_missing(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    blocked.chmod(0o500)
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    finding = doctor._disk(blocked)
    assert finding.grade == "missing"
