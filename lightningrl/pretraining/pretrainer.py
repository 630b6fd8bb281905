"""Pre-training of the miniature's base: autoregressive warm start, then block diffusion until flat.

SDAR's own recipe in small. Each phase has constant learning rates. What is validated, judged flat and shipped is
one and the same: an exponential moving average of the weights over the diffusion phase, which does what a decay of the
rates would do and is there at every step. Training ends when its validation accuracy (greedy, mean over benchmarks) is
flat or the steps are spent. All draws are keyed by (seed, step).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightningrl.models.packing import PackedRow
from lightningrl.models.sdar import SDAR
from lightningrl.pretraining.corpus import TrainingSequence
from lightningrl.pretraining.objective import autoregressive_row, diffusion_row, supervised_backward
from lightningrl.pretraining.optimiser import SupervisedOptimiser
from lightningrl.training.protocol import StepResult

if TYPE_CHECKING:
    from lightningrl.config.model import Phase, Pretrain

MAX_GRAD_NORM = 1.0


class Pretrainer:
    """A `Trainer` (training/protocol.py).

    corpora: sequences by benchmark; shares: their part of each batch; validate: a model's figures by name,
    `accuracy_pct` the mean that the plateau is judged by.
    """

    def __init__(
        self,
        config: Pretrain,
        seed: int,
        model: SDAR,
        corpora: Mapping[str, Sequence[TrainingSequence]],
        validate: Callable[[SDAR], dict[str, float]],
    ):
        self.config, self.seed, self.model, self.validate = config, seed, model, validate
        self.corpora = corpora
        names = list(corpora)
        total = sum(config.mixture.get(name, 1.0 if not config.mixture else 0.0) for name in names)
        self.shares = {name: config.mixture.get(name, 1.0 if not config.mixture else 0.0) / total for name in names}
        self.optimiser = SupervisedOptimiser(model, config.learning_rate, config.muon_learning_rate)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
        self.steps_done = 0
        self.history: list[float] = []
        """Validation accuracies, percent."""

    @property
    def averaged(self) -> SDAR:
        """The model with the averaged weights: the base."""
        return cast(SDAR, self.average.module)

    @property
    def phase(self) -> str:
        """Of the step about to be taken: `autoregressive`, `diffusion`."""
        return "diffusion" if self._diffusion_steps >= 0 else "autoregressive"

    @property
    def flat(self) -> bool:
        """The last `patience` validations brought no gain over those before."""
        plateau = self.config.plateau
        before, recent = self.history[: -plateau.patience], self.history[-plateau.patience :]
        return bool(before) and max(recent) < max(before) + plateau.min_gain_pct

    @property
    def done(self) -> bool:
        return self.flat or self._diffusion_steps >= self.config.diffusion.max_steps

    @property
    def _diffusion_steps(self) -> int:
        """Diffusion steps already taken; negative in the warm start."""
        return self.steps_done - self.config.autoregressive.max_steps

    def step(self) -> StepResult:
        start, phase = time.monotonic(), self.phase
        plan: Phase = self.config.autoregressive if phase == "autoregressive" else self.config.diffusion
        factor = plan.rate * min(1.0, (self.steps_done + 1) / max(1, self.config.warmup_steps))
        loss = supervised_backward(self.model, self._rows(phase, plan), self.config.microbatch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimiser.step(factor)
        if phase == "diffusion":
            self.average.update_parameters(self.model)
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "phase": phase, "loss": loss, "rate": factor}
        timing = {"update_s": time.monotonic() - start}
        taken = self._diffusion_steps
        if taken > 0 and (taken % self.config.plateau.every == 0 or self.done):
            metrics |= self.validate(self.averaged)
            self.history.append(metrics["accuracy_pct"])
            timing["validation_s"] = time.monotonic() - start - timing["update_s"]
        return StepResult(metrics, timing)

    def _rows(self, phase: str, plan: Phase) -> list[tuple[PackedRow, np.ndarray]]:
        rng = np.random.default_rng([self.seed, self.steps_done])
        mask_id, block_size = self.model.config.mask_token_id, self.model.config.block_size
        rows = []
        for name, count in split_counts(self.shares, plan.sequences).items():
            corpus = self.corpora[name]
            for index in rng.integers(0, len(corpus), count):
                if phase == "autoregressive":
                    rows.append(autoregressive_row(corpus[index], mask_id))
                else:
                    rows.append(diffusion_row(corpus[index], block_size, plan.copies, mask_id, rng))
        return rows

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        validated = f"  validation accuracy {row['accuracy_pct']:.1f} %" if "accuracy_pct" in row else ""
        return f"step {row['step']} ({row['phase']})  loss {row['loss']:.3f}{validated}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps_done": self.steps_done,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps_done, self.history = state["steps_done"], list(state["history"])


def split_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided by shares, largest remainder first; the counts add up."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
