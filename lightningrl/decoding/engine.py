"""The block-parallel decoder: rows at different blocks and denoise steps share forwards over one paged KV cache.

A row's life: its prompt's full blocks are prefilled; the rest of the prompt opens the first decoded block; each
denoise forward draws every open position of the active block and the selector says which are revealed; a finished
block's clean keys and values are written as the cache plan says, by default in the forward that first denoises the
next block. A row ends by the stop rule, or at its length limit. Rows enter and leave between any two forwards. When the
pages run out, the row that entered last gives its own back and is recomputed later; a request that could never fit is
refused alone.

Randomness is keyed (decoding/keyed.py), so a row does not depend on its neighbours but through rounding. The state of
the rows is on the host; a forward costs one copy to the device and one back.
Shapes: R slots; B rows of one forward; K block size; N positions of a forward; n open positions of a forward.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.ledger import Forward, Ledger, Part
from lightningrl.decoding.protocol import Observation, Observer, Outcome, Policy, Request
from lightningrl.decoding.reveal import Draws, draw_open, select
from lightningrl.decoding.rows import Pages, Rows, Waiting
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedBlocks, PagedKV, PagedSpan
from lightningrl.models.sdar import SDAR
from lightningrl.models.segments import SegmentForwards, gathered, paged_kernel
from lightningrl.types import Trajectory

SMALLEST_PAGE_TOKENS = 16
KERNEL_PAGE_TOKENS = 256
"""Flash attention's pages are multiples of it."""
FORWARDS = ("spans", "gathered", "segments", "graphs")
PREFILL_TOKENS = 16384
"""Prompt positions that may enter in one forward, a longer prompt alone aside: bounds its activations."""


