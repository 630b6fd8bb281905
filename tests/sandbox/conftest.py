"""A visible skip, with every reason, where no jail level works; and the folder of the shared checks on the path."""

import sys
from pathlib import Path

import pytest

from lightningrl.sandbox.jail import probe

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("harness", "attacks_reach", "attacks_load", "attacks_verdict")


def skip_or_fail(reasons: list[str]) -> None:
    """A level that cannot start here is no fault of ours; one that starts and leaks is."""
    leaks = [reason for reason in reasons if "did not start" not in reason and "candidate code" in reason]
    if leaks:
        pytest.fail(f"a jail starts here, but does not hold: {leaks}")
    pytest.skip(f"not available here: {reasons}")


@pytest.fixture(scope="session")
def jail_level() -> str:
    """The best level that holds."""
    report = probe()
    if report.level is None:
        skip_or_fail([str(reason) for _, reason in report.tried])
    assert report.level is not None
    return report.level
