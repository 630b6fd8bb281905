"""Decoding forwards of static shape: every block of K queries is a short sequence for a paged attention kernel.

All queries of a block see the same keys, those up to its end, so no mask is needed: a forward is S segments, each with
a line of pages and a number of keys. Forwards of few shapes can be captured as CUDA graphs.

Whole turns on the device, from the trunk to the tokens, are in decoding/device_turn.py; here are hidden states alone,
for what draws and selects on the host's orders.

Experimental: tested on the CPU, where `gathered` stands in for the kernel and nothing is captured; no recorded run on a
GPU. Off unless asked for (`decoding.forwards`).
Shapes: S segments; N = S * K positions; P pages of the longest row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.errors import DecodeError
from lightningrl.models.attention import PagedKV, PagedSpan
from lightningrl.models.fused_trunk import FusedTrunk
from lightningrl.models.transformer import Transformer

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""q (S, K, heads, D), keys and values (pages, page_tokens, kv heads, D), int32 pages (S, P) and used (S,) -> like q."""


class Segments(NamedTuple):
    """The blocks of one forward."""

    ids_N: Tensor
    positions_N: Tensor
    slots_N: Tensor
    """Where each position's key and value are written."""
    pages_SP: Tensor
    """int32."""
    used_S: Tensor
    """int32: keys that the segment sees, from its row's first position."""

    @staticmethod
    def of(spans: Sequence[PagedSpan], ids_N: np.ndarray, block_size: int, pages: int) -> Segments:
        """The segments of spans, in the same order of positions; page lines are padded to `pages`. Raises DecodeError
        for a span that is not of whole blocks."""
        lines, used = [], []
        for span in spans:
            if span.queries % block_size or (span.positions_GQ[:, 0] % block_size).any():
                raise DecodeError(
                    f"a schedule computes {span.queries} positions from {int(span.positions_GQ[0, 0])} on, and "
                    f"forwards of static shape whole blocks of {block_size}: decode with forwards='spans'"
                )
            blocks = span.queries // block_size
            line_GP = np.repeat(span.pages_GP[:, :1], pages, axis=1).astype(np.int32)  # of the row's own, as in Rows
            line_GP[:, : span.pages_GP.shape[1]] = span.pages_GP
            lines.append(np.repeat(line_GP, blocks, axis=0))
            used.append(span.positions_GQ[:, block_size - 1 :: block_size].ravel() + 1)
        return Segments(
            torch.from_numpy(ids_N),
            torch.from_numpy(np.concatenate([span.positions_GQ.ravel() for span in spans])),
            torch.from_numpy(np.concatenate([span.slots_GQ.ravel() for span in spans])),
            torch.from_numpy(np.concatenate(lines)),
            torch.from_numpy(np.concatenate(used).astype(np.int32)),
        )


def gathered(q_SKND: Tensor, keys: Tensor, values: Tensor, pages_SP: Tensor, used_S: Tensor) -> Tensor:
    """The kernel in plain torch: pages gathered, unused keys masked. Any device, static shapes, slow."""
    k_SMTD, v_SMTD = (table[pages_SP.long()].flatten(1, 2).transpose(1, 2) for table in (keys, values))
    seen_S1KT = (torch.arange(k_SMTD.shape[2], device=used_S.device) < used_S[:, None])[:, None, None]
    q_SNKD = q_SKND.transpose(1, 2)
    return F.scaled_dot_product_attention(q_SNKD, k_SMTD, v_SMTD, attn_mask=seen_S1KT, enable_gqa=True).transpose(1, 2)


