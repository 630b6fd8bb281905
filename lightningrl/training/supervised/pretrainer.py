"""Pre-training of the miniature's base: an autoregressive warm start, then block diffusion.

This is SDAR's own recipe on a small scale. The learning rates of a phase are constant, and fall linearly to zero over
its `decay`. An exponential moving average of the weights over the diffusion phase is validated and shipped. All draws
are keyed by (seed, step), so the base depends on the seed and the config alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from lightningrl.models.packing import PackedRow
from lightningrl.models.transformer import Transformer
from lightningrl.training.loop import StepResult, Trainer
from lightningrl.training.shards import WeightAverage
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objective import (
    SupervisedOptimiser,
    autoregressive_row,
    diffusion_row,
    supervised_backward,
)

if TYPE_CHECKING:
    from lightningrl.config.model import Phase, Pretrain


class Pretrainer(Trainer):
    """Trains a base from nothing.

    corpora: sequences by benchmark. validate: returns a model's figures by name, of which `accuracy_pct` is shown.
    workers: threads that compute micro-batches side by side.
    """

    counters = ("steps_done",)

    def __init__(
        self, config: Pretrain, seed: int, model: Transformer, corpora: Mapping[str, Sequence[TrainingSequence]],
        validate: Callable[[Transformer], dict[str, float]], workers: ThreadPoolExecutor | None = None,
    ):  # fmt: skip
        self.config, self.seed, self.model, self.corpora = config, seed, model, corpora
        self.validate, self.workers = validate, workers
        weights = {name: config.mixture.get(name, 0.0) if config.mixture else 1.0 for name in corpora}
        self.shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        self.optimiser = SupervisedOptimiser(model, config.learning_rate, config.muon_learning_rate)
        self.average = WeightAverage(model, config.averaging)
        self.steps_done = 0

    @property
    def parts(self) -> dict[str, Any]:
        return {"average": self.average}

    @property
    def averaged(self) -> Transformer:
        """A copy of the model with the averaged weights, which becomes the base."""
        model = copy.deepcopy(self.model)
        self.average.copy_to(model)
        return model

    @property
    def phase(self) -> str:
        """The phase of the next step: `autoregressive` or `diffusion`."""
        return "diffusion" if self._diffusion_steps >= 0 else "autoregressive"

    @property
    def done(self) -> bool:
        return self._diffusion_steps >= self.config.diffusion.steps

    @property
    def _diffusion_steps(self) -> int:
        """The number of diffusion steps taken; negative in the warm start."""
        return self.steps_done - self.config.autoregressive.steps

    def _factor(self, plan: Phase) -> float:
        """Returns the factor of the learning rates at the next step: warm-up, the phase's own rate, its decay."""
        warm = min(1.0, (self.steps_done + 1) / max(1, self.config.warmup_steps))
        left = -self._diffusion_steps if self._diffusion_steps < 0 else plan.steps - self._diffusion_steps
        falling = plan.decay * plan.steps
        return plan.rate * warm * (min(1.0, left / falling) if falling else 1.0)

    def step(self) -> StepResult:
        start, phase = time.monotonic(), self.phase
        plan: Phase = getattr(self.config, phase)
        factor = self._factor(plan)
        loss = supervised_backward(self.model, self._rows(phase, plan), self.config.microbatch, self.workers)
        self.optimiser.step(factor, self.workers)
        if self._diffusion_steps == 0:  # the average begins with the weights after the first diffusion step
            self.average = WeightAverage(self.model, self.config.averaging)
        elif phase == "diffusion":
            self.average.update()
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "phase": phase, "loss": loss, "rate": factor}
        timing = {"update_s": time.monotonic() - start}
        taken = self._diffusion_steps
        if taken > 0 and (taken % self.config.validate_every == 0 or self.done):
            metrics |= self.validate(self.averaged)
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


def split_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Returns `total` divided by shares, with the largest remainders rounded up; the counts add up."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
