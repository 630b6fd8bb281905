"""Every check of a jail's containment, as a program for another user: in separate jails and in those of a pool.

Standard library only: `python containment.py LEVEL` prints
`{"fault": why the level does not hold, or null, "checks": {"title": null or "traceback"}}`.
"""

import ctypes
import json
import sys
import traceback
from collections.abc import Callable

import attacks_between
import attacks_load
import attacks_reach
import attacks_verdict
from harness import BY_THE_CLOCK, CHECKS, run_check

from lightningrl.sandbox.probe import fault, shared_fault

ATTACKS = (attacks_reach, attacks_load, attacks_verdict)
"""Importing them fills CHECKS."""
SHARED = [title for title in CHECKS if title not in BY_THE_CLOCK]
"""The checks that run with a pool too."""


def run_all(level: str) -> dict[str, str | None]:
    """Returns every check's traceback, or None if it passed; with a pool, the title ends in `, shared`."""
    report = {title: _run(run_check, title, level) for title in CHECKS}
    if shared_fault(level) is None:
        report |= {f"{title}, shared": _run(run_check, title, level, shared=True) for title in SHARED}
        report |= {title: _run(attacks_between.run_between, title, level) for title in attacks_between.BETWEEN}
    return report


def _run(attempt: Callable[..., None], title: str, level: str, **options: bool) -> str | None:
    try:
        attempt(title, level, **options)
    except Exception:  # a report for another process: any failure is printed there
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: do not outlive the test
    reason = fault(sys.argv[1])
    sys.stdout.write(json.dumps({"fault": reason, "checks": {} if reason else run_all(sys.argv[1])}))
