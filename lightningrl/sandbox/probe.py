"""The probe: which jail level works on this machine. It attacks each level once per process and reads no versions.

`choose` sets the level of the whole process, as configured; tools without a config read the environment variable
LIGHTNINGRL_SANDBOX. Without either, the best level that holds is used. `none` is never chosen automatically.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import LEVELS, NO_JAIL, Level
from lightningrl.sandbox.probe_attack import measure_fault, measure_shared_fault

AUTO = "auto"
VARIABLE = "LIGHTNINGRL_SANDBOX"

_lock = threading.RLock()
_choice: str | None = None
_report: ProbeReport | None = None
_faults: dict[tuple[str, Callable[[Level], str | None]], str | None] = {}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The levels that were tried, and the level in use.

    >>> ProbeReport("bwrap", (("bwrap", None),)).require()
    'bwrap'
    """

    level: str | None
    """The level in use; None when none works."""
    tried: tuple[tuple[str, str | None], ...]
    """The levels in the order of the trials, each with the reason of its rejection (None: it works)."""

    def require(self) -> str:
        """Returns the level's name. Raises SandboxUnavailable with every reason and remedy when no level works."""
        if self.level is not None:
            return self.level
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.tried)
        remedies = "; ".join(f"{name}: {LEVELS[name].remedy}" for name, _ in self.tried)
        raise SandboxUnavailable(
            f"no jail level works on this machine ({reasons}). Model-written code is not run without one. "
            f"To mend it: {remedies}."
        )


class LevelReport(NamedTuple):
    """The state of one level on this machine, for `doctor`."""

    name: str
    reason: str | None
    """Why the level cannot be used; None: it holds."""
    remedy: str


def choose(level: str = AUTO, *, acknowledged: bool = False) -> None:
    """Sets the level of this process; `auto`: the environment's, else the best that holds. It runs nothing.

    Raises SandboxUnavailable for an unknown level, and for `none` unless its risk is acknowledged.
    """
    global _choice, _report
    if level not in (AUTO, *LEVELS):
        raise SandboxUnavailable(f"found the jail level {level!r}: expected one of {', '.join((AUTO, *LEVELS))}.")
    if level == NO_JAIL and not acknowledged:
        raise SandboxUnavailable(
            "the level `none` runs model-written code without a jail. It needs `sandbox.acknowledge` in the config; "
            "the environment variable alone cannot choose it."
        )
    with _lock:
        if level != _choice:
            _choice, _report = level, None


def probe() -> ProbeReport:
    """Returns the report for this machine, user and choice; the first call measures it (about half a second)."""
    global _report
    with _lock:
        if _report is None:
            requested = _requested_level()
            tried: list[tuple[str, str | None]] = []
            for name in _jails() if requested == AUTO else [requested]:
                tried.append((name, fault(name)))
                if tried[-1][1] is None:
                    break
            _report = ProbeReport(tried[-1][0] if tried[-1][1] is None else None, tuple(tried))
        return _report


def require(name: str) -> str:
    """Returns this level's name. Raises SandboxUnavailable with the reason and the remedy when it does not hold."""
    reason = fault(name)
    if reason is None:
        return name
    raise SandboxUnavailable(f"the jail level {name} does not hold here: {reason}. To mend it: {LEVELS[name].remedy}.")


def fault(name: str) -> str | None:
    """Returns why a level cannot be used on this machine; None: it holds."""
    return _measured(name, measure_fault)


def shared_fault(name: str) -> str | None:
    """Returns why a jail of the level may run only one program on this machine; None: it may run several."""
    return _measured(name, measure_shared_fault)


def survey() -> tuple[LevelReport, ...]:
    """Returns a report on every level that is a jail, which takes about a second."""
    return tuple(LevelReport(name, fault(name), LEVELS[name].remedy) for name in _jails())


def _measured(name: str, measure: Callable[[Level], str | None]) -> str | None:
    """Measures a level once."""
    with _lock:
        if (name, measure) not in _faults:
            _faults[name, measure] = measure(LEVELS[name])
        return _faults[name, measure]


def _jails() -> list[str]:
    return [name for name in LEVELS if name != NO_JAIL]


def _requested_level() -> str:
    """Returns the level of the config or, if the config does not name one, of the environment."""
    if _choice not in (None, AUTO):
        assert _choice is not None
        return _choice
    named = os.environ.get(VARIABLE, AUTO)
    if named not in (AUTO, *_jails()):
        jails = ", ".join((AUTO, *_jails()))
        raise SandboxUnavailable(f"found {VARIABLE}={named}: expected one of {jails}. Only a config can choose `none`.")
    return named
