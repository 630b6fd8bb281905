"""A visible skip, with every reason, where a jail level cannot work."""

import pytest

from lightningrl.sandbox import probe


def skip_or_fail(reasons: list[str]) -> None:
    """Skips if a level cannot start here, but fails if one starts and leaks."""
    leaks = [reason for reason in reasons if "did not start" not in reason and "candidate code" in reason]
    if leaks:
        pytest.fail(f"a jail starts here, but does not hold: {leaks}")
    pytest.skip(f"not available here: {reasons}")


def need(level: str) -> None:
    """Skips or fails unless the level holds here."""
    if probe.fault(level) is not None:
        skip_or_fail([f"{level}: {probe.fault(level)}"])
