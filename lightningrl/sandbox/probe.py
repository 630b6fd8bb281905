"""The probe: which jail level works on this machine. It attacks each level once per process and reads no versions.

A level holds only if a program inside it fails at everything forbidden: reading host files or changing their modes,
reaching a socket of the host, seeing the environment, running as root, writing outside its folder, forking without end,
sending signals to the judge, creating a user namespace. Each level must keep its own guarantees (`levels.Guarantees`).

`choose` sets the level of the whole process, as configured; tools without a config read the environment variable
LIGHTNINGRL_SANDBOX. Without either, the best level that holds is used. `none` is never chosen automatically.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from lightningrl.errors import SandboxUnavailable
from lightningrl.sandbox.levels import LEVELS, NO_JAIL, Guarantees, Level, make_level
from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.probe_attack import HOST_FILES, SOURCE, listening_sockets
from lightningrl.sandbox.probe_shared import measure_shared_fault
from lightningrl.sandbox.session import run_session

AUTO = "auto"
VARIABLE = "LIGHTNINGRL_SANDBOX"
_FORK_LIMIT = 200
_VARIABLES = {"HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PWD", "PYTHONHASHSEED"}

_lock = threading.RLock()
_choice: str | None = None
_report: ProbeReport | None = None
_faults: dict[str, str | None] = {}
_shared_faults: dict[str, str | None] = {}


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
        remedies = "; ".join(f"{name}: {make_level(name).remedy}" for name, _ in self.tried)
        raise SandboxUnavailable(
            f"no jail level works on this machine ({reasons}). Model-written code is not run without one. "
            f"To mend it: {remedies}."
        )


@dataclass(frozen=True, slots=True)
class LevelReport:
    """The state of one level on this machine, for `doctor`.

    >>> LevelReport("landlock", "the kernel 5.10 has no Landlock", "use a newer kernel").holds
    False
    """

    name: str
    reason: str | None
    """Why the level cannot be used; None: it holds."""
    remedy: str

    @property
    def holds(self) -> bool:
        return self.reason is None


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
            for name in [name for name in LEVELS if name != NO_JAIL] if requested == AUTO else [requested]:
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
    remedy = make_level(name).remedy
    raise SandboxUnavailable(f"the jail level {name} does not hold here: {reason}. To mend it: {remedy}.")


def fault(name: str) -> str | None:
    """Returns why a level cannot be used on this machine; None: it holds. It is measured once."""
    with _lock:
        if name not in _faults:
            _faults[name] = measure_fault(name, make_level(name))
        return _faults[name]


def can_be_shared(name: str) -> bool:
    """Whether one jail of the level may run several programs, one after another."""
    return shared_fault(name) is None


def shared_fault(name: str) -> str | None:
    """Returns why a jail of the level may run only one program on this machine; None: it may run several."""
    with _lock:
        if name not in _shared_faults:
            level = make_level(name)
            own_pids = "a program's processes could outlive it unseen"
            _shared_faults[name] = measure_shared_fault(name, level) if level.guarantees.own_pids else own_pids
        return _shared_faults[name]


def survey() -> tuple[LevelReport, ...]:
    """Returns a report on every level that is a jail, which takes about a second."""
    return tuple(LevelReport(name, fault(name), make_level(name).remedy) for name in LEVELS if name != NO_JAIL)


def _requested_level() -> str:
    """Returns the level of the config or, if the config does not name one, of the environment."""
    if _choice not in (None, AUTO):
        assert _choice is not None
        return _choice
    named = os.environ.get(VARIABLE, AUTO)
    if named == NO_JAIL or named not in (AUTO, *LEVELS):
        jails = ", ".join(name for name in (AUTO, *LEVELS) if name != NO_JAIL)
        raise SandboxUnavailable(f"found {VARIABLE}={named}: expected one of {jails}. Only a config can choose `none`.")
    return named


def measure_fault(name: str, level: Level) -> str | None:
    """Attacks a level and returns why it cannot be used on this machine; None: it holds."""
    if name == NO_JAIL:
        return None  # it guarantees nothing, as its acknowledgement says
    reason = level.missing()
    if reason is not None:
        return reason
    with listening_sockets() as host:
        call = (host.address, list(HOST_FILES), os.getpid(), _FORK_LIMIT, level.guarantees.work_folder)
        try:
            results = run_session(name, level, SOURCE, "facts", [call], Limits())
        except SandboxUnavailable as error:
            return str(error)
        contacted = host.contacted()
    answer = results.calls[0]
    if answer.error is not None:
        return f"the probe got no answer: {answer.error} {answer.message} {results.detail}".strip()
    return _leak(answer.value | {"contacted": contacted}, Limits().processes, level.guarantees)


def _leak(facts: dict[str, Any], max_processes: int, guarantees: Guarantees) -> str | None:
    if facts["uid"] == 0:
        return "candidate code runs as root"
    if facts["readable"]:
        return f"candidate code reads the host's {', '.join(facts['readable'])}"
    if guarantees.hides_names and facts["names"]:
        return f"candidate code sees the host's {', '.join(facts['names'])}"
    if facts["changed"]:
        return f"candidate code changes the mode of the host's {', '.join(facts['changed'])}"
    if not set(facts["environment"]) <= _VARIABLES:
        return f"candidate code sees environment variables: {', '.join(facts['environment'])}"
    if facts["contacted"]:
        return f"candidate code reaches the host's network ({', '.join(facts['contacted'])})"
    if facts["outside"]:
        return f"candidate code writes outside its folder, in {', '.join(facts['outside'])}"
    if facts["rights"]:
        return f"candidate code may use {', '.join(facts['rights'])}"
    if facts["signals"] and not guarantees.own_pids:
        return "candidate code may signal the judge"
    if facts["forks"] and not guarantees.has_processes:
        return f"candidate code starts processes ({facts['forks']} forks)"
    if facts["forks"] >= max_processes:
        return f"the limit of {max_processes} processes is not enforced ({facts['forks']} forks)"
    return None
