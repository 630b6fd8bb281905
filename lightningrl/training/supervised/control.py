"""The control: more supervised training of the base's own kind, with the compute that another run spent.

Only what RL gains over it is the merit of RL. The learning rate falls linearly to zero as the budget of token-forwards
(a backward counts as two) is spent. Its checkpoint is the most accurate one on validation: it is not trained for speed,
and a control should be as strong as it can be. Processes share a step's micro-batches, whose rows each of them draws.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from lightningrl.rl.selection import Selection
from lightningrl.rl.setup import TrainSetup
from lightningrl.training.budgeted import BudgetedTrainer
from lightningrl.training.loop import StepResult
from lightningrl.training.shards import dtype_of
from lightningrl.training.supervised.algorithm import USUAL
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.objective import supervised_backward
from lightningrl.training.supervised.optimiser import SupervisedOptimiser
from lightningrl.utils.registry import resolve


class SupervisedTrainer(BudgetedTrainer):
    """Trains on the train split of the run's benchmark."""

    def __init__(self, setup: TrainSetup):
        self.setup, self.model, run = setup, setup.model, setup.run
        config = self.model.config
        setup.check(run.implementation)
        self.begin()
        self.objective = resolve(USUAL[config.attention])(config, run)
        is_blocks = config.attention == "block_causal"
        canvas = setup.task.max_new_tokens if config.attention == "full" else None
        self.corpus = build_corpus(
            setup.tokenizer, setup.train, setup.task.render, config.block_size if is_blocks else 1, canvas,
            config.max_position_embeddings,
        )  # fmt: skip
        self.optimiser = SupervisedOptimiser(self.model, run.learning_rate, run.muon_learning_rate)
        self.selection = Selection(
            "highest validation accuracy; of equals the last", lambda figures: (figures["validation_accuracy_pct"],),
            setup.world.is_first, dtype_of(run.precision),
        )  # fmt: skip

    def step(self) -> StepResult:
        start, run = time.monotonic(), self.setup.run
        if self.steps_done == 0:
            self.selection.start(self.setup.validate())
        rng = np.random.default_rng([self.setup.seed, self.steps_done])
        chosen = rng.integers(0, len(self.corpus), run.sequences)
        rows = [row for i in chosen for row in self.objective.rows(self.corpus[i], rng)]
        loss = supervised_backward(
            self.model, rows, run.microbatch, cross_entropy=self.objective.loss, world=self.setup.world
        )
        self.optimiser.step(1.0 - self.spent)
        self.setup.publish()
        self.token_forwards += 3 * sum(row.num_tokens for row, _ in rows)
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "loss": loss, "token_forwards": self.token_forwards}
        if self.steps_done % run.validate_every == 0 or self.done:
            metrics |= self.selection.offer(self.steps_done, self.setup.validate(), self.model)
        return StepResult(metrics, {"update_s": time.monotonic() - start})

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        return f"step {row['step']}  {100 * self.spent:.0f} % of the budget  loss {row['loss']:.3f}"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.setup.publish()
