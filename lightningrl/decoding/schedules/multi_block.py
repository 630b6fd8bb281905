"""Windows of several blocks: D2F's pipeline, the block buffer of MBD-LMs, d3LLM's multi-block decoding.

D2F (arXiv 2508.09192) and MBD-LMs (arXiv 2606.29215) see block by block and keep the keys and values of finished
blocks, which no later token changes: their caches are exact. A finished block is computed clean by the forward after
the one that finished it, which denoises the open blocks, too. d3LLM (arXiv 2601.07568) sees the whole canvas, later
masks included, so what it keeps is stale from the next reveal on.

Shapes: B rows; J blocks of the longest response; G rows of a span; Q queries of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightningrl.decoding.canvas import Canvas
from lightningrl.decoding.window import Plan, Window, WindowProgress
from lightningrl.errors import DecodeError
from lightningrl.models.transformer import ModelConfig


def require_block(name: str, block_size: int | None) -> None:
    """Raises DecodeError for a block that has no position."""
    if block_size is not None and not (isinstance(block_size, int) and block_size >= 1):
        raise DecodeError(f"{name}: block_size is {block_size!r}, expected a whole number of 1 or more")


def last_share(at: WindowProgress, size: int) -> np.ndarray:
    """(B,) the share of the last open block that is revealed; 1 where none is open yet."""
    last_B = (at.open_B - at.first_B) // size - 1
    share_B = at.share_BJ(size)[np.arange(len(last_B)), np.maximum(last_B, 0)]
    return np.where(last_B >= 0, share_B, 1.0)


@dataclass(frozen=True, slots=True)
class BlockBuffer(Window):
    """MBD-LMs: at most `buffer_size` blocks at once, those included that are finished and not yet computed clean.

    One block is opened a forward. With a buffer of one, a finished block is computed alone, and this is
    `SeparateCommit`; with a buffer of two and both thresholds 1, it is `FusedCommit`. (SJTU-DENG-Lab/Diffulex, branch
    mbd-lms; there the last block is computed clean, too, which nothing would read.)
    """

    buffer_size: int = 4
    block_add_threshold: float = 0.1
    decoded_token_threshold: float = 0.9

    needs = "block_causal"

    def __post_init__(self) -> None:
        self.check_thresholds()
        if not (isinstance(self.buffer_size, int) and self.buffer_size >= 1):
            raise DecodeError(f"BlockBuffer: buffer_size is {self.buffer_size!r}, expected a whole number of 1 or more")

    @property
    def window(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - a constant of each instance
        return self.buffer_size

    def widen(self, at: WindowProgress, size: int) -> np.ndarray:
        has_room_B = at.open_B - at.stored_B < self.buffer_size * size
        return _one_more(self, at, size, has_room_B)

    def plan(self, at: WindowProgress, size: int) -> Plan:
        return Plan(at.stored_B, at.open_B, at.finished_until(size), np.zeros(len(at.open_B), dtype=bool))

    def forced(self, at: WindowProgress, size: int) -> np.ndarray:
        return at.share_before_BJ(size) >= self.decoded_token_threshold


def _one_more(schedule: Window, at: WindowProgress, size: int, may_B: np.ndarray) -> np.ndarray:
    """(B,) the end of the open blocks, with one more where the last one has come far enough and no stop token ends the
    response."""
    grows_B = may_B & ~at.stopped_B & (at.open_B < at.end_B)
    return at.open_B + size * (grows_B & (last_share(at, size) >= schedule.block_add_threshold))


@dataclass(frozen=True, slots=True)
class BlockPipeline(Window):
    """D2F: as many blocks as have been opened, one per forward, counted from the prompt's end.

    A position sees to the end of its block, and the prompt is one block; it is what D2F's LoRA was trained for, over
    models that see everything without it. The first forward computes the prompt and the first block. drops_rest: what
    max_new_tokens have over whole blocks is left out, as in the published code; else one more block is decoded.
    (SJTU-DENG-Lab/Discrete-Diffusion-Forcing, D2F-eval.)
    """

    block_size: int | None = 32
    block_add_threshold: float = 0.1
    decoded_token_threshold: float = 0.95
    drops_rest: bool = False

    window = 0
    keeps_blocks = False
    needs = "full"

    def __post_init__(self) -> None:
        self.check_thresholds()
        require_block("BlockPipeline", self.block_size)

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        blocks = max_new_tokens // size if self.drops_rest else -(-max_new_tokens // size)
        return Canvas(origin=prompt_len, start=prompt_len, end=prompt_len + max(1, blocks) * size)

    def widen(self, at: WindowProgress, size: int) -> np.ndarray:
        return _one_more(self, at, size, np.ones(len(at.open_B), dtype=bool))

    def plan(self, at: WindowProgress, size: int) -> Plan:
        return Plan(at.stored_B, at.open_B, at.finished_until(size), np.zeros(len(at.open_B), dtype=bool))

    def forced(self, at: WindowProgress, size: int) -> np.ndarray:
        return at.share_before_BJ(size) >= self.decoded_token_threshold

    def limits(
        self, config: ModelConfig, positions_GQ: np.ndarray, prompt_len_G: np.ndarray, end_G: np.ndarray
    ) -> np.ndarray:
        size = self.block_size or config.block_size
        prompt_G1 = prompt_len_G[:, None]
        ends_GQ = prompt_G1 + ((positions_GQ - prompt_G1) // size + 1) * size
        return np.where(positions_GQ < prompt_G1, prompt_G1, np.minimum(ends_GQ, end_G[:, None]))


@dataclass(frozen=True, slots=True)
class MultiBlock(Window):
    """d3LLM: several blocks of a canvas that is computed whole, or, with a cache, from the kept run of blocks on.

    - cache_delay_iter: None keeps nothing. Otherwise a run of finished blocks, the prompt first, waits for so many
      forwards, and then its keys and values are kept. While blocks wait, the whole canvas is computed anew.
    - refresh_interval: the whole canvas is computed anew in every so many-th forward, unless that one stores; 0: never.
    - compat: the published code's defects. The first position behind the cache is predicted by its own logit
      (`keeps_own_logit`); when two blocks or more wait, those but the last are in the cache already when they are
      stored, and count twice in every softmax; and what a stop token has filled can be written over by the forward
      after it.
    - reveals_best: as in the code for LLaDA, the best ranked position of all open blocks is revealed too.

    Only the first full block with masks is forced. A stop token that ends the response fills all behind it, as the
    published `early_stop`; with `stop: whole_canvas` none does. (hao-ai-lab/d3LLM, generate_multi_block.)
    """

    block_size: int | None = 32
    block_add_threshold: float = 0.1
    decoded_token_threshold: float = 0.95
    cache_delay_iter: int | None = None
    refresh_interval: int = 0
    compat: bool = False
    reveals_best: bool = False  # pyright: ignore[reportIncompatibleVariableOverride]

    window = 0
    keeps_blocks = False
    fills_canvas = True
    fills_stop = True
    needs = "full"

    def __post_init__(self) -> None:
        self.check_thresholds()
        require_block("MultiBlock", self.block_size)
        for name in ("cache_delay_iter", "refresh_interval"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 0):
                raise DecodeError(f"MultiBlock: {name} is {value!r}, expected a whole number of 0 or more")

    @property
    def is_exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - a constant of each instance
        return self.cache_delay_iter is None

    @property
    def keeps_own_logit(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.compat

    @property
    def decodes_filled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.compat

    def canvas(self, prompt_len: int, max_new_tokens: int, size: int) -> Canvas:
        return Canvas(origin=prompt_len, start=prompt_len, end=prompt_len + -(-max_new_tokens // size) * size)

    def extent(self, canvas: Canvas) -> int:
        """With the published defect, keys and values of some positions are kept twice: behind the canvas."""
        return self.reach(canvas.start, canvas.end, 1)

    def reach(self, start: int, end: int, size: int) -> int:
        return 2 * end if self.compat and self.cache_delay_iter is not None else end

    def widen(self, at: WindowProgress, size: int) -> np.ndarray:
        begun_B = np.maximum(at.open_B, np.minimum(at.first_B + size, at.end_B))
        open_B = _one_more(self, at._replace(open_B=begun_B), size, np.ones(len(begun_B), dtype=bool))
        return np.where(at.stopped_B, at.end_B, open_B)

    def forced(self, at: WindowProgress, size: int) -> np.ndarray:
        is_full_BJ = (at.share_before_BJ(size) >= self.decoded_token_threshold) & (at.masks_BJ > 0)
        return is_full_BJ & (np.cumsum(is_full_BJ, axis=1) == 1)

    def plan(self, at: WindowProgress, size: int) -> Plan:
        nothing_B = np.zeros_like(at.stored_B)
        if self.cache_delay_iter is None:
            return Plan(nothing_B, at.end_B, nothing_B, nothing_B.astype(bool))
        run_B = at.run_B
        block_J = np.arange(at.masks_BJ.shape[1])
        # A block of the run has been finished since the forward after the one that revealed its last position.
        waited_BJ = at.forward_B[:, None] - (at.finished_BJ + 1)
        is_due_BJ = (block_J < run_B[:, None]) & (waited_BJ >= self.cache_delay_iter)
        due_B = at.first_B + is_due_BJ.sum(axis=1) * size
        due_B = np.where(is_due_BJ.any(axis=1) | (at.forward_B >= self.cache_delay_iter), due_B, 0)
        stores_B, has_cache_B = due_B > at.stored_B, at.stored_B > 0
        end_of_run_B = at.finished_until(size)
        waits_B = ~stores_B & (end_of_run_B > at.stored_B)
        is_time_B = at.forward_B % self.refresh_interval == 0 if self.refresh_interval else nothing_B.astype(bool)
        refreshes_B = has_cache_B & ~stores_B & (waits_B | is_time_B)
        first_B = np.where(refreshes_B, 0, at.stored_B)
        stored_B = np.where(stores_B, due_B, at.stored_B)
        left_B = np.where(refreshes_B & waits_B, end_of_run_B - size, stored_B) if self.compat else None
        return Plan(first_B, at.end_B, stored_B, refreshes_B, left_B)
