"""One RL step: roll out groups, filter, score under the base, update the policy a few times (paper, Algorithm 1).

Old log-probabilities are the decoder's own; the trainer's recomputation is compared with them at every first update.
What differs between algorithms is behind `Algorithm` (rl/algorithms/). Single process; distribution is not here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightningrl.answering import Answer, Task, answer, score
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import Policy
from lightningrl.errors import CheckpointError
from lightningrl.models.sdar import SDAR
from lightningrl.rl.algorithms.protocol import Algorithm
from lightningrl.rl.likelihood import behaviour_of, score_tokens
from lightningrl.rl.losses import Weights
from lightningrl.rl.rollout import Drawn, Groups, PromptOrder, draw_groups
from lightningrl.rl.selection import Fastest
from lightningrl.rl.step_metrics import collapse_metrics, rollout_metrics
from lightningrl.rl.update import Batch, update
from lightningrl.training.protocol import StepResult
from lightningrl.types import Example, Trajectory

if TYPE_CHECKING:
    from lightningrl.config.train import Run

MAX_LOGP_GAP_NATS = 0.05
"""Mean gap between the decoder's log-probabilities and the trainer's past which something is wrong."""


@dataclass(slots=True)
class TrainSetup:
    """What every training algorithm is built from."""

    run: Run
    seed: int
    """Experiment and run seed together."""
    model: SDAR
    """The policy, trained in place."""
    reference: SDAR
    """The frozen base."""
    decoder: BlockDecoder
    """Over `model`."""
    policy: Policy
    """How responses are decoded; temperature and keys are set for each use."""
    tokenizer: Any
    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    compute_budget: int | None = None
    """Token-forwards to spend (`match_compute`), a backward counted as two."""

    def validate(self) -> dict[str, float]:
        """Greedy accuracy and TPF on the validation split, at the run's threshold."""
        policy = replace(self.policy, temperature=0.0)
        found = score(answer(self.decoder, self.tokenizer, self.task, [(e, 0) for e in self.validation], policy))
        self.decoder.ledger.clear()
        return {
            "validation_accuracy_pct": found.accuracy_pct,
            "validation_tpf": found.tpf,
            "validation_forwards_per_problem": found.forwards_per_problem,
            "validation_response_tokens_mean": found.response_tokens_mean,
        }


