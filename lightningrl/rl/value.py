"""The value model of TraceRL: values of states, from which `rl/gae.py` estimates advantages.

The network is the policy's own with a head of one output that starts at zero. A value is read at every action, in the
state of its denoise step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightningrl.config.train import Run
from lightningrl.models.linear import Linear
from lightningrl.models.packing import ALL, pack, scored_hidden
from lightningrl.models.transformer import Transformer
from lightningrl.rl.gae import Value, estimate
from lightningrl.rl.likelihood import index_actions, trajectory_row
from lightningrl.rl.losses import value_loss
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.states import AS_DECODED, StateGrouping
from lightningrl.rl.update import Batch, step
from lightningrl.training.shards import load_optimiser, load_weights, local_state
from lightningrl.training.world import World
from lightningrl.types import Trajectory


def value_model(policy: Transformer) -> Transformer:
    """A trainable copy of an unsharded policy's trunk, whose head gives one number, 0 everywhere at first."""
    model = copy.deepcopy(policy).requires_grad_(True)
    weight = policy.lm_head.weight
    model.lm_head = Linear(policy.config.hidden_size, 1, device=weight.device, dtype=weight.dtype)
    nn.init.zeros_(model.lm_head.weight)
    return model


def score_values(
    model: Transformer, trajectories: Sequence[Trajectory], states: StateGrouping = AS_DECODED, copies: slice = ALL
) -> Tensor:
    """(n,) values of the trajectories' actions, in the order of `score_tokens`; differentiable, float32
    at least."""
    mask_id = model.config.mask_token_id
    packed = pack([trajectory_row(t, mask_id, states).part(copies) for t in trajectories], model.device)
    value_n = model(lambda m: m.lm_head(scored_hidden(m, packed))[..., 0].clone())
    return value_n.float() if value_n.dtype in (torch.bfloat16, torch.float16) else value_n


def estimate_all(
    row_n: Tensor, step_n: Tensor, reward_B: Tensor, value_n: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """`estimate` for the actions of several trajectories; a trajectory's reward is on the actions of its last step."""
    row, step, value = row_n.cpu().numpy(), step_n.cpu().numpy(), value_n.double().cpu().numpy()
    returns_n, advantage_n = np.zeros(len(row)), np.zeros(len(row))
    for b, reward in enumerate(reward_B.double().tolist()):
        mine = row == b
        terminal_n = np.where(step[mine] == step[mine].max(), reward, 0.0)
        returns_n[mine], advantage_n[mine] = estimate(step[mine], terminal_n, value[mine], gamma, lam)
    return torch.from_numpy(returns_n).to(value_n), torch.from_numpy(advantage_n).to(value_n)


Row = dict[str, float | None]


@dataclass(slots=True)
class Targets:
    """What a micro-batch's values are trained towards, n actions."""

    old_value_n: Tensor
    return_n: Tensor


def values_of_split(batch: Batch, values: Sequence[Tensor], world: World) -> dict[int, Tensor]:
    """(n,) values of all actions of each trajectory that goes through several forwards, whichever processes'.

    values: of the actions of this process's micro-batches. The estimate of an action needs those of all later steps.
    """
    if all(forward.copies == ALL for forward in batch.forwards):
        return {}
    mine = [None if m.copies == ALL else value_n.cpu() for m, value_n in zip(batch.micro, values, strict=True)]
    found: dict[int, list[Tensor]] = {}
    for forward, value_n in zip(batch.forwards, world.gather(mine, len(batch.forwards)), strict=True):
        if value_n is not None:
            found.setdefault(int(forward.index_B[0]), []).append(value_n)
    return {index: torch.cat(parts) for index, parts in found.items()}


class Critic:
    """A value model with its optimiser: token advantages from the reward of each trajectory, then its own update."""

    def __init__(self, model: Transformer, settings: Value, states: StateGrouping, run: Run, world: World):
        self.model, self.settings, self.states, self.world = model, settings, states, world
        self.max_grad_norm = run.max_grad_norm
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=run.weight_decay)

    @torch.no_grad()
    def estimate(self, batch: Batch) -> None:
        """Set each micro-batch's advantages, and the targets that its values are trained towards."""
        values = [score_values(self.model, micro.trajectories, self.states, micro.copies) for micro in batch.micro]
        whole = values_of_split(batch, values, self.world)
        for micro, value_n in zip(batch.micro, values, strict=True):
            all_n = value_n if micro.copies == ALL else whole[int(micro.index_B[0])].to(value_n)
            index = index_actions(micro.trajectories, self.states)
            reward = torch.from_numpy(batch.advantage_B[micro.index_B])
            return_n, advantage_n = estimate_all(
                index.row_n, index.state_n, reward, all_n, self.settings.gamma, self.settings.lam
            )
            if micro.copies != ALL:
                states_n = index_actions(micro.trajectories, self.states, micro.copies).state_n
                mine_n = torch.isin(index.state_n, states_n)
                return_n, advantage_n = return_n[mine_n], advantage_n[mine_n]
            micro.advantage_n, micro.targets = advantage_n, Targets(value_n, return_n)

    def update(self, batch: Batch) -> dict[str, float | None]:
        """Take one step of the value model; a loss or gradient that is not finite changes nothing."""
        totals = {"value_loss": 0.0, "value_mean": 0.0, "return_mean": 0.0}
        tokens = batch.sums.all.tokens
        for micro in batch.micro:
            value_n = score_values(self.model, micro.trajectories, self.states, micro.copies)
            target: Targets = micro.targets
            loss = value_loss(value_n, target.old_value_n, target.return_n, self.settings.clip, tokens)
            (loss * micro.weight).backward()
            share = micro.weight / tokens
            totals["value_loss"] += float(loss.detach()) * micro.weight
            totals["value_mean"] += float(target.old_value_n.sum()) * share
            totals["return_mean"] += float(target.return_n.sum()) * share
        totals = self.world.totals(totals)
        norm = step(self.optimiser, self.max_grad_norm, bool(np.isfinite(totals["value_loss"])))
        found: dict[str, float | None] = dict.fromkeys(totals) if norm is None else dict(totals)
        return found | {"value_skipped": float(norm is None)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": local_state(dict(self.model.named_parameters())),
            "optimiser": local_state(self.optimiser.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_weights(dict(self.model.named_parameters()), state["model"])
        load_optimiser(self.optimiser, state["optimiser"])


def critic_of(setup: TrainSetup, settings: Value, states: StateGrouping) -> Critic:
    """The critic of a run, sharded as its policy is."""
    values = value_model(setup.fresh() if setup.fresh else setup.model)
    values.checkpoint_activations = setup.model.checkpoint_activations
    return Critic(setup.shard(values) if setup.shard else values, settings, states, setup.run, setup.world)
