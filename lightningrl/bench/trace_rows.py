"""The rival of packed training: one row a denoise step, as TraceRL trains (its `rl_sdar.py`).

Round r takes of every block the tokens of the block's r-th distinct denoise step. Its row is the whole clean sequence,
and one noisy copy of the whole response in the states before those steps: a block that has no r-th step is in it too,
unmasked, and adds nothing. There are as many rows as the most steps of a block; each token is scored in one of them.

Two things are ours, so that the rows' states are those that the decoder saw: the block grid starts at the sequence's
first position, and tokens behind the stop token are masked as long as they were and never scored.
"""

from __future__ import annotations

import numpy as np

from lightningrl.models.packing import PackedRow
from lightningrl.types import Trajectory


def rounds(trajectory: Trajectory, mask_token_id: int) -> list[PackedRow]:
    """One row a round."""
    size, prompt_len = trajectory.block_size, len(trajectory.prompt_ids)
    ids = np.concatenate([trajectory.prompt_ids, trajectory.token_ids])
    first = prompt_len // size
    shown = first * size - prompt_len  # of the first block, the prompt's tokens; not positive
    # Of each position: the step that revealed it; 0 for the prompt; past every step where nothing ever did.
    step = np.where(trajectory.reveal_step == 0, np.iinfo(np.int64).max, trajectory.reveal_step)
    step_bK = np.concatenate([np.zeros(-shown, dtype=np.int64), step]).reshape(-1, size)
    at_bK = np.arange(shown, len(step)).reshape(-1, size)
    is_action_bK = (at_bK >= 0) & (at_bK < trajectory.response_len)
    ids_bK = ids[first * size :].reshape(-1, size)
    remaining = [sorted(set(steps[wanted].tolist())) for steps, wanted in zip(step_bK, is_action_bK, strict=True)]
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
