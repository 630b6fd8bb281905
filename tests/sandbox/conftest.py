"""A visible skip, with every reason, where no jail level works; and the folder of the shared checks on the path."""

import shutil
import sys
from pathlib import Path

import pytest

from lightningrl.sandbox.jail import probe

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("harness", "attacks_reach", "attacks_load", "attacks_verdict")


@pytest.fixture(scope="session")
def jail_level() -> str:
    report = probe()
    if report.level is not None:
        return report.level
    could_start = [reason for _, reason in report.tried if "did not start" not in str(reason)]
    if shutil.which("bwrap") and could_start:
        pytest.fail(f"a jail starts here, but does not hold: {could_start}")
    pytest.skip(f"no jail level works here: {report.tried}")
