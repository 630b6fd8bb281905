"""The block-parallel decoder: rows at different blocks and denoise steps share forwards over one paged KV cache.

What happens to a row is in decoding/reference.py. Rows enter and leave between any two forwards; a prompt that several
have is computed once (decoding/prefixes.py). When the pages run out, the row that entered last gives its own back and
is recomputed later; a request that could never fit is refused alone. Randomness is keyed (decoding/rng.py), so a row
does not depend on its neighbours but through rounding. The state of the rows is on the host (decoding/row_state.py); a
forward (decoding/scheduler.py) sends its indices to the device and takes one small table back. How it is launched is
`forwards`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.canvas import SMALLEST_PAGE_TOKENS, Canvas, page_size
from lightningrl.decoding.fitting import forwards_misfit, length_misfit, misfit
from lightningrl.decoding.ledger import Ledger
from lightningrl.decoding.prefixes import prefix_key
from lightningrl.decoding.protocol import AllAtOnce, DecodePolicy, DecodeResult, Observer, Release, Request
from lightningrl.decoding.row_state import QueuedRequest, Rows, pages_of
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.window import Window
from lightningrl.decoding.window_rows import WindowRows
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan
from lightningrl.models.transformer import Transformer
from lightningrl.types import Trajectory

if TYPE_CHECKING:
    from lightningrl.decoding.device_turn import DeviceTurns
    from lightningrl.models.static_forward import SegmentForwards

FORWARDS = ("spans", "gathered", "segments", "turns", "graphs")
KERNEL_PAGE_TOKENS = 256
"""Flash attention's pages are multiples of it."""


