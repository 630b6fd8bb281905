"""The jail levels, best first, and what a level has to provide.

A new level is one file like `lightningrl.sandbox.bwrap`, whose `LEVEL` is its class, and one line here. A level only
says how the server is started; the watchdog, the codec and the probe are the same for all. There is no level `none`.
The values are plain module names so that a stage's source digest follows them: any of them may do the judging.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

from lightningrl.sandbox.limits import Limits

LEVELS = {
    "bwrap": "lightningrl.sandbox.bwrap",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the server in a jail.

    >>> Launch(("bwrap", "--unshare-all", "python3", "/jail/server.py"), (7,), 65534).fds
    (7,)
    """

    argv: tuple[str, ...]
    """The command; its descriptors 0, 1 and 2 become the server's."""
    fds: tuple[int, ...]
    """Further descriptors that the command inherits; closed by the level when the launch is over."""
    uid: int | None
    """The uid (and gid) that the server takes itself before candidate code runs; None: the level does it."""


class Level(Protocol):
    """One way to jail a process."""

    remedy: str
    """What to install or allow when it does not work, in one sentence."""

    def missing(self) -> str | None:
        """Why it cannot be tried at all (a program not found, ...); None: worth a trial."""
        ...

    def launch(self, limits: Limits) -> AbstractContextManager[Launch]:
        """The command for one judgement; its descriptors live as long as the context."""
        ...


def make_level(name: str) -> Level:
    return cast(Level, importlib.import_module(LEVELS[name]).LEVEL())
