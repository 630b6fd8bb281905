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
    config, schedule, device = model.config, policy.schedule, model.device
    if isinstance(schedule, Window):
        return WindowDecode(model, request, policy, stop_ids).run()
    prompt = np.asarray(request.prompt_ids, dtype=np.int64)
    size, canvas = request.canvas(policy, config.block_size, config.mask_token_id)
    origin, start, end = canvas
    reach = -(-(end - start) // size) * size + start  # on the grid
    tokens_T = np.full(reach, config.mask_token_id)
    tokens_T[: len(prompt)] = prompt
    masked_T = (np.arange(reach) >= len(prompt)) & (np.arange(reach) < end)
    masked_T[: len(prompt)] = (prompt == config.mask_token_id) & request.infills
    reveal_T, (logp_T, entropy_T) = np.zeros(reach, dtype=np.int64), np.zeros((2, reach), np.float32)
    denoised = committed = block_step = 0
    work = {"prefill_positions": 0, "prefill_keys": 0, "decode_positions": 0, "decode_keys": 0}
    pending, decisions = False, list[float]()
    key = row_key(policy.seed, policy.step, request.uid, request.sample)
    shape = (config.num_hidden_layers, end, config.num_key_value_heads, config.head_dim)
    own, twin = model.lm_head.weight.new_zeros((2, 2, *shape))  # keys and values; of the twin whose prompt is masks
    is_guided = policy.logits.cfg_scale > 0

    def forward(first: int, last: int, tables: Tensor, part: str) -> Tensor:
        """(Q, H) hidden states of the positions from `first` up to, but not including, `last`; it writes their keys and
        values. tables: the row's own or its twin's. part: what its positions and keys are counted as."""
        keys_LTMD, values_LTMD = tables
        positions_1Q = np.arange(first, last)[None]
        limits_Q1 = torch.from_numpy(key_limits(config, positions_1Q, np.array([end])).T.copy()).to(device)
        seen_QT = torch.arange(end, device=device) < limits_Q1
        work[f"{part}_positions"] += last - first
        work[f"{part}_keys"] += int(seen_QT.sum())

        def attend(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
            for table_TMD, new_BMQD in ((keys_LTMD[layer], k_BMQD), (values_LTMD[layer], v_BMQD)):
                table_TMD[first:last] = new_BMQD[0].transpose(0, 1)
            k_1MTD, v_1MTD = keys_LTMD[layer].transpose(0, 1)[None], values_LTMD[layer].transpose(0, 1)[None]
            return F.scaled_dot_product_attention(q_BNQD, k_1MTD, v_1MTD, attn_mask=seen_QT, enable_gqa=True)

        is_hidden_T = (np.arange(reach) < len(prompt)) & (tables is twin)
        seen_T = np.where(is_hidden_T, config.mask_token_id, tokens_T)
        ids_1Q, at_1Q = (torch.from_numpy(a).to(device) for a in (seen_T[None, first:last], positions_1Q))
        return model.hidden(ids_1Q, at_1Q, attend)[0]

    enters = schedule.keeps_blocks and start > 0
    is_revealing = enters and schedule.is_productive and masked_T[start]  # the prompt predicts what follows it
    prefills = int(enters and not is_revealing)
    if prefills:
        for tables in (own, twin)[: 1 + is_guided]:
            forward(0, start, tables, "prefill")
    while True:
        block, reach_B = slice(start, start + size), np.array([reach_of(schedule, start, canvas, size)])
        row = (start, pending, end, block_step, masked_T[block])
        at = Progress(*(np.array([each]) for each in row))  # a batch of one row
        (first,), (last,), (denoises,), _ = interval_of(config, schedule, at, size, reach_B)
        first, part = (0, "prefill") if is_revealing else (int(first), "decode")
        hidden_QH, *twin_QH = (forward(first, int(last), tables, part) for tables in (own, twin)[: 1 + is_guided])
        is_revealing = False
        pending, committed = False, committed + (not denoises)
        if not denoises:
            continue
        denoised += 1
        open_1K = schedule.open(masked_T[block][None])
        check_open(schedule, open_1K, masked_T[block][None])
        places_1K = start + np.arange(size)[None] - config.logit_shift - first
        check_computed(schedule, places_1K, open_1K, np.array([last - first]))
        position_n = start + np.flatnonzero(open_1K[0])
        n, at_n = len(position_n), torch.from_numpy(position_n - config.logit_shift - first).to(device)
        draws = Draws(
            hidden_nH=hidden_QH[at_n], twin_nH=twin_QH[0][at_n] if is_guided else None, key_n=np.full(n, key),
            position_n=position_n, forward_n=np.full(n, denoised), temperature_n=np.full(n, policy.temperature),
            top_k_n=np.full(n, policy.top_k), top_p_n=np.full(n, policy.top_p),
        )  # fmt: skip
        decisions.append(0.0)
        if n:
            drawn = draw_open(model, draws, policy.logits, margins=needs_margins([policy]))
            plan_1K = None
            if needs_planner(policy):
                canvas_L = masked_T[:end]
                plan_1K = planner_logits(model, hidden_QH, np.array([0]), [canvas_L], open_1K, np.array([start]))
            rows = [(policy, np.array([0]))]
            chosen_n, decision_1 = select(drawn, draws, open_1K, np.array([block_step]), rows, planner_BK=plan_1K)
            decisions[-1] = 0.0 if decision_1 is None else float(decision_1[0])
            token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
            here = position_n[chosen_n]
            check_revealed(policy.selector, np.array([len(here)]), open_1K)
            tokens_T[here], masked_T[here], reveal_T[here] = token_n[chosen_n], False, denoised
            logp_T[here], entropy_T[here] = logp_n[chosen_n], entropy_n[chosen_n]
        block_step += last > start or not schedule.is_productive
        if schedule.most_forwards is not None and block_step >= schedule.most_forwards:
            left = start + np.flatnonzero(masked_T[block])
            masked_T[left], reveal_T[left] = False, denoised
        is_response_K = np.arange(start, start + size) >= len(prompt)
        stops_K = np.isin(tokens_T[block], list(stop_ids)) & is_response_K & ~masked_T[block]
        is_full = not masked_T[block].any()
        if is_full and block_step < schedule.least_forwards > 1:
            continue
        if policy.stop.ended(stops_K[None], masked_T[block][None])[0] or (is_full and start + size >= end):
            break
        if is_full:
            start, block_step, pending = start + size, 0, schedule.keeps_blocks

    decoded = slice(len(prompt), start + size)
    ids, reveal = tokens_T[decoded], reveal_T[decoded]
    stops = np.flatnonzero(np.isin(ids, list(stop_ids)) & (reveal > 0))
    length = int(stops[0]) + 1 if len(stops) else min(len(ids), end - len(prompt))
    return Trajectory(
        uid=request.uid, sample=request.sample, prompt_ids=tokens_T[: len(prompt)], token_ids=ids, response_len=length,
        reveal_step=reveal, behaviour_logp=logp_T[decoded], block_size=size, origin=origin,
        schedule=type(schedule).__name__, exact_cache=schedule.is_exact, window=schedule.window,
        temperature=policy.temperature,
        stop="eos" if len(stops) else "length", policy_version=policy.step, entropy=entropy_T[decoded],
        stats=DecodeStats(length, int((reveal > 0).sum()), denoised, committed, prefills, **work), family=config.family,
        decision_logp=np.array(decisions, np.float32) if decides(policy) else None,
        later_masks=max(0, end - start - size) if schedule.fills_canvas else 0,
    )  # fmt: skip
