"""The decoder in its plainest form: one response at a time, one forward after another. Read this first.

A response is decoded in blocks. Before each forward its schedule says which positions are computed; a forward writes
their keys and values and gives each open position (masked, and the schedule lets it be revealed now) a distribution
over tokens: by the logits there, or, in a family whose logits are shifted, by those of the position before. A token is
drawn for each of them, and the selector says which are revealed. When a block has no mask left the next one becomes
active, unless the schedule has every block stay for more forwards, or give up what is masked after so many.

`decoding.engine.BlockDecoder` does the same for many rows at once over a paged cache, and gives the same trajectories
(tests/decoding/test_reference.py). Draws are keyed by (seed, step, uid, sample, position, forward), so that neither
the order of the rows nor their number matters.

Shapes: B rows, 1 here; T positions of the canvas; K of a block; Q computed in a forward; n open positions; H hidden
size; L layers; N, M query and key/value heads; D head size.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightningrl.decoding.canvas import Progress, reach_of
from lightningrl.decoding.checks import check_computed, check_open, check_revealed, interval_of
from lightningrl.decoding.planning import needs_planner, planner_logits
from lightningrl.decoding.protocol import DecodePolicy, Request, decides
from lightningrl.decoding.reference_windows import WindowDecode
from lightningrl.decoding.rng import row_key
from lightningrl.decoding.sampler import Draws, draw_open, needs_margins, select
from lightningrl.decoding.window import Window
from lightningrl.models.attention import key_limits
from lightningrl.models.transformer import Transformer
from lightningrl.types import DecodeStats, Trajectory


@torch.no_grad()
def decode_one(model: Transformer, request: Request, policy: DecodePolicy, stop_ids: Collection[int]) -> Trajectory:
    """One response. Raises DecodeError for a schedule or a selector with which it would never end; the arguments are
    not checked, which the engine does."""
    kind = WindowDecode if isinstance(policy.schedule, Window) else BlockDecode
    return kind(model, request, policy, stop_ids).run()


class BlockDecode:
    """One response under a schedule with one active block at a time, decoded by `run`."""

    def __init__(self, model: Transformer, request: Request, policy: DecodePolicy, stop_ids: Collection[int]):
        self.model, self.request, self.policy, self.stop_ids = model, request, policy, list(stop_ids)
        config, prompt = model.config, np.asarray(request.prompt_ids, dtype=np.int64)
        self.size, self.canvas = request.canvas(policy, config.block_size, config.mask_token_id)
        self.origin, self.start, self.end = self.canvas
        self.prompt_len = len(prompt)
        reach = -(-(self.end - self.start) // self.size) * self.size + self.start  # on the grid
        self.tokens_T = np.full(reach, config.mask_token_id)
        self.tokens_T[: len(prompt)] = prompt
        self.masked_T = (np.arange(reach) >= len(prompt)) & (np.arange(reach) < self.end)
        self.masked_T[: len(prompt)] = (prompt == config.mask_token_id) & request.infills
        self.reveal_T = np.zeros(reach, dtype=np.int64)
        self.logp_T, self.entropy_T = np.zeros((2, reach), np.float32)
        self.denoised = self.committed = self.prefills = 0
        self.block_step = 0
        """The denoise forwards that the active block has had."""
        self.pending = False
        """Whether the block before it is finished and not yet computed clean."""
        self.enters_revealing = False
        """Whether the next forward computes the prompt too, whose last state predicts what follows it."""
        self.decisions = list[float]()
        self.work = {"prefill_positions": 0, "prefill_keys": 0, "decode_positions": 0, "decode_keys": 0}
        shape = (config.num_hidden_layers, self.end, config.num_key_value_heads, config.head_dim)
        self.own, self.twin = model.lm_head.weight.new_zeros((2, 2, *shape))
        """Keys and values; those of the twin whose prompt is all masks, where there is guidance."""
        self.tables = (self.own, self.twin)[: 1 + (policy.logits.cfg_scale > 0)]

    @property
    def block(self) -> slice:
        """The positions of the active block."""
        return slice(self.start, self.start + self.size)

    def run(self) -> Trajectory:
        self.prefill()
        is_over = False
        while not is_over:
            first, last, denoises = self.next_forward()
            part = "prefill" if self.enters_revealing else "decode"
            hidden_QH, *twin_QH = (self.forward(first, last, tables, part) for tables in self.tables)
            self.enters_revealing = self.pending = False
            if not denoises:
                self.committed += 1
                continue
            self.denoised += 1
            self.reveal(hidden_QH, twin_QH[0] if twin_QH else None, first, last)
            self.block_step += last > self.start or not self.policy.schedule.is_productive
            is_over = self.go_on()
        return self.trajectory()

    def prefill(self) -> None:
        """Writes the keys and values of what lies before the first block, unless the first forward that may reveal
        something does so."""
        schedule = self.policy.schedule
        if schedule.keeps_blocks and self.start > 0:
            self.enters_revealing = bool(schedule.is_productive and self.masked_T[self.start])
            self.prefills = int(not self.enters_revealing)
            for tables in self.tables if self.prefills else ():
                self.forward(0, self.start, tables, "prefill")

    def next_forward(self) -> tuple[int, int, bool]:
        """What the next forward computes, from `first` up to, but not including, `last`, and whether it denoises."""
        schedule, config = self.policy.schedule, self.model.config
        row = (self.start, self.pending, self.end, self.block_step, self.masked_T[self.block])
        at = Progress(*(np.array([each]) for each in row))  # a batch of one row
        reach_B = np.array([reach_of(schedule, self.start, self.canvas, self.size)])
        (first,), (last,), (denoises,), _ = interval_of(config, schedule, at, self.size, reach_B)
        return (0 if self.enters_revealing else int(first)), int(last), bool(denoises)

    def forward(self, first: int, last: int, tables: Tensor, part: str) -> Tensor:
        """(Q, H) hidden states of the positions from `first` up to, but not including, `last`; it writes their keys and
        values. tables: the row's own or its twin's. part: what its positions and keys are counted as."""
        config, device, (keys_LTMD, values_LTMD) = self.model.config, self.model.device, tables
        positions_1Q = np.arange(first, last)[None]
        limits_Q1 = torch.from_numpy(key_limits(config, positions_1Q, np.array([self.end])).T.copy()).to(device)
        seen_QT = torch.arange(self.end, device=device) < limits_Q1
        self.work[f"{part}_positions"] += last - first
        self.work[f"{part}_keys"] += int(seen_QT.sum())

        def attend(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
            for table_TMD, new_BMQD in ((keys_LTMD[layer], k_BMQD), (values_LTMD[layer], v_BMQD)):
                table_TMD[first:last] = new_BMQD[0].transpose(0, 1)
            k_1MTD, v_1MTD = keys_LTMD[layer].transpose(0, 1)[None], values_LTMD[layer].transpose(0, 1)[None]
            return F.scaled_dot_product_attention(q_BNQD, k_1MTD, v_1MTD, attn_mask=seen_QT, enable_gqa=True)

        is_hidden_T = (np.arange(len(self.tokens_T)) < self.prompt_len) & (tables is self.twin)
        seen_T = np.where(is_hidden_T, config.mask_token_id, self.tokens_T)
        ids_1Q, at_1Q = (torch.from_numpy(a).to(device) for a in (seen_T[None, first:last], positions_1Q))
        return self.model.hidden(ids_1Q, at_1Q, attend)[0]

    def reveal(self, hidden_QH: Tensor, twin_QH: Tensor | None, first: int, last: int) -> None:
        """Draws at the open positions and writes what is chosen. hidden, twin: the states of the forward that computed
        the positions from `first` on."""
        policy, schedule, shift = self.policy, self.policy.schedule, self.model.config.logit_shift
        open_1K = schedule.open(self.masked_T[self.block][None])
        check_open(schedule, open_1K, self.masked_T[self.block][None])
        places_1K = self.start + np.arange(self.size)[None] - shift - first
        check_computed(schedule, places_1K, open_1K, np.array([last - first]))
        self.decisions.append(0.0)
        position_n = self.start + np.flatnonzero(open_1K[0])
        n, at_n = len(position_n), torch.from_numpy(position_n - shift - first).to(self.model.device)
        if not n:
            return
        key = row_key(policy.seed, policy.step, self.request.uid, self.request.sample)
        draws = Draws(
            hidden_nH=hidden_QH[at_n], twin_nH=None if twin_QH is None else twin_QH[at_n], key_n=np.full(n, key),
            position_n=position_n, forward_n=np.full(n, self.denoised), temperature_n=np.full(n, policy.temperature),
            top_k_n=np.full(n, policy.top_k), top_p_n=np.full(n, policy.top_p),
        )  # fmt: skip
        drawn = draw_open(self.model, draws, policy.logits, margins=needs_margins([policy]))
        plan_1K = self.plan(hidden_QH, open_1K) if needs_planner(policy) else None
        rows = [(policy, np.array([0]))]
        chosen_n, decision_1 = select(drawn, draws, open_1K, np.array([self.block_step]), rows, planner_BK=plan_1K)
        self.decisions[-1] = 0.0 if decision_1 is None else float(decision_1[0])
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        here = position_n[chosen_n]
        check_revealed(policy.selector, np.array([len(here)]), open_1K)
        self.tokens_T[here], self.masked_T[here], self.reveal_T[here] = token_n[chosen_n], False, self.denoised
        self.logp_T[here], self.entropy_T[here] = logp_n[chosen_n], entropy_n[chosen_n]

    def plan(self, hidden_QH: Tensor, open_1K: np.ndarray) -> Tensor:
        """(1, K) the planner's logits, of the states of a whole canvas."""
        canvas_L, zero_1 = self.masked_T[: self.end], np.array([0])
        return planner_logits(self.model, hidden_QH, zero_1, [canvas_L], open_1K, np.array([self.start]))

    def go_on(self) -> bool:
        """Makes the next block the active one where this one is finished; returns whether the response has ended."""
        schedule, masked_K = self.policy.schedule, self.masked_T[self.block]  # a view
        if schedule.most_forwards is not None and self.block_step >= schedule.most_forwards:
            self.reveal_T[self.block][masked_K] = self.denoised
            masked_K[:] = False
        is_full = not masked_K.any()
        if is_full and self.block_step < schedule.least_forwards > 1:
            return False
        is_response_K = np.arange(self.start, self.start + self.size) >= self.prompt_len
        stops_K = np.isin(self.tokens_T[self.block], self.stop_ids) & is_response_K & ~masked_K
        if self.policy.stop.ended(stops_K[None], masked_K[None])[0] or (is_full and self.block.stop >= self.end):
            return True
        if is_full:
            self.start, self.block_step, self.pending = self.start + self.size, 0, schedule.keeps_blocks
        return False

    def trajectory(self) -> Trajectory:
        """What has happened."""
        request, policy, schedule = self.request, self.policy, self.policy.schedule
        decoded = slice(self.prompt_len, self.block.stop)
        ids, reveal = self.tokens_T[decoded], self.reveal_T[decoded]
        stops = np.flatnonzero(np.isin(ids, self.stop_ids) & (reveal > 0))
        length = int(stops[0]) + 1 if len(stops) else min(len(ids), self.end - self.prompt_len)
        return Trajectory(
            uid=request.uid, sample=request.sample, prompt_ids=self.tokens_T[: self.prompt_len], token_ids=ids,
            response_len=length, reveal_step=reveal, behaviour_logp=self.logp_T[decoded], block_size=self.size,
            origin=self.origin, schedule=type(schedule).__name__, exact_cache=schedule.is_exact, window=schedule.window,
            temperature=policy.temperature, stop="eos" if len(stops) else "length", policy_version=policy.step,
            entropy=self.entropy_T[decoded],
            stats=DecodeStats(
                length, int((reveal > 0).sum()), self.denoised, self.committed, self.prefills, **self.work
            ),
            family=self.model.config.family,
            decision_logp=np.array(self.decisions, np.float32) if decides(policy) else None,
            later_masks=max(0, self.end - self.block.stop) if schedule.fills_canvas else 0,
        )  # fmt: skip
