"""A visible skip, with every reason, where a jail level cannot work."""

import pytest


def skip_or_fail(reasons: list[str]) -> None:
    """Skips if a level cannot start here, but fails if one starts and leaks."""
    leaks = [reason for reason in reasons if "did not start" not in reason and "candidate code" in reason]
    if leaks:
        pytest.fail(f"a jail starts here, but does not hold: {leaks}")
    pytest.skip(f"not available here: {reasons}")