class BlockDecoder:
    """A `Decoder` over an SDAR model on one device.

    stop_token_ids: any of them in the response ends it. rows: most rows decoded together. memory_bytes: of the KV
    cache (None: as much as the rows could need). page_tokens: positions a page, a multiple of the block size.
    forwards: `spans`, or the experimental `gathered`, `segments`, `graphs` (models/segments.py): static shapes, in
    plain torch, by a paged kernel, as CUDA graphs.
    """

    def __init__(
        self,
        model: SDAR,
        stop_token_ids: Collection[int],
        *,
        rows: int = 256,
        memory_bytes: int | None = None,
        page_tokens: int | None = None,
        forwards: str = "spans",
    ):
        size = model.config.block_size
        self.model, self.rows, self.memory_bytes = model, rows, memory_bytes
        smallest = KERNEL_PAGE_TOKENS if forwards in ("segments", "graphs") else SMALLEST_PAGE_TOKENS
        self.page_tokens = page_tokens or size * -(-smallest // size)
        if self.page_tokens % size:
            raise DecodeError(f"page_tokens is {page_tokens}, expected a multiple of the block size {size}")
        if forwards not in FORWARDS:
            raise DecodeError(f"forwards is {forwards!r}, expected one of {', '.join(FORWARDS)}")
        self.forwards = forwards
        self.stop_ids = np.array(sorted(stop_token_ids), dtype=np.int64)
        self.ledger = Ledger()
        self._pool: _Pool | None = None

    @property
    def page_bytes(self) -> int:
        """Of one page, keys and values of all layers."""
        config, weight = self.model.config, self.model.lm_head.weight
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return numbers * self.page_tokens * weight.element_size()

    def decode(self, requests: Sequence[Request], policy: Policy, observer: Observer | None = None) -> list[Trajectory]:
        """One trajectory a request, in order. Raises the DecodeError of a request that cannot be decoded."""
        finished: dict[int, Trajectory] = {}
        for outcome in self.stream(requests, policy, observer):
            if outcome.trajectory is None:
                assert outcome.error is not None
                raise outcome.error
            finished[outcome.index] = outcome.trajectory
        return [finished[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[Request], policy: Policy, observer: Observer | None = None
    ) -> Iterator[Outcome]:
        """The outcome of each request as soon as it is known; one that cannot be decoded does not stop the others."""
        size = self.model.config.block_size
        waiting: deque[Waiting] = deque()
        for index, request in enumerate(requests):
            end = -(-(len(request.prompt_ids) + request.max_new_tokens) // size) * size
            if (error := self._refusal(request, end)) is not None:
                yield Outcome(index, request, error=error)
            else:
                waiting.append(Waiting(index, request, request.policy or policy, end))
        if not waiting:
            return
        run = _Run(self, waiting, observer)
        try:
            yield from run.outcomes()
        finally:
            # A stream may be left before its end: what its rows have written is not known to be finite.
            run.cache.clear([page for held in run.rows.held for page in held])
            self._pool = run.pool

    def take_pool(self, pages: int, longest: int) -> _Pool:
        """A cache of at least so many pages, for rows of at most `longest`: the last stream's, if nobody has it."""
        pool, self._pool = self._pool, None
        if pool is None or pool.pages < pages or pool.longest < longest:
            pool = None  # gone before its successor asks for memory
            pool = _Pool(self, pages, longest)
        return pool

    def _refusal(self, request: Request, end: int) -> DecodeError | None:
        limit, prompt = self.model.config.max_position_embeddings, request.prompt_ids
        asked = f"{request.uid}: {len(prompt)} prompt tokens and {request.max_new_tokens} new ones need"
        if end > limit:
            return DecodeError(f"{asked} {end} positions, the model has {limit}: shorten the prompt or max_new_tokens")
        if prompt.min() < 0 or prompt.max() >= self.model.config.vocab_size:
            return DecodeError(f"{request.uid}: a prompt token lies outside the vocabulary")
        needed = -(-end // self.page_tokens) * self.page_bytes
        if self.memory_bytes is not None and needed > self.memory_bytes:
            return DecodeError(
                f"{asked} {needed} bytes of KV cache, the budget is {self.memory_bytes}: raise the memory budget, or "
                "shorten the prompt or max_new_tokens"
            )
        return None


class _Pool:
    """The cache, and what forwards of static shape have set up over it: kept from one stream to the next."""

    def __init__(self, decoder: BlockDecoder, pages: int, longest: int):
        model, config = decoder.model, decoder.model.config
        self.pages, self.longest = pages, longest
        static = decoder.forwards != "spans"  # these write into a page of nobody's
        self.cache = PagedKV(
            config.num_hidden_layers, pages + static, decoder.page_tokens, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip
        self.forwards = None
        if static:
            kernel = gathered if decoder.forwards == "gathered" else paged_kernel()
            graphs = decoder.forwards == "graphs"
            self.forwards = SegmentForwards(model, self.cache, longest, kernel, graphs=graphs)


class _Run:
    """One call of `stream`: the queue, the rows, and the cache they share."""

    def __init__(self, decoder: BlockDecoder, waiting: deque[Waiting], observer: Observer | None):
        model, size = decoder.model, decoder.model.config.block_size
        self.model, self.ledger, self.stop_ids, self.size = model, decoder.ledger, decoder.stop_ids, size
        self.waiting, self.observer = waiting, observer
        slots = min(decoder.rows, len(waiting))
        # No more pages than the longest requests could hold together.
        longest = sorted((-(-item.end // decoder.page_tokens) for item in waiting), reverse=True)[:slots]
        count = sum(longest)
        if decoder.memory_bytes is not None:
            count = min(count, decoder.memory_bytes // decoder.page_bytes)
        self.pool = decoder.take_pool(count, longest[0])
        self.cache = self.pool.cache
        length = max(item.end for item in waiting)
        self.rows = Rows(slots, length, size, model.config.mask_token_id, Pages(count), decoder.page_tokens)

    def outcomes(self) -> Iterator[Outcome]:
        while self.waiting or self.rows.busy.any():
            self._admit()
            self._make_room()
            yield from self._turn()

    def _admit(self) -> None:
        """Rows from the front of the queue into free slots, as long as every running row keeps a page to grow into."""
        rows, taken = self.rows, 0
        for slot in np.flatnonzero(~rows.busy).tolist():
            if not self.waiting:
                return
            item = self.waiting[0]
            start = int(item.saved["start"]) if item.saved else len(item.request.prompt_ids) // self.size * self.size
            running = int(rows.busy.sum())
            if running and rows.pages.free < rows.needed(start + self.size) + running:
                return
            if taken and taken + start > PREFILL_TOKENS:
                return
            taken += start
            rows.enter(slot, self.waiting.popleft())

    def _make_room(self) -> None:
        """Pages for every row's active block, oldest row first; the youngest give theirs up when there are too few."""
        rows = self.rows
        for slot in sorted(np.flatnonzero(rows.busy).tolist(), key=lambda slot: rows.admitted[slot]):
            while rows.busy[slot] and rows.lacking(slot) > rows.pages.free:
                youngest = max(np.flatnonzero(rows.busy).tolist(), key=lambda slot: rows.admitted[slot])
                # It may have written what is not finite and not been found out yet.
                self.cache.clear(rows.held[youngest])
                self.waiting.appendleft(rows.save(youngest))
                self.ledger.preemptions += 1
            if rows.busy[slot] and rows.lacking(slot) > 0:
                rows.grow(slot)

    def _turn(self) -> list[Outcome]:
        """One forward of all rows, and what it ended."""
        began = time.perf_counter()
        rows, done = self.rows, self.rows.done
        slots_B = np.flatnonzero(rows.busy)
        first_B, denoises_B = self._spans(slots_B)
        # A row that was put off with its last block uncommitted recomputes what comes before that block.
        put_off_B = rows.entering[slots_B] & rows.pending[slots_B]
        queries_B = done.start[slots_B] + self.size * denoises_B - self.size * put_off_B - first_B
        order_B = np.argsort(queries_B, kind="stable")
        slots_B, first_B, denoises_B, queries_B = (a[order_B] for a in (slots_B, first_B, denoises_B, queries_B))
        hidden_NH, spans = self._forward(slots_B, first_B, queries_B)
        kinds_B = self._kinds(slots_B, denoises_B, queries_B)
        rows.pending[slots_B] &= rows.entering[slots_B]
        rows.entering[slots_B] = False
        prefilled = slots_B[kinds_B == "prefill"]
        # Once, if the prompt fills a block: what is recomputed for a row that was put off is in the ledger alone.
        done.prefill_forwards[prefilled] = rows.prompt_len[prefilled] >= self.size
        done.commit_forwards[slots_B[kinds_B == "commit"]] += 1
        ends_B = np.cumsum(queries_B)
        revealed_B, ended = np.zeros(len(slots_B), dtype=np.int64), []
        if denoises_B.any():
            here = np.flatnonzero(denoises_B)
            revealed_B[here], failed = self._reveal(slots_B[here], ends_B[here] - self.size, hidden_NH)
            ended = [self._fail(slot) for slot in failed]
        self._note(kinds_B, queries_B, revealed_B, spans, time.perf_counter() - began)
        return ended + self._advance()

    def _spans(self, slots_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First position of each row's forward, and whether it denoises the active block (else ends before it)."""
        rows = self.rows
        first_B, denoises_B = np.zeros(len(slots_B), dtype=np.int64), np.zeros(len(slots_B), dtype=bool)
        entering_B = rows.entering[slots_B]
        for policy, mine in self._by_policy(slots_B):
            here = mine[~entering_B[mine]]
            slots = slots_B[here]
            spans = policy.cache.spans(rows.done.start[slots], rows.pending[slots], self.size)
            first_B[here], denoises_B[here] = spans
        return first_B, denoises_B

    def _by_policy(self, slots_B: np.ndarray) -> list[tuple[Policy, np.ndarray]]:
        """The distinct policies of rows, each with the indices of its rows."""
        found: dict[int, tuple[Policy, list[int]]] = {}
        for index, slot in enumerate(slots_B.tolist()):
            item = self.rows.item[slot]
            assert item is not None
            found.setdefault(id(item.policy), (item.policy, []))[1].append(index)
        return [(policy, np.array(mine)) for policy, mine in found.values()]

    @torch.no_grad()
    def _forward(
        self, slots_B: np.ndarray, first_B: np.ndarray, queries_B: np.ndarray
    ) -> tuple[Tensor, list[PagedSpan]]:
        """Hidden states of all rows' positions, row after row; rows of equal length are one span."""
        rows, spans, ids = self.rows, [], []
        for queries in np.unique(queries_B).tolist():
            here = queries_B == queries
            pages = rows.table_RP[slots_B[here]]
            span = PagedSpan(pages, first_B[here], queries, self.size, rows.page_tokens)
            ids.append(rows.done.tokens[slots_B[here, None], span.positions_GQ].ravel())
            spans.append(span)
        if self.pool.forwards is not None:
            return self.pool.forwards.hidden(spans, np.concatenate(ids)), spans
        device = self.cache.keys.device
        ids_N = torch.from_numpy(np.concatenate(ids)).to(device)
        positions_N = torch.from_numpy(np.concatenate([span.positions_GQ.ravel() for span in spans])).to(device)
        attend = PagedBlocks(self.cache, spans)
        return self.model.hidden(ids_N[None], positions_N[None], attend)[0], spans

    def _kinds(self, slots_B: np.ndarray, denoises_B: np.ndarray, queries_B: np.ndarray) -> np.ndarray:
        pending_B = self.rows.pending[slots_B]
        other_B = np.where(self.rows.entering[slots_B], "prefill", "commit")
        return np.where(denoises_B, np.where(pending_B, "fused", "denoise"), other_B)

    @torch.no_grad()
    def _reveal(self, slots_B: np.ndarray, at_B: np.ndarray, hidden_NH: Tensor) -> tuple[np.ndarray, list[int]]:
        """Draw the open positions of the active blocks (from `at_B` on in the forward) and write what is chosen.

        Returns how many were revealed, and the slots whose probabilities were not finite.
        """
        rows, done = self.rows, self.rows.done
        done.denoise_forwards[slots_B] += 1
        positions_BK = done.start[slots_B, None] + np.arange(self.size)
        masked_BK = done.masked[slots_B[:, None], positions_BK]
        groups = self._by_policy(slots_B)
        open_BK = np.zeros_like(masked_BK)
        for policy, mine in groups:
            open_BK[mine] = policy.scope.open(masked_BK[mine])
        row_n, column_n = np.nonzero(open_BK)
        forward_n = done.denoise_forwards[slots_B][row_n]
        draws = Draws(
            hidden_nH=hidden_NH[torch.from_numpy(at_B[row_n] + column_n).to(hidden_NH.device)],
            key_n=rows.key[slots_B][row_n],
            position_n=positions_BK[row_n, column_n],
            forward_n=forward_n,
            policies=[(policy, np.isin(row_n, mine)) for policy, mine in groups],
        )
        alternatives = self.observer.alternatives if self.observer else 0
        drawn = draw_open(self.model, draws, alternatives)
        chosen_n = select(drawn, open_BK, done.block_step[slots_B], groups)
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        if self.observer is not None:
            index_n = np.array([item.index for slot in slots_B if (item := rows.item[slot])])[row_n]
            top_ids_nA, top_logp_nA = drawn.top_ids_nA.cpu().numpy(), drawn.top_logp_nA.cpu().numpy()
            self.observer.observe(
                Observation(
                    index_n, forward_n, draws.position_n, token_n, logp_n, entropy_n, chosen_n, top_ids_nA, top_logp_nA
                )
            )
        failed = slots_B[np.unique(row_n[~np.isfinite(logp_n)])].tolist()
        slot_k, position_k = slots_B[row_n[chosen_n]], draws.position_n[chosen_n]
        done.tokens[slot_k, position_k] = token_n[chosen_n]
        done.masked[slot_k, position_k] = False
        done.logp[slot_k, position_k] = logp_n[chosen_n]
        done.entropy[slot_k, position_k] = entropy_n[chosen_n]
        done.reveal[slot_k, position_k] = forward_n[chosen_n]
        done.block_step[slots_B] += 1
        revealed_B = np.bincount(row_n[chosen_n], minlength=len(slots_B))
        stuck_B = (revealed_B == 0) & ~np.isin(slots_B, failed)
        if stuck_B.any():
            policy = next(policy for policy, mine in groups if stuck_B[mine].any())
            raise DecodeError(f"{policy.selector} revealed nothing in a block with open positions: it would never end")
        return revealed_B, failed

    def _note(
        self, kinds_B: np.ndarray, queries_B: np.ndarray, revealed_B: np.ndarray, spans: list[PagedSpan], seconds: float
    ) -> None:
        parts = []
        for span in spans:
            for kind in np.unique(kinds_B[queries_B == span.queries]).tolist():
                here = (queries_B == span.queries) & (kinds_B == kind)
                parts.append(Part(kind, int(here.sum()), span.queries, span.kv_tokens, int(revealed_B[here].sum())))
        self.ledger.add(Forward(tuple(parts), seconds))

    def _fail(self, slot: int) -> Outcome:
        self.cache.clear(self.rows.held[slot])
        item = self.rows.leave(slot)
        error = DecodeError(
            f"{item.request.uid}: the model's probabilities are not finite: its weights are damaged, or training "
            "diverged"
        )
        return Outcome(item.index, item.request, error=error)

    def _advance(self) -> list[Outcome]:
        """Move rows with a finished block to the next one; free the slots of rows that have ended."""
        rows, done = self.rows, self.rows.done
        slots_B = np.flatnonzero(rows.busy)
        positions_BK = done.start[slots_B, None] + np.arange(self.size)
        masked_BK = done.masked[slots_B[:, None], positions_BK]
        tokens_BK = done.tokens[slots_B[:, None], positions_BK]
        response_BK = positions_BK >= rows.prompt_len[slots_B, None]
        stop_BK = np.isin(tokens_BK, self.stop_ids) & response_BK & ~masked_BK
        full_B = ~np.any(masked_BK, axis=1)
        ended_B = full_B & (positions_BK[:, -1] + 1 >= rows.end[slots_B])
        for policy, mine in self._by_policy(slots_B):
            ended_B[mine] |= policy.stop.ended(stop_BK[mine], masked_BK[mine])
            rows.pending[slots_B[mine]] |= policy.cache.keeps_blocks & full_B[mine]
        onward = slots_B[full_B & ~ended_B]
        done.start[onward] += self.size
        done.block_step[onward] = 0
        outcomes = []
        for slot in slots_B[ended_B].tolist():
            trajectory = rows.trajectory(slot, self.stop_ids)
            item = rows.leave(slot)
            outcomes.append(Outcome(item.index, item.request, trajectory))
        return outcomes
