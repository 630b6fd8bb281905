"""The training forward and backward with packed rows, beside one row per denoise step (bench/trace_rows.py).

Weights, trajectories, loss (the mean of -log p over all actions), attention, head and the largest forward are the same;
only the rows differ. The variants take turns, and the figures are medians. Token-forwards are counted as positions that
enter the trunk, and compared with a formula's count for the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightningrl.bench import machine
from lightningrl.bench.trace_rows import step_rows
from lightningrl.models.packing import PackedRow, pack, token_scores
from lightningrl.models.transformer import Transformer
from lightningrl.rl.likelihood import score_tokens, trajectory_row
from lightningrl.types import Trajectory

Item = TypeVar("Item")
Scorer = Callable[[Transformer], Iterator[tuple[Tensor, Tensor, Tensor]]]
"""Yields, forward by forward, log-probabilities of actions, their trajectories, and their positions in the response."""


@dataclass(frozen=True, slots=True)
class Formula:
    """The positions that trajectories cost by arithmetic alone, from the denoise steps of each block.

    With P prompt and S response tokens, both on the block grid, packed rows cost T + sum over blocks of steps * K,
    where T counts the clean tokens (all blocks before the last one with an action); rows per step cost (P + 2 S) times
    the largest number of steps of a block.
    """

    packed: int
    rows: int
    steps: list[int]
    """The number of steps of every block with an action."""

    @property
    def ratio(self) -> float:
        return self.rows / self.packed

    @staticmethod
    def of(trajectories: Sequence[Trajectory]) -> Formula:
        packed = rows = 0
        steps: list[int] = []
        for trajectory in trajectories:
            size, prompt = trajectory.block_size, len(trajectory.prompt_ids)
            block = (prompt + np.arange(trajectory.response_len)) // size
            pairs = np.unique(np.stack([block, trajectory.reveal_step[: trajectory.response_len]]), axis=1)
            blocks, own = np.unique(pairs[0], return_counts=True)
            whole_prompt = prompt // size * size
            response = prompt + len(trajectory.token_ids) - whole_prompt
            packed += int(blocks.max()) * size + int(own.sum()) * size
            rows += int(own.max()) * (whole_prompt + 2 * response)
            steps += own.tolist()
        return Formula(packed, rows, steps)


def packed_scores(trajectories: Sequence[Trajectory], mask_token_id: int, positions: int) -> Scorer:
    """Returns the scorer that the trainer runs (rl/likelihood.py)."""
    costs = [trajectory_row(trajectory, mask_token_id).num_tokens for trajectory in trajectories]

    def scores(model: Transformer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for group in groups(list(enumerate(trajectories)), costs, positions):
            found = score_tokens(model, [trajectory for _, trajectory in group])
            number = torch.tensor([index for index, _ in group])
            yield found.logp_n, number[found.row_n.cpu()], found.position_n

    return scores


def row_scores(trajectories: Sequence[Trajectory], mask_token_id: int, positions: int) -> Scorer:
    """Returns the scorer of rows per step; rows that fit go through one forward, without padding either."""

    def scores(model: Transformer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rows: list[tuple[int, PackedRow]] = []
        for index, trajectory in enumerate(trajectories):
            rows += [(index, row) for row in step_rows(trajectory, mask_token_id)]
        prompt_len = torch.tensor([len(trajectory.prompt_ids) for trajectory in trajectories])
        for group in groups(rows, [row.num_tokens for _, row in rows], positions):
            packed = pack([row for _, row in group], model.lm_head.weight.device)
            logp_n, _ = token_scores(model, packed, trajectories[0].temperature or 1.0)
            number_n = torch.tensor([index for index, _ in group])[packed.row_n.cpu()]
            yield logp_n, number_n, packed.position_n.cpu() - prompt_len[number_n]

    return scores


def groups(items: Sequence[Item], costs: Sequence[int], most: int) -> Iterator[list[Item]]:
    """Yields runs of items of at most `most` positions; a larger item is a run by itself."""
    group: list[Item] = []
    total = 0
    for item, cost in zip(items, costs, strict=True):
        if group and total + cost > most:
            yield group
            group, total = [], 0
        group.append(item)
        total += cost
    yield group


@dataclass(slots=True)
class Variant:
    """One way of training on the trajectories."""

    name: str
    scorer: Scorer
    actions: int
    seconds: list[float] = field(default_factory=list)
    token_forwards: int = 0
    forwards: int = 0
    peak_bytes: int = 0

    def run(self, model: Transformer) -> dict[tuple[int, int], float]:
        """Runs forward and backward of the whole loss; returns {(trajectory, position): log-probability}."""
        found = {}
        for logp_n, number_n, position_n in self.scorer(model):
            (-logp_n.sum() / self.actions).backward()
            found |= dict(zip(zip(number_n.tolist(), position_n.tolist(), strict=True), logp_n.tolist(), strict=True))
        return found

    def figures(self) -> dict[str, float | str | int]:
        return {
            "rows": self.name,
            "token_forwards": self.token_forwards,
            "forwards": self.forwards,
            "seconds": median(self.seconds),
            "positions_per_s": self.token_forwards / median(self.seconds),
            "peak_memory_mb": self.peak_bytes / 1e6,
        }


@contextmanager
def counted(model: Transformer, variant: Variant) -> Iterator[None]:
    """Counts the positions that enter the trunk while the context lasts."""
    hidden = model.hidden

    def counting(*arguments: Any) -> Tensor:
        variant.token_forwards += arguments[0].numel()
        variant.forwards += 1
        return hidden(*arguments)

    model.__dict__["hidden"] = counting
    try:
        yield
    finally:
        del model.__dict__["hidden"]


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
    variants = [
        Variant("packed", packed_scores(trajectories, mask_id, positions), actions),
        Variant("one a step", row_scores(trajectories, mask_id, positions), actions),
    ]
    log_probs, gradients = [], []
    for variant in variants:
        model.zero_grad(set_to_none=True)
        machine.reset_peak_memory(device)
        with counted(model, variant):
            log_probs.append(variant.run(model))  # the first run warms up
        variant.peak_bytes = machine.peak_memory_bytes(device)
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
        report(f"warm: {variant.name}")
    for number in range(repeats):
        for variant in variants:
            model.zero_grad(set_to_none=True)
            variant.seconds.append(machine.seconds_of(lambda variant=variant: variant.run(model), device))
        report(f"round {number + 1} of {repeats}")
    model.zero_grad(set_to_none=True)
    return {
        **machine.conditions(model),
        "trajectories": len(trajectories),
        "actions": actions,
        "lines": [variant.figures() for variant in variants],
        **_compared(variants[0], variants[1], Formula.of(trajectories)),
        **_gaps(*log_probs, *gradients),
    }


def _compared(packed: Variant, rows: Variant, formula: Formula) -> dict[str, Any]:
    token_ratio = rows.token_forwards / packed.token_forwards
    time_ratio = median(rows.seconds) / median(packed.seconds)
    return {
        "steps_per_block": float(np.mean(formula.steps)),
        "most_steps": max(formula.steps),
        "bound_ratio": formula.ratio,
        "token_ratio": token_ratio,
        "of_bound_pct": 100 * token_ratio / formula.ratio,
        "time_ratio": time_ratio,
        "of_token_ratio_pct": 100 * time_ratio / token_ratio,
    }


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
