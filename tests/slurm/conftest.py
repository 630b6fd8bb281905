"""A Slurm for the tests of this folder, and checkouts that Snakemake runs on it; skipped where none is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "workflow"))

from checkouts import Checkout, copy_repository  # noqa: E402

NEEDED = ("munged", "slurmctld", "slurmd", "srun")


@dataclass(frozen=True)
class Cluster:
    """The test Slurm: its commands, and Snakemake on it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return without | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def jobs(self) -> dict[int, str]:
        """Number of every job so far -> `<rule>/<stage's name>`, from the comment that the plugin gives it."""
        found = {}
        for line in self.call("squeue", "--states=all", "--noheader", "--format=%i %k").splitlines():
            number, comment = line.split(maxsplit=1)
            if told := re.fullmatch(r"rule_(\w+)_wildcards_(.+)_[0-9a-f]{8}", comment):
                found[int(number)] = f"{told[1]}/{told[2].removeprefix('_').removesuffix('_')}"
        return dict(sorted(found.items()))

    def facts(self, job: int) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.call("scontrol", "show", "job", "--oneliner", str(job)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start(self, checkout: Checkout, *arguments: str, config: str = "nano.yaml") -> subprocess.Popen:
        """Snakemake with the slurm profile, the test site's overlay and a config of this folder."""
        command = [sys.executable, "-m", "snakemake", *arguments, "--profile", "slurm", "--profile"]
        command += [str(HERE / "site.yaml"), "--configfile", f"tests/slurm/{config}"]
        return subprocess.Popen(
            command,
            cwd=checkout.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, checkout: Checkout, *arguments: str, config: str = "nano.yaml", limit_s: float = 800) -> str:
        """What it said, after it ended well."""
        process = self.start(checkout, *arguments, config=config)
        said, _ = process.communicate(timeout=limit_s)
        assert process.returncode == 0, said[-8000:]
        return said


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} not found): apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents):  # munged wants a socket's folder that others may enter
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    script = str(HERE / "cluster.sh")
    try:
        done = subprocess.run([script, "start", str(folder)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Cluster(folder)
    finally:
        subprocess.run([script, "stop", str(folder)], check=False, timeout=60)


def copy_with_configs(root: Path, of: Checkout | None = None) -> Checkout:
    """A checkout with the configs of this folder; `of`: with what has run there, too."""
    if of is not None:
        shutil.copytree(of.root, root, symlinks=True)
        return Checkout(root)
    made = copy_repository(root)
    shutil.copytree(HERE, root / "tests" / "slurm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "stalling.py", root)
    return made


def science(folder: Path) -> dict[str, bytes | dict]:
    """A finished stage's files but the timing, by name; of the manifest all but how it ran."""
    found: dict[str, bytes | dict] = {}
    for path in folder.iterdir():
        if path.name == "manifest.json":
            found[path.name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "run"}
        elif path.name != "timing.jsonl":
            found[path.name] = path.read_bytes()
    return found


@pytest.fixture(scope="session")
def nano(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A checkout in which all of nano has run on the cluster, and what Snakemake said."""
    checkout = copy_with_configs(tmp_path_factory.mktemp("nano") / "repository")
    return checkout, cluster.run(checkout)
