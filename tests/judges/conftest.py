"""The cheats are shared with the sandbox's tests; jails are skipped visibly where none works."""

import shutil
import sys
from pathlib import Path

import pytest

from lightningrl.sandbox.jail import probe

sys.path.insert(0, str(Path(__file__).parents[1] / "sandbox"))


@pytest.fixture(scope="session")
def jail_level() -> str:
    report = probe()
    if report.level is not None:
        return report.level
    could_start = [reason for _, reason in report.tried if "did not start" not in str(reason)]
    if shutil.which("bwrap") and could_start:
        pytest.fail(f"a jail starts here, but does not hold: {could_start}")
    pytest.skip(f"no jail level works here: {report.tried}")
