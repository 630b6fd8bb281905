"""What a model's planner says of the open positions of a forward that computed whole canvases (models/planner.py).

Shapes: B rows; K positions of a block; L positions of a canvas; N positions of a forward; H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightningrl.models.transformer import ModelConfig, Transformer

if TYPE_CHECKING:
    from lightningrl.decoding.protocol import DecodePolicy
    from lightningrl.decoding.row_state import Rows
    from lightningrl.decoding.window_rows import Lines


def needs_planner(policy: DecodePolicy) -> bool:
    """Whether a policy's ranking asks for the planner's logits."""
    return getattr(policy.ranking, "uses_planner", False)


def planning_misfit(config: ModelConfig, policy: DecodePolicy) -> str | None:
    """Why a policy that asks for a planner cannot have one with this model; None where it can, or does not ask."""
    if not needs_planner(policy):
        return None
    if not config.has_planner:
        return (
            f"{policy.ranking} ranks by a planner, and this {config.family} model has none; take a dUltra "
            "checkpoint, train one with the algorithm planner_pretraining, or rank by `confidence`"
        )
    if policy.schedule.window != 1:
        return (
            f"{policy.ranking} ranks the positions of one open block, as the planner was trained to, and under "
            f"{policy.schedule} several are open at once; take the schedule full_sequence"
        )
    if not (policy.schedule.fills_canvas and policy.schedule.is_exact):
        return (
            f"{policy.ranking} reads the hidden states of the whole canvas, which {policy.schedule} does not compute "
            "in every forward; take the schedule full_sequence"
        )
    return None


def planner_logits(
    model: Transformer, hidden_NH: Tensor, begins_B: np.ndarray, masked_BL: Sequence[np.ndarray],
    open_BK: np.ndarray, start_B: np.ndarray,
) -> Tensor:  # fmt: skip
    """(B, K) the planner's logits at the positions of each row's active block, float32 at least.

    hidden: of a forward in which each row's whole canvas lies from `begins` on; masked: bool, of each canvas; open: of
    the active block, which begins at position `start`. The timestep is 1 - masks / L, over the whole canvas. Rows of
    one length are computed together.
    """
    device, size = hidden_NH.device, open_BK.shape[1]
    length_B = np.array([len(masked_L) for masked_L in masked_BL])
    found_BK = torch.zeros(open_BK.shape, dtype=torch.promote_types(hidden_NH.dtype, torch.float32), device=device)
    for length in np.unique(length_B).tolist():
        here = np.flatnonzero(length_B == length)
        masked_GL = np.stack([masked_BL[index] for index in here.tolist()])
        position_GK = start_B[here, None] + np.arange(size)
        open_GL = np.zeros_like(masked_GL)
        np.put_along_axis(open_GL, position_GK, open_BK[here], axis=1)
        at_GL, at_GK = (torch.from_numpy(a).to(device) for a in (begins_B[here, None] + np.arange(length), position_GK))
        timestep_G = torch.from_numpy(1.0 - masked_GL.sum(axis=1) / length).to(device)
        logit_GL = model.plan(hidden_NH[at_GL], timestep_G, torch.from_numpy(open_GL).to(device))
        found_BK[torch.from_numpy(here).to(device)] = logit_GL.gather(1, at_GK)
    return found_BK


@torch.no_grad()
def plan_rows(
    model: Transformer, rows: Rows, lines: Lines, hidden_NH: Tensor, open_LK: np.ndarray,
    groups: Sequence[tuple[DecodePolicy, np.ndarray]],
) -> Tensor | None:  # fmt: skip
    """(B, K) the planner's logits for those lines of a forward whose rankings ask for them; None where none does."""
    asking = [mine for policy, mine in groups if needs_planner(policy)]
    if not asking:
        return None
    mine = np.concatenate(asking)
    masked = [rows.masked[slot, : rows.end[slot]] for slot in lines.slots_L[mine].tolist()]
    found_GK = planner_logits(model, hidden_NH, lines.begins_L[mine], masked, open_LK[mine], lines.start_L[mine])
    plan_LK = found_GK.new_zeros(open_LK.shape)
    plan_LK[torch.from_numpy(mine).to(plan_LK.device)] = found_GK
    return plan_LK
