"""Jails that stay up for one program after another; whoever judges many programs has a pool of them.

A jail is kept only where `session.running` says so; here is where it waits, and how long it lives.
"""

from __future__ import annotations

import threading

from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.process import Jail

PROGRAMS_A_JAIL = 250
"""A jail is then replaced; 250 make its start a hundredth of what a program costs, and less is gained by more."""


class JailPool:
    """Thread-safe. As many jails as are used at a time; none before the first is used.

    A thread is given only jails that it made itself: another's would be killed in the middle of a program when that
    thread ends.

    >>> pool = JailPool()
    >>> pool.close()
    """

    def __init__(self, programs_a_jail: int = PROGRAMS_A_JAIL) -> None:
        self._programs_a_jail = programs_a_jail
        self._waiting: list[Jail] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, name: str, limits: Limits) -> Jail | None:
        """A jail of this thread, level and size of work folder, the caller's from now on; None: there is none."""
        wanted = (threading.current_thread(), name, limits.disk_bytes)
        with self._lock:
            for jail in reversed(self._waiting):
                if (jail.owner, jail.name, jail.disk_bytes) == wanted:
                    self._waiting.remove(jail)
                    return jail
        return None

    def put(self, jail: Jail) -> None:
        """Give a jail (back), in which nothing of its last program is left."""
        with self._lock:
            is_kept = not self._is_closed and jail.programs < self._programs_a_jail
            waiting = [*self._waiting, jail] if is_kept else self._waiting
            self._waiting = [one for one in waiting if one.owner.is_alive()]
            ended = {*waiting, jail} - {*self._waiting}
        for one in ended:
            one.end()

    def count_waiting(self, most_programs: int) -> int:
        """Jails that wait and have had at most so many programs."""
        with self._lock:
            return sum(jail.programs <= most_programs for jail in self._waiting)

    def close(self) -> None:
        """End the jails that wait, and from now on each that comes back. The pool can be used on, to no advantage."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, []
        for jail in waiting:
            jail.end()
