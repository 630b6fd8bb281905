"""`decoding.reference` for schedules under which several blocks are open at once, in its plainest form.

Each forward is told as its publication tells it, from the options of the schedules in
decoding/schedules/multi_block.py, but by none of their code. The cache is what has been appended to it, in that order;
a forward attends to all of it and to itself.

Shapes: T positions of the canvas; K of a block; Q computed in a forward; C entries of the cache; n open positions of a
block; H hidden size; L layers; M key/value heads; D head size.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.decoding.proposals import OpenPositions
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rng import another, row_key, uniform
from lightningrl.decoding.sampler import DrawnTokens, Draws, draw_open, needs_margins, select
from lightningrl.decoding.schedules.multi_block import BlockBuffer, BlockPipeline, MultiBlock
from lightningrl.errors import DecodeError
from lightningrl.models.transformer import Transformer
from lightningrl.types import DecodeStats, Trajectory


class WindowDecode:
    """One response, decoded by `run`."""

    def __init__(self, model: Transformer, request: Request, policy: DecodePolicy, stop_ids: Collection[int]):
        self.model, self.request, self.policy, self.stop_ids = model, request, policy, list(stop_ids)
        schedule, config = policy.schedule, model.config
        self.size = schedule.block_size or config.block_size
        self.prompt_len = len(request.prompt_ids)
        self.origin, self.first, self.end = schedule.canvas(self.prompt_len, request.max_new_tokens, self.size)
        self.blocks = range((self.end - self.first) // self.size)
        self.tokens_T = np.full(self.end, config.mask_token_id)
        self.tokens_T[: self.prompt_len] = request.prompt_ids
        self.masked_T = np.arange(self.end) >= self.prompt_len
        self.reveal_T = np.zeros(self.end, dtype=np.int64)
        self.logp_T, self.entropy_T = np.zeros(self.end, np.float32), np.zeros(self.end, np.float32)
        self.refilled_T = np.zeros(self.end, dtype=bool)
        self.opened = self.denoised = self.committed = 0
        self.stored = 0
        """Positions that count as cached."""
        kv_shape = (2, config.num_hidden_layers, 0, config.num_key_value_heads, config.head_dim)
        self.cache_2LCMD = self.empty_2LCMD = model.lm_head.weight.new_zeros(kv_shape)
        self.carried_H: Tensor | None = None
        self.done_at: dict[int, int] = {}
        self.begun: dict[int, int] = {}
        """The forwards that denoised before each block was open."""
        self.work = {"prefill_positions": 0, "prefill_keys": 0, "decode_positions": 0, "decode_keys": 0}

    def at(self, block: int) -> slice:
        """The positions of a block."""
        return slice(self.first + block * self.size, self.first + (block + 1) * self.size)

    def masks(self, block: int) -> int:
        return int(self.masked_T[self.at(block)].sum())

    def share(self, block: int) -> float:
        """How much of a block is revealed; before the first there is the prompt, which is known."""
        return 1.0 if block < 0 else (self.size - self.masks(block)) / self.size

    def finished_run(self) -> int:
        """How many blocks from the first on have no mask."""
        return next((block for block in self.blocks if self.masks(block)), len(self.blocks))

    def forward(self, first: int, last: int, uses_cache: bool = True, part: str = "decode") -> tuple[Tensor, Tensor]:
        """The states (Q, H) of the positions from `first` up to, but not including, `last`, and their keys and values
        (2, L, Q, M, D). They see the cache, and of themselves what their schedule has them see. part: what they are
        counted as."""
        schedule, device = self.policy.schedule, self.model.device
        cache_2LCMD, written = self.cache_2LCMD if uses_cache else self.empty_2LCMD, []
        at_Q = np.arange(first, last)
        block_Q = at_Q // self.size
        if isinstance(schedule, BlockPipeline):
            block_Q = np.where(at_Q < self.prompt_len, -1, (at_Q - self.prompt_len) // self.size)
        sees_QQ = (
            block_Q[:, None] >= block_Q if not isinstance(schedule, MultiBlock) else np.ones((len(at_Q),) * 2, bool)
        )
        cached_QC = np.ones((len(at_Q), cache_2LCMD.shape[2]), dtype=bool)
        mask = torch.from_numpy(np.concatenate([cached_QC, sees_QQ], axis=1)).to(device)
        self.work[f"{part}_positions"] += last - first
        self.work[f"{part}_keys"] += int(mask.sum())

        def attend(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
            own_2QMD = torch.stack([k_BMQD[0], v_BMQD[0]]).transpose(1, 2)
            written.append(own_2QMD)
            k_MTD, v_MTD = torch.cat([cache_2LCMD[:, layer], own_2QMD], dim=1).transpose(1, 2)
            return F.scaled_dot_product_attention(q_BNQD, k_MTD[None], v_MTD[None], attn_mask=mask, enable_gqa=True)

        ids, positions = (torch.from_numpy(a.copy())[None].to(device) for a in (self.tokens_T[first:last], at_Q))
        return self.model.hidden(ids, positions, attend)[0], torch.stack(written, dim=1)

    def append(self, kv_2LQMD: Tensor) -> None:
        self.cache_2LCMD = torch.cat([self.cache_2LCMD, kv_2LQMD], dim=2)

    def carry(self, hidden_QH: Tensor, first: int) -> None:
        """Keeps the state that predicts the position behind the cached ones, for forwards that begin there."""
        if self.stored > first:
            self.carried_H = hidden_QH[self.stored - 1 - first]

    @torch.no_grad()
    def run(self) -> Trajectory:
        schedule = self.policy.schedule
        if isinstance(schedule, BlockBuffer) and self.first:
            hidden_QH, kv_2LQMD = self.forward(0, self.first, part="prefill")
            self.append(kv_2LQMD)
            self.stored = self.first
            self.carry(hidden_QH, 0)
        while not self.has_ended():
            if isinstance(schedule, MultiBlock):
                hidden_QH, first = self.multi_block_forward(schedule)
                forced = [b for b in range(self.opened) if self.is_full(b) and self.masks(b)][:1]
            else:
                assert isinstance(schedule, (BlockBuffer, BlockPipeline))
                hidden_QH, first = self.pipeline_forward(schedule)
                forced = [b for b in range(self.opened) if self.is_full(b)]
            self.reveal(hidden_QH, first, forced)
            self.carry(hidden_QH, first)
        return self.trajectory()

    def is_full(self, block: int) -> bool:
        return self.share(block - 1) >= self.policy.schedule.decoded_token_threshold  # pyright: ignore[reportAttributeAccessIssue]

    def open_one(self, schedule: BlockBuffer | BlockPipeline | MultiBlock) -> None:
        is_ready = self.share(self.opened - 1) >= schedule.block_add_threshold
        if is_ready and self.opened < len(self.blocks) and self.stop_at() is None:
            self.opened += 1

    def pipeline_forward(self, schedule: BlockBuffer | BlockPipeline) -> tuple[Tensor, int]:
        """D2F and MBD-LMs: all from the first position that is not kept to the end of the last open block."""
        behind = self.first + self.opened * self.size
        in_buffer = (behind - max(self.stored, self.first)) // self.size
        if not isinstance(schedule, BlockBuffer) or in_buffer < schedule.buffer_size:
            self.open_one(schedule)
        first, last = self.stored, self.first + self.opened * self.size
        hidden_QH, kv_2LQMD = self.forward(first, last)
        store = self.first + min(self.finished_run(), self.opened) * self.size
        self.append(kv_2LQMD[:, :, : store - first])
        self.stored = store
        return hidden_QH, first

    def multi_block_forward(self, schedule: MultiBlock) -> tuple[Tensor, int]:
        """d3LLM: the whole canvas, or all of it behind the cache."""
        iteration = self.denoised + 1
        self.opened = max(self.opened, 1)
        if self.stop_at() is not None:
            self.opened = len(self.blocks)
        self.open_one(schedule)
        if schedule.cache_delay_iter is None:
            return self.forward(0, self.end)[0], 0
        behind = {-1: self.first, **{block: self.at(block).stop for block in self.blocks}}
        run = [block for block in range(-1, self.finished_run()) if behind[block] > self.stored]
        self.done_at.setdefault(-1, 0)
        for block in run:
            self.done_at.setdefault(block, iteration)
        due = [block for block in run if iteration - self.done_at[block] >= schedule.cache_delay_iter]
        waiting = [block for block in run if block not in due]
        is_time = bool(schedule.refresh_interval) and iteration % schedule.refresh_interval == 0
        if due or (self.stored and not waiting and not is_time):
            first = self.stored
            if not schedule.compat:  # each position is in the cache once
                self.cache_2LCMD = self.cache_2LCMD[:, :, :first]
            hidden_QH, kv_2LQMD = self.forward(first, self.end)
            self.stored = behind[due[-1]] if due else first
            self.append(kv_2LQMD[:, :, : self.stored - first])
        else:
            first = 0
            hidden_QH, kv_2LQMD = self.forward(0, self.end, uses_cache=False)
            if self.stored:
                keeps = behind[waiting[-1] - 1] if waiting else self.stored
                self.cache_2LCMD = kv_2LQMD[:, :, : max(keeps, self.stored)]
        return hidden_QH, first

    def reveal(self, hidden_QH: Tensor, first: int, forced: list[int]) -> None:
        """Draws at the open positions, block by block, and writes what is chosen; fills what lies behind a stop."""
        policy, chosen = self.policy, []
        opens = [(b, (self.masked_T | self.refilled_T)[self.at(b)]) for b in range(self.opened)]
        opens = [(block, open_K) for block, open_K in opens if open_K.any()]
        if not any(self.masks(block) for block, _ in opens):
            self.committed += 1
            return
        self.denoised += 1
        key = row_key(policy.seed, policy.step, self.request.uid, self.request.sample)
        drawn_at: dict[int, tuple[np.ndarray, Draws, DrawnTokens]] = {}
        for block, open_K in opens:
            position_n = self.at(block).start + np.flatnonzero(open_K)
            states = [self.state_before(int(p), hidden_QH, first) for p in position_n]
            n = len(position_n)
            draws = Draws(
                hidden_nH=torch.stack(states), key_n=np.full(n, key), position_n=position_n,
                forward_n=np.full(n, self.denoised), temperature_n=np.full(n, policy.temperature),
                top_k_n=np.full(n, policy.top_k), top_p_n=np.full(n, policy.top_p),
            )  # fmt: skip
            drawn = draw_open(self.model, draws, policy.logits, margins=needs_margins([policy]))
            drawn_at[block] = position_n, draws, drawn
        if isinstance(policy.schedule, MultiBlock) and policy.schedule.reveals_best:
            forced = [*forced, max((block for block, _ in opens), key=lambda block: self.best(*drawn_at[block]))]
        for block, open_K in opens:
            (position_n, draws, drawn), must = drawn_at[block], np.array([block in forced])
            begun, rows = self.begun.setdefault(block, self.denoised - 1), [(policy, np.array([0]))]
            step = np.array([self.denoised - 1 - begun])
            is_chosen = select(drawn, draws, open_K[None], step, rows, must).chosen_n
            chosen.append((position_n, *drawn.to_host(is_chosen)))
        position_n, token_n, logp_n, entropy_n, chosen_n = (np.concatenate(each) for each in zip(*chosen, strict=True))
        here = position_n[chosen_n]
        if not len(here) and not getattr(policy.selector, "may_wait", False):
            raise DecodeError(f"{policy.selector} revealed nothing in a block with open positions: it would never end")
        self.tokens_T[here], self.masked_T[here], self.reveal_T[here] = token_n[chosen_n], False, self.denoised
        self.logp_T[here], self.entropy_T[here] = logp_n[chosen_n], entropy_n[chosen_n]
        self.refilled_T[:] = False
        stop = self.stop_at()
        if isinstance(policy.schedule, MultiBlock) and stop is not None and self.masked_T.any():
            behind = slice(stop + 1, self.end)
            self.refilled_T[behind] = self.masked_T[behind] & policy.schedule.compat
            self.tokens_T[behind], self.masked_T[behind] = self.tokens_T[stop], False
            self.reveal_T[behind], self.logp_T[behind], self.entropy_T[behind] = 0, 0, 0
            self.opened = len(self.blocks)

    def best(self, position_n: np.ndarray, draws: Draws, drawn: DrawnTokens) -> float:
        """The best number that the ranking has for one of a block's open positions."""
        at = (position_n - self.first) % self.size
        columns = torch.zeros((4, 1, self.size), dtype=torch.float64, device=drawn.logp_n.device)
        open_1K, (confidence_1K, entropy_1K, margin_1K, noise_1K) = columns[0] > 0, columns
        open_1K[0, at] = True
        confidence_1K[0, at], entropy_1K[0, at] = drawn.confidence_n.double(), drawn.entropy_n.double()
        if drawn.margin_nX.shape[1]:
            margin_1K[0, at] = drawn.margin_nX[:, 0].double()
        keys = draws.key_n, draws.position_n, draws.forward_n
        key_n, *rest = (torch.from_numpy(each).to(columns.device) for each in keys)
        noise_1K[0, at] = uniform(another(key_n), *rest)
        given = OpenPositions(open_1K, confidence_1K, entropy_1K, margin_BK=margin_1K, noise_BK=noise_1K)
        return float(self.policy.ranking.score(given)[open_1K].max())

    def state_before(self, position: int, hidden_QH: Tensor, first: int) -> Tensor:
        """(H,) the state that predicts a position."""
        schedule, at = self.policy.schedule, position - self.model.config.logit_shift - first
        if at >= 0:
            return hidden_QH[at]
        if isinstance(schedule, MultiBlock) and schedule.compat:
            return hidden_QH[0]
        assert self.carried_H is not None
        return self.carried_H

    def response(self) -> tuple[np.ndarray, np.ndarray]:
        """bool, over the open blocks' positions: revealed response positions with a stop token; masked positions."""
        end = self.first + self.opened * self.size
        is_stop = np.isin(self.tokens_T[:end], self.stop_ids) & ~self.masked_T[:end]
        return (is_stop & (np.arange(end) >= self.prompt_len))[None], self.masked_T[:end][None]

    def stop_at(self) -> int | None:
        """The first revealed stop token, where the stop rule ends responses by one."""
        stops_1T, masked_1T = self.response()
        ends = stops_1T.size and self.policy.stop.ended(stops_1T, np.zeros_like(masked_1T))[0]
        return int(np.flatnonzero(stops_1T[0])[0]) if ends else None

    def has_ended(self) -> bool:
        stops_1T, masked_1T = self.response()
        is_full = self.opened == len(self.blocks) and not masked_1T.any()
        return bool(is_full or (stops_1T.size and self.policy.stop.ended(stops_1T, masked_1T)[0]))

    def trajectory(self) -> Trajectory:
        request, policy, schedule = self.request, self.policy, self.policy.schedule
        decoded = slice(self.prompt_len, self.first + self.opened * self.size)
        ids, reveal = self.tokens_T[decoded], self.reveal_T[decoded]
        stops = np.flatnonzero(np.isin(ids, self.stop_ids) & (reveal > 0))
        length = int(stops[0]) + 1 if len(stops) else len(ids)
        prefills = int(isinstance(schedule, BlockBuffer) and self.first > 0)
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=np.asarray(request.prompt_ids, dtype=np.int64),
            token_ids=ids, response_len=length, reveal_step=reveal, behaviour_logp=self.logp_T[decoded],
            block_size=self.size, origin=self.origin, schedule=type(schedule).__name__, exact_cache=schedule.is_exact,
            window=schedule.window or self.opened, temperature=policy.temperature,
            stop="eos" if len(stops) else "length", policy_version=policy.step, entropy=self.entropy_T[decoded],
            stats=DecodeStats(
                length, int((reveal > 0).sum()), self.denoised, self.committed, prefills, **self.work
            ), family=self.model.config.family,
        )  # fmt: skip