class PolicyTrainer:
    """A `Trainer` (training/protocol.py) for any `Algorithm`."""

    def __init__(self, setup: TrainSetup, algorithm: Algorithm):
        self.setup, self.algorithm = setup, algorithm
        run = setup.run
        self.optimiser = torch.optim.AdamW(
            setup.model.parameters(), lr=run.learning_rate, betas=(0.9, 0.999), weight_decay=run.weight_decay
        )
        self.order = PromptOrder(len(setup.train), setup.seed)
        self.steps_done = self.updates_done = self.token_forwards = 0
        self.selection = Fastest(setup.run.accuracy_tolerance_pct)

    @property
    def done(self) -> bool:
        return self.steps_done >= self.setup.run.steps

    def step(self) -> StepResult:
        run, clock = self.setup.run, _Clock()
        if self.steps_done == 0:
            self.selection.start(self.setup.validate())
        step = self.steps_done + 1
        drawn = self._draw(step)
        rollout_positions = self.setup.decoder.ledger.positions
        self.setup.decoder.ledger.clear()
        clock.mark("rollout_s")
        metrics = {"step": step} | rollout_metrics(drawn, self.setup.task.judge.graded, run.prompts)
        batches, advantage_NG = self._batches(drawn.kept, step)
        if batches:
            metrics |= collapse_metrics(drawn.kept, advantage_NG, self.setup.task.judge.graded)
        clock.mark("reference_s")
        metrics |= self._update_all(batches)
        clock.mark("update_s")
        trained = sum(batch.positions for batch in batches)
        self.token_forwards += rollout_positions + 4 * trained  # reference 1, forward 1, backward 2
        metrics |= {"rollout_positions": rollout_positions, "token_forwards": self.token_forwards}
        self.steps_done = step
        if step % run.validate_every == 0 or self.done:
            validation = self.setup.validate()
            metrics |= validation
            self.selection.offer(step, validation, self.setup.model)
            clock.mark("validation_s")
        return StepResult(metrics, clock.seconds)

    def _draw(self, step: int) -> Drawn:
        run, setup = self.setup.run, self.setup
        policy = replace(setup.policy, temperature=run.temperature, seed=setup.seed, step=step)
        drawn: Counter[str] = Counter()

        def roll(examples: Sequence[Example]) -> list[list[Answer]]:
            asked = []
            for example in examples:
                # A prompt drawn again in one step (the seam of two passes) gets other samples, hence other draws.
                first = drawn[example.uid]
                asked += [(example, sample) for sample in range(first, first + run.responses)]
                drawn[example.uid] += run.responses
            answers = answer(setup.decoder, setup.tokenizer, setup.task, asked, policy)
            return [answers[i : i + run.responses] for i in range(0, len(answers), run.responses)]

        return draw_groups(
            setup.train, self.order, run.prompts, run.max_rounds, roll, run.filter_tpf_range, run.filter_all_wrong
        )

    def _batches(self, kept: Groups, step: int) -> tuple[list[Batch], np.ndarray]:
        """Split the kept groups among the step's updates; advantages are of each update's own batch.

        Returns the batches, and the advantages (N, G) in the order of the kept groups.
        """
        run = self.setup.run
        shuffled = np.random.default_rng([self.setup.seed, step]).permutation(len(kept.answers))
        advantage_NG = np.zeros((len(kept.answers), run.responses))
        batches = []
        for chosen in np.array_split(shuffled, run.updates):
            if not len(chosen):
                continue
            accuracy_NG = kept.accuracy_reward(self.setup.task.judge.graded)[chosen]
            advantage_NG[chosen] = self.algorithm.advantages(accuracy_NG, kept.tpf_NG[chosen])
            nll_NG = self.algorithm.nll_set(kept.correct_NG[chosen])
            trajectories: list[Trajectory] = kept.trajectories(chosen.tolist())
            batches.append(
                Batch.build(
                    trajectories, advantage_NG[chosen].ravel(), nll_NG.ravel(), self.setup.reference, run.microbatch
                )
            )
        return batches, advantage_NG

    def _update_all(self, batches: list[Batch]) -> dict[str, Any]:
        run, rows = self.setup.run, []
        weights = Weights(run.clip_low, run.clip_high, run.kl, run.nll)
        for number, batch in enumerate(batches):
            if number == 0:
                gap_mean, gap_max = self._logp_gap(batch)
            self.updates_done += 1
            for group in self.optimiser.param_groups:
                group["lr"] = run.learning_rate * self._rate()
            rows.append(update(self.setup.model, self.optimiser, batch, weights, run.max_grad_norm))
        if not rows:
            return {"updates": 0}
        means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
        first = {f"first_{name}": rows[0][name] for name in ("ratio", "clip_fraction")}
        return means | first | {"updates": len(rows), "logp_gap_mean": gap_mean, "logp_gap_max": gap_max}

    def _rate(self) -> float:
        """Learning-rate factor of the update about to be taken: warm-up once a run, then constant or linear decay."""
        run = self.setup.run
        warm = min(1.0, self.updates_done / run.warmup_updates) if run.warmup_updates else 1.0
        return warm * (1.0 - self.steps_done / run.steps) if run.decay else warm

    @torch.no_grad()
    def _logp_gap(self, batch: Batch) -> tuple[float, float]:
        """Mean and largest |decoder - trainer| log-probability of the first micro-batch, nats."""
        trajectories = batch.micro[0].trajectories
        scores = score_tokens(self.setup.model, trajectories)
        gap_n = (scores.logp_n - behaviour_of(trajectories, scores)).abs()
        mean, largest = float(gap_n.mean()), float(gap_n.max())
        if mean > MAX_LOGP_GAP_NATS:
            raise CheckpointError(
                f"decoder and trainer disagree by {mean:.3f} nats a token (allowed: {MAX_LOGP_GAP_NATS}). They must "
                "have the same weights, block size and precision."
            )
        return mean, largest

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        if "reward_total_mean" not in row:
            return f"step {row['step']}/{self.setup.run.steps}  no response could be scored: see groups_unscorable"
        return (
            f"step {row['step']}/{self.setup.run.steps}  reward {row['reward_total_mean']:.2f}  accuracy "
            f"{row['accuracy_pct']:.0f} %  tpf {row['tpf']:.2f}  groups {row['groups_kept']}/{row['groups_sampled']}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.setup.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "cursor": self.order.cursor,
            "steps_done": self.steps_done,
            "updates_done": self.updates_done,
            "token_forwards": self.token_forwards,
            "selection": self.selection.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.setup.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.order.cursor = state["cursor"]
        self.steps_done, self.updates_done = state["steps_done"], state["updates_done"]
        self.token_forwards = state["token_forwards"]
        self.selection.load_state_dict(state["selection"])


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None when a skipped update left nothing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now
