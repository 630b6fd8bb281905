"""A decoder that takes requests at any time: what a server's one engine thread drives, turn by turn.

`BlockDecoder.stream` knows all its requests before it begins. Here they come and go between any two forwards, on pages
that are laid out once for `rows` rows of at most `context` positions. Rows, pages and draws are the engine's own, so a
response is the one that `LLM.generate` gives. Not safe for several threads: one thread calls everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np

from lightningrl.decoding.engine import BlockDecoder, Pool, most_segments
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Request
from lightningrl.decoding.row_state import QueuedRequest, Rows, pages_of
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.window import Window
from lightningrl.decoding.window_rows import WindowRows
from lightningrl.errors import DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.types import DecodeStats


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """How far the response of one request is, after some forward; S positions, up to the end of what is open."""

    ids: np.ndarray
    """[S] int64, from the first response token on; the mask token where nothing is revealed."""
    reveal: np.ndarray
    """[S] the denoise forward that revealed each, from 1; 0 where it is masked."""
    logp: np.ndarray
    """[S] float32, nats: the log-probability of each revealed token."""
    finished: int
    """The first so many positions are those of finished blocks."""
    stats: DecodeStats
    """What was done so far; its response tokens are the finished ones."""


class LiveDecoder(BlockDecoder):
    """A `BlockDecoder` of a checkpoint with a queue that never closes.

    context: the most positions of a prompt and its response together; None: all that the model has. policy: the one of
    whose kind all requests are (their numbers may differ). Raises DecodeError where the memory budget is too small for
    a single row of that context.
    """

    def __init__(
        self, llm: LLM, policy: DecodePolicy, *, rows: int = 64, context: int | None = None,
        memory_bytes: int | None = None, forwards: str = "spans",
    ):  # fmt: skip
        super().__init__(llm.model, llm.stop_ids, rows=rows, memory_bytes=memory_bytes, forwards=forwards)
        self.policy = policy
        self.context = min(context or self.model.config.max_position_embeddings, llm.tokens_left(1, policy) + 1)
        self._longest = pages_of(policy, -(-self.context // self.page_tokens) * self.page_tokens, self.page_tokens)
        self.pages = rows * self._longest
        if memory_bytes is not None:
            self.pages = min(self.pages, memory_bytes // self.page_bytes - self.spare)
        if self.pages < self._longest:
            raise DecodeError(
                f"a row of {self.context} positions needs {(self._longest + self.spare) * self.page_bytes} bytes of KV "
                f"cache, the budget is {memory_bytes}: raise the memory budget or lower the context"
            )
        self._pool: Pool | None = None
        self._scheduler: Scheduler | None = None
        self._numbers = count()
        self.turns = self.preemptions = 0
        """Forwards of the engine so far, each of all its rows; and how often a row has given its pages up."""
        self._queue: deque[QueuedRequest] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._queue) or (self._scheduler is not None and self._scheduler.is_busy)

    @property
    def free_pages(self) -> int:
        """Pages that no row holds."""
        return self.pages if self._scheduler is None else len(self._scheduler.rows.free)

    @property
    def decoding_rows(self) -> int:
        return 0 if self._scheduler is None else int(self._scheduler.rows.busy.sum())

    def submit(self, request: Request, policy: DecodePolicy) -> int:
        """Puts a request at the end of the queue; returns its number. Raises DecodeError for one that cannot be
        decoded, or is longer than the context."""
        number = next(self._numbers)
        item = self._queued(number, request, policy)
        if isinstance(item, DecodeResult):
            assert item.error is not None
            raise item.error
        needed, room = pages_of(policy, policy.schedule.extent(item.canvas), self.page_tokens), self._longest
        if needed > room or item.canvas.end > self._length(item.size):
            raise DecodeError(
                f"{request.uid}: {len(request.prompt_ids)} prompt tokens and {request.max_new_tokens} new ones are "
                f"more than the {self.context} positions of a request"
            )
        self._queue.append(item)
        return number

    def turn(self) -> list[DecodeResult]:
        """One forward of all rows, if there are any, and what it ended. `DecodeResult.index` is the request's number.

        Rows decoded together have blocks of one size; a request with blocks of another waits, and those behind it do
        too, until the rows have ended.
        """
        if self._queue and (
            self._scheduler is None or (self._queue[0].size != self._scheduler.size and not self._scheduler.is_busy)
        ):
            self._open(self._queue[0].size)
        run = self._scheduler
        while run is not None and self._queue and self._queue[0].size == run.size:
            run.expect(self._queue.popleft())
        if run is None or not run.is_busy:
            return []
        results = run.turn()
        self.turns += len(self.ledger.forwards)
        self.preemptions += self.ledger.preemptions
        self.ledger.clear()  # a server would fill the memory with it
        return results

    def cancel(self, number: int) -> bool:
        """Drops a request and gives its slot and pages back; False where it has ended already."""
        for item in self._queue:
            if item.index == number:
                self._queue.remove(item)
                return True
        run = self._scheduler
        if run is None:
            return False
        for item in run.waiting:
            if item.index == number:
                run.waiting.remove(item)
                self._expect_no_more(run.rows, item)
                return True
        slot = self._slots().get(number)
        if slot is None:
            return False
        self._leave(run, slot)
        return True

    def view(self, numbers: Iterable[int]) -> dict[int, View]:
        """What is known of those of these requests that are in a slot now."""
        slots = self._slots()
        return {number: self._view(slots[number]) for number in numbers if number in slots}

    def reset(self) -> None:
        """Forgets everything that was asked, after an error of the engine's own; the next turn begins on new pages."""
        self._queue.clear()
        self._scheduler = self._pool = None

    def _length(self, size: int) -> int:
        """Positions of the longest row: the context in whole pages, and the rest of a last block."""
        return -(-self.context // self.page_tokens) * self.page_tokens + size

    def _open(self, size: int) -> Scheduler:
        """Lays the rows out for blocks of this size."""
        if self._pool is None:
            self._pool = Pool(self.model, self.pages, self.spare, self._longest, self.page_tokens)
        if self.forwards != "spans":
            self._pool.prepare(
                self.forwards, self._has_kernel, self.rows, most_segments(self.rows, [self.policy]), True
            )  # fmt: skip
        rows = Rows(self.rows, self._length(size), size, self.model.config.mask_token_id, self.pages, self.page_tokens)
        windows = None
        if isinstance(self.policy.schedule, Window):
            windows = WindowRows(rows, self._pool.cache, self.model.config, self.stop_ids)
        self._scheduler = Scheduler(self.model, self._pool, rows, self.stop_ids, self.ledger, None, windows)
        return self._scheduler

    def _slots(self) -> dict[int, int]:
        return {} if self._scheduler is None else {item.index: slot for slot, item in self._scheduler.rows.item.items()}

    def _leave(self, run: Scheduler, slot: int) -> None:
        """Frees the slot of a row that has not ended. What it wrote is not known to be finite, so its own pages are
        cleared. If other rows wait for a prompt that it was computing, the first of them goes on with that."""
        rows, prefix = run.rows, run.rows._prefix.get(slot)
        run.pool.cache.clear(rows.own(slot))
        prefilled, was_waiting = int(rows.prefilled[slot]), bool(rows.waits[slot])
        run._leave(slot, is_sound=False)
        if prefix is None or prefix.is_written or was_waiting or not prefix.holders:
            return
        heir = min((other for other, mine in rows._prefix.items() if mine is prefix), key=lambda s: rows.admitted[s])
        rows.prefilled[heir] = min(prefilled, int(rows.shared[heir]))
        rows.waits[heir], rows.entering[heir] = False, True

    @staticmethod
    def _expect_no_more(rows: Rows, item: QueuedRequest) -> None:
        """A request leaves the queue without having been in a slot: nobody keeps shared pages for it."""
        prefixes = rows.prefixes
        if item.prefix_key is None or item.saved is not None:
            return
        prefixes._expected[item.prefix_key] -= 1
        prefix = prefixes.known.get(item.prefix_key)
        if prefix is not None and not prefix.holders and not prefixes._expected[item.prefix_key]:
            prefixes._dissolve(prefix)

    def _view(self, slot: int) -> View:
        assert self._scheduler is not None
        rows = self._scheduler.rows
        first, start, end = int(rows.prompt_len[slot]), int(rows.start[slot]), int(rows.end[slot])
        last = int(rows.opened[slot]) if rows.is_window[slot] else start + rows.size
        shown, finished = slice(first, min(end, last)), max(0, min(start, end) - first)
        ids, reveal, logp = (a[slot, shown].copy() for a in (rows.tokens, rows.reveal, rows.logp))
        forwards = (int(a[slot]) for a in (rows.denoise_forwards, rows.commit_forwards, rows.prefill_forwards))
        return View(ids, reveal, logp, finished, DecodeStats(finished, int((reveal > 0).sum()), *forwards))
