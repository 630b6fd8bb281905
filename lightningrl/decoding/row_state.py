"""The state of the rows that are being decoded, on the host, and the pages of the KV cache they hold.

Every array has one entry (or line) a slot. Shapes: R slots; T positions; P pages of the longest request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from lightningrl.decoding.canvas import Canvas, Progress, reach_of
from lightningrl.decoding.prefixes import Prefix, Prefixes
from lightningrl.decoding.protocol import DecodePolicy, Request, decides
from lightningrl.decoding.rng import row_key
from lightningrl.decoding.window import Window
from lightningrl.models.attention import keys_attended
from lightningrl.types import DecodeStats, Trajectory

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig


@dataclass(slots=True)
class QueuedRequest:
    """A request in the queue; `saved` is what a row that gave its pages up had done so far."""

    index: int
    request: Request
    policy: DecodePolicy
    size: int
    """K."""
    canvas: Canvas
    prefix_key: bytes | None = None
    """What it may share with others (decoding/prefixes.py)."""
    saved: Any = None
    """An entry of `Rows.done`."""
    pages: Any = None
    """What a row with several open blocks had in its pages (decoding/window_rows.py)."""
    decisions: list[float] = field(default_factory=list)
    """The log-probability of what each denoise forward revealed, where the policy's selector knows one."""


