"""The block-parallel decoder: rows at different blocks and denoise steps share forwards over one paged KV cache.

What happens to a row is in decoding/reference.py. Rows enter and leave between any two forwards. When the pages run
out, the row that entered last gives its own back and is recomputed later; a request that could never fit is refused
alone. Randomness is keyed (decoding/rng.py), so a row does not depend on its neighbours but through rounding. The state
of the rows is on the host (decoding/row_state.py); a forward (decoding/scheduler.py) costs one copy to the device and
one back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.canvas import SMALLEST_PAGE_TOKENS, page_size
from lightningrl.decoding.ledger import Ledger
from lightningrl.decoding.protocol import DecodePolicy, DecodeResult, Observer, Request
from lightningrl.decoding.row_state import QueuedRequest, Rows
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan
from lightningrl.models.static_forward import SegmentForwards, gathered, paged_kernel
from lightningrl.models.transformer import Transformer
from lightningrl.types import Trajectory

FORWARDS = ("spans", "gathered", "segments", "graphs")
KERNEL_PAGE_TOKENS = 256
"""Flash attention's pages are multiples of it."""


class BlockDecoder:
    """A `Decoder` over a model on one device.

    stop_token_ids: any of them in the response ends it. rows: most rows decoded together. memory_bytes: of the KV
    cache (None: as much as the rows could need). page_tokens: positions a page, a multiple of the block size.
    forwards: `spans`, or the experimental `gathered`, `segments`, `graphs` (models/static_forward.py): static shapes,
    in plain torch, by a paged kernel, as CUDA graphs.
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
        if forwards != "spans" and model.config.attention != "block_causal":
            raise DecodeError(f"forwards is {forwards!r}, but {model.config.attention} attention has 'spans' only")
        self.model, self.rows, self.memory_bytes, self.forwards = model, rows, memory_bytes, forwards
        size = model.config.block_size
        at_least = KERNEL_PAGE_TOKENS if forwards in ("segments", "graphs") else SMALLEST_PAGE_TOKENS
        self.page_tokens = page_tokens or page_size(size, at_least)
        if self.page_tokens % size:
            raise DecodeError(f"page_tokens is {page_tokens}, expected a multiple of the block size {size}")
        self.spare = int(forwards != "spans")
        """Pages that no row holds: forwards of static shape write into one what only fills them up."""
        self.stop_ids = np.array(sorted(stop_token_ids), dtype=np.int64)
        self.ledger = Ledger()
        self._pool: Pool | None = None

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
        self, requests: Sequence[Request], policy: DecodePolicy, observer: Observer | None = None
    ) -> Iterator[DecodeResult]:
        """The outcome of each request as soon as it is known; one that cannot be decoded does not stop the others."""
        size = self._check([policy, *(each.policy for each in requests if each.policy is not None)])
        waiting: deque[QueuedRequest] = deque()
        for index, request in enumerate(requests):
            own = request.policy or policy
            canvas = own.schedule.canvas(len(request.prompt_ids), request.max_new_tokens, size)
            if (error := self._refusal(request, canvas.end)) is not None:
                yield DecodeResult(index, request, error=error)
            else:
                waiting.append(QueuedRequest(index, request, own, canvas))
        if not waiting:
            return
        run = self._run(waiting, size, observer)
        try:
            yield from run.outcomes()
        finally:
            # A stream may be left before its end: what its rows have written is not known to be finite.
            run.pool.cache.clear([page for held in run.rows.held for page in held])
            self._pool = run.pool

    def release(self) -> None:
        """Gives the memory of the KV cache back to the device, for others; the next stream takes it anew."""
        self._pool = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, policies: Sequence[DecodePolicy]) -> int:
        """K of a stream: the schedules' own, else the model's. Raises DecodeError when they differ, and for a schedule
        that leaves out what the model sees."""
        for policy in policies:
            if self.model.config.attention == "full" and not policy.schedule.fills_canvas:
                raise DecodeError(
                    f"{policy.schedule}: the model attends to all later masks, which this schedule does not compute; "
                    "take one over the whole canvas, such as full_sequence"
                )
        sizes = {policy.schedule.block_size or self.model.config.block_size for policy in policies}
        if len(sizes) > 1:
            raise DecodeError(f"requests decoded together have blocks of {sorted(sizes)} positions, expected one size")
        return sizes.pop()

    def _run(self, waiting: deque[QueuedRequest], size: int, observer: Observer | None) -> Scheduler:
        """A run over at most `rows` slots, and as many pages as the longest requests could hold together. It takes the
        last stream's pool, if nobody has it and it is large enough."""
        slots = min(self.rows, len(waiting))
        longest = sorted((self._pages(item.canvas.end) for item in waiting), reverse=True)[:slots]
        pages = sum(longest)
        if self.memory_bytes is not None:
            pages = min(pages, self.memory_bytes // self.page_bytes - self.spare)
        pool, self._pool = self._pool, None
        if pool is None or pool.pages < pages or pool.longest < longest[0]:
            pool = None  # gone before its successor asks for memory
            pool = Pool(self.model, pages, self.spare, longest[0], self.page_tokens, self.forwards)
        length, mask_id = max(item.canvas.end for item in waiting), self.model.config.mask_token_id
        rows = Rows(slots, length, size, mask_id, pages, self.page_tokens)
        return Scheduler(self.model, pool, rows, waiting, self.stop_ids, self.ledger, observer)

    def _pages(self, positions: int) -> int:
        return -(-positions // self.page_tokens)

    def _refusal(self, request: Request, end: int) -> DecodeError | None:
        limit, prompt = self.model.config.max_position_embeddings, request.prompt_ids
        asked = f"{request.uid}: {len(prompt)} prompt tokens and {request.max_new_tokens} new ones need"
        if end > limit:
            return DecodeError(f"{asked} {end} positions, the model has {limit}: shorten the prompt or max_new_tokens")
        if prompt.min() < 0 or prompt.max() >= self.model.config.vocab_size:
            return DecodeError(f"{request.uid}: a prompt token lies outside the vocabulary")
        needed = (self._pages(end) + self.spare) * self.page_bytes
        if self.memory_bytes is not None and needed > self.memory_bytes:
            return DecodeError(
                f"{asked} {needed} bytes of KV cache, the budget is {self.memory_bytes}: raise the memory budget, or "
                "shorten the prompt or max_new_tokens"
            )
        return None


class Pool:
    """What forwards run on, kept from one stream to the next: so many pages for rows, none with more than `longest`."""

    def __init__(self, model: Transformer, pages: int, spare: int, longest: int, page_tokens: int, forwards: str):
        config, self.model, self.pages, self.longest = model.config, model, pages, longest
        self.cache = PagedKV(
            config.num_hidden_layers, pages + spare, page_tokens, config.num_key_value_heads, config.head_dim,
            model.lm_head.weight,
        )  # fmt: skip
        self.static = None
        if forwards != "spans":
            kernel = gathered if forwards == "gathered" else paged_kernel()
            self.static = SegmentForwards(model, self.cache, longest, kernel, graphs=forwards == "graphs")

    def hidden(self, spans: Sequence[PagedSpan], ids_N: np.ndarray) -> Tensor:
        """(N, H) hidden states at the spans' positions, one span after another, from the tokens there."""
        if self.static is not None:
            return self.static.hidden(spans, ids_N)
        device = self.cache.keys.device
        positions_N = torch.from_numpy(np.concatenate([span.positions_GQ.ravel() for span in spans])).to(device)
        attend = PagedAttention(self.cache, spans)
        return self.model.hidden(torch.from_numpy(ids_N).to(device)[None], positions_N[None], attend)[0]
