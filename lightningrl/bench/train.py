"""The training forward and backward with packed rows, beside one row per denoise step as TraceRL trains (`rl_sdar.py`).

Weights, trajectories, loss (the mean of -log p over all actions), attention, head and the largest forward are the same;
only the rows differ. The variants take turns, and the figures are medians. Token-forwards are counted as positions that
enter the trunk, and compared with a formula's count for the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightningrl.bench import machine
from lightningrl.bench.costs import positions_of
from lightningrl.models.packing import PackedRow, pack, token_scores
from lightningrl.models.transformer import Transformer
from lightningrl.rl.likelihood import score_tokens, trajectory_row
from lightningrl.rl.update import cut
from lightningrl.types import Trajectory

Scorer = Callable[[Transformer], Iterator[tuple[Tensor, Tensor, Tensor]]]
"""Yields, forward by forward, log-probabilities of actions, their trajectories, and their positions in the response."""


def step_rows(trajectory: Trajectory, mask_token_id: int) -> list[PackedRow]:
    """Returns the rows of a trajectory with one row per denoise step.

    Row r scores, in every block, the tokens of the block's r-th distinct denoise step. It has the whole clean sequence
    and one noisy copy of the whole response in the states before those steps; a block without an r-th step is in it
    too, unmasked, and adds nothing. There are as many rows as the largest number of steps of a block; each token is
    scored in one of them.

    In two points it differs from TraceRL, so that the states are those that the decoder saw: the block grid starts at
    the sequence's first position, and tokens behind the stop token stay masked as long as they were and are never
    scored.
    """
    size, prompt_len = trajectory.block_size, len(trajectory.prompt_ids)
    ids, start = np.concatenate([trajectory.prompt_ids, trajectory.token_ids]), prompt_len // size * size
    at_bK = np.arange(start, len(ids)).reshape(-1, size)
    is_action_bK = (at_bK >= prompt_len) & (at_bK < prompt_len + trajectory.response_len)
    # The step that revealed each position: 0 for the prompt, past every step for what was never revealed.
    step = np.where(trajectory.reveal_step == 0, np.iinfo(np.int64).max, trajectory.reveal_step)
    step_bK = np.concatenate([np.zeros(prompt_len - start, dtype=np.int64), step]).reshape(-1, size)
    steps_b = [np.unique(steps[scored]) for steps, scored in zip(step_bK, is_action_bK, strict=True)]
    rows = []
    for number in range(max(map(len, steps_b))):
        row_ids, scored = ids[at_bK], np.zeros(at_bK.shape, dtype=bool)
        for block, steps in enumerate(steps_b):
            if number < len(steps):
                row_ids[block, step_bK[block] >= steps[number]] = mask_token_id
                scored[block] = (step_bK[block] == steps[number]) & is_action_bK[block]
        rows.append(PackedRow(ids, at_bK[:, 0] // size, row_ids, ids[at_bK], scored))
    return rows


def positions_by_formula(trajectories: Sequence[Trajectory]) -> tuple[int, int, list[int]]:
    """Returns the positions of packed rows, those of rows per step, and the steps of every block with an action.

    They follow from the denoise steps alone. With P prompt and S response tokens, both on the block grid, packed rows
    cost T + sum over blocks of steps * K, where T counts the clean tokens (all blocks before the last one with an
    action); rows per step cost (P + 2 S) times the largest number of steps of a block.
    """
    rows, steps = 0, []
    for trajectory in trajectories:
        size, prompt = trajectory.block_size, len(trajectory.prompt_ids)
        block = (prompt + np.arange(trajectory.response_len)) // size
        pairs = np.unique(np.stack([block, trajectory.reveal_step[: trajectory.response_len]]), axis=1)
        own = np.unique(pairs[0], return_counts=True)[1]
        whole_prompt = prompt // size * size
        response = prompt + len(trajectory.token_ids) - whole_prompt
        rows += int(own.max()) * (whole_prompt + 2 * response)
        steps += own.tolist()
    return positions_of(trajectories), rows, steps


def packed_scores(trajectories: Sequence[Trajectory], mask_token_id: int, positions: int) -> Scorer:
    """Returns the scorer that the trainer runs (rl/likelihood.py), with at most `positions` in a forward."""
    costs = [trajectory_row(trajectory, mask_token_id).num_tokens for trajectory in trajectories]

    def scores(model: Transformer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for group in cut(np.arange(len(costs)), costs, len(costs), positions):
            found = score_tokens(model, [trajectories[index] for index in group])
            yield found.logp_n, torch.from_numpy(group)[found.row_n.cpu()], found.position_n

    return scores


def row_scores(trajectories: Sequence[Trajectory], mask_token_id: int, positions: int) -> Scorer:
    """Returns the scorer of rows per step; rows that fit go through one forward, without padding either."""

    def scores(model: Transformer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rows: list[tuple[int, PackedRow]] = []
        for index, trajectory in enumerate(trajectories):
            rows += [(index, row) for row in step_rows(trajectory, mask_token_id)]
        prompt_len = torch.tensor([len(trajectory.prompt_ids) for trajectory in trajectories])
        for group in cut(np.arange(len(rows)), [row.num_tokens for _, row in rows], len(rows), positions):
            packed = pack([rows[at][1] for at in group], model.lm_head.weight.device, model.config.logit_shift)
            logp_n, _ = token_scores(model, packed, trajectories[0].temperature or 1.0)
            number_n = torch.tensor([rows[at][0] for at in group])[packed.row_n.cpu()]
            yield logp_n, number_n, packed.position_n.cpu() - prompt_len[number_n]

    return scores


def run_benchmark(
    model: Transformer,
    trajectories: Sequence[Trajectory],
    *,
    positions: int,
    repeats: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns the figures of both variants; `report` receives the progress."""
    mask_id, device = model.config.mask_token_id, model.lm_head.weight.device
    actions = sum(trajectory.response_len for trajectory in trajectories)
    lines, works, log_probs, gradients = [], [], [], []
    for name, scores in (("packed", packed_scores), ("one per step", row_scores)):
        work = partial(_forward_and_backward, model, scores(trajectories, mask_id, positions), actions)
        entered: list[int] = []
        with machine.watched(model, hidden=lambda ids, *_, entered=entered: entered.append(ids.numel())):
            found, peak_bytes = machine.peak_of(work, device)  # the first run warms up
        works.append(work)
        log_probs.append(found)
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
        lines.append({"rows": name, "token_forwards": sum(entered), "forwards": len(entered),
                      "peak_memory_mb": peak_bytes / 1e6})  # fmt: skip
        report(f"warm: {name}")
    medians = np.median(machine.take_turns(works, device, repeats, report), axis=0).tolist()
    model.zero_grad(set_to_none=True)
    for line, seconds in zip(lines, medians, strict=True):
        line |= {"seconds": seconds, "positions_per_s": line["token_forwards"] / seconds}
    packed, rows, steps = positions_by_formula(trajectories)
    token_ratio, time_ratio = lines[1]["token_forwards"] / lines[0]["token_forwards"], medians[1] / medians[0]
    return {
        **machine.conditions(model),
        "trajectories": len(trajectories),
        "actions": actions,
        "lines": lines,
        "steps_per_block": float(np.mean(steps)),
        "most_steps": max(steps),
        "bound_ratio": rows / packed,
        "token_ratio": token_ratio,
        "of_bound_pct": 100 * token_ratio / (rows / packed),
        "time_ratio": time_ratio,
        "of_token_ratio_pct": 100 * time_ratio / token_ratio,
        **_gaps(*log_probs, *gradients),
    }


def _forward_and_backward(model: Transformer, scorer: Scorer, actions: int) -> dict[tuple[int, int], float]:
    """Runs the whole loss, whose gradients stay; returns {(trajectory, position): log-probability}."""
    model.zero_grad(set_to_none=True)
    found = {}
    for logp_n, number_n, position_n in scorer(model):
        (-logp_n.sum() / actions).backward()
        found |= dict(zip(zip(number_n.tolist(), position_n.tolist(), strict=True), logp_n.tolist(), strict=True))
    return found


def _gaps(
    packed: dict[tuple[int, int], float], rows: dict[tuple[int, int], float], packed_grad: Tensor, row_grad: Tensor
) -> dict[str, float]:
    """Returns the largest difference of log-probabilities (nats) and the relative norm of the gradients' difference."""
    if packed.keys() != rows.keys():
        raise AssertionError("the two ways of building rows score different actions")
    return {
        "logp_gap": float(np.abs([packed[key] - rows[key] for key in packed]).max()),  # NaN stays NaN
        "gradient_gap": float((packed_grad - row_grad).norm() / packed_grad.norm()),
    }
