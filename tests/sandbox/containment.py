"""Every check of a jail's containment, for this process or as a program.

Checks are functions that raise AssertionError when an attack has an effect; each is self-contained and leaves nothing
behind. Standard library only, so that a child of another user and interpreter can run them: `python containment.py
LEVEL`
prints `{"fault": why the level does not hold, or null, "checks": {"title": null or "traceback"}}`.
"""

import ctypes
import json
import sys
import traceback

import attacks_load
import attacks_reach
import attacks_verdict
from harness import CHECKS, run_check

from lightningrl.sandbox.probe import fault

ATTACKS = (attacks_reach, attacks_load, attacks_verdict)
"""Importing them fills CHECKS."""


def run_all(level: str) -> dict[str, str | None]:
    """Every check's traceback, or None where it passed."""
    report: dict[str, str | None] = {}
    for title in CHECKS:
        try:
            run_check(title, level)
            report[title] = None
        except Exception:  # a report for another process: any failure is printed there
            report[title] = traceback.format_exc()
    return report


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: do not outlive the test
    reason = fault(sys.argv[1])
    sys.stdout.write(json.dumps({"fault": reason, "checks": {} if reason else run_all(sys.argv[1])}))
