"""The steps of any `Distillation`: answers in the order of passes, states drawn by key, one update a step.

The loss of a step is the mean over its units, of which each is in one forward, so micro-batches and processes change it
only by rounding. A step whose loss or gradient is not finite changes nothing and is logged as skipped. The checkpoint
is chosen on validation as an RL run's is: the fastest that is shown to be hardly less accurate than the base.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightningrl.errors import ConfigError
from lightningrl.models.adapters import start_adapters
from lightningrl.models.canvas import CanvasRow
from lightningrl.models.packing import Packed, pack, pack_canvases
from lightningrl.rl.rollout import PromptOrder
from lightningrl.rl.selection import fastest
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.trainer import peak_memory_bytes
from lightningrl.rl.update import cut, step
from lightningrl.training.budgeted import BudgetedTrainer
from lightningrl.training.distillation.algorithm import Distillation
from lightningrl.training.distillation.answers import targets_of
from lightningrl.training.distillation.states import Views
from lightningrl.training.loop import StepResult
from lightningrl.training.shards import WeightAverage, dtype_of, own_part, reshard

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Forward:
    """Units that share a forward. weight: 0 where a process repeats one only to keep step with the others."""

    units: list[Views]
    weight: float


class DistillationTrainer(BudgetedTrainer):
    """Trains on the answers of `setup.distilled`."""

    def __init__(self, setup: TrainSetup, algorithm: Distillation):
        self.setup, self.algorithm, self.model, run = setup, algorithm, setup.model, setup.run
        config, keys = self.model.config, algorithm.config
        setup.check(algorithm)
        grid = config.block_size if config.attention == "block_causal" else None
        if not setup.distilled:
            raise ConfigError(
                f"runs.{run.name}.method.data: no answer is left to train on (keep: {keys.data.keep}); "
                "train the base for longer, or say `keep: all` or another source"
            )
        self.begin()
        self.targets, self.left_out = targets_of(
            setup.distilled, setup.tokenizer.pad_token_id, length=keys.length, new_tokens=setup.task.max_new_tokens,
            grid=grid, limit=config.max_position_embeddings, where=f"runs.{run.name}",
        )  # fmt: skip
        if any(self.left_out):
            _log.warning(
                "of %d answers %d are left out because their prompts leave no room within `length`, and %d because "
                "they are longer than the model's context", len(setup.distilled), *self.left_out,
            )  # fmt: skip
        self.order = PromptOrder(len(self.targets), setup.seed)
        start_adapters(self.model, setup.seed, own_part)
        rates = {"lr": run.learning_rate, "betas": (0.9, keys.beta2), "weight_decay": run.weight_decay}
        self.optimiser = torch.optim.AdamW(self.trained.values(), **rates)
        self.average = WeightAverage(self.model, run.averaging) if run.averaging else None
        self.selection = fastest(run.accuracy_tolerance_pct, setup.world.is_first, dtype_of(run.precision))
        setup.publish()

    @property
    def parts(self) -> dict[str, Any]:
        return super().parts | ({"average": self.average} if self.average else {})

    def step(self) -> StepResult:
        start, run, setup = time.monotonic(), self.setup.run, self.setup
        if self.steps_done == 0:
            self.selection.start(setup.validate())
        units = self._units()
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = run.learning_rate * rate
        sums = self._backward(units)
        norm = step(self.optimiser, run.max_grad_norm, math.isfinite(sums["loss"]))
        if self.average:
            self.average.update()
        setup.publish()
        trained = sum(unit.num_tokens for unit in units)
        self.token_forwards += 3 * trained + sum(self.algorithm.extra_forwards(unit) for unit in units)
        self.steps_done += 1
        self.note_update(norm is None)
        timing = {"update_s": time.monotonic() - start}
        found = self.algorithm.logged(sums) | {"loss": sums["loss"]}
        if norm is None:
            found = dict.fromkeys(found)
        metrics: dict[str, Any] = {"step": self.steps_done, **found, "grad_norm": norm, "skipped": float(norm is None)}
        metrics |= {"rate": rate, "trained_positions": trained, "token_forwards": self.token_forwards}
        if self.steps_done == 1:
            metrics |= {f"answers_{name}": count for name, count in self.left_out._asdict().items()}
        if self.steps_done % run.validate_every == 0 or self.done:
            with self.average.in_place() if self.average else nullcontext():
                setup.publish()
                metrics |= self.selection.offer(self.steps_done, setup.validate(), self.model)
            setup.publish()
            timing["validation_s"] = time.monotonic() - start - timing["update_s"]
        timing["peak_memory_bytes"] = float(peak_memory_bytes(self.model.device))
        return StepResult(metrics, timing)

    def _units(self) -> list[Views]:
        """Returns the states of the step, the same in every process; a smaller last unit where the numbers ask it."""
        run, keys, setup = self.setup.run, self.algorithm.config, self.setup
        self.order.cursor = self.steps_done * run.sequences
        chosen = [self.targets[index] for index in self.order.look(run.sequences)]
        found, progress = [], min(self.spent, 1 - 1e-9)
        for number, first in enumerate(range(0, len(chosen), keys.mean_over)):
            rng = np.random.default_rng([setup.seed, self.steps_done, number])
            unit = chosen[first : first + keys.mean_over]
            found.append(self.algorithm.views(unit, self.model.config, rng, progress))
        return found

    def _forwards(self, units: list[Views]) -> list[_Forward]:
        """Returns this process's forwards: units of similar cost, at most so many answers and positions together."""
        run, world = self.setup.run, self.setup.world
        costs = [unit.num_tokens for unit in units]
        size, limit = max(1, run.microbatch // self.algorithm.config.mean_over), run.microbatch_positions or sys.maxsize
        pieces = cut(np.argsort(costs, kind="stable"), costs, size, limit)
        return [_Forward([units[index] for index in piece], weight) for piece, weight in world.turns(pieces)]

    def _backward(self, units: list[Views]) -> dict[str, float]:
        """Adds the gradient of the mean over units; returns that mean and sums over tokens, of all processes."""
        sums: dict[str, float] = {}
        for forward in self._forwards(units):
            loss, logged = self.algorithm.loss(
                self.model, self.setup.reference, self._packed(forward.units), forward.units
            )
            loss = loss / len(units) * forward.weight
            loss.backward()
            reshard(self.setup.reference)
            for name, value in {**logged, "loss": loss.detach()}.items():
                share = float(value) * (1.0 if name == "loss" else forward.weight)
                sums[name] = sums.get(name, 0.0) + share
        return self.setup.world.totals(sums)

    def _packed(self, units: list[Views]) -> Packed:
        rows: Any = [row for unit in units for row in unit.rows]
        put = pack_canvases if isinstance(rows[0], CanvasRow) else pack
        return put(rows, self.model.device, self.model.config.logit_shift)

    def _rate(self) -> float:
        """Returns the rate's factor at the next update: linear warm-up once a run, then the schedule."""
        run, schedule = self.setup.run, self.algorithm.config.schedule
        warm = min(1.0, (self.steps_done + 1) / run.warmup_updates) if run.warmup_updates else 1.0
        if schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent)))
        return warm * (1.0 - min(1.0, self.spent)) if run.decay or schedule == "linear" else warm

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        if row["skipped"]:
            return f"step {row['step']}  loss or gradient not finite: skipped"
        share = f"  right {100 * row['correct_share']:.0f} %" if "correct_share" in row else ""
        return f"step {row['step']}  {100 * self.spent:.0f} % of the budget  loss {row['loss']:.3f}{share}"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.setup.publish()
