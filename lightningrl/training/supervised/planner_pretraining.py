"""Planner pre-training as an algorithm that a run can name: dUltra's first stage, before its reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import Field

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import Algorithm

if TYPE_CHECKING:
    from lightningrl.models.transformer import ModelConfig
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.supervised.planner_trainer import PlannerTrainer


class PlannerPretraining(Algorithm):
    """Teach a planner to reveal what Fast-dLLM's factor rule would reveal; everything else of the model stays as it is.

    A base without a planner gets one with random weights. (chinsengi/dUltra-os, planner/planner_trainer.py.)
    """

    class Config(Section):
        """Its keys; the rest is the run's: `steps`, `sequences` a step, `learning_rate`, `microbatch`."""

        length: int = Field(default=512, gt=1)
        """Positions of a canvas: longer sequences are cut, shorter ones filled with the pad token."""
        block: int = Field(default=32, gt=0)
        """The fewest positions of the stretch in which some are masked."""
        factor: float = Field(default=1.0, gt=0)
        """The factor of the rule that the planner imitates."""
        min_learning_rate: float = Field(default=1e-7, ge=0)
        """The learning rate at the end of the run, to which it falls along a cosine."""
        compat: bool = False
        """Do as the published code does: the factor rule has its off-by-one, confidences have the mask token's share,
        and a stretch may reach into a prompt that is longer than `length` minus `block`."""

    rolls_out = False
    needs_reference = False
    adds_planner = True

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        if model.attention != "full" or model.logit_shift:
            raise ConfigError(
                f"{where}: a planner reads whole canvases of a model with full attention and unshifted logits (LLaDA); "
                f"this {model.family} model has {model.attention} attention and "
                f"{'shifted' if model.logit_shift else 'unshifted'} logits"
            )
        if self.config.length > model.max_position_embeddings:
            raise ConfigError(
                f"{where}.method.length: found {self.config.length}, the model has {model.max_position_embeddings} "
                "positions"
            )

    def trainer(self, setup: TrainSetup) -> PlannerTrainer:
        from lightningrl.training.supervised.planner_trainer import PlannerTrainer

        return PlannerTrainer(setup, self.config)
