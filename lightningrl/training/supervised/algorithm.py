"""The supervised control as an algorithm that a run can name. It has no keys of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import Algorithm

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.supervised.control import SupervisedTrainer


class Supervised(Algorithm):
    """More supervised training in place of reinforcement learning, for the steps or the compute that the run says."""

    rolls_out = False
    needs_reference = False

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        if model.attention != "block_causal":
            raise ConfigError(
                f"{where}: a {model.family} model has {model.attention} attention, and supervised training here packs "
                "the blocks of block-causal models only; start from one of those"
            )

    def trainer(self, setup: TrainSetup) -> SupervisedTrainer:
        from lightningrl.training.supervised.control import SupervisedTrainer

        return SupervisedTrainer(setup)
