"""The state of the rows that are being decoded, on the host, and the pages of the KV cache they hold.

Every array has one entry (or line) a slot. Shapes: R slots; T positions; P pages of the longest request.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from lightningrl.decoding.canvas import Canvas
from lightningrl.decoding.prefixes import Prefix, Prefixes
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rng import row_key
from lightningrl.types import DecodeStats, Trajectory


@dataclass(slots=True)
class QueuedRequest:
    """A request in the queue; `saved` is what a row that gave its pages up had done so far."""

    index: int
    request: Request
    policy: DecodePolicy
    canvas: Canvas
    prefix_key: bytes | None = None
    """What it may share with others (decoding/prefixes.py)."""
    saved: Any = None
    """An entry of `Rows.done`."""


class Rows:
    """Slots, their requests, and their pages."""

    def __init__(self, slots: int, length: int, block_size: int, mask_id: int, pages: int, page_tokens: int):
        self.size, self.mask_id, self.page_tokens = block_size, mask_id, page_tokens
        by_position = (("tokens", "i8"), ("masked", "?"), ("reveal", "i8"), ("logp", "f4"), ("entropy", "f4"))
        counts = ("start", "block_step", "denoise_forwards", "commit_forwards", "prefill_forwards")
        kinds = [(name, kind, (length,)) for name, kind in by_position]
        kinds += [*((name, "i8") for name in counts), ("pending", "?")]
        self.done = np.zeros(slots, np.dtype(kinds, align=True))
        """What each row has done: saved when it leaves its slot for a while. start: the active block's first position;
        block_step: denoise forwards that it has had; pending: the block before it is not committed yet."""
        (
            self.tokens, self.masked, self.reveal, self.logp, self.entropy, self.start, self.block_step,
            self.denoise_forwards, self.commit_forwards, self.prefill_forwards, self.pending,
        ) = (self.done[name] for name, *_ in kinds)  # fmt: skip
        self.busy, self.entering, self.waits = np.zeros((3, slots), dtype=bool)
        """entering: clean keys and values of all before the active block are still to be written, a pending block's
        aside; waits: another row is computing the prompt that this one shares, which takes no turn till then."""
        self.prompt_len, self.end, self.key, self.admitted, self.prefilled, self.shared = np.zeros(
            (6, slots), dtype=np.int64
        )
        """prefilled: positions of a row that is entering whose clean keys and values are written; shared: the first
        positions, whose keys and values other rows may read too."""
        self.temperature, self.top_k, self.top_p = np.zeros((3, slots))
        self.table_RP = np.zeros((slots, -(-length // page_tokens)), dtype=np.int64)
        self.held: list[list[int]] = [[] for _ in range(slots)]
        """Each row's pages, in the order of its positions; the first ones may be shared."""
        self.free = list(range(pages - 1, -1, -1))
        """Pages given back last are taken first, so that a row alone has one run of pages."""
        self.prefixes = Prefixes(self.free, page_tokens)
        self._prefix: dict[int, Prefix] = {}
        self.item: dict[int, QueuedRequest] = {}
        self._admissions = count(1)

    def enter(self, slot: int, item: QueuedRequest) -> None:
        """Lay a request, or what it had done before, into a free slot; its pages reach to the end of its block."""
        request, policy, prompt_len = item.request, item.policy, len(item.request.prompt_ids)
        if item.saved is None:
            self.done[slot] = 0
            self.tokens[slot] = self.mask_id
            self.tokens[slot, :prompt_len] = request.prompt_ids
            self.masked[slot, prompt_len : item.canvas.end] = True
            self.start[slot] = item.canvas.start
        else:
            self.done[slot] = item.saved
        self.prompt_len[slot], self.end[slot] = prompt_len, item.canvas.end
        self.key[slot] = row_key(policy.seed, policy.step, request.uid, request.sample)
        self.temperature[slot], self.top_k[slot], self.top_p[slot] = policy.temperature, policy.top_k, policy.top_p
        self.busy[slot] = True
        self.admitted[slot] = next(self._admissions)
        self.item[slot] = item
        self._share(slot)
        keeps = policy.schedule.keeps_blocks
        self.entering[slot] = keeps and self.clean(slot) > self.prefilled[slot]
        # Once, if the prompt fills a block: what is recomputed for a row that was put off is in the ledger alone.
        self.prefill_forwards[slot] = keeps and prompt_len >= self.size
        self.grow(slot)

    def _share(self, slot: int) -> None:
        """Give a row that enters the pages that others have of its prompt, or are going to want of it."""
        prefix = self.prefixes.join(self.item[slot])
        self.prefilled[slot] = self.shared[slot] = self.waits[slot] = 0
        if prefix is not None:
            self._prefix[slot], self.held[slot] = prefix, list(prefix.pages)
            self.shared[slot] = len(prefix.pages) * self.page_tokens
            self.waits[slot] = prefix.holders > 1 and not prefix.is_written
            if prefix.holders > 1 or prefix.is_written:
                self.prefilled[slot] = self.shared[slot]

    def prefill_to(self, slots: np.ndarray, last: np.ndarray) -> None:
        """Take note of rows whose prompts are computed up to, but not including, `last`; who waits for them goes on."""
        self.prefilled[slots] = last
        self.entering[slots] = last < self.clean(slots)
        for slot in slots[last >= self.shared[slots]].tolist():
            prefix = self._prefix.get(slot)
            if prefix is not None and not prefix.is_written:
                prefix.is_written = True
                self.waits[[other for other, shared in self._prefix.items() if shared is prefix]] = False

    def clean(self, slots: Any) -> Any:
        """Positions whose clean keys and values are written as a row enters: before its pending or active block."""
        return self.start[slots] - self.size * self.pending[slots]

    def needed(self, item: QueuedRequest, start: int) -> int:
        """Pages that must be there while the block of an item that begins at `start` is decoded."""
        return -(-item.policy.schedule.reach(start, item.canvas.end, self.size) // self.page_tokens)

    def lacking(self, slot: int) -> int:
        """How many pages the slot still wants for the positions that its schedule computes now."""
        return self.needed(self.item[slot], int(self.start[slot])) - len(self.held[slot])

    def grow(self, slot: int) -> None:
        """Take the pages that the slot lacks; there must be as many."""
        held = self.held[slot]
        held += [self.free.pop() for _ in range(self.lacking(slot))]
        self.table_RP[slot] = held[0]  # behind its own pages a row's line names no other row's
        self.table_RP[slot, : len(held)] = held

    @property
    def in_use(self) -> list[int]:
        """The pages that rows hold, or that wait for rows to share them."""
        return sorted({page for held in self.held for page in held} | set(self.prefixes.pages))

    def own(self, slot: int) -> list[int]:
        """The pages of a row that no other row holds."""
        prefix = self._prefix.get(slot)
        return self.held[slot][len(prefix.pages) if prefix is not None and prefix.holders > 1 else 0 :]

    def leave(self, slot: int, is_sound: bool = True) -> QueuedRequest:
        """Free a slot and its pages; returns what was in it. is_sound: what it computed is known to be finite."""
        self.busy[slot] = self.waits[slot] = False
        prefix, held = self._prefix.pop(slot, None), self.held[slot]
        self.free.extend(reversed(held[len(prefix.pages) if prefix is not None else 0 :]))
        if prefix is not None:
            self.prefixes.part(prefix, is_sound)
        self.held[slot] = []
        self.table_RP[slot] = 0
        return self.item.pop(slot)

    def save(self, slot: int) -> QueuedRequest:
        """As `leave`, with what the row has done, so that it can go on in any slot."""
        item = self.leave(slot, is_sound=False)
        item.saved = self.done[slot].copy()
        return item

    def trajectory(self, slot: int, stop_ids: np.ndarray) -> Trajectory:
        """What happened in a slot whose response has ended."""
        item = self.item[slot]
        request, policy = item.request, item.policy
        decoded = slice(int(self.prompt_len[slot]), int(self.start[slot]) + self.size)
        ids, reveal, logp, entropy = (
            by_position[slot, decoded].copy() for by_position in (self.tokens, self.reveal, self.logp, self.entropy)
        )
        stops = np.flatnonzero(np.isin(ids, stop_ids) & (reveal > 0))
        length = int(stops[0]) + 1 if len(stops) else len(ids)
        forwards = (int(n[slot]) for n in (self.denoise_forwards, self.commit_forwards, self.prefill_forwards))
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=np.asarray(request.prompt_ids, dtype=np.int64),
            token_ids=ids, response_len=length, reveal_step=reveal, behaviour_logp=logp, block_size=self.size,
            origin=item.canvas.origin, schedule=type(policy.schedule).__name__, exact_cache=policy.schedule.is_exact,
            temperature=policy.temperature, stop="eos" if len(stops) else "length", policy_version=policy.step,
            stats=DecodeStats(length, int((reveal > 0).sum()), *forwards), entropy=entropy,
        )  # fmt: skip
