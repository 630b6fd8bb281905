"""A visible skip, with every reason, where no jail level works; and the folder of the shared checks on the path."""

import sys
from pathlib import Path

import pytest

from lightningrl.sandbox.jail import probe

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("harness", "attacks_between", "attacks_reach", "attacks_load", "attacks_verdict")


@pytest.fixture(scope="session")
def jail_level() -> str:
    """The best level that holds."""
    report = probe()
    if report.level is None:
        from skipping import skip_or_fail

        skip_or_fail([str(reason) for _, reason in report.tried])
    assert report.level is not None
    return report.level
