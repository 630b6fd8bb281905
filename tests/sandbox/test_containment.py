"""Every containment attack, as this user and, when this one is root, as an ordinary user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import containment
import pytest

import lightningrl

NOBODY = 65534


@pytest.mark.parametrize("title", containment.CHECKS)
def test_host_is_unharmed(title, jail_level):
    containment.CHECKS[title]()


@pytest.fixture(scope="module")
def report_of_nobody():
    """The same checks by a process of uid 65534, with an interpreter and a copy of the package that it may read."""
    if os.getuid() != 0:
        pytest.skip("not root: the checks above ran as an ordinary user already")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        package = Path(lightningrl.__file__).parent
        shutil.copytree(package / "sandbox", folder / "lightningrl" / "sandbox")
        for source in (package / "__init__.py", package / "errors.py"):
            shutil.copy(source, folder / "lightningrl")
        for source in Path(__file__).parent.glob("*.py"):
            shutil.copy(source, folder)
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        python = next(filter(lambda path: _runs(as_nobody, path), (sys.executable, "/usr/bin/python3")), None)
        if python is None:
            pytest.skip("no Python 3.11 or newer that uid 65534 may execute")
        child = subprocess.run(
            [*as_nobody, python, "-B", "containment.py"],
            cwd=name, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr
        yield json.loads(child.stdout)


def _runs(as_nobody, python):
    test = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.path.exists(sys._base_executable))"
    try:
        return subprocess.run([*as_nobody, python, "-c", test], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("title", containment.CHECKS)
def test_host_is_unharmed_by_an_ordinary_user(title, jail_level, report_of_nobody):
    assert report_of_nobody[title] is None, report_of_nobody[title]
