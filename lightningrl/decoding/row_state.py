"""The state of the rows that are being decoded, on the host, and the pages of the KV cache they hold.

Every array has one entry (or line) a slot. Shapes: R slots; T positions; P pages of the longest request.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lightningrl.decoding.canvas import Canvas
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rng import row_key
from lightningrl.types import DecodeStats, Trajectory


class PagePool:
    """The free pages of a pool; those given back last are taken first, so that a row alone has one run of pages."""

    def __init__(self, count: int):
        self.count = count
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        return [self._free.pop() for _ in range(count)]

    def give_back(self, pages: list[int]) -> None:
        self._free.extend(reversed(pages))


@dataclass(slots=True)
class QueuedRequest:
    """A request in the queue; `saved` is what a row that gave its pages up had done so far."""

    index: int
    request: Request
    policy: DecodePolicy
    canvas: Canvas
    saved: dict[str, np.ndarray] | None = None
    pending: bool = False
    """The last finished block of a saved row was not committed yet."""

    @property
    def end(self) -> int:
        """One past the last position that it may decode."""
        return self.canvas.end


@dataclass(slots=True, eq=False)
class _Arrays:
    """What a row has done: saved when it leaves its slot for a while."""

    tokens: np.ndarray
    masked: np.ndarray
    reveal: np.ndarray
    logp: np.ndarray
    entropy: np.ndarray
    start: np.ndarray
    """First position of the active block."""
    block_step: np.ndarray
    """Denoise forwards the active block has had."""
    denoise_forwards: np.ndarray
    commit_forwards: np.ndarray
    prefill_forwards: np.ndarray


class Rows:
    """Slots, their requests, and their pages."""

    def __init__(self, slots: int, length: int, block_size: int, mask_id: int, pages: PagePool, page_tokens: int):
        self.size, self.mask_id, self.pages, self.page_tokens = block_size, mask_id, pages, page_tokens

        def array(*shape: int, dtype: type = np.int64) -> np.ndarray:
            return np.zeros((slots, *shape), dtype=dtype)

        self.done = _Arrays(
            array(length), array(length, dtype=bool), array(length), array(length, dtype=np.float32),
            array(length, dtype=np.float32), array(), array(), array(), array(), array(),
        )  # fmt: skip
        self.busy = array(dtype=bool)
        self.entering = array(dtype=bool)
        """Clean keys and values of all before the active block are still to be written, a pending block's aside."""
        self.prefilled = array()
        """Positions of a row that is entering whose clean keys and values are written."""
        self.pending = array(dtype=bool)
        """Those of the block before the active one are."""
        self.prompt_len, self.end, self.key, self.admitted = array(), array(), array(), array()
        self.table_RP = array(-(-length // page_tokens))
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.item: list[QueuedRequest | None] = [None] * slots
        self._admissions = 0

    def enter(self, slot: int, item: QueuedRequest) -> None:
        """Lay a request, or what it had done before, into a free slot; its pages reach to the end of its block."""
        request, done = item.request, self.done
        prompt_len = len(request.prompt_ids)
        if item.saved is None:
            done.tokens[slot] = self.mask_id
            done.tokens[slot, :prompt_len] = request.prompt_ids
            done.masked[slot] = False
            done.masked[slot, prompt_len : item.end] = True
            for values in (done.reveal, done.logp, done.entropy):
                values[slot] = 0
            done.start[slot] = item.canvas.start
            for counter in (done.block_step, done.denoise_forwards, done.commit_forwards, done.prefill_forwards):
                counter[slot] = 0
        else:
            for name, value in item.saved.items():
                getattr(done, name)[slot] = value
        self.prompt_len[slot], self.end[slot] = prompt_len, item.end
        self.key[slot] = row_key(item.policy.seed, item.policy.step, request.uid, request.sample)
        self.busy[slot], self.pending[slot] = True, item.pending
        self.prefilled[slot] = 0
        self.entering[slot] = item.policy.schedule.keeps_blocks and self.clean(slot) > 0
        self._admissions += 1
        self.admitted[slot] = self._admissions
        self.item[slot] = item
        self.grow(slot)

    def clean(self, slots: Any) -> Any:
        """Positions whose clean keys and values are written as a row enters: before its pending or active block."""
        return self.done.start[slots] - self.size * self.pending[slots]

    def needed(self, positions: int) -> int:
        """Pages that so many positions take."""
        return -(-positions // self.page_tokens)

    def lacking(self, slot: int) -> int:
        """How many pages the slot still wants for the positions that its schedule computes now."""
        return self.needed(self.reach(slot)) - len(self.held[slot])

    def reach(self, slot: int) -> int:
        """Positions that must have pages while the slot's active block is decoded."""
        item = self.item[slot]
        assert item is not None
        return item.policy.schedule.reach(int(self.done.start[slot]), item.end, self.size)

    def grow(self, slot: int) -> None:
        """Take the pages that the slot lacks; there must be as many."""
        held = self.held[slot]
        held += self.pages.take(self.lacking(slot))
        self.table_RP[slot] = held[0]  # behind its own pages a row's line names no other row's
        self.table_RP[slot, : len(held)] = held

    def leave(self, slot: int) -> QueuedRequest:
        """Free a slot and its pages; returns what was in it."""
        item = self.item[slot]
        assert item is not None
        self.busy[slot], self.item[slot] = False, None
        self.pages.give_back(self.held[slot])
        self.held[slot] = []
        self.table_RP[slot] = 0
        return item

    def save(self, slot: int) -> QueuedRequest:
        """As `leave`, with what the row has done, so that it can go on in any slot."""
        saved = {field.name: getattr(self.done, field.name)[slot].copy() for field in fields(_Arrays)}
        item = self.leave(slot)
        item.saved, item.pending = saved, bool(self.pending[slot])
        return item

    def trajectory(self, slot: int, stop_ids: np.ndarray) -> Trajectory:
        """What happened in a slot whose response has ended."""
        item, done = self.item[slot], self.done
        assert item is not None
        request, policy = item.request, item.policy
        decoded = slice(int(self.prompt_len[slot]), int(done.start[slot]) + self.size)
        tokens, reveal = done.tokens[slot, decoded].copy(), done.reveal[slot, decoded].copy()
        stops = np.flatnonzero(np.isin(tokens, stop_ids) & (reveal > 0))
        response_len = int(stops[0]) + 1 if len(stops) else len(tokens)
        stats = DecodeStats(
            response_tokens=response_len,
            emitted_tokens=int((reveal > 0).sum()),
            denoise_forwards=int(done.denoise_forwards[slot]),
            commit_forwards=int(done.commit_forwards[slot]),
            prefill_forwards=int(done.prefill_forwards[slot]),
        )
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=np.asarray(request.prompt_ids, dtype=np.int64),
            token_ids=tokens, response_len=response_len, reveal_step=reveal,
            behaviour_logp=done.logp[slot, decoded].copy(), block_size=self.size, origin=item.canvas.origin,
            schedule=type(policy.schedule).__name__, exact_cache=policy.schedule.is_exact,
            temperature=policy.temperature, stop="eos" if len(stops) else "length", policy_version=policy.step,
            stats=stats, entropy=done.entropy[slot, decoded].copy(),
        )  # fmt: skip
