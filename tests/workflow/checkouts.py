"""A copy of the repository, to edit and to run Snakemake in."""

from __future__ import annotations

import functools
import json
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

    def copied(self, root: Path) -> Checkout:
        """Returns a copy with what has run there, times kept."""
        shutil.copytree(self.root, root, symlinks=True, ignore=IGNORED)
        return Checkout(root)

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
        command = [sys.executable, "-m", "snakemake", *arguments, *(["--configfile", config] if config else [])]
        variables = outside() | environment
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=variables, timeout=limit_s)

    def run(self, *arguments: str, **more) -> str:
        """Runs Snakemake, which must end well; returns what it said."""
        done = self.snakemake(*arguments, **more)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def asks(self, *arguments: str, config: str | None = NANO, well: bool = True) -> str:
        """Returns what a dry run of Snakemake says, which must end well or must not (see `snakes.py`)."""
        arguments = (*arguments, "--cores", "1", "--dry-run", *(["--configfile", config] if config else []))
        log = self.root / "said.log"
        job = {"folder": str(self.root), "arguments": arguments, "variables": outside(), "log": str(log)}
        server = snakes()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code, said = int(server.stdout.readline()), log.read_text()
        assert (code == 0) == well, said
        return said

    def refuses(self, *arguments: str, config: str | None = NANO) -> str:
        """Returns what a dry run says that does not end well."""
        return self.asks(*arguments, config=config, well=False)

    def would_run(self, *arguments: str, config: str | None = NANO) -> set[str]:
        """Returns `<rule>/<name>` of every job that a dry run lists, the target rule aside."""
        said = self.asks(*arguments, config=config)
        jobs = jobs_in(said)
        assert jobs or "Nothing to be done" in said, said
        return jobs

    def run_fakes(self, folder: Path, *arguments: str, **more) -> str:
        """Runs Snakemake with stages that write the names of their files; `folder` is for what makes them do so."""
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(FAKE_STAGES)
        return self.run(*arguments, "--no-hooks", PYTHONPATH=os.pathsep.join([str(folder), str(self.root)]), **more)


def outside() -> dict[str, str]:
    """Returns the variables that a run finds."""
    return {key: value for key, value in os.environ.items() if key not in OURS}


@functools.cache
def snakes() -> subprocess.Popen[str]:
    """Returns the process of `snakes.py`, which ends with this one."""
    command = [sys.executable, str(Path(__file__).with_name("snakes.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=outside())


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
