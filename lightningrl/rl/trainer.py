"""One RL step: roll out groups, filter, score under the base, update the policy a few times (paper, Algorithm 1).

Old log-probabilities are the decoder's own; the trainer's recomputation is compared with them at every first update.
What differs between algorithms are the hooks of an `OnlineAlgorithm` (rl/algorithm.py). The same code runs in every
process of a world: each knows all answers and computes its share of the forwards.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightningrl.answering import Answer
from lightningrl.errors import CheckpointError
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.groups import Groups
from lightningrl.rl.health import RolloutLosses, StallGuard
from lightningrl.rl.likelihood import behaviour_of, check_scorable, score_tokens
from lightningrl.rl.microbatches import forwards_of
from lightningrl.rl.rollout import PromptOrder, RolloutBatch, draw_groups
from lightningrl.rl.samples import SAMPLE_EVERY, sample_row
from lightningrl.rl.selection import Fastest
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.states import AS_DECODED
from lightningrl.rl.step_metrics import rollout_metrics
from lightningrl.rl.update import Batch, update
from lightningrl.training.average import WeightAverage
from lightningrl.training.protocol import StepResult
from lightningrl.training.shards import load_optimiser, load_weights, local_state
from lightningrl.types import Example, Trajectory

MAX_LOGP_GAP_NATS = 0.05
"""Mean gap between the decoder's log-probabilities and the trainer's past which something is wrong."""
COUNTERS = ("steps_done", "updates_done", "token_forwards")


class PolicyTrainer:
    """A `Trainer` (training/protocol.py) that takes the steps of any `OnlineAlgorithm`."""

    def __init__(self, setup: TrainSetup, algorithm: OnlineAlgorithm):
        run = setup.run
        self.setup, self.algorithm = setup, algorithm
        check_scorable(setup.model.config, [setup.policy, *setup.mixture], run.accept_inexact_caches)
        algorithm.build(setup)
        parameters = [*setup.model.parameters(), *algorithm.parameters()]
        self.optimiser = torch.optim.AdamW(
            parameters, lr=run.learning_rate, betas=(0.9, 0.999), weight_decay=run.weight_decay
        )
        self.special_ids = setup.tokenizer.all_special_ids
        self.order = PromptOrder(len(setup.train), setup.seed)
        self.steps_done = self.updates_done = self.token_forwards = 0
        self.watch = StallGuard()
        self.average = WeightAverage(setup.model, run.averaging) if run.averaging else None
        self.selection = Fastest(run.accuracy_tolerance_pct)
        self.selection.keeps_weights = setup.world.is_first

    @property
    def forwards_a_position(self) -> int:
        """Forwards a trained position, a backward counted as two: the update, the base's and old log-probabilities
        where they are computed, and those of the algorithm's own models."""
        scored = self.algorithm.needs_reference + (self.algorithm.states != AS_DECODED)
        return 3 + scored + self.algorithm.own_forwards

    @property
    def done(self) -> bool:
        return self.steps_done >= self.setup.run.steps

    def step(self) -> StepResult:
        run, clock = self.setup.run, _Clock()
        if self.steps_done == 0:
            self.selection.start(self.setup.validate())  # the average begins at the base, too
        step = self.steps_done + 1
        drawn, losses = self._draw(step)
        ledger = self.setup.decoder.ledger
        rollout_positions = int(self.setup.world.totals({"positions": ledger.positions})["positions"])
        ledger.clear()
        clock.mark("rollout_s")
        failed = self.algorithm.dropped(drawn.sampled) if drawn.sampled.answers else {}
        dropped = {name: int(failed_N.sum()) for name, failed_N in failed.items()}
        metrics = {"step": step} | rollout_metrics(drawn, run.prompts, self.special_ids) | losses.metrics()
        metrics |= {f"groups_dropped_{name.removeprefix('filter_')}": count for name, count in dropped.items()}
        self.watch.see(step, drawn, losses, dropped)
        batches, advantage_NG = self._batches(drawn.kept, step)
        if batches:
            metrics |= self.algorithm.metrics(drawn.kept, advantage_NG)
        clock.mark("reference_s")
        metrics |= self._update_all(batches)
        if self.average:
            self.average.update()
        self.watch.see_updates(step, metrics)
        self.setup.publish()
        clock.mark("update_s")
        trained = sum(batch.positions for batch in batches)
        self.token_forwards += rollout_positions + self.forwards_a_position * trained
        metrics |= {"rollout_positions": rollout_positions, "trained_positions": trained}
        metrics |= {"token_forwards": self.token_forwards}
        speed = {
            "rollout_tokens_per_s": drawn.sampled.length_NG.sum() / clock.seconds["rollout_s"],
            "update_positions_per_s": trained / clock.seconds["update_s"],
            "peak_memory_bytes": _peak_memory_bytes(self.setup.model.device),
        }
        self.steps_done = step
        if step % run.validate_every == 0 or self.done:
            with self._as_shipped():
                metrics |= self.selection.offer(step, self.setup.validate(), self.setup.model)
            clock.mark("validation_s")
        timing = clock.seconds | {name: float(value) for name, value in speed.items()}
        return StepResult(metrics, timing, self._sample(drawn.kept, step))

    @contextmanager
    def _as_shipped(self) -> Iterator[None]:
        """While it lasts, the model and the decoder have the weights that are validated and shipped."""
        if self.average is None:
            yield
            return
        try:
            with self.average.in_place():
                self.setup.publish()
                yield
        finally:
            self.setup.publish()

    def _sample(self, kept: Groups, step: int) -> dict[str, Any] | None:
        """The best and the worst response of a group, now and then."""
        if (step - 1) % SAMPLE_EVERY or not kept.answers:
            return None
        rewards = self.algorithm.rewards(kept)
        return sample_row(kept, rewards, self.setup.tokenizer, seed=self.setup.seed, step=step)

    def _draw(self, step: int) -> tuple[RolloutBatch, RolloutLosses]:
        run, setup, losses = self.setup.run, self.setup, RolloutLosses()
        drawn: Counter[str] = Counter()

        def roll(examples: Sequence[Example]) -> list[list[Answer]]:
            requests = []
            for example in examples:
                # A prompt drawn again in one step (the seam of two passes) gets other samples, hence other draws.
                first = drawn[example.uid]
                requests += [(example, sample) for sample in range(first, first + run.responses)]
                drawn[example.uid] += run.responses
            return setup.rollouts(requests, run.responses, step, losses)

        def read(answers: list[list[Answer]]) -> Groups:
            return self.algorithm.groups(answers, setup.task)

        found = draw_groups(setup.train, self.order, run.prompts, run.max_rounds, roll, self.algorithm.keep, read)
        total = RolloutLosses()
        for share in setup.world.gather([losses], setup.world.size):
            total.add(share)
        return found, total

    def _batches(self, kept: Groups, step: int) -> tuple[list[Batch], np.ndarray]:
        """Split the kept groups among the step's updates; advantages are of each update's own batch.

        Returns the batches, and the trajectories' advantages (N, G) in the order of the kept groups.
        """
        run, setup, algorithm = self.setup.run, self.setup, self.algorithm
        shuffled = np.random.default_rng([setup.seed, step]).permutation(len(kept.answers))
        advantage_NG = np.zeros((len(kept.answers), run.responses))
        batches = []
        for chosen in np.array_split(shuffled, run.updates):
            if not len(chosen):
                continue
            groups = kept.chosen(chosen.tolist())
            advantage_NG[chosen] = algorithm.advantages(groups)
            batch = Batch.build(
                algorithm, groups.trajectories, advantage_NG[chosen].ravel(), algorithm.imitated(groups).ravel(),
                setup.model, setup.reference, run.microbatch, setup.world, run.microbatch_positions,
            )  # fmt: skip
            algorithm.prepare(batch)
            batches.append(batch)
        return batches, advantage_NG

    def _update_all(self, batches: list[Batch]) -> dict[str, Any]:
        run, setup, algorithm, rows = self.setup.run, self.setup, self.algorithm, []
        happened = algorithm.states == AS_DECODED
        for batch in batches:
            check = self._check_gap if happened and not rows else None
            if not rows and not happened:
                gap_mean, gap_max = self._logp_gap(batch.first)
                self._check_gap(gap_mean)
            self.updates_done += 1
            for group in self.optimiser.param_groups:
                group["lr"] = run.learning_rate * self._rate()
            row = update(algorithm, setup.model, self.optimiser, batch, run.max_grad_norm, setup.world, check)
            row |= algorithm.update(batch)
            if not rows and happened:
                gap_mean, gap_max = row["log_ratio_abs_mean"], row["log_ratio_abs_max"]
            rows.append(row)
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
    def _logp_gap(self, trajectories: list[Trajectory]) -> tuple[float, float]:
        """Mean and largest |decoder - trainer| log-probability in the states that happened, nats."""
        run, gaps = self.setup.run, []
        for forward in forwards_of(trajectories, AS_DECODED, run.microbatch, run.microbatch_positions, by_cost=False):
            rows = [trajectories[index] for index in forward.index_B]
            scores = score_tokens(self.setup.model, rows, AS_DECODED, forward.copies)
            gaps.append((scores.logp_n - behaviour_of(rows, scores)).abs())
        gap_n = torch.cat(gaps)
        return float(gap_n.mean()), float(gap_n.max())

    @staticmethod
    def _check_gap(mean: float) -> None:
        """Raises CheckpointError when the decoder's log-probabilities are not of the trainer's model."""
        if mean > MAX_LOGP_GAP_NATS:
            raise CheckpointError(
                f"decoder and trainer disagree by {mean:.3f} nats a token (allowed: {MAX_LOGP_GAP_NATS}). They must "
                "have the same weights, block size and precision."
            )

    def describe(self, result: StepResult) -> str:
        row = result.metrics
        if "reward_total_mean" not in row:
            return f"step {row['step']}/{self.setup.run.steps}  no response could be scored: see groups_unscorable"
        return (
            f"step {row['step']}/{self.setup.run.steps}  accuracy reward {row['reward_accuracy_mean']:.2f}  accuracy "
            f"{row['accuracy_pct']:.0f} %  tpf {row['tpf']:.2f}  kept {row['groups_kept']} of "
            f"{row['groups_sampled']} groups"
        )

    @property
    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its name in the trainer's."""
        parts = {"watch": self.watch, "selection": self.selection, "algorithm": self.algorithm}
        return parts | ({"average": self.average} if self.average else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": local_state(dict(self.setup.model.named_parameters())),
            "optimiser": local_state(self.optimiser.state_dict()),
            "cursor": self.order.cursor,
            **{name: getattr(self, name) for name in COUNTERS},
            **{name: part.state_dict() for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_weights(dict(self.setup.model.named_parameters()), state["model"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.order.cursor = state["cursor"]
        for name in COUNTERS:
            setattr(self, name, state[name])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.setup.publish()


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None when a skipped update left nothing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _peak_memory_bytes(device: torch.device) -> int:
    """Returns the most bytes that this process has had so far, on its device or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now