def pages_of(policy: DecodePolicy, positions: int, page_tokens: int) -> int:
    """Pages for so many positions of a row; as many again for its twin, where it has one."""
    return -(-positions // page_tokens) * (1 + (policy.logits.cfg_scale > 0))


class Rows:
    """Slots, their requests, and their pages."""

    def __init__(self, slots: int, length: int, block_size: int, mask_id: int, pages: int, page_tokens: int):
        self.size, self.length, self.mask_id, self.page_tokens = block_size, length, mask_id, page_tokens
        by_position = (("tokens", "i8"), ("masked", "?"), ("reveal", "i8"), ("logp", "f4"), ("entropy", "f4"))
        by_position += (("refilled", "?"), ("begun", "i8"))
        windows = ("opened", "stored", "left", "twice", "widened")
        counts = ("start", "block_step", "denoise_forwards", "commit_forwards", "prefill_forwards", "refreshed")
        work = ("written", "decode_positions", "decode_keys")
        kinds = [(name, kind, (length,)) for name, kind in by_position]
        kinds += [*((name, "i8") for name in (*counts, *work, *windows)), ("pending", "?"), ("stopped", "?")]
        self.done = np.zeros(slots, np.dtype(kinds, align=True))
        """What each row has done: saved when it leaves its slot for a while. start: the active block's first position;
        block_step: denoise forwards that it has had; pending: the block before it is not committed yet; refreshed: the
        denoise forward that filled the whole canvas' cache last, or 0; written: positions of the prompt whose clean
        keys and values were computed before, though they may be lost.

        Of a window (decoding/window.py), whose start is the first position of the first block with masks. opened: one
        past the last open block; stored: positions whose keys and values are kept; left: those that are in the cache;
        twice: those that count a second time, behind the canvas; widened: the forward for which blocks were opened
        last; stopped: a stop token ends the response; refilled: filled behind one, and still open; begun: the
        denoise forwards before the position's block was opened."""
        (
            self.tokens, self.masked, self.reveal, self.logp, self.entropy, self.refilled, self.begun, self.start,
            self.block_step, self.denoise_forwards, self.commit_forwards, self.prefill_forwards, self.refreshed,
            self.written, self.decode_positions, self.decode_keys, self.opened, self.stored, self.left, self.twice,
            self.widened, self.pending, self.stopped,
        ) = (self.done[name] for name, *_ in kinds)  # fmt: skip
        self.busy, self.entering, self.waits, self.rebuilds, self.guided = np.zeros((5, slots), dtype=bool)
        self.productive, self.is_window = np.zeros((2, slots), dtype=bool)
        """entering: keys and values are still to be written before the next denoise forward: clean ones of all before
        the active block, a pending block's aside; or, where it rebuilds, those that its last refresh had left. waits:
        another row is computing the prompt that this one shares, which takes no turn till then. guided: it has a twin
        whose prompt is all masks, with pages of its own."""
        self.prompt_len, self.first, self.end, self.key, self.admitted = np.zeros((5, slots), dtype=np.int64)
        self.prefilled, self.prefill_end, self.reach, self.shared = np.zeros((4, slots), dtype=np.int64)
        """prefilled: positions of an entering row whose keys and values are written; prefill_end: those that must be
        written; reach: how many must have pages while the active block is decoded; shared: the first positions,
        whose keys and values other rows may read too."""
        self.temperature, self.top_k, self.top_p = np.zeros((3, slots))
        self.table_RP, self.twin_RP = np.zeros((2, slots, -(-length // page_tokens)), dtype=np.int64)
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
            self.masked[slot, :prompt_len] = (self.tokens[slot, :prompt_len] == self.mask_id) & request.infills
            self.start[slot] = self.opened[slot] = item.canvas.start
            self.stored[slot] = self.left[slot] = item.canvas.start * policy.schedule.keeps_blocks
        else:
            self.done[slot] = item.saved
        self.prompt_len[slot], self.first[slot], self.end[slot] = prompt_len, item.canvas.start, item.canvas.end
        self.is_window[slot] = isinstance(policy.schedule, Window)
        self.key[slot] = row_key(policy.seed, policy.step, request.uid, request.sample)
        self.temperature[slot], self.top_k[slot], self.top_p[slot] = policy.temperature, policy.top_k, policy.top_p
        self.busy[slot], self.guided[slot] = True, bool(policy.logits.cfg_scale)
        self.productive[slot] = policy.schedule.is_productive
        is_stale = self.refreshed[slot] > 0 and not self.pending[slot]
        self.rebuilds[slot] = is_stale and not self._refreshes_next(slot, policy)
        kept = self.clean(slot) if policy.schedule.keeps_blocks else 0
        reach = policy.schedule.reach(int(self.start[slot]), item.canvas.end, self.size)
        self.prefill_end[slot] = reach if self.rebuilds[slot] else kept
        self.admitted[slot] = next(self._admissions)
        self.item[slot] = item
        self._share(slot)
        self.entering[slot] = self.prefill_end[slot] > self.prefilled[slot]
        # Once, if the prompt fills a block and its forward reveals nothing: what is recomputed for a row that was put
        # off is in the ledger alone.
        reveals = policy.schedule.is_productive and prompt_len % self.size == 0
        self.prefill_forwards[slot] = policy.schedule.keeps_blocks and prompt_len >= self.size and not reveals
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
        """Take note of rows that enter, computed up to, but not including, `last`; who waits for them goes on."""
        self.prefilled[slots], self.rebuilds[slots] = last, False
        self.entering[slots] = last < self.prefill_end[slots]
        for slot in slots[last >= self.shared[slots]].tolist():
            prefix = self._prefix.get(slot)
            if prefix is not None and not prefix.is_written:
                prefix.is_written = True
                self.waits[[other for other, shared in self._prefix.items() if shared is prefix]] = False

    def clean(self, slots: Any) -> Any:
        """Positions whose clean keys and values are written as a row enters: before its pending or active block."""
        return self.start[slots] - self.size * self.pending[slots]

    def progress(self, slots_B: np.ndarray) -> Progress:
        """How far the rows in these slots are."""
        masked_BK = self.masked[slots_B[:, None], self.start[slots_B, None] + np.arange(self.size)]
        return Progress(
            self.start[slots_B], self.pending[slots_B], self.end[slots_B], self.block_step[slots_B], masked_BK
        )

    def give_up(self, slots_B: np.ndarray, most_forwards: int) -> None:
        """Have the rows whose blocks had so many forwards leave the mask token at what is masked there still."""
        for slot in slots_B[self.block_step[slots_B] >= most_forwards].tolist():
            left = self.start[slot] + np.flatnonzero(self.masked[slot, self.start[slot] :][: self.size])
            self.masked[slot, left], self.reveal[slot, left] = False, self.denoise_forwards[slot]

    def _refreshes_next(self, slot: int, policy: DecodePolicy) -> bool:
        refreshes_B = policy.schedule.interval(self.progress(np.array([slot])), self.size).refreshes_B
        return refreshes_B is not None and bool(refreshes_B[0])

    def by_policy(self, slots_B: np.ndarray) -> list[tuple[DecodePolicy, np.ndarray]]:
        """The distinct policies of rows, each with the indices of its rows."""
        found: dict[int, tuple[DecodePolicy, list[int]]] = {}
        for index, slot in enumerate(slots_B.tolist()):
            policy = self.item[slot].policy
            found.setdefault(id(policy), (policy, []))[1].append(index)
        return [(policy, np.array(mine)) for policy, mine in found.values()]

    def last_block(self, done: Any) -> int:
        """Where the last block begins that a row decodes now. done: an entry of `done`."""
        return max(int(done["start"]), int(done["opened"]) - self.size)

    def needed(self, item: QueuedRequest, start: int) -> int:
        """Pages that must be there while the block of an item that begins at `start` is decoded."""
        return pages_of(item.policy, reach_of(item.policy.schedule, start, item.canvas, self.size), self.page_tokens)

    def lacking(self, slot: int) -> int:
        """How many pages the slot still wants for the positions that its schedule computes now."""
        item = self.item[slot]
        self.reach[slot] = reach_of(item.policy.schedule, self.last_block(self.done[slot]), item.canvas, self.size)
        return pages_of(item.policy, int(self.reach[slot]), self.page_tokens) - len(self.held[slot])

    def grow(self, slot: int) -> None:
        """Take the pages that the slot lacks; there must be as many."""
        held = self.held[slot]
        held += [self.free.pop() for _ in range(self.lacking(slot))]
        every = 1 + int(self.guided[slot])
        for table_RP, mine in ((self.table_RP, held[::every]), (self.twin_RP, held[1::2] if every > 1 else held)):
            table_RP[slot] = mine[0]  # behind its own pages a row's line names no other row's
            table_RP[slot, : len(mine)] = mine

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

    def count(
        self, slots_B: np.ndarray, kind_B: np.ndarray, last_B: np.ndarray, queries_B: np.ndarray, keys_B: np.ndarray
    ) -> np.ndarray:
        """Adds a forward's positions, which end before `last`, and the keys that they attend to, to what the rows have
        done. Returns the kinds: a prefill that writes again what a row had before it lost its pages is a `recompute`.
        """
        entering_B = kind_B == "prefill"
        if entering_B.any():
            is_new_B = entering_B & (self.denoise_forwards[slots_B] == 0) & (last_B > self.written[slots_B])
            self.written[slots_B] = np.where(is_new_B, last_B, self.written[slots_B])
            kind_B = np.where(entering_B & ~is_new_B, "recompute", kind_B)
            queries_B, keys_B = np.where(entering_B, 0, queries_B), np.where(entering_B, 0, keys_B)
        self.decode_positions[slots_B] += queries_B
        self.decode_keys[slots_B] += keys_B
        return kind_B

    def _notes(self, slot: int) -> bool:
        """Whether the log-probability of what each forward reveals is kept."""
        return decides(self.item[slot].policy) and not self.is_window[slot]

    def note(self, slots_B: np.ndarray, decision_B: np.ndarray) -> None:
        """Keeps the log-probability of what a denoise forward of each row has revealed, where its selector has one."""
        for slot, logp in zip(slots_B.tolist(), decision_B.tolist(), strict=True):
            if self._notes(slot):
                self.item[slot].decisions.append(logp)

    def trajectory(self, slot: int, stop_ids: np.ndarray, config: ModelConfig) -> Trajectory:
        """What happened in a slot whose response has ended. config: that of the model that decoded it."""
        item = self.item[slot]
        request, policy = item.request, item.policy
        end = int(self.opened[slot] if self.is_window[slot] else self.start[slot] + self.size)
        decoded, blocks = slice(int(self.prompt_len[slot]), end), (end - item.canvas.start) // self.size
        ids, reveal, logp, entropy = (
            by_position[slot, decoded].copy() for by_position in (self.tokens, self.reveal, self.logp, self.entropy)
        )
        stops = np.flatnonzero(np.isin(ids, stop_ids) & (reveal > 0))
        length = int(stops[0]) + 1 if len(stops) else min(len(ids), item.canvas.end - int(self.prompt_len[slot]))
        # A prefill counts as it is for a row alone that keeps its pages.
        prefilled, work = item.canvas.start if policy.schedule.keeps_blocks else 0, 1 + int(self.guided[slot])
        prefill_keys = keys_attended(config, *np.array([[0], [prefilled], [item.canvas.end]]))[0]
        stats = DecodeStats(
            response_tokens=length,
            emitted_tokens=int((reveal > 0).sum()),
            denoise_forwards=int(self.denoise_forwards[slot]),
            commit_forwards=int(self.commit_forwards[slot]),
            prefill_forwards=int(self.prefill_forwards[slot]),
            prefill_positions=work * prefilled,
            prefill_keys=work * int(prefill_keys),
            decode_positions=int(self.decode_positions[slot]),
            decode_keys=int(self.decode_keys[slot]),
        )
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=self.tokens[slot, : self.prompt_len[slot]].copy(),
            token_ids=ids, response_len=length, reveal_step=reveal, behaviour_logp=logp, block_size=self.size,
            origin=item.canvas.origin, schedule=type(policy.schedule).__name__, exact_cache=policy.schedule.is_exact,
            window=policy.schedule.window or blocks, temperature=policy.temperature,
            stop="eos" if len(stops) else "length", policy_version=policy.step, stats=stats, entropy=entropy,
            family=config.family,
            decision_logp=np.array(item.decisions, np.float32) if self._notes(slot) else None,
            later_masks=max(0, item.canvas.end - end) if policy.schedule.fills_canvas else 0,
        )  # fmt: skip
