"""One stream of the decoder: the queue, the rows, and the turns, each of them one forward of all rows.

Shapes: R slots; B rows of one forward; K block size; N positions of a forward; n open positions of a forward.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.checks import check_computed, check_open, check_revealed, interval_of
from lightningrl.decoding.ledger import Forward, Ledger, parts_of
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.planning import plan_rows
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observation, Observer
from lightningrl.decoding.row_state import QueuedRequest, Rows
from lightningrl.decoding.sampler import Draws, draw_by_rule, needs_margins, select
from lightningrl.decoding.window import Window
from lightningrl.decoding.window_rows import Lines, WindowRows
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedSpan, key_limits, keys_attended
from lightningrl.models.transformer import Transformer

if TYPE_CHECKING:
    from lightningrl.decoding.device_turn import Drawn
    from lightningrl.decoding.engine import Pool

PREFILL_TOKENS = 16384
"""Prompt positions that may begin to enter in one forward, a longer prompt alone aside."""
CHUNK_TOKENS = 2048
"""A longer prompt is prefilled in forwards of at most about so many positions: bounds activations and masks."""
SHORT_TOKENS = 256
"""Rows that see at most so many keys share a span, longer ones those of less than twice as many: little padding."""


@dataclass(slots=True, eq=False)
class Scheduler:
    """What one call of `BlockDecoder.stream` does with its queue."""

    model: Transformer
    pool: Pool
    rows: Rows
    stop_ids: np.ndarray
    ledger: Ledger
    observer: Observer | None
    windows: WindowRows | None = None
    """Where any row may have several open blocks."""
    waiting: deque[QueuedRequest] = field(default_factory=deque)

    @property
    def size(self) -> int:
        return self.rows.size

    def expect(self, item: QueuedRequest) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(item)
        self.rows.prefixes.expect(item)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting) or bool(self.rows.busy.any())

    def turn(self) -> list[DecodeResult]:
        """Rows enter, one forward of all of them, and what it ended."""
        self._admit()
        if self.windows is not None:
            self.windows.widen()
        self._make_room()
        return self._turn()

    def _admit(self) -> None:
        """Rows from the front of the queue into free slots, as long as every running row keeps a page to grow into."""
        rows, taken = self.rows, 0
        if not self.waiting:
            return
        for slot in np.flatnonzero(~rows.busy).tolist():
            if not self.waiting:
                return
            item = self.waiting[0]
            start = item.canvas.start if item.saved is None else rows.last_block(item.saved)
            running, ready = int(rows.busy.sum()), rows.prefixes.ready(item)
            wanted = rows.needed(item, start) - ready + running
            if not rows.prefixes.reclaim(wanted, item.prefix_key) and running:
                return
            entering = start - ready * rows.page_tokens
            if taken and taken + entering > PREFILL_TOKENS:
                return
            taken += entering
            rows.enter(slot, self.waiting.popleft())
            if self.windows is not None:
                self.windows.come_back(slot)

    def _make_room(self) -> None:
        """Pages for every row's active block, oldest row first; the youngest give theirs up when there are too few."""
        rows = self.rows
        for slot in sorted(rows.item, key=lambda slot: rows.admitted[slot]):
            while rows.busy[slot] and not rows.prefixes.reclaim(rows.lacking(slot)):
                self._put_off(max(rows.item, key=lambda slot: rows.admitted[slot]))
            if rows.busy[slot] and rows.lacking(slot) > 0:
                rows.grow(slot)

    def _put_off(self, slot: int) -> None:
        """Has a row give up its pages and wait at the front of the queue."""
        if self.windows is not None:
            self.windows.put_off(slot)
        # It may have written what is not finite and not been found out yet.
        self.pool.cache.clear(self.rows.own(slot))
        self.waiting.appendleft(self.rows.save(slot))
        self.ledger.preemptions += 1

    def _turn(self) -> list[DecodeResult]:
        """One forward of all rows, and what it ended."""
        began = time.perf_counter()
        rows = self.rows
        slots_B = np.flatnonzero(rows.busy & ~rows.waits)
        first_B, last_B, denoises_B, refreshes_B = self._spans(slots_B)
        span_B = np.zeros(len(slots_B), dtype=np.int64)
        if len(slots_B) > 1:
            reach_B = np.ceil(np.log2(np.maximum(last_B, SHORT_TOKENS)))
            order_B = np.lexsort((reach_B, last_B - first_B))
            slots_B, first_B, last_B, denoises_B, refreshes_B, reach_B = (
                a[order_B] for a in (slots_B, first_B, last_B, denoises_B, refreshes_B, reach_B)
            )
            span_B[1:] = np.cumsum((np.diff(last_B - first_B) != 0) | (np.diff(reach_B) != 0))
        queries_B = last_B - first_B
        drawn, hidden_NH, twin_NH, seen_S = None, None, None, None
        if self.pool.turns is not None and self.observer is None:
            drawn = self.pool.turns.turn(rows, slots_B, first_B, last_B, denoises_B)
        if drawn is None:
            hidden_NH, twin_NH, seen_S = self._forward(slots_B, first_B, queries_B, span_B)
        entering_B, pending_B = rows.entering[slots_B], rows.pending[slots_B]
        other_B = np.where(entering_B, "prefill", "commit")
        fuses_B = pending_B if self.windows is None else pending_B | self.windows.stores(slots_B)
        denoise_B = np.where(refreshes_B, "refresh", np.where(fuses_B, "fused", "denoise"))
        computes_B = denoises_B & ((last_B > rows.start[slots_B]) | ~rows.productive[slots_B])
        kinds_B = np.where(computes_B, denoise_B, other_B)
        work_B = 1 + rows.guided[slots_B].astype(np.int64)  # a row and its twin
        keys_B = work_B * self._keys(slots_B, first_B, last_B)
        kinds_B = rows.count(slots_B, kinds_B, last_B, work_B * queries_B, keys_B)
        rows.pending[slots_B] = pending_B & entering_B
        begins_B = np.cumsum(queries_B) - queries_B
        if entering_B.any():
            entered = slots_B[entering_B]
            if self.windows is not None:
                assert hidden_NH is not None
                self.windows.prefilled(entered, last_B[entering_B], begins_B[entering_B], hidden_NH)
            rows.prefill_to(entered, last_B[entering_B])
        rows.commit_forwards[slots_B[(kinds_B == "commit") & ~denoises_B]] += 1
        revealed_B, ended = np.zeros(len(slots_B), dtype=np.int64), []
        if denoises_B.any():
            here = np.flatnonzero(denoises_B)
            at_B = begins_B[here] + rows.start[slots_B[here]] - first_B[here] - self.model.config.logit_shift
            row_L, start_L = np.arange(len(here)), rows.start[slots_B[here]]
            lines = Lines(slots_B[here], row_L, start_L, at_B, begins_B[here], queries_B[here])
            if self.windows is not None:
                lines = self.windows.lines(lines, first_B[here])
            revealed_B[here], failed = self._reveal(slots_B[here], lines, hidden_NH, twin_NH, drawn)
            rows.block_step[slots_B[computes_B]] += 1
            refreshed = slots_B[refreshes_B & ~rows.is_window[slots_B]]
            rows.refreshed[refreshed] = rows.denoise_forwards[refreshed]
            ended = [self._fail(slot) for slot in failed]
        if self.windows is not None:
            assert hidden_NH is not None
            self.windows.kept(slots_B, first_B, begins_B, hidden_NH)
        seen_S = seen_S or [int(last_B[span_B == index].max()) for index in range(span_B[-1] + 1)]
        parts = parts_of(seen_S, span_B, kinds_B, work_B * queries_B, keys_B, revealed_B)
        self.ledger.add(Forward(parts, time.perf_counter() - began))
        return ended + self._advance()

    def _spans(self, slots_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The positions of each row's forward, from `first` up to, but not including, `last`, and whether it denoises
        the active block and refreshes the cache of its canvas."""
        rows, entering_B = self.rows, self.rows.entering[slots_B]
        first_B, last_B = rows.prefilled[slots_B], rows.prefill_end[slots_B].copy()
        chunk_B = first_B + max(1, CHUNK_TOKENS // self.size) * self.size
        last_B = np.where(rows.rebuilds[slots_B], last_B, np.minimum(last_B, chunk_B))
        denoises_B, refreshes_B = np.zeros((2, len(slots_B)), dtype=bool)
        start_B, is_done_B = rows.start[slots_B], last_B == rows.prefill_end[slots_B]
        denoises_B |= entering_B & is_done_B & rows.productive[slots_B] & ~rows.pending[slots_B]
        denoises_B &= rows.masked[slots_B, start_B] & ~rows.rebuilds[slots_B]
        for policy, mine in self._by_policy(slots_B):
            here = mine[~entering_B[mine]]
            if isinstance(policy.schedule, Window):
                assert self.windows is not None
                if not len(here):
                    continue
                spans = self.windows.spans(policy.schedule, slots_B[here])
                first_B[here], last_B[here], denoises_B[here], refreshes_B[here] = spans
                continue
            at, reach_B = rows.progress(slots_B[here]), rows.reach[slots_B[here]]
            computed = interval_of(self.model.config, policy.schedule, at, self.size, reach_B)
            if (computed.first_B < rows.shared[slots_B[here]]).any():
                raise DecodeError(
                    f"{policy.schedule} computes a shared prompt again: its `shares_prompt` must be False"
                )
            first_B[here], last_B[here], denoises_B[here], refreshes = computed
            refreshes_B[here] = False if refreshes is None else refreshes
        return first_B, last_B, denoises_B, refreshes_B

    def _keys(self, slots_B: np.ndarray, first_B: np.ndarray, last_B: np.ndarray) -> np.ndarray:
        """(B,) the keys that the positions of each row's forward attend to, summed over the positions; without those of
        its twin."""
        keys_B = keys_attended(self.model.config, first_B, last_B, self.rows.end[slots_B])
        return keys_B if self.windows is None else self.windows.keys(slots_B, first_B, last_B, keys_B)

    def _by_policy(self, slots_B: np.ndarray) -> list[tuple[DecodePolicy, np.ndarray]]:
        """The distinct policies of rows, each with the indices of its rows."""
        return self.rows.by_policy(slots_B)

    @torch.no_grad()
    def _forward(
        self, slots_B: np.ndarray, first_B: np.ndarray, queries_B: np.ndarray, span_B: np.ndarray
    ) -> tuple[Tensor, Tensor | None, list[int]]:
        """Hidden states of all rows' positions, row after row, those of their twins at the same places (None where no
        row has one), and the keys that each span sees at most. span_B: the span of each row, 0, ..., 0, 1, ..."""
        rows, spans, ids, count = self.rows, [], [], span_B[-1] + 1
        guided_B = rows.guided[slots_B]
        for is_twin in (False, True) if guided_B.any() else (False,):
            for index in range(count):
                here = (span_B == index) & (guided_B | (not is_twin))
                if here.any():
                    span, tokens_GQ = self._span(slots_B[here], first_B[here], queries_B[here][0], is_twin)
                    spans.append(span)
                    ids.append(tokens_GQ.ravel())
        hidden_NH, total, seen_S = self.pool.hidden(spans, np.concatenate(ids)), int(queries_B.sum()), spans[:count]
        kv_tokens_S = [span.kv_tokens for span in seen_S]
        if not guided_B.any():
            return hidden_NH, None, kv_tokens_S
        is_guided_N = torch.from_numpy(np.repeat(guided_B, queries_B)).to(hidden_NH.device)
        twin_NH = torch.zeros_like(hidden_NH[:total])
        twin_NH[is_guided_N] = hidden_NH[total:]
        return hidden_NH[:total], twin_NH, kv_tokens_S

    def _span(
        self, slots_G: np.ndarray, first_G: np.ndarray, queries: int, is_twin: bool
    ) -> tuple[PagedSpan, np.ndarray]:
        """The span of these rows or of their twins, and (G, Q) its tokens."""
        rows, positions_GQ = self.rows, first_G[:, None] + np.arange(queries)
        if self.windows is None:
            limits_GQ = key_limits(self.model.config, positions_GQ, rows.end[slots_G])
        else:
            limits_GQ = self.windows.limits(slots_G, positions_GQ)
        at, table_RP = (slots_G[:, None], positions_GQ), rows.twin_RP if is_twin else rows.table_RP
        # A row that rebuilds sees its canvas as its last refresh saw it.
        hides_GQ = rows.rebuilds[slots_G, None] & (rows.reveal[at] >= rows.refreshed[slots_G, None])
        if is_twin:
            hides_GQ = hides_GQ | (positions_GQ < rows.prompt_len[slots_G, None])
        tokens_GQ = np.where(hides_GQ, rows.mask_id, rows.tokens[at])
        return PagedSpan(table_RP[slots_G], positions_GQ, limits_GQ, rows.page_tokens), tokens_GQ

    def _reveal(
        self,
        slots_B: np.ndarray,
        lines: Lines,
        hidden_NH: Tensor | None,
        twin_NH: Tensor | None,
        device: Drawn | None,
    ) -> tuple[np.ndarray, list[int]]:
        """Write what is chosen among the open positions of the rows' blocks, one or more each. device: what the device
        has drawn already, at all positions of these blocks.

        Returns how many each row revealed, and the slots whose probabilities were not finite.
        """
        rows, slots_L = self.rows, lines.slots_L
        rows.denoise_forwards[slots_B] += 1
        positions_LK = lines.start_L[:, None] + np.arange(self.size)
        open_LK, groups = rows.masked[slots_L[:, None], positions_LK], self._by_policy(slots_L)
        if device is None:
            masked_LK = open_LK.copy()
            if self.windows is not None:
                masked_LK |= rows.refilled[slots_L[:, None], positions_LK]
            for policy, mine in groups:
                open_LK[mine] = policy.schedule.open(masked_LK[mine])
                check_open(policy.schedule, open_LK[mine], masked_LK[mine])
                if not isinstance(policy.schedule, Window):
                    places_LK = (lines.at_L - lines.begins_L)[mine, None] + np.arange(self.size)
                    check_computed(policy.schedule, places_LK, open_LK[mine], lines.queries_L[mine])
        line_n, column_n = np.nonzero(open_LK)
        decision_L = np.zeros(len(slots_L))
        if not len(line_n):
            rows.note(slots_L, decision_L)
            return np.zeros(len(slots_B), dtype=np.int64), []
        slots_n, position_n = slots_L[line_n], positions_LK[line_n, column_n]
        if device is None:
            assert hidden_NH is not None
            at_n = lines.at_L[line_n] + column_n
            plan_LK = plan_rows(self.model, rows, lines, hidden_NH, open_LK, groups)
            if self.windows is not None and lines.first_L is not None:
                hidden_NH, at_n = self.windows.predicting(hidden_NH, at_n, slots_n, position_n, lines.first_L[line_n])
            places_n = torch.from_numpy(at_n).to(hidden_NH.device)
            twin_at_n = None if twin_NH is None else places_n.clamp(max=len(twin_NH) - 1)  # no window has a twin
            states = hidden_NH[places_n], None if twin_NH is None else twin_NH[twin_at_n]
            drawn = self._draw(lines, line_n, position_n, at_n, states, open_LK, groups, plan_LK)
            token_n, logp_n, entropy_n, chosen_n, decision_L = drawn
        else:
            token_n, logp_n, entropy_n, chosen_n = (column[line_n * self.size + column_n] for column in device)
        rows.note(slots_L, decision_L)
        finite_n = np.isfinite(logp_n)
        failed = [] if finite_n.all() else np.unique(slots_n[~finite_n]).tolist()
        at = slots_n[chosen_n], position_n[chosen_n]
        rows.tokens[at], rows.masked[at] = token_n[chosen_n], False
        rows.reveal[at] = rows.denoise_forwards[at[0]]
        rows.logp[at], rows.entropy[at] = logp_n[chosen_n], entropy_n[chosen_n]
        revealed_L = np.bincount(line_n[chosen_n], minlength=len(slots_L))
        due_LK = open_LK if lines.must_L is None else open_LK & lines.must_L[:, None]
        for policy, mine in groups:
            check_revealed(policy.selector, revealed_L[mine] + np.isin(slots_L[mine], failed), due_LK[mine])
        return np.bincount(lines.row_L, revealed_L, len(slots_B)).astype(np.int64), failed

    @torch.no_grad()
    def _draw(
        self,
        lines: Lines,
        line_n: np.ndarray,
        position_n: np.ndarray,
        at_n: np.ndarray,
        states: tuple[Tensor, Tensor | None],
        open_LK: np.ndarray,
        groups: Sequence[tuple[DecodePolicy, np.ndarray]],
        plan_LK: Tensor | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Token, log-probability and entropy at the open positions, which of them are revealed, and the log-probability
        of each line's choice; observed."""
        rows, slots_L, slots_n = self.rows, lines.slots_L, lines.slots_L[line_n]
        forward_n = rows.denoise_forwards[slots_n]
        draws = Draws(
            hidden_nH=states[0],
            twin_nH=states[1],
            key_n=rows.key[slots_n],
            position_n=position_n,
            forward_n=forward_n,
            temperature_n=rows.temperature[slots_n],
            top_k_n=rows.top_k[slots_n],
            top_p_n=rows.top_p[slots_n],
        )
        rules: dict[Logits, list[np.ndarray]] = {}
        for policy, mine in groups:
            rules.setdefault(policy.logits, []).append(mine)
        of_rule = [(rule, np.flatnonzero(np.isin(line_n, np.concatenate(mine)))) for rule, mine in rules.items()]
        of_rule = [(rule, here) for rule, here in of_rule if len(here)]
        alternatives = self.observer.alternatives if self.observer else 0
        drawn = draw_by_rule(self.model, draws, of_rule, alternatives, needs_margins([p for p, _ in groups]))
        since_L = rows.denoise_forwards[slots_L] - 1 - rows.begun[slots_L, lines.start_L]
        step_L = np.where(rows.is_window[slots_L], since_L, rows.block_step[slots_L])
        chosen_n, decision_L = select(drawn, draws, open_LK, step_L, groups, lines.must_L, lines.row_L, plan_LK)
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        if self.observer is not None:
            index_n = np.array([rows.item[slot].index for slot in slots_n.tolist()])
            top = drawn.top_ids_nA.cpu().numpy(), drawn.top_logp_nA.cpu().numpy()
            seen = Observation(index_n, forward_n, position_n, token_n, logp_n, entropy_n, chosen_n, *top, at_n)
            self.observer.observe(seen)
        return (
            token_n,
            logp_n,
            entropy_n,
            chosen_n,
            np.zeros(len(slots_L)) if decision_L is None else decision_L.cpu().numpy(),
        )

    def _fail(self, slot: int) -> DecodeResult:
        self.pool.cache.clear(self.rows.own(slot))
        item = self._leave(slot, is_sound=False)
        why = "the model's probabilities are not finite: its weights are damaged, or training diverged"
        return DecodeResult(item.index, item.request, error=DecodeError(f"{item.request.uid}: {why}"))

    def _leave(self, slot: int, is_sound: bool = True) -> QueuedRequest:
        """Frees a slot whose row has ended."""
        if self.windows is not None:
            self.windows.left(slot)
        return self.rows.leave(slot, is_sound=is_sound)

    def _advance(self) -> list[DecodeResult]:
        """Move rows with a finished block to the next one; free the slots of rows that have ended."""
        rows = self.rows
        slots_B = np.flatnonzero(rows.busy & ~rows.is_window)
        for policy, mine in self._by_policy(slots_B):
            if policy.schedule.most_forwards is not None:
                rows.give_up(slots_B[mine], policy.schedule.most_forwards)
        positions_BK = rows.start[slots_B, None] + np.arange(self.size)
        masked_BK, tokens_BK = (a[slots_B[:, None], positions_BK] for a in (rows.masked, rows.tokens))
        response_BK = positions_BK >= rows.prompt_len[slots_B, None]
        stop_BK = (tokens_BK[..., None] == self.stop_ids).any(axis=-1) & response_BK & ~masked_BK
        full_B = ~np.any(masked_BK, axis=1)
        done_B, ended_B = full_B.copy(), np.zeros_like(full_B)
        for policy, mine in self._by_policy(slots_B):
            least = policy.schedule.least_forwards
            done_B[mine] &= (least <= 1) | (rows.block_step[slots_B[mine]] >= least)
            ended_B[mine] = policy.stop.ended(stop_BK[mine], masked_BK[mine]) & (done_B[mine] | ~full_B[mine])
            rows.pending[slots_B[mine]] |= policy.schedule.keeps_blocks & done_B[mine]
        ended_B |= done_B & (positions_BK[:, -1] + 1 >= rows.end[slots_B])
        onward = slots_B[done_B & ~ended_B]
        rows.start[onward] += self.size
        rows.block_step[onward] = 0
        outcomes, over = [], slots_B[ended_B].tolist()
        if self.windows is not None:
            over = sorted(over + self.windows.advance())
        for slot in over:
            trajectory = rows.trajectory(slot, self.stop_ids, self.model.config)
            item = self._leave(slot)
            outcomes.append(DecodeResult(item.index, item.request, trajectory))
        return outcomes
