"""Which jail level works on this machine: tried once per process by attacking it, not by looking at versions.

A level counts only if a program inside it fails at what it must not be able to do: read host files or change their
modes, reach a socket of the host, see the environment, run as root, write outside its folder, fork without end, signal
the judge, make a user namespace. Levels promise different things (`levels.Guarantees`) and are held to their own.

`choose` sets the level of the whole process, as the config says; tools without a config take it from the environment
variable LIGHTNINGRL_SANDBOX. Without either the best level that holds is taken. `none` is never taken by itself.
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
    """What was tried, and the level in use.

    >>> ProbeReport("bwrap", (("bwrap", None),)).require()
    'bwrap'
    """

    level: str | None
    """The level in use; None when none works."""
    tried: tuple[tuple[str, str | None], ...]
    """Levels in the order tried, each with the reason why it was turned down (None: it works)."""

    def require(self) -> str:
        """The level's name. Raises SandboxUnavailable with every reason and remedy when no level works."""
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
    """One level on this machine, for `doctor`.

    >>> LevelReport("landlock", "the kernel 5.10 has no Landlock", "use a newer kernel").holds
    False
    """

    name: str
    reason: str | None
    """Why it is not to be used; None: it holds."""
    remedy: str

    @property
    def holds(self) -> bool:
        return self.reason is None


def choose(level: str = AUTO, *, acknowledged: bool = False) -> None:
    """Use this level in this process from now on; `auto`: the environment's, else the best that holds.

    Nothing is run here. Raises SandboxUnavailable for an unknown level, and for `none` unless its risk is acknowledged.
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
    """The report for this machine, user and choice; measured at the first call (about half a second), then kept."""
    global _report
    with _lock:
        if _report is None:
            wanted = _requested_level()
            tried: list[tuple[str, str | None]] = []
            for name in [name for name in LEVELS if name != NO_JAIL] if wanted == AUTO else [wanted]:
                tried.append((name, fault(name)))
                if tried[-1][1] is None:
                    break
            _report = ProbeReport(tried[-1][0] if tried[-1][1] is None else None, tuple(tried))
        return _report


def require(name: str) -> str:
    """This level and no other. Raises SandboxUnavailable with the reason and the remedy when it does not hold."""
    reason = fault(name)
    if reason is None:
        return name
    remedy = make_level(name).remedy
    raise SandboxUnavailable(f"the jail level {name} does not hold here: {reason}. To mend it: {remedy}.")


def fault(name: str) -> str | None:
    """Why a level is not to be used on this machine; None: it holds. Measured once, then kept."""
    with _lock:
        if name not in _faults:
            _faults[name] = measure_fault(name, make_level(name))
        return _faults[name]


def can_be_shared(name: str) -> bool:
    """Whether one jail of the level may have several programs, one after another."""
    return shared_fault(name) is None


def shared_fault(name: str) -> str | None:
    """Why a jail of the level is for one program only on this machine; None: it is not. Measured once, then kept."""
    with _lock:
        if name not in _shared_faults:
            level = make_level(name)
            own_pids = "a program's processes could outlive it unseen"
            _shared_faults[name] = measure_shared_fault(name, level) if level.guarantees.own_pids else own_pids
        return _shared_faults[name]


def survey() -> tuple[LevelReport, ...]:
    """Every level that is a jail, not only those up to the first that holds; about a second."""
    return tuple(LevelReport(name, fault(name), make_level(name).remedy) for name in LEVELS if name != NO_JAIL)


def forget() -> None:
    """Measure again at the next call: the machine, the user or the path of programs has changed."""
    global _report
    with _lock:
        _report = None
        _faults.clear()
        _shared_faults.clear()


def _requested_level() -> str:
    """The choice of the config, or of the environment where the config leaves it open."""
    if _choice not in (None, AUTO):
        assert _choice is not None
        return _choice
    named = os.environ.get(VARIABLE, AUTO)
    if named == NO_JAIL or named not in (AUTO, *LEVELS):
        jails = ", ".join(name for name in (AUTO, *LEVELS) if name != NO_JAIL)
        raise SandboxUnavailable(f"found {VARIABLE}={named}: expected one of {jails}. Only a config can choose `none`.")
    return named


def measure_fault(name: str, level: Level) -> str | None:
    """Why a level is not to be used on this machine; None when it holds."""
    if name == NO_JAIL:
        return None  # it promises nothing; whoever chose it knows
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
        return f"candidate code reaches the host's network ({', '.join(facts['heard'])})"
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
