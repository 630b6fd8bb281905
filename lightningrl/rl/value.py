"""The value model of TraceRL (Wang et al.): values of states, and the advantages estimated from them.

The network is the policy's own with a head of one output that starts at zero. A value is read at every action, in the
state of its denoise step. Steps, not tokens, are discounted: tokens that are revealed together share a step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightningrl.models.checkpoint import empty_model
from lightningrl.models.linear import Linear
from lightningrl.models.packing import ALL, scored_hidden
from lightningrl.models.transformer import Transformer
from lightningrl.rl.algorithm import AS_DECODED, StateGrouping
from lightningrl.rl.likelihood import ActionIndex, Copies, index_actions, pack_states
from lightningrl.rl.losses import value_loss
from lightningrl.rl.policy_gradient import Value
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.update import Batch, step
from lightningrl.training.loop import Trained
from lightningrl.training.shards import reshard
from lightningrl.training.world import World
from lightningrl.types import Trajectory

HEAD = "lm_head.weight"


def give_value_head(model: Transformer) -> Collection[str]:
    """Replaces a model's head by one that gives one number; returns the name of its weight, which is to be 0."""
    head = Linear(model.config.hidden_size, 1, device="meta")
    weight = model.lm_head.weight
    head.weight = nn.Parameter(weight.new_zeros(head.weight.shape))
    model.lm_head = head
    return [HEAD]


def value_model(policy: Transformer) -> Transformer:
    """Returns a trainable copy of an unsharded policy's trunk, whose head gives one number, 0 everywhere at first."""
    model = empty_model(policy.config)
    give_value_head(model)
    weights = {name: weight.detach().clone() for name, weight in policy.named_parameters() if name != HEAD}
    head = policy.lm_head.weight.new_zeros(model.lm_head.weight.shape)
    model.load_state_dict(weights | {HEAD: head}, assign=True)
    return model.requires_grad_(True).train(policy.training)


def score_values(
    model: Transformer, trajectories: Sequence[Trajectory], states: StateGrouping = AS_DECODED, copies: Copies = ALL
) -> Tensor:
    """Returns (n,) values of the actions, in the order of `score_tokens`; differentiable, float32 at least."""
    packed = pack_states(model, trajectories, states, copies)
    value_n = model(lambda m: m.lm_head(scored_hidden(m, packed))[..., 0].clone())
    return value_n.float() if value_n.dtype in (torch.bfloat16, torch.float16) else value_n


