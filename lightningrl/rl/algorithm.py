"""What an algorithm is: a class with a `Config` of its own keys, and hooks that a trainer calls.

The config names an algorithm (`runs.algorithm`), validates the run's `method:` against its `Config`, and makes one
object of both. Modules of algorithms load no torch, because configs are read where starting up must be fast; hooks
import what they need.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lightningrl.config.section import Section
from lightningrl.rl.groups import Groups
from lightningrl.rl.rewards import accuracy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightningrl.answering import Answer, Task
    from lightningrl.config.base import Base
    from lightningrl.config.distillation import DistillData
    from lightningrl.models.transformer import ModelConfig, Transformer
    from lightningrl.rl.likelihood import ActionIndex, Copies, TokenScores
    from lightningrl.rl.losses import Actions, Sums
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.rl.update import Batch
    from lightningrl.training.loop import Trainer
    from lightningrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class StateGrouping:
    """The states in which a trajectory's tokens are scored; by default those of the denoise steps that happened."""

    shrink: int = 1
    """Consecutive denoise steps of a block that are taken as one: their tokens are scored in the first one's state."""
    full_mask: bool = False
    """Each block is a single state, in which all its decoded positions are masked."""
    after_stop: bool = False
    """What is revealed behind the first stop token is scored too, as a part of what happened."""
    rescored: bool = False
    """Actions are scored otherwise than the decoder did, though in the states that happened."""

    @property
    def happened(self) -> bool:
        """Whether actions are scored as the decoder did, in the states that it was in: its log-probabilities are then
        those of the policy that made the rollouts."""
        return self.shrink == 1 and not self.full_mask and not self.rescored


AS_DECODED = StateGrouping()


class Algorithm:
    """A way to train a run's policy, with the keys that the run gives it. A subclass says how by its `trainer`."""

    Config: ClassVar[type[Section]] = Section
    """The keys that a run may set under `method:`, with their defaults and their documentation."""
    rolls_out: ClassVar[bool] = True
    """Whether its steps decode and judge responses. A run whose steps do not may match the compute of another run."""
    has_value_model: bool = False
    """Whether a second network of the policy's size is trained beside it, for which memory and time are planned."""
    needs_reference: bool = True
    """Whether the frozen base is held beside the policy."""
    adds_planner: ClassVar[bool] = False
    """Whether a base without a planner (models/planner.py) gets one, by which its validations may decode."""

    def __init__(self, config: Any):
        self.config = config

    def members(self) -> Mapping[str, str]:
        """Returns the `module:attribute` of what the keys name of somebody else's: its code is part of the run."""
        return {}

    @property
    def data(self) -> DistillData | None:
        """The answers that it trains on besides its benchmark's problems, for which a stage is planned; None: none."""
        return None

    @property
    def checkpoints(self) -> Mapping[str, Base]:
        """The frozen checkpoints that it needs beside its base, each whole in every process. The role is the name of
        the key that says which; a stage imports each, so that the run's key depends on it as on the base."""
        return {}

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        """Raises ConfigError for a base that it cannot train, by the shape of the model alone; `where` is the run's
        key, `beside` the shapes of those of `checkpoints` that are known. `lightningrl validate`, stages and trainers
        ask, as early as each can."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the train stage leaves because of it, besides those of every run."""
        return ()

    def adapt(self, model: Transformer) -> Collection[str]:
        """Change modules of the policy once its weights are known, before it is sharded; returns the names of the new
        weights, which begin at 0. What decodes and is shipped is the plain model (models/adapters.py)."""
        return ()

    def trainer(self, setup: TrainSetup) -> Trainer:
        raise NotImplementedError


class OnlineAlgorithm(Algorithm):
    """An algorithm whose step is to roll out groups, to keep some, and to update the policy on them.

    `PolicyTrainer` knows nothing of it but these hooks. Shapes: N groups (prompts) of G responses; n actions (revealed
    tokens) of the trajectories that share a forward.
    """

    needs_reference: bool = True
    """Whether `loss` compares with the frozen base; otherwise the reference is the policy that made the rollouts."""
    states: StateGrouping = AS_DECODED
    """The states in which actions are scored. In others than those that happened the decoder has no log-probabilities,
    and the old ones are the policy's as it is before the step's updates."""
    weighs_states: bool = False
    """Whether `loss` counts each action as often as `Actions.weighted` says, so that a random part of the states may be
    trained on (`runs.state_share`)."""
    own_forwards: int = 0
    """Forwards a trained position through models of its own, a backward counted as two."""

    def trainer(self, setup: TrainSetup) -> Trainer:
        from lightningrl.rl.trainer import PolicyTrainer

        return PolicyTrainer(setup, self)

    def groups(self, answers: list[list[Answer]], task: Task) -> Groups:
        """Returns the groups of these answers: how answers are read as numbers."""
        return Groups(answers, task.judge.graded)

    def dropped(self, groups: Groups) -> dict[str, np.ndarray]:
        """Returns (N,) bool by the name of a filter: the groups that it drops, each for itself, whatever the others are
        (they are asked about one by one as they end, and all together afterwards). A group may fail several."""
        return {}

    def keep(self, groups: Groups) -> np.ndarray:
        """Returns (N,) bool: the groups that no filter drops."""
        return ~np.any([np.zeros(len(groups.answers), dtype=bool), *self.dropped(groups).values()], axis=0)

    def rewards(self, groups: Groups) -> dict[str, np.ndarray]:
        """Returns (N, G) by name: raw rewards, as the samples for people show them."""
        return {"accuracy": accuracy(groups)}

    def advantages(self, groups: Groups) -> np.ndarray:
        """Returns (N, G): the advantages of the responses of one optimiser update's groups."""
        raise NotImplementedError

    def imitated(self, groups: Groups) -> np.ndarray:
        """Returns (N, G) bool: the responses whose likelihood the loss raises, whatever their advantage."""
        return np.zeros(groups.correct_NG.shape, dtype=bool)

    def metrics(self, kept: Groups, advantage_NG: np.ndarray) -> dict[str, Any]:
        """Returns figures of a step's kept groups and their advantages, for its row of metrics."""
        return {}

    def score(
        self, model: Transformer, trajectories: Sequence[Trajectory], copies: Copies = slice(None)
    ) -> TokenScores:
        """Returns the log-probability of each action under `model`, differentiable, of these states of each trajectory.
        Those of decisions beyond tokens are added here and in `behaviour`."""
        from lightningrl.rl.likelihood import score_tokens

        return score_tokens(model, trajectories, self.states, copies)

    def behaviour(self, trajectories: Sequence[Trajectory], actions: ActionIndex) -> Tensor:
        """Returns (n,) each action's log-probability when it was decoded, nats; of the states that happened."""
        from lightningrl.rl.likelihood import behaviour_of

        return behaviour_of(trajectories, actions)

    def loss(self, scores: TokenScores, actions: Actions, sums: Sums) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns a micro-batch's share of the update's loss, and of the means to log (`loss` among them; detached)."""
        raise NotImplementedError

    def build(self, setup: TrainSetup) -> None:
        """Make what is trained beside the policy. Called once, before the first step."""

    def parameters(self) -> list[nn.Parameter]:
        """Returns parameters of its own that the policy's optimiser and loss train too."""
        return []

    def prepare(self, batch: Batch) -> None:
        """Complete a batch that has been scored, for instance with an advantage for each token."""

    def update(self, batch: Batch) -> dict[str, float | None]:
        """Train models of its own, after the policy, on one update's batch; returns figures to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of everything that `build` made."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
