"""The likelihood of a trajectory whose reveals are draws too: dUltra's tokens and its planner's decisions.

A denoise forward s that reveals the set U, with the masks K still open in its block, has the log-probability
l_s = sum over U of ln pi(x_i), plus that of the set: sum over U of ln p_i and over K of ln(1 - p_i), with the exception
of forced picks (`selectors.bernoulli.decision_log_probs`). An action's share of the second is its forward's divided
evenly over what that forward revealed, so that a forward's actions add up to l_s. With the decoder's weights both
terms are the decoder's `behaviour_logp` and `decision_logp`.

Shapes: n actions; C canvases, one a denoise forward; L positions of a canvas; Q positions of all; S forwards (steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightningrl.decoding.selectors.bernoulli import decision_log_probs
from lightningrl.models.canvas import CanvasLayout, planned
from lightningrl.models.head import token_log_probs
from lightningrl.models.packing import Packed, PackedRow, attend_packed, pack
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import StateGrouping
from lightningrl.rl.likelihood import ActionIndex, Copies, TokenScores, behaviour_of, copies_of, trajectory_row
from lightningrl.rl.losses import LOG_RATIO_LIMIT, Actions
from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class RevealRule:
    """How reveals were drawn: p = min(1, factor * sigmoid(planner's logit / temperature))."""

    factor: float = 1.0
    temperature: float = 1.0
    forced_as_drawn: bool = False
    """Forced picks are scored as if a coin had fallen on them, as in the published code."""


def score_reveals(
    model: Transformer, trajectories: Sequence[Trajectory], states: StateGrouping, copies: Copies, rule: RevealRule,
    token_temperature: float | None = None,
) -> TokenScores:  # fmt: skip
    """Returns each action's log-probability with its share of its forward's decision, by one forward of the model.

    token_temperature: that at which tokens are scored; None: that at which they were drawn. Entropies are 0 behind a
    stop token, so that they add up to those of the response.
    """
    mask_id = model.config.mask_token_id
    rows = [trajectory_row(trajectory, mask_id, states) for trajectory in trajectories]
    rows = [row.part(copies_of(copies, number)) for number, row in enumerate(rows)]
    packed = pack(rows, model.device)
    temperature = token_temperature or trajectories[0].temperature or 1.0
    logp_n, entropy_n, decision_C = model(
        lambda m: _forward(m, packed, rows, trajectories, temperature, rule)
    )  # fmt: skip
    canvas_n, count_C = _canvas_of(rows)
    share_n = (decision_C / torch.from_numpy(count_C).to(decision_C))[
        torch.from_numpy(canvas_n).to(packed.row_n.device)
    ]
    prompt_B = np.array([len(t.prompt_ids) for t in trajectories])
    row_n = packed.row_n.cpu().numpy()
    position_n = packed.position_n.cpu().numpy() - prompt_B[row_n]
    is_response_n = position_n < np.array([t.response_len for t in trajectories])[row_n]
    step_n = _steps(trajectories, row_n, position_n)
    position, inside, step = (torch.from_numpy(a).to(packed.row_n.device) for a in (position_n, is_response_n, step_n))
    return TokenScores(logp_n + share_n.to(logp_n.dtype), entropy_n * inside, packed.row_n, position, step)


def _forward(
    model: Transformer, packed: Packed, rows: Sequence[PackedRow], trajectories: Sequence[Trajectory],
    temperature: float, rule: RevealRule,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(n,) log-probabilities and entropies of tokens, (C,) log-probabilities of the decisions."""
    layout, device = packed.layout, packed.ids_1Q.device
    assert isinstance(layout, CanvasLayout), "a planner reads whole canvases"
    hidden_QH = model.hidden(packed.ids_1Q, packed.positions_1Q, attend_packed(layout, device))[0]
    logp_n, entropy_n = token_log_probs(model, hidden_QH[packed.at_n], packed.target_n, temperature)
    timesteps, opens, chosens = zip(*map(_planned_state, rows, trajectories), strict=True)
    open_Q, chosen_Q = (torch.from_numpy(np.concatenate(each)).to(device) for each in (opens, chosens))
    timestep_C = torch.from_numpy(np.concatenate(timesteps)).to(device)
    logit_Q = planned(model.plan, hidden_QH, layout, timestep_C, open_Q)
    p_Q = torch.sigmoid(logit_Q.double() / rule.temperature) * rule.factor * open_Q
    found = []
    for _, start, count, length in layout.neighbours:
        p_CL, open_CL, chosen_CL = (
            each[start : start + count * length].view(count, length) for each in (p_Q, open_Q, chosen_Q)
        )
        found.append(decision_log_probs(p_CL, open_CL, chosen_CL, forced_as_drawn=rule.forced_as_drawn))
    return logp_n, entropy_n, torch.cat(found)


def _planned_state(row: PackedRow, trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(C,) timesteps, and (C * L,) bool: what is open, and what is revealed, of a trajectory's canvases."""
    prompt_len, size, length = len(trajectory.prompt_ids), trajectory.block_size, row.copy_ids.shape[1]
    position = np.arange(length)
    step_C = _step_of_canvas(row, trajectory)
    masked_CL = _reveal(trajectory, length) >= step_C[:, None]
    block_C1 = (row.scored.argmax(axis=1) - trajectory.origin)[:, None] // size
    open_CL = masked_CL & ((position - trajectory.origin) // size == block_C1) & (position >= prompt_len)
    return 1.0 - masked_CL.sum(axis=1) / length, open_CL.ravel(), row.scored.ravel()


def _reveal(trajectory: Trajectory, length: int) -> np.ndarray:
    """(L,) the forward that revealed each position of a canvas: 0 for the prompt, one too many where none did."""
    never, prompt_len = trajectory.stats.denoise_forwards + 1, len(trajectory.prompt_ids)
    reveal = np.full(length, never)
    reveal[:prompt_len] = 0
    own = trajectory.reveal_step
    reveal[prompt_len : prompt_len + len(own)] = np.where(own, own, never)
    return reveal


def _step_of_canvas(row: PackedRow, trajectory: Trajectory) -> np.ndarray:
    """(C,) the denoise forward of each of a trajectory's canvases."""
    return trajectory.reveal_step[row.scored.argmax(axis=1) - len(trajectory.prompt_ids)]


def _canvas_of(rows: Sequence[PackedRow]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the canvas of each action, and (C,) how many actions each canvas has; canvases of all rows in order."""
    count_C = np.concatenate([row.scored.sum(axis=1) for row in rows])
    return np.repeat(np.arange(len(count_C)), count_C), count_C


def _steps(trajectories: Sequence[Trajectory], row_n: np.ndarray, position_n: np.ndarray) -> np.ndarray:
    """(n,) the denoise forward that revealed each action."""
    return np.array([trajectories[row].reveal_step[at] for row, at in zip(row_n, position_n, strict=True)])


def behaviour_of_reveals(trajectories: Sequence[Trajectory], actions: ActionIndex) -> Tensor:
    """Returns (n,) the decoder's log-probability of each action, with its share of its forward's decision."""
    row_n, position_n = actions.row_n.cpu().numpy(), actions.position_n.cpu().numpy()
    step_n = _steps(trajectories, row_n, position_n)
    share_n = np.zeros(len(row_n))
    for number, trajectory in enumerate(trajectories):
        mine, decision_F = row_n == number, trajectory.decision_logp
        assert decision_F is not None, "its selector has no decision"
        count_F = np.bincount(trajectory.reveal_step, minlength=len(decision_F) + 1)
        share_n[mine] = decision_F[step_n[mine] - 1] / count_F[step_n[mine]]
    tokens_n = behaviour_of(trajectories, actions)
    return tokens_n + torch.from_numpy(share_n).to(tokens_n)


def reveal_loss(
    scores: TokenScores, actions: Actions, *, clip: tuple[float, float], delta: float | None, normaliser: float,
    actions_total: int,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Returns this micro-batch's share of the update's loss and of its logged means: over trajectories r and their
    forwards s, - sum of min(min(rho, delta) A, clip(rho) A) / normaliser, with rho_rs = exp(l_s - l_s at the rollout).

    A forward's actions must be in one micro-batch, as they always are. actions_total: of the whole update, over which
    ratio and clip_fraction are means (a forward counts as often as it has actions).
    """
    assert scores.step_n is not None
    key_n = (scores.row_n.long() << 32) + scores.step_n
    step_S, of_n, count_S = torch.unique(key_n, return_inverse=True, return_counts=True)
    log_ratio_S = torch.zeros(len(step_S), dtype=scores.logp_n.dtype, device=key_n.device)
    log_ratio_S = log_ratio_S.index_add(0, of_n, scores.logp_n - actions.old_logp_n)

    def of_step(values_n: Tensor) -> Tensor:
        """What all actions of a forward have alike."""
        return torch.zeros_like(log_ratio_S).index_add(0, of_n, values_n.to(log_ratio_S.dtype)) / count_S

    ratio_S = log_ratio_S.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    advantage_S, weight_S = of_step(actions.advantage_n), of_step(actions.weighted(torch.ones_like(scores.logp_n)))
    free_S = (ratio_S if delta is None else ratio_S.clamp(max=delta)) * advantage_S
    clipped_S = ratio_S.clamp(1 - clip[0], 1 + clip[1]) * advantage_S
    loss = -(weight_S * torch.minimum(free_S, clipped_S)).sum() / normaliser
    share_S = weight_S * count_S / max(1, actions_total)
    logged = {"loss": loss, "policy_loss": loss, "ratio": (ratio_S * share_S).sum()}
    logged["clip_fraction"] = ((clipped_S < free_S).to(ratio_S.dtype) * share_S).sum()
    return loss, {name: value.detach() for name, value in logged.items()}
