"""A visible skip, with every reason, where a jail level cannot work."""

import pytest


def skip_or_fail(reasons: list[str]) -> None:
    """A level that cannot start here is no fault of ours; one that starts and leaks is."""
    leaks = [reason for reason in reasons if "did not start" not in reason and "candidate code" in reason]
    if leaks:
        pytest.fail(f"a jail starts here, but does not hold: {leaks}")
    pytest.skip(f"not available here: {reasons}")
