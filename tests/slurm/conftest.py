"""A Slurm for the tests of this folder, and checkouts that Snakemake runs on it; skipped where none is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "workflow")]

from checkouts import Checkout, copy_repository  # noqa: E402
from cluster import NEEDED, SEARCHED  # noqa: E402
from fixtures.limits import HANG_S  # noqa: E402


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
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=HANG_S)
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

    def state(self, job: int) -> str:
        return self.facts(job)["JobState"]

    def start(self, checkout: Checkout, *arguments: str, config: str = "nano.yaml", site: str = "site.yaml") -> Running:
        """Snakemake with the slurm profile, a test site's overlay and a config of this folder."""
        command = [sys.executable, "-m", "snakemake", *arguments, "--profile", "slurm", "--profile"]
        command += [str(HERE / site), "--configfile", f"tests/slurm/{config}"]
        return Running(command, checkout.root, self.environment)

    def run(self, checkout: Checkout, *arguments: str, config: str = "nano.yaml", limit_s: float = HANG_S) -> str:
        """What it said, after it ended well."""
        code, said = self.start(checkout, *arguments, config=config).end(limit_s)
        assert code == 0, said[-8000:]
        return said


class Running:
    """A Snakemake that is killed when the test process dies; what it says goes to a file, so that it never waits."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._said = folder / f"said-{len(list(folder.glob('said-*')))}.log"
        with open(self._said, "wb") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip

    def end(self, limit_s: float = HANG_S) -> tuple[int, str]:
        """Wait for its end: exit code, and all that it said."""
        try:
            return self.process.wait(limit_s), self._said.read_text()
        finally:
            self.kill()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """It lasts as long as its standard input, so it ends with the test process, however that ends."""
    folder = tmp_path_factory.mktemp("slurm")
    with started(folder):
        yield Cluster(folder)


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program that runs a Slurm in a folder, once that is ready; skips where none is installed."""
    missing = [name for name in NEEDED if shutil.which(name, path=SEARCHED) is None]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} not found): apt-get install slurm-wlm munge")
    folder.mkdir(exist_ok=True)
    for parent in (folder, *folder.parents):  # munged wants a socket's folder that others may enter
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    command = [sys.executable, str(HERE / "cluster.py"), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n", "the test Slurm did not start; stderr says why"
            yield process
        finally:
            process.stdin.close()


def copy_with_configs(root: Path, of: Checkout | None = None) -> Checkout:
    """A checkout with the configs of this folder; `of`: with what has run there, too."""
    if of is not None:
        return of.copied(root)
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
