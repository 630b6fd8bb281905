"""Attention of decoding, an `Attend` of models/transformer.py: spans of many rows against their pages of the KV cache.

Training has its own: models/packed_attention.py, and models/packed_flex.py for CUDA.

Shapes: B rows; N, M query and key/value heads; D head size; T keys; G rows of a span; Q queries of a row; P pages of a
row; S slots of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig


@contextmanager
def unique_writes(device: torch.device) -> Iterator[None]:
    """For writes by indices that are all different, whose result no order can change: on CUDA, torch's deterministic
    mode is off meanwhile. It would sort the indices of each write, some ten kernels more, and sees no difference."""
    mode = torch.get_deterministic_debug_mode() if device.type == "cuda" else 0
    if not mode:
        yield
        return
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


class PagedKV:
    """Keys and values in pages of equally many positions; a row holds any pages, in the order of its positions.

    On CUDA it turns off cuDNN's attention, for the process: it builds a graph for each new shape, for longer than a
    forward takes, and decoding meets new shapes all the time. Torch's deterministic mode has it off by itself.
    """

    def __init__(self, layers: int, pages: int, page_tokens: int, kv_heads: int, head_dim: int, like: Tensor):
        if like.device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)
        shape = (layers, pages * page_tokens, kv_heads, head_dim)
        self.page_tokens = page_tokens
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)

    @property
    def pages(self) -> int:
        return self.keys.shape[1] // self.page_tokens

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def write(self, layer: int, slots_N: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> tuple[Tensor, Tensor]:
        """Put a forward's keys and values into their slots; returns the layer's whole tables, (S, M, D) each."""
        with unique_writes(slots_N.device):
            self.keys[layer].index_copy_(0, slots_N, k_BMQD[0].transpose(0, 1))
            self.values[layer].index_copy_(0, slots_N, v_BMQD[0].transpose(0, 1))
        return self.keys[layer], self.values[layer]

    def copy(self, sources_N: np.ndarray, targets_N: np.ndarray) -> None:
        """Copies the keys and values of slots to other slots, in all layers."""
        sources, targets = (torch.from_numpy(slots_N).to(self.keys.device) for slots_N in (sources_N, targets_N))
        for table in (self.keys, self.values):
            table[:, targets] = table[:, sources]

    def taken(self, pages: Sequence[int]) -> Tensor:
        """(2, L, pages, page_tokens, M, D) the keys and values of pages, on the host."""
        tables = [table.unflatten(1, (-1, self.page_tokens))[:, list(pages)] for table in (self.keys, self.values)]
        return torch.stack(tables).cpu()

    def put(self, pages: Sequence[int], saved: Tensor) -> None:
        """Puts what `taken` has returned into as many pages."""
        for table, values in zip((self.keys, self.values), saved.to(self.keys.device), strict=True):
            table.unflatten(1, (-1, self.page_tokens))[:, list(pages)] = values

    def clear(self, pages: Sequence[int]) -> None:
        """Zeros, after something not finite: a key that is not seen still counts, with weight 0, which NaN survives."""
        for table in (self.keys, self.values):
            table.unflatten(1, (-1, self.page_tokens))[:, list(pages)] = 0


def key_limits(config: ModelConfig, positions_GQ: np.ndarray, end_G: np.ndarray) -> np.ndarray:
    """(G, Q) how many keys, from the row's first, each position sees. end_G: the ends of the rows' canvases.

    A block-causal model sees to the end of the position's own block on a grid from position 0, a full one to the end of
    the canvas, masks included, a causal one to the position itself.
    """
    if config.attention == "block_causal":
        return np.minimum((positions_GQ // config.block_size + 1) * config.block_size, end_G[:, None])
    if config.attention == "full":
        return np.broadcast_to(end_G[:, None], positions_GQ.shape)
    return positions_GQ + 1


def keys_attended(config: ModelConfig, first_B: np.ndarray, last_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
    """(B,) how many keys the positions from `first` up to, but not including, `last` see, summed over the positions.

    It is the sum of `key_limits` over these positions, in closed form, so that it costs nothing beside a forward.
    """
    if config.attention == "full":
        return (last_B - first_B) * end_B
    if config.attention == "causal":
        return (last_B * (last_B + 1) - first_B * (first_B + 1)) // 2
    size = config.block_size
    if not (np.count_nonzero(first_B % size) or np.count_nonzero(last_B % size)):  # whole blocks, as nearly always
        return (last_B - first_B) * (last_B + first_B + size) // 2

    def up_to(n_B: np.ndarray) -> np.ndarray:
        """The keys of positions 0 to n - 1, each seeing to the end of its block."""
        blocks_B, rest_B = n_B // size, n_B % size
        return size * (size * (blocks_B * (blocks_B + 1)) // 2 + rest_B * (blocks_B + 1))

    # A canvas that ends inside a block of the model's grid cuts short what the positions of that block see.
    cut_B = end_B // size * size
    beyond_B = np.where(cut_B < end_B, cut_B + size - end_B, 0)
    return up_to(last_B) - up_to(first_B) - beyond_B * np.maximum(last_B - np.maximum(first_B, cut_B), 0)


class PagedSpan:
    """Rows of one forward that compute equally many positions each.

    pages_GP: the pages of each row, in order (those behind the row's own: any); positions_GQ: the positions computed,
    consecutive in each row; limits_GQ: how many keys each of them sees, from the row's first.
    """

    def __init__(self, pages_GP: np.ndarray, positions_GQ: np.ndarray, limits_GQ: np.ndarray, page_tokens: int):
        self.rows, self.queries = positions_GQ.shape
        self.positions_GQ = positions_GQ
        page_GQ = np.take_along_axis(pages_GP, positions_GQ // page_tokens, axis=1)
        self.slots_GQ = page_GQ * page_tokens + positions_GQ % page_tokens
        self.kv_tokens = int(limits_GQ.max())
        """Keys that a query sees at most."""
        self.pages_GP = pages_GP[:, : -(-self.kv_tokens // page_tokens)]
        self.hidden_GQT = None
        """bool, keys that a query does not see; None when all see all `kv_tokens`."""
        if limits_GQ.min() < self.kv_tokens:
            self.hidden_GQT = np.arange(self.kv_tokens) >= limits_GQ[:, :, None]

    def of_rows(self, rows: Sequence[int]) -> PagedSpan:
        """Returns the span of some of its rows."""
        found, here = copy(self), list(rows)
        found.rows = len(here)
        for name in ("positions_GQ", "slots_GQ", "pages_GP", "hidden_GQT"):
            table = getattr(self, name)
            setattr(found, name, None if table is None else table[here])
        return found


class PagedAttention:
    """Writes a forward's keys and values into their pages, then attends row by row over the row's pages.

    The forward has one row of N positions: those of the spans one after another. A position sees every written or
    just computed position up to its limit.
    """

    def __init__(self, cache: PagedKV, spans: Sequence[PagedSpan]):
        self.cache, self.spans, device = cache, spans, cache.keys.device
        self.slots_N = torch.from_numpy(np.concatenate([span.slots_GQ.ravel() for span in spans])).to(device)
        self._spans = []
        for span in spans:
            hidden = None if span.hidden_GQT is None else torch.from_numpy(span.hidden_GQT).to(device)
            self._spans.append((span, _pages_index(span.pages_GP, device), hidden))
        self._masks: list[Tensor | None] | None = None

    def __call__(self, layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
        keys_SMD, values_SMD = self.cache.write(layer, self.slots_N, k_BMQD, v_BMQD)
        heads, head_dim = q_BNQD.shape[1], q_BNQD.shape[3]
        kv_heads = k_BMQD.shape[1]
        q_QND = q_BNQD[0].transpose(0, 1)
        if self._masks is None:  # the first layer's call makes them for all layers
            self._masks = [None if hidden is None else _mask(hidden, q_BNQD, kv_heads) for *_, hidden in self._spans]
        mixed, at = [], 0
        for (span, pages, _), mask_G1XT in zip(self._spans, self._masks, strict=True):
            count = span.rows * span.queries
            shape = (span.rows, span.queries, kv_heads, heads // kv_heads, head_dim)
            # The query heads of one key head stand behind each other, so that its keys are read once.
            q_GMXD = q_QND[at : at + count].reshape(shape).permute(0, 2, 3, 1, 4).flatten(2, 3)
            k_GMTD, v_GMTD = self._rows_of(keys_SMD, pages, span), self._rows_of(values_SMD, pages, span)
            mixed_GMXD = F.scaled_dot_product_attention(q_GMXD, k_GMTD, v_GMTD, attn_mask=mask_G1XT)
            by_query = mixed_GMXD.unflatten(2, (heads // kv_heads, span.queries)).permute(0, 3, 1, 2, 4)
            mixed.append(by_query.reshape(count, heads, head_dim))
            at += count
        mixed_QND = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return mixed_QND.transpose(0, 1).unsqueeze(0)

    def _rows_of(self, table_SMD: Tensor, pages: Tensor | slice, span: PagedSpan) -> Tensor:
        """(G, M, kv_tokens, D) of the span's rows."""
        by_page = table_SMD.unflatten(0, (-1, self.cache.page_tokens))
        taken = by_page[pages] if isinstance(pages, slice) else by_page.index_select(0, pages)
        return taken.reshape(span.rows, -1, *table_SMD.shape[1:])[:, : span.kv_tokens].transpose(1, 2)


def _mask(hidden_GQT: Tensor, q_BNQD: Tensor, kv_heads: int) -> Tensor:
    """(G, 1, X, T) to be added to the scores of the X queries of a key head, in their type: what attention would make
    of a bool mask in each layer. Lines begin at multiples of 8 numbers, as CUDA's kernels want them."""
    rows, queries, length = hidden_GQT.shape
    shape = (rows, 1, q_BNQD.shape[1] // kv_heads, queries, -(-length // 8) * 8)
    mask_G1XQT = q_BNQD.new_zeros(shape)[..., :length]
    return mask_G1XQT.masked_fill_(hidden_GQT[:, None, None], float("-inf")).flatten(2, 3)


def _pages_index(pages_GP: np.ndarray, device: torch.device) -> Tensor | slice:
    """The pages as an index; as a slice, which copies nothing, when they are one run (a row alone)."""
    pages = pages_GP.ravel()
    if (np.diff(pages) == 1).all():
        return slice(int(pages[0]), int(pages[-1]) + 1)
    return torch.from_numpy(np.ascontiguousarray(pages)).to(device)
