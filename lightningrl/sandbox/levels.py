"""The jail levels, best first, and the interface of a level.

A new level is a class in a module like `lightningrl.sandbox.bwrap`, whose `LEVELS` names it, and one line here. A level
only defines how the server is started and what the jail guarantees; the clock, the codec and the probe are the same for
all. The probe tries the levels in this order, except `none`, which is no jail and must be chosen explicitly. The values
are plain module names so that a stage's source digest follows them: any of them may judge.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, cast

from lightningrl.sandbox.limits import Limits

LEVELS = {
    "bwrap": "lightningrl.sandbox.bwrap",
    "unshare": "lightningrl.sandbox.kernel_levels",
    "landlock": "lightningrl.sandbox.kernel_levels",
    "none": "lightningrl.sandbox.kernel_levels",
}
NO_JAIL = "none"


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts the server in a jail.

    >>> Launch(("bwrap", "--unshare-all", "python3", "/jail/server.py"), (7,)).fds
    (7,)
    """

    argv: tuple[str, ...]
    """The command, which must lead its own session; its descriptors 0, 1 and 2 become the server's."""
    fds: tuple[int, ...]
    """Further descriptors that the command inherits; the level closes them after the launch."""
    takes_uid: bool = False
    """Whether the process of each program takes its own uid (and gid) before candidate code runs; False: the level has
    changed the uid of the whole jail."""
    rlimits: dict[str, int] = field(default_factory=dict)
    """Resource limits of this level that differ from `Limits.rlimits`."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """The guarantees in which levels differ; those of all levels (host files, network, rights, ...) are not listed.

    >>> Guarantees(hides_names=True, has_processes=True, work_folder="/box", own_pids=True).work_folder
    '/box'
    """

    hides_names: bool
    """Host files do not exist in the jail. False: their names, sizes and times can be read, their content cannot."""
    has_processes: bool
    """Candidate code may start a bounded number of processes. False: it may start threads only."""
    work_folder: str | None
    """The only writable folder, bounded and in memory; None: there is none."""
    own_pids: bool
    """Processes of the host have no number in the jail. False: they are visible but cannot be affected."""


class Level(Protocol):
    """One way to jail a process."""

    guarantees: Guarantees

    @property
    def remedy(self) -> str:
        """What to install or allow if the level does not work, in one sentence."""
        ...

    def missing(self) -> str | None:
        """Returns why the level cannot be tried at all (a program is not found, ...); None: it can."""
        ...

    def launch(self, limits: Limits) -> AbstractContextManager[Launch]:
        """Yields the command for one jail; its descriptors are open as long as the context."""
        ...


def make_level(name: str) -> Level:
    return cast(Level, importlib.import_module(LEVELS[name]).LEVELS[name]())
