"""Every containment attack and cheat at every level, as this user and, when this one is root, as an ordinary user."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attacks_between
import containment
import pytest
from fixtures.limits import HANG_S
from skipping import need, skip_or_fail

import lightningrl
from lightningrl.sandbox import levels, probe

NOBODY = 65534
LEVELS = [name for name in levels.LEVELS if name != levels.NO_JAIL]
POOLED = [name for name in LEVELS if levels.LEVELS[name].own_pids]


@pytest.mark.parametrize("title", containment.CHECKS)
@pytest.mark.parametrize("level", LEVELS)
def test_host_is_unharmed(level, title):
    need(level)
    containment.run_check(title, level)


@pytest.mark.parametrize("title", containment.SHARED)
@pytest.mark.parametrize("level", POOLED)
def test_host_is_unharmed_by_one_program_after_another(level, title):
    need(level)
    assert probe.shared_fault(level) is None
    containment.run_check(title, level, shared=True)


@pytest.fixture(scope="module")
def as_nobody():
    """Runs `containment.py` as uid 65534, with an interpreter and a copy of the package that it may read."""
    if os.getuid() != 0:
        pytest.skip("not root: the checks above ran as an ordinary user already")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        package = Path(lightningrl.__file__).parent
        shutil.copytree(package / "sandbox", folder / "lightningrl" / "sandbox")
        for source in (package / "__init__.py", package / "errors.py"):
            shutil.copy(source, folder / "lightningrl")
        for source in (*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.toml")):
            shutil.copy(source, folder)
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        python = next(filter(lambda path: _runs(command, path), (sys.executable, "/usr/bin/python3")), None)
        if python is None:
            pytest.skip("no Python 3.11 or newer that uid 65534 may execute")

        @functools.cache
        def report_of(level):
            child = subprocess.run(
                [*command, python, "-B", "containment.py", level],
                cwd=name, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=HANG_S, check=False,
            )  # fmt: skip
            assert child.returncode == 0, child.stderr
            return json.loads(child.stdout)

        yield report_of


def _runs(as_nobody, python):
    test = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.path.exists(sys._base_executable))"
    try:
        return subprocess.run([*as_nobody, python, "-c", test], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


TITLES = [*containment.CHECKS, *(f"{title}, shared" for title in containment.SHARED), *attacks_between.BETWEEN]


@pytest.mark.parametrize("level", LEVELS)
def test_host_is_unharmed_by_an_ordinary_user(level, as_nobody):
    """All of the above, and what one program does to the next."""
    report = as_nobody(level)
    if report["fault"] is not None:
        skip_or_fail([f"{level} as uid {NOBODY}: {report['fault']}"])
    assert set(report["checks"]) == set(TITLES if level in POOLED else containment.CHECKS)
    assert [f"{title}: {found}" for title, found in report["checks"].items() if found is not None] == []
