"""The decoder in its plainest form: one response at a time, one forward after another. Read this first.

A response is decoded in blocks. Before each forward its schedule says which positions are computed; a forward writes
their keys and values and gives each open position (masked, and the schedule lets it be revealed now) a distribution
over tokens: by the logits there, or, in a family whose logits are shifted, by those of the position before. A token is
drawn for each of them, and the selector says which are revealed. When a block has no mask left the next one becomes
active.

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

from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rng import row_key
from lightningrl.decoding.sampler import Draws, draw_open, select
from lightningrl.decoding.scheduler import check_open, check_revealed, interval_of
from lightningrl.models.attention import key_limits
from lightningrl.models.transformer import Transformer
from lightningrl.types import DecodeStats, Trajectory


@torch.no_grad()
def decode_one(model: Transformer, request: Request, policy: DecodePolicy, stop_ids: Collection[int]) -> Trajectory:
    """One response. Raises DecodeError for a schedule or a selector with which it would never end; the arguments are
    not checked, which the engine does."""
    config, schedule, device = model.config, policy.schedule, model.device
    size = schedule.block_size or config.block_size
    prompt = np.asarray(request.prompt_ids, dtype=np.int64)
    origin, start, end = schedule.canvas(len(prompt), request.max_new_tokens, size)
    tokens_T = np.full(end, config.mask_token_id)
    tokens_T[: len(prompt)] = prompt
    masked_T = np.arange(end) >= len(prompt)
    reveal_T, logp_T, entropy_T = np.zeros(end, dtype=np.int64), np.zeros(end, np.float32), np.zeros(end, np.float32)
    denoised = committed = block_step = 0
    pending = False
    key = row_key(policy.seed, policy.step, request.uid, request.sample)
    shape = (config.num_hidden_layers, end, config.num_key_value_heads, config.head_dim)
    keys_LTMD, values_LTMD = model.lm_head.weight.new_zeros((2, *shape))

    def forward(first: int, last: int) -> Tensor:
        """(Q, H) hidden states of the positions from `first` up to, but not including, `last`; it writes their keys and
        values."""
        positions_1Q = np.arange(first, last)[None]
        limits_Q1 = torch.from_numpy(key_limits(config, positions_1Q, np.array([end])).T.copy()).to(device)
        seen_QT = torch.arange(end, device=device) < limits_Q1

        def attend(layer: int, q_BNQD: Tensor, k_BMQD: Tensor, v_BMQD: Tensor) -> Tensor:
            for table_TMD, new_BMQD in ((keys_LTMD[layer], k_BMQD), (values_LTMD[layer], v_BMQD)):
                table_TMD[first:last] = new_BMQD[0].transpose(0, 1)
            k_1MTD, v_1MTD = keys_LTMD[layer].transpose(0, 1)[None], values_LTMD[layer].transpose(0, 1)[None]
            return F.scaled_dot_product_attention(q_BNQD, k_1MTD, v_1MTD, attn_mask=seen_QT, enable_gqa=True)

        ids_1Q, at_1Q = (torch.from_numpy(a).to(device) for a in (tokens_T[None, first:last], positions_1Q))
        return model.hidden(ids_1Q, at_1Q, attend)[0]

    prefills = int(schedule.keeps_blocks and start > 0)
    if prefills:
        forward(0, start)
    while True:
        at = np.array([start]), np.array([pending]), np.array([end])  # a batch of one row
        (first,), (last,), (denoises,) = interval_of(schedule, at, size, config.logit_shift)
        hidden_QH = forward(first, last)
        pending, committed = False, committed + (not denoises)
        if not denoises:
            continue
        denoised += 1
        block = slice(start, start + size)
        open_1K = schedule.open(masked_T[block][None])
        check_open(schedule, open_1K, masked_T[block][None])
        position_n = start + np.flatnonzero(open_1K[0])
        n = len(position_n)
        draws = Draws(
            hidden_nH=hidden_QH[torch.from_numpy(position_n - config.logit_shift - first).to(device)],
            key_n=np.full(n, key),
            position_n=position_n, forward_n=np.full(n, denoised), temperature_n=np.full(n, policy.temperature),
            top_k_n=np.full(n, policy.top_k), top_p_n=np.full(n, policy.top_p),
        )  # fmt: skip
        drawn = draw_open(model, draws)
        chosen_n = select(drawn, open_1K, np.array([block_step]), [(policy, np.array([0]))])
        token_n, logp_n, entropy_n, chosen_n = drawn.to_host(chosen_n)
        here = position_n[chosen_n]
        check_revealed(policy.selector, np.array([len(here)]))
        tokens_T[here], masked_T[here], reveal_T[here] = token_n[chosen_n], False, denoised
        logp_T[here], entropy_T[here] = logp_n[chosen_n], entropy_n[chosen_n]
        block_step += 1
        is_response_K = np.arange(start, start + size) >= len(prompt)
        stops_K = np.isin(tokens_T[block], list(stop_ids)) & is_response_K & ~masked_T[block]
        is_full = not masked_T[block].any()
        if policy.stop.ended(stops_K[None], masked_T[block][None])[0] or (is_full and start + size >= end):
            break
        if is_full:
            start, block_step, pending = start + size, 0, schedule.keeps_blocks

    decoded = slice(len(prompt), start + size)
    ids, reveal = tokens_T[decoded], reveal_T[decoded]
    stops = np.flatnonzero(np.isin(ids, list(stop_ids)) & (reveal > 0))
    length = int(stops[0]) + 1 if len(stops) else len(ids)
    return Trajectory(
        uid=request.uid, sample=request.sample, prompt_ids=prompt, token_ids=ids, response_len=length,
        reveal_step=reveal, behaviour_logp=logp_T[decoded], block_size=size, origin=origin,
        schedule=type(schedule).__name__, exact_cache=schedule.is_exact, temperature=policy.temperature,
        stop="eos" if len(stops) else "length", policy_version=policy.step, entropy=entropy_T[decoded],
        stats=DecodeStats(length, int((reveal > 0).sum()), denoised, committed, prefills),
    )  # fmt: skip
