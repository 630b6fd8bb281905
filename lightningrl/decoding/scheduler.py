"""One stream of the decoder: the queue, the rows, and the turns, each of them one forward of all rows.

Shapes: R slots; B rows of one forward; K block size; N positions of a forward; n open positions of a forward.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.canvas import Interval, Schedule
from lightningrl.decoding.ledger import Forward, Ledger, Part
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observation, Observer, Selector
from lightningrl.decoding.row_state import QueuedRequest, Rows
from lightningrl.decoding.sampler import Draws, draw_open, select
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedSpan, key_limits
from lightningrl.models.transformer import Transformer

if TYPE_CHECKING:
    from lightningrl.decoding.device_turn import Drawn, Rule
    from lightningrl.decoding.engine import Pool

PREFILL_TOKENS = 16384
"""Prompt positions that may begin to enter in one forward, a longer prompt alone aside."""
CHUNK_TOKENS = 2048
"""A longer prompt is prefilled in forwards of at most about so many positions: bounds activations and masks."""
SHORT_TOKENS = 256
"""Rows that see at most so many keys share a span, longer ones those of less than twice as many: little padding."""


def interval_of(
    schedule: Schedule, at: tuple[np.ndarray, np.ndarray, np.ndarray], size: int, logit_shift: bool
) -> Interval:
    """Returns what the next forward of each row computes; at: the arguments of `Schedule.interval` before the size.

    logit_shift: whether a position is predicted by the one before it, which a denoise forward then computes too. It was
    computed before, with the same tokens in sight: its keys and values stay what they were.
    """
    found = schedule.interval(*at, size)
    check_interval(schedule, found, at, size)
    if not logit_shift:
        return found
    before_B = np.minimum(found.first_B, np.maximum(at[0] - 1, 0))
    return found._replace(first_B=np.where(found.denoises_B, before_B, found.first_B))


def check_interval(
    schedule: Schedule, found: Interval, at: tuple[np.ndarray, np.ndarray, np.ndarray], size: int
) -> None:
    """Raises DecodeError for a schedule whose forward does nothing for one of its rows. at: what it was asked with."""
    (first_B, last_B, denoises_B), (start_B, pending_B, end_B) = found, at
    least = size if schedule.computes_active else 0
    is_whole_B = (first_B <= start_B) & (last_B >= start_B + least)
    is_within_B = (first_B >= 0) & (first_B < last_B) & (last_B <= end_B)
    wrong = np.flatnonzero(~(is_within_B & np.where(denoises_B, is_whole_B, pending_B)))
    if len(wrong):
        first, last, denoises, start, end = (int(a[wrong[0]]) for a in (first_B, last_B, denoises_B, start_B, end_B))
        raise DecodeError(
            f"{schedule} computes positions {first} to {last - 1}, denoises {'them' if denoises else 'nothing'}, but "
            f"the active block is {start} to {start + size - 1} and the last position {end - 1}: it would never end. "
            "Its `interval` must hold and denoise that whole block, or else compute a finished one that is pending"
        )


def check_open(schedule: Schedule, open_BK: np.ndarray, masked_BK: np.ndarray) -> None:
    """Raises DecodeError for a schedule that opens what is not masked, or nothing of a block that has masks."""
    if (open_BK & ~masked_BK).any():
        raise DecodeError(f"{schedule} opens positions that are not masked: its `open` must return a subset")
    if (masked_BK.any(axis=1) & ~open_BK.any(axis=1)).any():
        raise DecodeError(f"{schedule} opens nothing of a block with masked positions: it would never end")


def check_revealed(selector: Selector, revealed_B: np.ndarray) -> None:
    """Raises DecodeError for a selector that reveals nothing for one of its rows."""
    if not revealed_B.all():
        raise DecodeError(f"{selector} revealed nothing in a block with open positions: it would never end")


@dataclass(slots=True, eq=False)
class Scheduler:
    """What one call of `BlockDecoder.stream` does with its queue."""

    model: Transformer
    pool: Pool
    rows: Rows
    waiting: deque[QueuedRequest]
    stop_ids: np.ndarray
    ledger: Ledger
    observer: Observer | None
    _known_rules: dict[int, Rule | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.rows.size

    def outcomes(self) -> Iterator[DecodeResult]:
        while self.waiting or self.rows.busy.any():
            self._admit()
            self._make_room()
            yield from self._turn()

    def _admit(self) -> None:
        """Rows from the front of the queue into free slots, as long as every running row keeps a page to grow into."""
        rows, taken = self.rows, 0
        if not self.waiting:
            return
        for slot in np.flatnonzero(~rows.busy).tolist():
            if not self.waiting:
                return
            item = self.waiting[0]
            start = item.canvas.start if item.saved is None else int(item.saved["start"])
            running = int(rows.busy.sum())
            if running and len(rows.free) < rows.needed(item, start) + running:
                return
            if taken and taken + start > PREFILL_TOKENS:
                return
            taken += start
            rows.enter(slot, self.waiting.popleft())

    def _make_room(self) -> None:
        """Pages for every row's active block, oldest row first; the youngest give theirs up when there are too few."""
        rows = self.rows
        for slot in sorted(rows.item, key=lambda slot: rows.admitted[slot]):
            while rows.busy[slot] and rows.lacking(slot) > len(rows.free):
                youngest = max(rows.item, key=lambda slot: rows.admitted[slot])
                # It may have written what is not finite and not been found out yet.
                self.pool.cache.clear(rows.held[youngest])
                self.waiting.appendleft(rows.save(youngest))
                self.ledger.preemptions += 1
            if rows.busy[slot] and rows.lacking(slot) > 0:
                rows.grow(slot)

    def _turn(self) -> list[DecodeResult]:
        """One forward of all rows, and what it ended."""
        began = time.perf_counter()
        rows = self.rows
        slots_B = np.flatnonzero(rows.busy)
        first_B, last_B, denoises_B = self._spans(slots_B)
        span_B = np.zeros(len(slots_B), dtype=np.int64)
        if len(slots_B) > 1:
            reach_B = np.ceil(np.log2(np.maximum(last_B, SHORT_TOKENS)))
            order_B = np.lexsort((reach_B, last_B - first_B))
            slots_B, first_B, last_B, denoises_B, reach_B = (
                a[order_B] for a in (slots_B, first_B, last_B, denoises_B, reach_B)
            )
            span_B[1:] = np.cumsum((np.diff(last_B - first_B) != 0) | (np.diff(reach_B) != 0))
        queries_B = last_B - first_B
        rules = self._rules(slots_B, first_B, last_B, denoises_B)
        if rules is None:
            hidden_NH, seen_S = self._forward(slots_B, first_B, queries_B, span_B)
            drawn = None
        else:
            hidden_NH, seen_S = None, None
            drawn = self._device_turn(slots_B, denoises_B, rules)
        entering_B, pending_B = rows.entering[slots_B], rows.pending[slots_B]
        other_B = np.where(entering_B, "prefill", "commit")
        kinds_B = np.where(denoises_B, np.where(pending_B, "fused", "denoise"), other_B)
        rows.pending[slots_B] = pending_B & entering_B
        if entering_B.any():
            prefilled = slots_B[entering_B]
            rows.prefilled[prefilled] = last_B[entering_B]
            rows.entering[prefilled] = rows.prefilled[prefilled] < rows.clean(prefilled)
            # Once, if the prompt fills a block: what is recomputed for a row that was put off is in the ledger alone.
            rows.prefill_forwards[prefilled] = rows.prompt_len[prefilled] >= self.size
        rows.commit_forwards[slots_B[kinds_B == "commit"]] += 1
        begins_B = np.cumsum(queries_B) - queries_B
        revealed_B, ended = np.zeros(len(slots_B), dtype=np.int64), []
        if denoises_B.any():
            here = np.flatnonzero(denoises_B)
            at_B = begins_B[here] + rows.start[slots_B[here]] - first_B[here] - self.model.config.logit_shift
            revealed_B[here], failed = self._reveal(slots_B[here], at_B, hidden_NH, drawn)
            ended = [self._fail(slot) for slot in failed]
        seen_S = seen_S or [int(last_B[span_B == index].max()) for index in range(span_B[-1] + 1)]
        parts = _parts(seen_S, span_B, kinds_B, queries_B, revealed_B)
        self.ledger.add(Forward(parts, time.perf_counter() - began))
        return ended + self._advance()

    def _spans(self, slots_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positions of each row's forward, from `first` up to, but not including, `last`, and whether it denoises
        the active block."""
        rows, start_B = self.rows, self.rows.start[slots_B]
        entering_B = rows.entering[slots_B]
        first_B = rows.prefilled[slots_B]
        last_B = np.minimum(rows.clean(slots_B), first_B + max(1, CHUNK_TOKENS // self.size) * self.size)
        denoises_B = np.zeros(len(slots_B), dtype=bool)
        for policy, mine in self._by_policy(slots_B):
            here = mine[~entering_B[mine]]
            pending_B, end_B = rows.pending[slots_B[here]], rows.end[slots_B[here]]
            at = start_B[here], pending_B, end_B
            computed = interval_of(policy.schedule, at, self.size, self.model.config.logit_shift)
            first_B[here], last_B[here], denoises_B[here] = computed
        return first_B, last_B, denoises_B

    def _by_policy(self, slots_B: np.ndarray) -> list[tuple[DecodePolicy, np.ndarray]]:
        """The distinct policies of rows, each with the indices of its rows."""
        found: dict[int, tuple[DecodePolicy, list[int]]] = {}
        for index, slot in enumerate(slots_B.tolist()):
            policy = self.rows.item[slot].policy
            found.setdefault(id(policy), (policy, []))[1].append(index)
        return [(policy, np.array(mine)) for policy, mine in found.values()]

    @torch.no_grad()
    def _forward(
        self, slots_B: np.ndarray, first_B: np.ndarray, queries_B: np.ndarray, span_B: np.ndarray
    ) -> tuple[Tensor, list[int]]:
        """Hidden states of all rows' positions, row after row, and the keys that each span sees at most. span_B: the
        span of each row, 0, ..., 0, 1, ..."""
        rows, spans, ids = self.rows, [], []
        for index in range(span_B[-1] + 1):
            here = span_B == index
            positions_GQ = first_B[here, None] + np.arange(queries_B[here][0])
            limits_GQ = key_limits(self.model.config, positions_GQ, rows.end[slots_B[here]])
            spans.append(PagedSpan(rows.table_RP[slots_B[here]], positions_GQ, limits_GQ, rows.page_tokens))
            ids.append(rows.tokens[slots_B[here, None], positions_GQ].ravel())
        return self.pool.hidden(spans, np.concatenate(ids)), [span.kv_tokens for span in spans]

    def _rules(
        self, slots_B: np.ndarray, first_B: np.ndarray, last_B: np.ndarray, denoises_B: np.ndarray
    ) -> list[Rule] | None:
        """The rules of the rows' policies if the turn runs whole on the device, else None."""
        rows = self.rows
        if self.pool.turns is None or self.observer is not None or rows.entering[slots_B].any():
            return None
        start_B = rows.start[slots_B]
        blocks = start_B - self.size * rows.pending[slots_B], start_B + self.size * denoises_B
        if not (np.array_equal(first_B, blocks[0]) and np.array_equal(last_B, blocks[1])):
            return None
        found: list[Rule] = []
        for slot in slots_B.tolist():
            policy = rows.item[slot].policy
            if id(policy) not in self._known_rules:
                self._known_rules[id(policy)] = self.pool.turns.rule_of(policy)
            rule = self._known_rules[id(policy)]
            if rule is None:
                return None
            found.append(rule)
        return found

    def _device_turn(self, slots_B: np.ndarray, denoises_B: np.ndarray, rules: list[Rule]) -> Drawn:
        """One forward, the draws and the choice on the device: of the rows that denoise, in their order."""
        assert self.pool.turns is not None
        pending_C = slots_B[self.rows.pending[slots_B]]
        active = [rule for rule, denoises in zip(rules, denoises_B.tolist(), strict=True) if denoises]
        return self.pool.turns.run(self.rows, slots_B[denoises_B], pending_C, active)

    def _reveal(
        self, slots_B: np.ndarray, at_B: np.ndarray, hidden_NH: Tensor | None, device: Drawn | None
    ) -> tuple[np.ndarray, list[int]]:
        """Write what is chosen among the open positions of the active blocks, whose logits are those of the forward's
        positions from `at_B` on. device: what the device has drawn already, at all positions of these blocks.

        Returns how many were revealed, and the slots whose probabilities were not finite.
        """
        rows = self.rows
        rows.denoise_forwards[slots_B] += 1
        positions_BK = rows.start[slots_B, None] + np.arange(self.size)
        open_BK, groups = rows.masked[slots_B[:, None], positions_BK], self._by_policy(slots_B)
        if device is None:
            masked_BK = open_BK.copy()
            for policy, mine in groups:
                open_BK[mine] = policy.schedule.open(masked_BK[mine])
                check_open(policy.schedule, open_BK[mine], masked_BK[mine])
        row_n, column_n = np.nonzero(open_BK)
        position_n, forward_n = positions_BK[row_n, column_n], rows.denoise_forwards[slots_B][row_n]
        if device is None:
            assert hidden_NH is not None
            hidden_nH = hidden_NH[torch.from_numpy(at_B[row_n] + column_n).to(hidden_NH.device)]
            token_n, logp_n, entropy_n, chosen_n = self._draw(slots_B, row_n, position_n, hidden_nH, open_BK, groups)
        else:
            token_n, logp_n, entropy_n, chosen_n = (column[row_n * self.size + column_n] for column in device)
        finite_n = np.isfinite(logp_n)
        failed = [] if finite_n.all() else slots_B[np.unique(row_n[~finite_n])].tolist()
        at = slots_B[row_n[chosen_n]], position_n[chosen_n]
        rows.tokens[at], rows.masked[at], rows.reveal[at] = token_n[chosen_n], False, forward_n[chosen_n]
        rows.logp[at], rows.entropy[at] = logp_n[chosen_n], entropy_n[chosen_n]
        rows.block_step[slots_B] += 1
        revealed_B = np.bincount(row_n[chosen_n], minlength=len(slots_B))
        for policy, mine in groups:
            check_revealed(policy.selector, revealed_B[mine] + np.isin(slots_B[mine], failed))
        return revealed_B, failed

    @torch.no_grad()
    def _draw(
        self,
        slots_B: np.ndarray,
        row_n: np.ndarray,
        position_n: np.ndarray,
        hidden_nH: Tensor,
        open_BK: np.ndarray,
        groups: Sequence[tuple[DecodePolicy, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Token, log-probability and entropy at the open positions, and which of them are revealed; observed."""
        rows, forward_n = self.rows, self.rows.denoise_forwards[slots_B][row_n]
        draws = Draws(
            hidden_nH=hidden_nH,
            key_n=rows.key[slots_B][row_n],
            position_n=position_n,
            forward_n=forward_n,
            temperature_n=rows.temperature[slots_B][row_n],
            top_k_n=rows.top_k[slots_B][row_n],
            top_p_n=rows.top_p[slots_B][row_n],
        )
        drawn = draw_open(self.model, draws, self.observer.alternatives if self.observer else 0)
        chosen_n = select(drawn, open_BK, rows.block_step[slots_B], groups)
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        if self.observer is not None:
            index_n = np.array([rows.item[slot].index for slot in slots_B.tolist()])[row_n]
            top = drawn.top_ids_nA.cpu().numpy(), drawn.top_logp_nA.cpu().numpy()
            seen = Observation(index_n, forward_n, position_n, token_n, logp_n, entropy_n, chosen_n, *top)
            self.observer.observe(seen)
        return token_n, logp_n, entropy_n, chosen_n

    def _fail(self, slot: int) -> DecodeResult:
        self.pool.cache.clear(self.rows.held[slot])
        item = self.rows.leave(slot)
        why = "the model's probabilities are not finite: its weights are damaged, or training diverged"
        return DecodeResult(item.index, item.request, error=DecodeError(f"{item.request.uid}: {why}"))

    def _advance(self) -> list[DecodeResult]:
        """Move rows with a finished block to the next one; free the slots of rows that have ended."""
        rows = self.rows
        slots_B = np.flatnonzero(rows.busy)
        positions_BK = rows.start[slots_B, None] + np.arange(self.size)
        masked_BK, tokens_BK = (a[slots_B[:, None], positions_BK] for a in (rows.masked, rows.tokens))
        response_BK = positions_BK >= rows.prompt_len[slots_B, None]
        stop_BK = (tokens_BK[..., None] == self.stop_ids).any(axis=-1) & response_BK & ~masked_BK
        full_B = ~np.any(masked_BK, axis=1)
        ended_B = full_B & (positions_BK[:, -1] + 1 >= rows.end[slots_B])
        for policy, mine in self._by_policy(slots_B):
            ended_B[mine] |= policy.stop.ended(stop_BK[mine], masked_BK[mine])
            rows.pending[slots_B[mine]] |= policy.schedule.keeps_blocks & full_B[mine]
        onward = slots_B[full_B & ~ended_B]
        rows.start[onward] += self.size
        rows.block_step[onward] = 0
        outcomes = []
        for slot in slots_B[ended_B].tolist():
            trajectory = rows.trajectory(slot, self.stop_ids)
            item = rows.leave(slot)
            outcomes.append(DecodeResult(item.index, item.request, trajectory))
        return outcomes


def _parts(
    seen_S: Sequence[int], span_B: np.ndarray, kind_B: np.ndarray, queries_B: np.ndarray, revealed_B: np.ndarray
) -> tuple[Part, ...]:
    """The rows of a forward by span and by what they did."""
    counts: dict[tuple[int, str, int], list[int]] = {}
    columns = (column.tolist() for column in (span_B, kind_B, queries_B, revealed_B))
    for span, kind, queries, revealed in zip(*columns, strict=True):
        count = counts.setdefault((span, kind, queries), [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + revealed
    return tuple(
        Part(kind, rows, queries, seen_S[span], revealed)
        for (span, kind, queries), (rows, revealed) in sorted(counts.items())
    )
