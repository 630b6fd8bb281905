"""What the distillations have in common: they train on answers that exist, roll nothing out, and may train adapters.

A step draws units of `mean_over` answers; a unit gives states (`views`) and a loss, and the update's loss is the mean
over its units, whatever shares a forward. Modules of algorithms load no torch (rl/algorithm.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lightningrl.config.distillation import DistillData, LowRank
from lightningrl.config.section import Section
from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import Algorithm

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lightningrl.models.packing import Packed
    from lightningrl.models.transformer import ModelConfig, Transformer
    from lightningrl.rl.setup import TrainSetup
    from lightningrl.training.distillation.answers import Target
    from lightningrl.training.distillation.states import Views
    from lightningrl.training.distillation.trainer import DistillationTrainer


class DistillationConfig(Section):
    """The keys of every distillation."""

    data: DistillData = DistillData()
    """The answers to train on."""
    adapter: LowRank | None = None
    """Train adapters; default: all weights."""
    length: int | None = Field(None, gt=0)
    """Tokens of a training sequence, prompt included: a shorter response is filled with pads, which are trained like
    text, and a longer one is cut. Default: the prompt and `max_new_tokens`, the canvas that is decoded; for
    block-causal models to the end of the response's last block."""
    mean_over: int = Field(1, gt=0)
    """Answers whose tokens are averaged together; the update's loss is the mean over these units. 1: each answer counts
    alike. A published batch of several answers a device averages over their tokens together."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after its warm-up; the last two end at zero."""
    beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's second moment's decay; the first moment's is 0.9."""
    compat: bool = False
    """What the published code does although it is a defect: see docs/defects.md. For comparison only."""


class Distillation(Algorithm):
    """A training on answers that exist. A subclass says which states they are put in, and the loss of these."""

    Config: ClassVar[type[Section]] = DistillationConfig
    rolls_out: ClassVar[bool] = False

    @property
    def data(self) -> DistillData:
        """Which answers: the plan makes a stage of it."""
        return self.config.data

    needs_reference: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return ("adapter_config.json", "adapter_model.safetensors") if self.config.adapter else ()

    def adapt(self, model: Transformer) -> Collection[str]:
        adapter: LowRank | None = self.config.adapter
        if adapter is None:
            return ()
        from lightningrl.models.adapters import add_adapters

        return add_adapters(model, adapter.rank, adapter.scaled_by, adapter.targets)

    def trainer(self, setup: TrainSetup) -> DistillationTrainer:
        from lightningrl.training.distillation.trainer import DistillationTrainer

        return DistillationTrainer(setup, self)

    def check(self, model: ModelConfig, where: str, beside: Mapping[str, ModelConfig] = MappingProxyType({})) -> None:
        if model.attention == "causal" or not model.has_mask:
            raise ConfigError(
                f"{where}: a {model.family} model has no mask token to be trained with; start from SDAR, LLaDA or Dream"
            )
        if self.config.length is not None and self.config.length > model.max_position_embeddings:
            raise ConfigError(
                f"{where}.method.length: found {self.config.length}, the model has {model.max_position_embeddings} "
                "positions"
            )

    def views(self, unit: Sequence[Target], model: ModelConfig, rng: np.random.Generator, progress: float) -> Views:
        """Returns the states of one unit. progress: the share of the training that is over, within [0, 1)."""
        raise NotImplementedError

    def extra_forwards(self, views: Views) -> int:
        """Positions of forwards beside the trained ones, which count three times: a teacher's, for instance."""
        return 0

    def loss(
        self, model: Transformer, reference: Transformer, packed: Packed, units: Sequence[Views]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the sum of these units' losses, differentiable, and sums to log (detached)."""
        raise NotImplementedError

    def logged(self, sums: dict[str, float]) -> dict[str, Any]:
        """Returns the step's figures from the update's sums."""
        raise NotImplementedError


class CertaintyConfig(DistillationConfig):
    """The keys of the certainty-forcing loss, dParallel's and d3LLM's."""

    weight: float = Field(2.0, ge=0)
    """The weight of the entropy at correct predictions: 2 for LLaDA, 1 for Dream as published."""
    temperature: float = Field(0.5, gt=0)
    """The temperature of the distribution whose entropy is lowered."""


class Certainty(Distillation):
    """Cross-entropy in two complementary states, and the entropy where the prediction is correct."""

    Config: ClassVar[type[Section]] = CertaintyConfig
    scale: ClassVar[float] = 1.0
    """The factor of a unit's loss."""

    def loss(
        self, model: Transformer, reference: Transformer, packed: Packed, units: Sequence[Views]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        from lightningrl.training.distillation.losses import certainty_loss

        keys = self.config
        loss, sums = certainty_loss(model, packed, units, keys.weight, keys.temperature, bans=not keys.compat)
        return loss * self.scale, sums

    def logged(self, sums: dict[str, float]) -> dict[str, Any]:
        targets, correct = max(1.0, sums["targets"]), max(1.0, sums["correct"])
        return {
            "targets": int(sums["targets"]),
            "cross_entropy": sums["cross_entropy"] / targets,
            "correct_share": sums["correct"] / targets,
            "correct_entropy": sums["entropy"] / correct,
        }
