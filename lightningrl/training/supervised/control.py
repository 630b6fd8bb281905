"""The control: more supervised block-diffusion training from the same base, with the compute that another run spent.

Only what RL gains over it is the merit of RL. The learning rate falls linearly to zero as the budget of token-forwards
(a backward counts as two) is spent. Its checkpoint is the most accurate one on validation: it is not trained for speed,
and a control should be as strong as it can be.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lightningrl.rl.selection import Selection
from lightningrl.rl.setup import TrainSetup
from lightningrl.training.protocol import StepResult
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.objective import diffusion_row, supervised_backward
from lightningrl.training.supervised.optimiser import SupervisedOptimiser

MAX_GRAD_NORM = 1.0


class MostAccurate(Selection):
    """Selects the checkpoint with the highest validation accuracy, of equal ones the last."""

    rule = "highest validation accuracy; of equals the last"

    def rank(self, validation: Mapping[str, float]) -> tuple[float, ...]:
        return (validation["validation_accuracy_pct"],)


class SupervisedTrainer:
    """A `Trainer` (training/protocol.py) on the train split of the run's benchmark."""

    def __init__(self, setup: TrainSetup):
        self.setup = setup
        run, config = setup.run, setup.model.config
        self.corpus = build_corpus(setup.tokenizer, setup.train, setup.task.render, config.block_size)
        self.optimiser = SupervisedOptimiser(setup.model, run.learning_rate, run.muon_learning_rate)
        self.steps_done = self.token_forwards = 0
        self.selection = MostAccurate()

    @property
    def spent(self) -> float:
        """The share of the budget that is spent: of the other run's compute if there is one, else of the steps."""
        budget = self.setup.compute_budget
        return self.token_forwards / budget if budget else self.steps_done / self.setup.run.steps

    @property
    def done(self) -> bool:
        return self.spent >= 1.0

    def step(self) -> StepResult:
        start, run, config = time.monotonic(), self.setup.run, self.setup.model.config
        if self.steps_done == 0:
            self.selection.start(self.setup.validate())
        rng = np.random.default_rng([self.setup.seed, self.steps_done])
        chosen = rng.integers(0, len(self.corpus), run.sequences)
        rows = [diffusion_row(self.corpus[i], config.block_size, run.copies, config.mask_token_id, rng) for i in chosen]
        loss = supervised_backward(self.setup.model, rows, run.microbatch)
        torch.nn.utils.clip_grad_norm_(self.setup.model.parameters(), MAX_GRAD_NORM)
        self.optimiser.step(1.0 - self.spent)
        self.token_forwards += 3 * sum(row.num_tokens for row, _ in rows)
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "loss": loss, "token_forwards": self.token_forwards}
        if self.steps_done % run.validate_every == 0 or self.done:
            metrics |= self.selection.offer(self.steps_done, self.setup.validate(), self.setup.model)
        return StepResult(metrics, {"update_s": time.monotonic() - start})

    def describe(self, result: StepResult) -> str:
        return (
            f"step {result.metrics['step']}  {100 * self.spent:.0f} % of the budget  loss {result.metrics['loss']:.3f}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.setup.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps_done": self.steps_done,
            "token_forwards": self.token_forwards,
            "selection": self.selection.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.setup.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps_done, self.token_forwards = state["steps_done"], state["token_forwards"]
        self.selection.load_state_dict(state["selection"])
