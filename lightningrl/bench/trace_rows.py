"""The alternative to packed training: one row per denoise step, as TraceRL trains (its `rl_sdar.py`).

Row r scores, in every block, the tokens of the block's r-th distinct denoise step. It has the whole clean sequence and
one noisy copy of the whole response in the states before those steps; a block without an r-th step is in it too,
unmasked, and adds nothing. There are as many rows as the largest number of steps of a block; each token is scored in
one of them.

In two points it differs from TraceRL, so that the states are those that the decoder saw: the block grid starts at the
sequence's first position, and tokens behind the stop token stay masked as long as they were and are never scored.
"""

from __future__ import annotations

import numpy as np

from lightningrl.models.packing import PackedRow
from lightningrl.types import Trajectory


def step_rows(trajectory: Trajectory, mask_token_id: int) -> list[PackedRow]:
    """Returns the rows of a trajectory."""
    size, prompt_len = trajectory.block_size, len(trajectory.prompt_ids)
    ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
    first = prompt_len // size
    start = (
        first * size - prompt_len
    )  # the first block's place in the response: not positive, it may hold prompt tokens
    # The step that revealed each position: 0 for the prompt, past every step for what was never revealed.
    step = np.where(trajectory.reveal_step == 0, np.iinfo(np.int64).max, trajectory.reveal_step)
    step_bK = np.concatenate([np.zeros(-start, dtype=np.int64), step]).reshape(-1, size)
    at_bK = np.arange(start, len(step)).reshape(-1, size)
    is_action_bK = (at_bK >= 0) & (at_bK < trajectory.response_len)
    ids_bK = ids[first * size :].reshape(-1, size)
    remaining = [sorted(set(steps[scored].tolist())) for steps, scored in zip(step_bK, is_action_bK, strict=True)]
    rows = []
    for number in range(max(len(steps) for steps in remaining)):
        row_ids, scored = ids_bK.copy(), np.zeros(ids_bK.shape, dtype=bool)
        for block, steps in enumerate(remaining):
            if number < len(steps):
                row_ids[block, step_bK[block] >= steps[number]] = mask_token_id
                scored[block] = (step_bK[block] == steps[number]) & is_action_bK[block]
        blocks = np.arange(first, first + len(ids_bK))
        rows.append(PackedRow(ids, blocks, row_ids, ids_bK, scored))
    return rows
