"""A copy of the repository, to edit and to run Snakemake in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fixtures.limits import HANG_S

from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.stage import Stage

NANO = "config/nano.yaml"
PARTS = ("lightningrl", "workflow", "config", "Snakefile", "slurm")
OURS = ("PYTHONPATH", "PYTHONNOUSERSITE")
"""Variables of the tests' own process that a run must not have."""
IGNORED = shutil.ignore_patterns("*.pyc.*", ".*.tmp")
"""What is being written just now. Compiled files come along: they are checked against times or hashes."""
FAKE_STAGES = '''
"""Imported by every Python that starts with this folder on its path: stages write their files' names, as JSON,
and what the environment says behind each."""
import json
import os
import sys

if "snakemake" not in " ".join(sys.orig_argv):
    from lightningrl.pipeline import runner

    make_context = runner.context_of

    def write_names(stage, *rest):
        for name in stage.files:
            path = stage.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(name + os.environ.get("FAKE_CONTENT", "")))
        return make_context(stage, *rest)

    runner.context_of = write_names
    runner.resolve = lambda reference: lambda context: None
'''


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / name

    def edit(self, name: str, old: str, new: str) -> None:
        """Replaces the one occurrence of `old` in a file."""
        text = self.path(name).read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
        self.path(name).write_text(text.replace(old, new))

    def append(self, name: str, text: str) -> None:
        path = self.path(name)
        path.write_text(path.read_text() + text)

    def take_config(self, name: str) -> str:
        """Copies an experiment of this folder into the checkout's, and returns its path there."""
        shutil.copy(Path(__file__).with_name(f"{name}.yaml"), self.path("config"))
        return f"config/{name}.yaml"

    def snakemake(self, *arguments: str, config: str | None = NANO, limit_s: float = HANG_S, **environment: str):
        """Runs Snakemake to its end; returns the finished process with its output as text."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        command += ["--configfile", config] if config else []
        variables = {key: value for key, value in os.environ.items() if key not in OURS} | environment
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=variables, timeout=limit_s)

    def run(self, *arguments: str, **more) -> str:
        """Runs Snakemake, which must end well; returns what it said."""
        done = self.snakemake(*arguments, **more)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def run_fakes(self, folder: Path, *arguments: str, **more) -> str:
        """Runs Snakemake with stages that write the names of their files; `folder` is for what makes them do so."""
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(FAKE_STAGES)
        return self.run(*arguments, "--no-hooks", PYTHONPATH=os.pathsep.join([str(folder), str(self.root)]), **more)

    def refuses(self, *arguments: str, config: str | None = NANO, **environment: str) -> str:
        """Returns what a dry run says that does not end well."""
        done = self.snakemake(*arguments, "--dry-run", "--cores", "1", config=config, **environment)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def would_run(self, *arguments: str, config: str | None = NANO) -> set[str]:
        """Returns `<rule>/<name>` of every job that a dry run lists, the target rule aside."""
        said = self.run(*arguments, "--dry-run", "--cores", "2", config=config)
        jobs = jobs_in(said)
        assert jobs or "Nothing to be done" in said, said
        return jobs


def jobs_in(said: str) -> set[str]:
    """`<rule>/<name>` of every job that Snakemake says it runs, or would run, the target rule aside."""
    jobs = set()
    for block in re.split(r"^\[.*\]$", said, flags=re.MULTILINE):
        rule = re.search(r"^(?:local)?rule ([\w-]+):$", block, flags=re.MULTILINE)
        if rule and (wildcards := re.search(r"wildcards: (?:name=(\S+), )?key=", block)):
            jobs.add(f"{rule[1]}/{wildcards[1] or rule[1]}")
    return jobs


def with_upstream(stage: Stage) -> set[str]:
    """`<kind>/<name>` of a stage and of everything that it needs."""
    return {f"{stage.kind}/{stage.name}"}.union(*(with_upstream(each) for each in stage.upstream))


def copy_repository(root: Path, of: Path = PACKAGE.parent) -> Checkout:
    """A fresh copy of the repository, or of a checkout's, in which nothing has run."""
    root.mkdir(parents=True)
    for part in PARTS:
        source = of / part
        if source.is_symlink():
            (root / part).symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, root / part, ignore=IGNORED)
        else:
            shutil.copy2(source, root / part)
    return Checkout(root)
