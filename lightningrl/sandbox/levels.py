"""The jail levels, best first, and what a level has to provide.

A new level is one file like `lightningrl.sandbox.bwrap`, whose `LEVEL` is its class, and one line here. A level only
says how the server is started, and what it promises; the watchdog, the codec and the probe are the same for all. The
probe tries them in this order, all but `none`, which is no jail and must be asked for.
The values are plain module names so that a stage's source digest follows them: any of them may do the judging.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, cast

from lightningrl.sandbox.limits import Limits

LEVELS = {
    "bwrap": "lightningrl.sandbox.bwrap",
    "unshare": "lightningrl.sandbox.unshare",
    "landlock": "lightningrl.sandbox.landlock",
    "none": "lightningrl.sandbox.bare",
}
NO_JAIL = "none"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the server in a jail.

    >>> Launch(("bwrap", "--unshare-all", "python3", "/jail/server.py"), (7,)).fds
    (7,)
    """

    argv: tuple[str, ...]
    """The command, to be started as the first of a session; its descriptors 0, 1 and 2 become the server's."""
    fds: tuple[int, ...]
    """Further descriptors that the command inherits; closed by the level when the launch is over."""
    takes_uid: bool = False
    """Whether each program's process takes a uid (and gid) of its own before candidate code runs; False: the level has
    done it for the whole jail."""
    rlimits: dict[str, int] = field(default_factory=dict)
    """Resource limits that are other than `Limits.rlimits` at this level."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """Where the levels differ. What is common to all (content of host files, network, rights, ...) is not in here.

    >>> Guarantees(hides_names=True, has_processes=True, work_folder="/box", own_pids=True).work_folder
    '/box'
    """

    hides_names: bool
    """Host files do not exist in the jail. False: their content cannot be read, their names, sizes and times can."""
    has_processes: bool
    """Candidate code may start processes, of which a bounded number. False: it may start threads only."""
    work_folder: str | None
    """The only folder that can be written to, bounded and in memory; None: there is none."""
    own_pids: bool
    """Other processes have no number in the jail. False: their existence can be seen, they cannot be acted on."""


class Level(Protocol):
    """One way to jail a process."""

    guarantees: Guarantees

    @property
    def remedy(self) -> str:
        """What to install or allow when it does not work, in one sentence."""
        ...

    def missing(self) -> str | None:
        """Why it cannot be tried at all (a program not found, ...); None: worth a trial."""
        ...

    def launch(self, limits: Limits) -> AbstractContextManager[Launch]:
        """The command for one jail; its descriptors live as long as the context."""
        ...


def make_level(name: str) -> Level:
    return cast(Level, importlib.import_module(LEVELS[name]).LEVEL())
