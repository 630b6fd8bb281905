"""Pre-training of the miniature's bases: an autoregressive warm start, then block diffusion, or what the phases name.

The default is SDAR's own recipe on a small scale; other families have one phase, or other objectives. The learning
rates of a phase are constant, and fall linearly to zero over its `decay`. An exponential moving average of the weights
over the last phase is validated and shipped. All draws are keyed by (seed, step), so a base depends on the seed and the
config alone. With a budget of token-forwards (a backward counts as two), the last phase goes on until they are spent;
a budget that the warm start alone would spend is refused.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.training.loop import StepResult, Trainer
from lightningrl.training.shards import WeightAverage
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objective import supervised_backward
from lightningrl.training.supervised.objectives.protocol import Objective, Row
from lightningrl.training.supervised.optimiser import SupervisedOptimiser

if TYPE_CHECKING:
    from lightningrl.config.model import Phase, Pretrain


class Pretrainer(Trainer):
    """Trains a base from nothing.

    corpora: sequences by benchmark. objectives: what each phase learns. validate: returns a model's figures by name, of
    which `accuracy_pct` is shown. workers: threads that compute micro-batches side by side. budget: token-forwards.
    """

    counters = ("steps_done", "token_forwards", "warm_forwards")

    def __init__(
        self, config: Pretrain, seed: int, model: Transformer, corpora: Mapping[str, Sequence[TrainingSequence]],
        objectives: Mapping[str, Objective], validate: Callable[[Transformer], dict[str, float]],
        workers: ThreadPoolExecutor | None = None, budget: int | None = None,
    ):  # fmt: skip
        self.config, self.seed, self.model, self.corpora = config, seed, model, corpora
        self.objectives, self.validate, self.workers, self.budget = objectives, validate, workers, budget
        *self.warm, (self.last, self.last_plan) = config.phases.items()
        weights = {name: config.mixture.get(name, 0.0) if config.mixture else 1.0 for name in corpora}
        self.shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        self.optimiser = SupervisedOptimiser(model, config.learning_rate, config.muon_learning_rate)
        self.average = WeightAverage(model, config.averaging)
        self.steps_done = self.token_forwards = self.warm_forwards = 0
        if budget is not None and (needed := self._warm_cost()) >= budget:
            raise ConfigError(
                f"pretrain.autoregressive: its steps take {needed:,} token-forwards, and `match_compute` leaves "
                f"{budget:,} for the whole training; take fewer steps or sequences there, or match a base that spent "
                "more"
            )

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
        return self.last if self._last_steps >= 0 else "autoregressive"

    @property
    def done(self) -> bool:
        if self.budget is not None:
            return self._last_steps > 0 and self.token_forwards >= self.budget
        return self._last_steps >= self.last_plan.steps

    @property
    def _last_steps(self) -> int:
        """The number of steps of the last phase taken; negative in the warm start."""
        return self.steps_done - sum(plan.steps for _, plan in self.warm)

    def _factor(self, plan: Phase) -> float:
        """Returns the factor of the learning rates at the next step: warm-up, the phase's own rate, its decay."""
        warm = min(1.0, (self.steps_done + 1) / max(1, self.config.warmup_steps))
        total, left = plan.steps, plan.steps - self._last_steps
        if self._last_steps < 0:
            left = -self._last_steps
        elif self.budget is not None:
            total, left = self.budget - self.warm_forwards, self.budget - self.token_forwards
        falling = plan.decay * total
        return plan.rate * warm * (max(0.0, min(1.0, left / falling)) if falling else 1.0)

    def step(self) -> StepResult:
        start, phase = time.monotonic(), self.phase
        plan, objective = self.config.phases[phase], self.objectives[phase]
        factor, rows = self._factor(plan), self._rows(objective, plan, self.steps_done)
        loss = supervised_backward(self.model, rows, self.config.microbatch, self.workers, objective.loss)
        self.optimiser.step(factor, self.workers)
        self.token_forwards += 3 * sum(row.num_tokens for row, _ in rows)
        if self._last_steps < 0:
            self.warm_forwards = self.token_forwards
        elif self._last_steps == 0:  # the average begins with the weights after the last phase's first step
            self.average = WeightAverage(self.model, self.config.averaging)
        else:
            self.average.update()
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "phase": phase, "loss": loss, "rate": factor}
        metrics["token_forwards"] = self.token_forwards
        timing = {"update_s": time.monotonic() - start}
        taken = self._last_steps
        if taken > 0 and (taken % self.config.validate_every == 0 or self.done):
            metrics |= self.validate(self.averaged)
            timing["validation_s"] = time.monotonic() - start - timing["update_s"]
        return StepResult(metrics, timing)

    def _warm_cost(self) -> int:
        """Returns the token-forwards of the warm start, whose rows depend on the seed alone."""
        plans = [(self.objectives[name], plan) for name, plan in self.warm for _ in range(plan.steps)]
        rows = (row for step, (objective, plan) in enumerate(plans) for row, _ in self._rows(objective, plan, step))
        return 3 * sum(row.num_tokens for row in rows)

    def _rows(self, objective: Objective, plan: Phase, step: int) -> list[Row]:
        rng = np.random.default_rng([self.seed, step])
        rows = list[Row]()
        for name, count in split_counts(self.shares, plan.sequences).items():
            corpus = self.corpora[name]
            for index in rng.integers(0, len(corpus), count):
                rows += objective.rows(corpus[index], rng)
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