def paged_kernel() -> Kernel:
    """Torch's variable-length attention with block tables, else the flash-attn package's. Raises DecodeError."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        if "block_table" in inspect.signature(varlen_attn).parameters:
            return _torch_varlen(varlen_attn)
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_with_kvcache  # type: ignore[import-not-found]
    except ImportError:
        raise DecodeError(
            "no paged attention kernel: this torch has no variable-length attention with block tables, and the package "
            "flash-attn is not installed. Install one of them, or decode with forwards='spans'."
        ) from None

    def flash(q_SKND: Tensor, keys: Tensor, values: Tensor, pages_SP: Tensor, used_S: Tensor) -> Tensor:
        return flash_attn_with_kvcache(q_SKND, keys, values, cache_seqlens=used_S, block_table=pages_SP, causal=False)

    return flash


def _torch_varlen(varlen_attn: Callable[..., Any]) -> Kernel:
    starts: dict[tuple[int, int, torch.device], Tensor] = {}

    def kernel(q_SKND: Tensor, keys: Tensor, values: Tensor, pages_SP: Tensor, used_S: Tensor) -> Tensor:
        count, size = q_SKND.shape[:2]
        longest = pages_SP.shape[1] * keys.shape[1]
        queries, seen = (_starts(starts, count, step, used_S.device) for step in (size, longest))
        mixed = varlen_attn(
            q_SKND.flatten(0, 1), keys, values, queries, seen, size, longest,
            enable_gqa=q_SKND.shape[2] != keys.shape[2], seqused_k=used_S, block_table=pages_SP,
        )  # fmt: skip
        return mixed.unflatten(0, (count, size))

    return kernel


def _starts(known: dict[tuple[int, int, torch.device], Tensor], count: int, step: int, device: torch.device) -> Tensor:
    """int32 0, step, 2 step, ..., count * step; made once for all layers and forwards."""
    key = (count, step, device)
    if key not in known:
        known[key] = torch.arange(0, (count + 1) * step, step, dtype=torch.int32, device=device)[: count + 1]
    return known[key]


class SegmentForwards:
    """Hidden states of segments, in static buffers of few sizes (1, 2, 4, 8, 16, 32, 48, ...).

    The last page of the cache must be nobody's: segments that only fill a buffer up write there. trunk: what computes
    hidden states in place of the model's own. Forwards of the sizes that were prepared are CUDA graphs.
    """

    def __init__(self, model: Transformer, cache: PagedKV, pages: int, kernel: Kernel, trunk: FusedTrunk | None = None):
        self.model, self.cache, self.pages, self.kernel, self.trunk = model, cache, pages, kernel, trunk
        self._current = current(cache.keys.device)
        self._buffers: dict[int, tuple[Segments, Callable[[], Tensor]]] = {}
        self._captured: set[int] = set()

    @torch.no_grad()
    def prepare(self, segments: int, pool: Any) -> None:
        """Captures the forwards of up to so many segments, the largest first, in one memory pool."""
        sizes = {size_of(count) for count in range(1, segments + 1)} - self._captured
        for count in sorted(sizes, reverse=True):
            with self._current:
                static, run = self._set_up(count)
                self._buffers[count] = static, captured(run, pool)
            self._captured.add(count)

    @torch.no_grad()
    def hidden(self, spans: Sequence[PagedSpan], ids_N: np.ndarray) -> Tensor:
        """(N, H), in the order of the spans' positions. Valid until the next call where graphs are used."""
        given = Segments.of(spans, ids_N, self.model.config.block_size, self.pages)
        wanted = len(given.used_S)
        count = size_of(wanted)
        with self._current:
            if count not in self._buffers:
                self._buffers[count] = self._set_up(count)
            static, run = self._buffers[count]
            for buffer, values in zip(static, given, strict=True):
                buffer[: len(values)].copy_(values, non_blocking=True)
            self._fill_up(static, wanted)
            return run()[: len(ids_N)]

    def _set_up(self, count: int) -> tuple[Segments, Callable[[], Tensor]]:
        """Buffers for so many segments, and their forward, which gives (N, H)."""
        positions, device = count * self.model.config.block_size, self.cache.keys.device
        ids_N, positions_N, slots_N = torch.zeros((3, positions), dtype=torch.int64, device=device)
        pages_SP = torch.zeros((count, self.pages), dtype=torch.int32, device=device)
        static = Segments(ids_N, positions_N, slots_N, pages_SP, torch.zeros_like(pages_SP[:, 0]))
        self._fill_up(static, 0)

        def mix(q_NAD: Tensor, *tables: Tensor) -> Tensor:
            keys, values = (table_SMD.unflatten(0, (-1, self.cache.page_tokens)) for table_SMD in tables)
            q_SKAD = q_NAD.unflatten(0, (count, -1))
            return self.kernel(q_SKAD, keys, values, static.pages_SP, static.used_S).flatten(0, 1)

        def attend(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
            tables = self.cache.write(layer, static.slots_N, k_BMQD, v_BMQD)
            return mix(q_BNQD[0].transpose(0, 1), *tables).transpose(0, 1).unsqueeze(0)

        def run() -> Tensor:
            if self.trunk is not None:
                return self.trunk.hidden(static.ids_N, static.positions_N, static.slots_N, self.cache, mix)
            return self.model.hidden(static.ids_N[None], static.positions_N[None], attend)[0]

        return static, run

    def _fill_up(self, static: Segments, count: int) -> None:
        """Segments from `count` on see and write the spare page only."""
        size, page_tokens = self.model.config.block_size, self.cache.page_tokens
        spare = self.cache.pages - 1
        rest = slice(count * size, None)
        static.ids_N[rest] = self.model.config.mask_token_id
        offsets = torch.arange(size, device=static.ids_N.device).repeat(len(static.used_S) - count)
        static.positions_N[rest] = offsets
        static.slots_N[rest] = spare * page_tokens + offsets
        static.pages_SP[count:], static.used_S[count:] = spare, size


def size_of(count: int) -> int:
    """The smallest size of buffers for so many rows or segments.

    >>> [size_of(count) for count in (1, 3, 16, 17, 40, 65)]
    [1, 4, 16, 32, 48, 80]
    """
    return 1 << (count - 1).bit_length() if count <= 16 else -(-count // 16) * 16


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which a GPU is the current one, as capturing and Triton's kernels want it; reusable, not nested."""
    return torch.cuda.device(device) if device.type == "cuda" and torch.cuda.is_available() else nullcontext()


def captured(run: Callable[[], Any], pool: Any) -> Callable[[], Any]:
    """The same as a CUDA graph, whose memory is of `pool`: what other graphs of the pool gave is overwritten by it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # once before, off the main stream, as capturing wants it
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        found = run()

    def replay() -> Any:
        graph.replay()
        return found

    return replay
