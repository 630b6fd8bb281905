"""Pre-training of the miniature's base: autoregressive warm start, block diffusion until flat, decay.

SDAR's own recipe in small. The learning rate is constant until validation accuracy (greedy, mean over benchmarks)
is flat or the phase's steps are spent, then falls linearly to zero. All draws are keyed by (seed, step).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

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

    corpora: sequences by benchmark; shares: their part of each batch; validate: figures by name, `accuracy_pct` the
    mean that the plateau is judged by.
    """

    def __init__(
        self,
        config: Pretrain,
        seed: int,
        model: SDAR,
        corpora: Mapping[str, Sequence[TrainingSequence]],
        validate: Callable[[], dict[str, float]],
    ):
        self.config, self.seed, self.model, self.validate = config, seed, model, validate
        self.corpora = corpora
        names = list(corpora)
        total = sum(config.mixture.get(name, 1.0 if not config.mixture else 0.0) for name in names)
        self.shares = {name: config.mixture.get(name, 1.0 if not config.mixture else 0.0) / total for name in names}
        self.optimiser = SupervisedOptimiser(model, config.learning_rate, config.muon_learning_rate)
        self.steps_done = 0
        self.diffusion_steps: int | None = None
        """Steps the diffusion phase took, once it is over."""
        self.history: list[float] = []

    @property
    def phase(self) -> str:
        """Of the step about to be taken: `autoregressive`, `diffusion`, `decay`."""
        if self.steps_done < self.config.autoregressive.max_steps:
            return "autoregressive"
        return "diffusion" if self.diffusion_steps is None else "decay"

    @property
    def decayed(self) -> int:
        """Steps of the decay phase already taken."""
        return self.steps_done - self.config.autoregressive.max_steps - (self.diffusion_steps or 0)

    @property
    def done(self) -> bool:
        return self.phase == "decay" and self.decayed >= self.config.decay_steps

    def step(self) -> StepResult:
        start, phase = time.monotonic(), self.phase
        factor = min(1.0, (self.steps_done + 1) / max(1, self.config.warmup_steps))
        if phase == "decay":
            factor *= 1.0 - self.decayed / self.config.decay_steps
        loss = supervised_backward(self.model, self._rows(phase), self.config.microbatch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimiser.step(factor)
        self.steps_done += 1
        metrics: dict[str, Any] = {"step": self.steps_done, "phase": phase, "loss": loss, "rate": factor}
        timing = {"update_s": time.monotonic() - start}
        if self._validation_due(phase):
            metrics |= self.validate()
            if phase == "diffusion":
                self._judge_plateau(metrics["accuracy_pct"])
            timing["validation_s"] = time.monotonic() - start - timing["update_s"]
        return StepResult(metrics, timing)

    def _rows(self, phase: str) -> list[tuple[PackedRow, np.ndarray]]:
        plan: Phase = self.config.autoregressive if phase == "autoregressive" else self.config.diffusion
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

    def _validation_due(self, phase: str) -> bool:
        if phase == "diffusion":
            taken = self.steps_done - self.config.autoregressive.max_steps
            return taken % self.config.plateau.every == 0 or taken == self.config.diffusion.max_steps
        return self.done

    def _judge_plateau(self, accuracy_pct: float) -> None:
        """End the diffusion phase when its steps are spent or the last `patience` validations brought no gain."""
        self.history.append(accuracy_pct)
        plateau, taken = self.config.plateau, self.steps_done - self.config.autoregressive.max_steps
        before, recent = self.history[: -plateau.patience], self.history[-plateau.patience :]
        flat = bool(before) and max(recent) < max(before) + plateau.min_gain_pct
        if flat or taken >= self.config.diffusion.max_steps:
            self.diffusion_steps = taken

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        validated = f"  validation accuracy {row['accuracy_pct']:.1f} %" if "accuracy_pct" in row else ""
        return f"step {row['step']} ({row['phase']})  loss {row['loss']:.3f}{validated}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps_done": self.steps_done,
            "diffusion_steps": self.diffusion_steps,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps_done, self.history = state["steps_done"], list(state["history"])
        self.diffusion_steps = state["diffusion_steps"]


def split_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided by shares, largest remainder first; the counts add up."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