class BlockDecoder:
    """A `Decoder` over a model on one device.

    stop_token_ids: any of them in the response ends it. rows: most rows decoded together. memory_bytes: of the KV
    cache (None: as much as the rows could need). page_tokens: positions a page, a multiple of the block size.
    forwards: `spans`, or one of the experimental ones of static shape. `gathered` and `segments`: hidden states, in
    plain torch or by a paged kernel (models/static_forward.py). `turns` and `graphs`: whole turns on the device
    (decoding/device_turn.py), each launched anew, or as CUDA graphs.
    """

    def __init__(
        self,
        model: Transformer,
        stop_token_ids: Collection[int],
        *,
        rows: int = 256,
        memory_bytes: int | None = None,
        page_tokens: int | None = None,
        forwards: str = "spans",
    ):
        if forwards not in FORWARDS:
            raise DecodeError(f"forwards is {forwards!r}, expected one of {', '.join(FORWARDS)}")
        if (error := forwards_misfit(model.config, forwards)) is not None:
            raise DecodeError(error)
        self.model, self.rows, self.memory_bytes, self.forwards = model, rows, memory_bytes, forwards
        if forwards == "graphs" and model.device.type != "cuda":
            raise DecodeError(
                f"forwards is 'graphs', which are CUDA's, and the model is on {model.device.type}: take 'spans', or "
                "'turns', which does the same without capturing anything"
            )
        self._has_kernel = forwards in ("segments", "graphs") or (forwards == "turns" and model.device.type == "cuda")
        if self._has_kernel and model.lm_head.weight.dtype not in (torch.bfloat16, torch.float16):
            raise DecodeError(
                f"forwards is {forwards!r}, whose attention kernels take bfloat16 or float16, and the weights are "
                f"{str(model.lm_head.weight.dtype).removeprefix('torch.')}: load them as bfloat16, or take 'spans'"
            )
        size = model.config.block_size
        at_least = KERNEL_PAGE_TOKENS if self._has_kernel else SMALLEST_PAGE_TOKENS
        self.page_tokens = page_tokens or page_size(size, at_least)
        if self.page_tokens % size:
            raise DecodeError(f"page_tokens is {page_tokens}, expected a multiple of the block size {size}")
        self.spare = int(forwards != "spans")
        """Pages that no row holds: forwards of static shape write into one what only fills them up."""
        self.stop_ids = np.array(sorted(stop_token_ids), dtype=np.int64)
        self.ledger = Ledger()
        self.pool: Pool | None = None
        """What the last stream ran on, for the next."""

    @property
    def page_bytes(self) -> int:
        """The bytes of one page, keys and values of all layers."""
        config, weight = self.model.config, self.model.lm_head.weight
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return numbers * self.page_tokens * weight.element_size()

    def decode(
        self, requests: Sequence[Request], policy: DecodePolicy, observer: Observer | None = None
    ) -> list[Trajectory]:
        """One trajectory a request, in order. Raises the DecodeError of a request that cannot be decoded."""
        finished: dict[int, Trajectory] = {}
        for outcome in self.stream(requests, policy, observer):
            if outcome.trajectory is None:
                assert outcome.error is not None
                raise outcome.error
            finished[outcome.index] = outcome.trajectory
        return [finished[index] for index in range(len(requests))]

    def stream(
        self,
        requests: Sequence[Request],
        policy: DecodePolicy,
        observer: Observer | None = None,
        release: Release | None = None,
    ) -> Iterator[DecodeResult]:
        """The outcome of each request as soon as it is known; one that cannot be decoded does not stop the others.

        Rows decoded together have blocks of one size: requests with blocks of another come after them. release: where
        requests are decided on while others are decoded; those that it does not release are not decoded.
        """
        release = release or AllAtOnce(len(requests))
        known = [self._queued(index, request, policy) for index, request in enumerate(requests)]
        expected: dict[int, list[QueuedRequest]] = {}
        for item in known:
            if isinstance(item, QueuedRequest):
                expected.setdefault(item.size, []).append(item)
        released: list[QueuedRequest] = []
        run: Scheduler | None = None
        come, until = 0, release()
        try:
            while until is not None or released or (run is not None and run.is_busy):
                for item in known[come : until or come]:
                    if isinstance(item, DecodeResult):
                        yield item
                    else:
                        released.append(item)
                come = max(come, until or 0)
                if released and (run is None or (released[0].size != run.size and not run.is_busy)):
                    self._close(run)
                    run, size = None, released[0].size
                    run = self._run(expected[size], release.at_once, size, observer)
                if run is not None:
                    for item in released:
                        if item.size == run.size:
                            run.expect(item)
                    released = [item for item in released if item.size != run.size]
                    if run.is_busy:
                        yield from run.turn()
                until = release() if until is not None else None
        finally:
            self._close(run)

    def _close(self, run: Scheduler | None) -> None:
        """Keeps what a run was on for the next one. It may be left before its end: what its rows have written is not
        known to be finite."""
        if run is not None:
            run.pool.cache.clear(run.rows.in_use)
            self.pool = run.pool

    def _queued(self, index: int, request: Request, policy: DecodePolicy) -> QueuedRequest | DecodeResult:
        """A request as it waits in the queue, or the reason why it cannot be decoded."""
        own, config = request.policy or policy, self.model.config
        try:
            size, canvas = request.canvas(own, config.block_size, config.mask_token_id)
            error = self._refusal(request, own, canvas)
        except DecodeError as refused:
            return DecodeResult(index, request, error=refused)
        if error is not None:
            return DecodeResult(index, request, error=error)
        # A twin's prompt is another one, whose pages lie between the row's own.
        shares = own.schedule.shares_prompt and config.attention == "block_causal" and not own.logits.cfg_scale
        kept = max(0, canvas.start - config.logit_shift)  # that position is computed again
        key = prefix_key(request.prompt_ids, kept, self.page_tokens) if shares else None
        return QueuedRequest(index, request, own, size, canvas, key)

    def release(self) -> None:
        """Gives the memory of the KV cache back to the device, for others; the next stream takes it anew."""
        self.pool = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, expected: Sequence[QueuedRequest], at_once: int, size: int, observer: Observer | None) -> Scheduler:
        """A run over at most `rows` slots, and as many pages as the longest requests could hold together. It takes the
        last stream's pool, if nobody has it and it is large enough."""
        slots = min(self.rows, at_once, len(expected))
        reaches = [item.policy.schedule.extent(item.canvas) for item in expected]
        needed = [pages_of(item.policy, n, self.page_tokens) for item, n in zip(expected, reaches, strict=True)]
        longest = sorted(needed, reverse=True)[:slots]
        pages = sum(longest)
        if self.memory_bytes is not None:
            pages = min(pages, self.memory_bytes // self.page_bytes - self.spare)
        pool, self.pool = self.pool, None
        if pool is None or pool.pages < pages or pool.longest < longest[0]:
            pool = None  # gone before its successor asks for memory
            pool = Pool(self.model, pages, self.spare, longest[0], self.page_tokens)
        if self.forwards != "spans":
            segments = most_segments(slots, [item.policy for item in expected])
            pool.prepare(self.forwards, self._has_kernel, slots, segments, self._runs_turns(expected, observer))
        # A canvas may end inside its last block, all of whose positions are looked at.
        grid = (-(-(end - start) // size) * size + start for _, start, end in (item.canvas for item in expected))
        length, mask_id = max(*reaches, *grid), self.model.config.mask_token_id
        rows, windows = Rows(slots, length, size, mask_id, pages, self.page_tokens), None
        if any(isinstance(item.policy.schedule, Window) for item in expected):
            windows = WindowRows(rows, pool.cache, self.model.config, self.stop_ids)
        return Scheduler(self.model, pool, rows, self.stop_ids, self.ledger, observer, windows)

    def _runs_turns(self, expected: Collection[QueuedRequest], observer: Observer | None) -> bool:
        """Whether what is asked runs as whole turns on the device, prefill aside."""
        if observer is not None or self.forwards not in ("turns", "graphs"):
            return False
        from lightningrl.decoding.device_turn import rule_of

        policies = {id(item.policy): item.policy for item in expected}.values()
        return all(rule_of(policy, self.model.config.block_size) is not None for policy in policies)

    def _refusal(self, request: Request, policy: DecodePolicy, canvas: Canvas) -> DecodeError | None:
        config, new, prompt = self.model.config, request.max_new_tokens, request.prompt_ids
        size, block = config.block_size, policy.schedule.size(request.max_new_tokens, config.block_size)
        if (error := misfit(config, policy, self.forwards)) is not None:
            return DecodeError(f"{request.uid}: {error}")
        if self.forwards != "spans" and (canvas.origin % size or canvas.end % size or block % size):
            return DecodeError(
                f"{request.uid}: forwards is {self.forwards!r}, which compute the model's blocks of {size} positions, "
                f"and {policy.schedule} decodes positions {canvas.start} to {canvas.end} of another grid: take 'spans'"
            )
        if (error := length_misfit(config, policy, canvas, block, len(prompt), new)) is not None:
            return DecodeError(f"{request.uid}: {error}")
        if prompt.min() < 0 or prompt.max() >= config.vocab_size:
            return DecodeError(f"{request.uid}: a prompt token lies outside the vocabulary")
        needed = (pages_of(policy, policy.schedule.extent(canvas), self.page_tokens) + self.spare) * self.page_bytes
        if self.memory_bytes is not None and needed > self.memory_bytes:
            return DecodeError(
                f"{request.uid}: {len(prompt)} prompt tokens and {new} new ones need {needed} bytes of KV cache, the "
                f"budget is {self.memory_bytes}: raise the memory budget, or shorten the prompt or max_new_tokens"
            )
        return None


def most_segments(slots: int, policies: Iterable[DecodePolicy]) -> int:
    """The most blocks that a forward of so many rows computes, prefill aside: of each row the active and the pending
    one, and the same of its twin where a policy has classifier-free guidance."""
    return 2 * slots * (2 if any(policy.logits.cfg_scale for policy in policies) else 1)


class Pool:
    """What forwards run on, kept from one stream to the next: so many pages for rows, none with more than `longest`."""

    def __init__(self, model: Transformer, pages: int, spare: int, longest: int, page_tokens: int):
        config, self.model, self.pages, self.longest = model.config, model, pages, longest
        self.cache = PagedKV(
            config.num_hidden_layers, pages + spare, page_tokens, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip
        self.static: SegmentForwards | None = None
        self.turns: DeviceTurns | None = None
        self._graph_memory = None

    def prepare(self, forwards: str, has_kernel: bool, slots: int, segments: int, runs_turns: bool) -> None:
        """Makes what forwards of static shape need, and captures graphs of all sizes that rows of so many slots will
        meet: of whole turns, or of hidden states alone where something asked does not run as turns. What was made for
        an earlier stream is kept while it fits. Prefill has too many sizes: it is never captured. segments: the most
        blocks of one forward."""
        from lightningrl.models.static_forward import SegmentForwards, gathered, paged_kernel

        graphs = forwards == "graphs"
        if self.static is None or (self.turns is not None and not (self.turns.is_current and slots <= self.turns.rows)):
            self.static = self.turns = self._graph_memory = None
            kernel, trunk = paged_kernel() if has_kernel else gathered, None
            if forwards in ("turns", "graphs"):
                from lightningrl.decoding.device_turn import DeviceTurns
                from lightningrl.models.fused_trunk import FusedTrunk

                trunk = FusedTrunk(self.model)
                self.turns = DeviceTurns(
                    self.model, self.cache, trunk, kernel, rows=slots, pages=self.longest, graphs=graphs
                )  # fmt: skip
            self.static = SegmentForwards(self.model, self.cache, self.longest, kernel, trunk)
        if self.turns is not None:
            self.turns.forget()
        if graphs:
            self._graph_memory = self._graph_memory or torch.cuda.graph_pool_handle()
            if runs_turns and self.turns is not None:
                self.turns.prepare(slots, self._graph_memory)
            else:
                self.static.prepare(segments, self._graph_memory)

    def hidden(self, spans: Sequence[PagedSpan], ids_N: np.ndarray) -> Tensor:
        """(N, H) hidden states at the spans' positions, one span after another, from the tokens there."""
        if self.static is not None:
            return self.static.hidden(spans, ids_N)
        device = self.cache.keys.device
        positions_N = torch.from_numpy(np.concatenate([span.positions_GQ.ravel() for span in spans])).to(device)
        attend = PagedAttention(self.cache, spans)
        return self.model.hidden(torch.from_numpy(ids_N).to(device)[None], positions_N[None], attend)[0]