def estimate(
    step_n: np.ndarray, reward_n: np.ndarray, value_n: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns R and advantages A of one trajectory's n actions (TraceRL's step-level estimate).

    step_n: the denoise step of each action, in any numbers that grow with time; reward_n, value_n: of each action.
    With r*_t, V*_t the means over step t: R*_t = r*_t + gamma R*_{t+1}, delta_t = r*_t - V*_t + gamma V*_{t+1},
    A*_t = delta_t + gamma lam A*_{t+1}; an action of step t: R = r + gamma R*_{t+1},
    A = r - V + gamma V*_{t+1} + gamma lam A*_{t+1}.
    """
    steps_T, index_n = np.unique(step_n, return_inverse=True)
    count_T = np.bincount(index_n)
    reward_T = np.bincount(index_n, reward_n) / count_T
    value_T = np.bincount(index_n, value_n) / count_T
    of_step_T3 = np.zeros((len(steps_T) + 1, 3))  # return, value and advantage of each step; 0 after the last
    for t in reversed(range(len(steps_T))):
        later_return, later_value, later_advantage = of_step_T3[t + 1]
        advantage = reward_T[t] - value_T[t] + gamma * later_value + gamma * lam * later_advantage
        of_step_T3[t] = reward_T[t] + gamma * later_return, value_T[t], advantage
    next_return_n, next_value_n, next_advantage_n = of_step_T3[index_n + 1].T
    returns_n = reward_n + gamma * next_return_n
    advantage_n = reward_n - value_n + gamma * next_value_n + gamma * lam * next_advantage_n
    return returns_n, advantage_n


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


def values_of_split(batch: Batch, values: Sequence[Tensor], world: World) -> dict[int, Tensor]:
    """Returns (n,) values of all actions of each trajectory that goes through several forwards, whichever processes'.

    values: of the actions of this process's micro-batches. The estimate of an action needs those of all later steps.
    """
    if all(forward.copies == ALL for forward in batch.forwards):
        return {}
    mine = [None if m.plan.copies == ALL else value_n.cpu() for m, value_n in zip(batch.micro, values, strict=True)]
    found: dict[int, list[Tensor]] = {}
    for forward, value_n in zip(batch.forwards, world.gather(mine, len(batch.forwards)), strict=True):
        if value_n is not None:
            found.setdefault(int(forward.index_B[0]), []).append(value_n)
    return {index: torch.cat(parts) for index, parts in found.items()}


def _state_keys(actions: ActionIndex) -> Tensor:
    """Returns (n,) one number for each state of each trajectory, the same in every index of the same trajectories."""
    return (actions.row_n << 32) + actions.state_n


class Critic(Trained):
    """A value model with its optimiser: token advantages from the reward of each trajectory, then its own update.

    A micro-batch's `targets` are its values before the update and the returns that they are trained towards.
    """

    def __init__(self, setup: TrainSetup, settings: Value, states: StateGrouping):
        self.model = setup.load_shards(give_value_head) if setup.load_shards else value_model(setup.model)
        self.model.checkpoint_activations = setup.model.checkpoint_activations
        self.settings, self.states, self.world, self.run = settings, states, setup.world, setup.run
        parameters, decay = self.model.parameters(), self.run.weight_decay
        self.optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=decay)

    @torch.no_grad()
    def estimate(self, batch: Batch) -> None:
        """Set each micro-batch's advantages, and the targets that its values are trained towards."""
        if batch.whole:
            self._estimate_taken(batch)
            return
        values = [score_values(self.model, m.trajectories, self.states, m.plan.copies) for m in batch.micro]
        reshard(self.model)
        whole = values_of_split(batch, values, self.world)
        for micro, value_n in zip(batch.micro, values, strict=True):
            index_B, copies = micro.plan.index_B, micro.plan.copies
            all_n = value_n if copies == ALL else whole[int(index_B[0])].to(value_n)
            index = index_actions(micro.trajectories, self.states)
            reward_B = torch.from_numpy(batch.advantage_B[index_B])
            found = estimate_all(index.row_n, index.state_n, reward_B, all_n, self.settings.gamma, self.settings.lam)
            mine_n = torch.isin(index.state_n, index_actions(micro.trajectories, self.states, copies).state_n)
            return_n, micro.actions.advantage_n = (values_n[mine_n] for values_n in found)
            micro.targets = value_n, return_n

    def _estimate_taken(self, batch: Batch) -> None:
        """Do what `estimate` does for the actions of the states that are trained on, from the values of all states."""
        values_B = self._values_of_whole(batch)
        for micro in batch.micro:
            value_n = torch.cat([values_B[index] for index in micro.plan.index_B.tolist()]).to(self.model.device)
            index = index_actions(micro.trajectories, self.states)
            reward_B = torch.from_numpy(batch.advantage_B[micro.plan.index_B])
            gamma, lam = self.settings.gamma, self.settings.lam
            found = estimate_all(index.row_n, index.state_n, reward_B, value_n, gamma, lam)
            taken = index_actions(micro.trajectories, self.states, micro.plan.copies)
            mine_n = torch.isin(_state_keys(index), _state_keys(taken))
            return_n, micro.actions.advantage_n = (values_n[mine_n] for values_n in found)
            micro.targets = value_n[mine_n], return_n

    def _values_of_whole(self, batch: Batch) -> dict[int, Tensor]:
        """Returns (n,) values of all actions of each trajectory; every process computes its share of the forwards."""
        count, size, mine = len(batch.whole), self.world.size, []
        for number in range(self.world.rank, -(-count // size) * size, size):
            plan = batch.whole[number if number < count else 0]  # a repeat, so that all have equally many forwards
            rows = [batch.trajectories[index] for index in plan.index_B]
            mine.append(score_values(self.model, rows, self.states, plan.copies).cpu())
        reshard(self.model)
        found: dict[int, list[Tensor]] = {}
        for plan, value_n in zip(batch.whole, self.world.gather(mine, count), strict=True):
            rows = [batch.trajectories[index] for index in plan.index_B]
            row_n = index_actions(rows, self.states, plan.copies).row_n
            for row, index in enumerate(plan.index_B.tolist()):
                found.setdefault(index, []).append(value_n[row_n == row])
        return {index: torch.cat(parts) for index, parts in found.items()}

    def update(self, batch: Batch) -> dict[str, float | None]:
        """Take one step of the value model; a loss or gradient that is not finite changes nothing."""
        totals = {"value_loss": 0.0, "value_mean": 0.0, "return_mean": 0.0}
        tokens = batch.sums.all.tokens
        for micro in batch.micro:
            old_value_n, return_n = micro.targets
            value_n = score_values(self.model, micro.trajectories, self.states, micro.plan.copies)
            weighted = micro.actions.weighted
            loss = value_loss(value_n, old_value_n, return_n, self.settings.clip, tokens, micro.actions)
            (loss * micro.weight).backward()
            share = micro.weight / tokens
            totals["value_loss"] += float(loss.detach()) * micro.weight
            totals["value_mean"] += float(weighted(old_value_n).sum()) * share
            totals["return_mean"] += float(weighted(return_n).sum()) * share
        totals = self.world.totals(totals)
        norm = step(self.optimiser, self.run.max_grad_norm, bool(np.isfinite(totals["value_loss"])))
        found: dict[str, float | None] = dict.fromkeys(totals) if norm is None else dict(totals)
        return found | {"value_skipped": float(norm is None)}
