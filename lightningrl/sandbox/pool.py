"""A pool of jails that run one program after another, for judges of many programs.

`session.running` decides whether a jail is kept; the pool stores waiting jails and limits their lifetime.
"""

from __future__ import annotations

import threading

from lightningrl.sandbox.limits import Limits
from lightningrl.sandbox.process import Jail

PROGRAMS_A_JAIL = 250
"""A jail is replaced after this many: its start is then a hundredth of a program's cost, and more gains little."""


class JailPool:
    """A thread-safe pool. It has as many jails as are used at the same time, and starts none in advance.

    A thread gets only jails that it started itself: the jail of another thread would be killed in the middle of a
    program when that thread ends.

    >>> pool = JailPool()
    >>> pool.close()
    """

    def __init__(self, programs_a_jail: int = PROGRAMS_A_JAIL) -> None:
        self._programs_a_jail = programs_a_jail
        self._waiting: list[Jail] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, name: str, limits: Limits) -> Jail | None:
        """Removes and returns a jail of this thread, level and size of the work folder; None: there is none."""
        key = (threading.current_thread(), name, limits.disk_bytes)
        with self._lock:
            for jail in reversed(self._waiting):
                if (jail.owner, jail.name, jail.disk_bytes) == key:
                    self._waiting.remove(jail)
                    return jail
        return None

    def put(self, jail: Jail) -> None:
        """Adds a jail in which nothing of its last program is left."""
        with self._lock:
            is_kept = not self._is_closed and jail.programs < self._programs_a_jail
            waiting = [*self._waiting, jail] if is_kept else self._waiting
            self._waiting = [other for other in waiting if other.owner.is_alive()]
            ended = {*waiting, jail} - {*self._waiting}
        for other in ended:
            other.end()

    def count_waiting(self, most_programs: int) -> int:
        """Returns the number of waiting jails that have run at most `most_programs` programs."""
        with self._lock:
            return sum(jail.programs <= most_programs for jail in self._waiting)

    def close(self) -> None:
        """Ends the waiting jails and, from now on, every jail that is put back. Further use works without a gain."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, []
        for jail in waiting:
            jail.end()
