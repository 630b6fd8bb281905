"""One RL step: roll out groups, filter, score under the base, update the policy a few times (paper, Algorithm 1).

Old log-probabilities are the decoder's own; the trainer's recomputation is compared with them at every first update.
What differs between algorithms are the hooks of an `OnlineAlgorithm` (rl/algorithm.py). The same code runs in every
process of a world: each knows all answers and computes its share of the forwards.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from lightningrl.rl.algorithm import AS_DECODED, OnlineAlgorithm
from lightningrl.rl.groups import Groups
from lightningrl.rl.health import StallGuard
from lightningrl.rl.likelihood import behaviour_of, check_scorable, score_tokens
from lightningrl.rl.logp_gap import check_gap
from lightningrl.rl.rollout import PromptOrder, RolloutBatch, draw_groups
from lightningrl.rl.samples import SAMPLE_EVERY, sample_row
from lightningrl.rl.selection import fastest
from lightningrl.rl.setup import TrainSetup
from lightningrl.rl.state_sampling import StateSampling
from lightningrl.rl.step_metrics import rollout_metrics
from lightningrl.rl.update import Batch, forwards_of, update
from lightningrl.training.loop import StepResult, Trainer
from lightningrl.training.shards import WeightAverage, dtype_of
from lightningrl.types import Trajectory


class PolicyTrainer(Trainer):
    """Takes the steps of any `OnlineAlgorithm`."""

    counters = ("steps_done", "updates_done", "token_forwards")

    def __init__(self, setup: TrainSetup, algorithm: OnlineAlgorithm):
        run = setup.run
        self.setup, self.algorithm, self.model = setup, algorithm, setup.model
        setup.check(algorithm)
        check_scorable(setup.model.config.attention, [setup.policy, *setup.mixture], run.accept_inexact_caches)
        algorithm.build(setup)
        parameters = [*setup.model.parameters(), *algorithm.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, run.learning_rate, (0.9, 0.999), weight_decay=run.weight_decay)
        self.order = PromptOrder(len(setup.train), setup.seed)
        self.steps_done = self.updates_done = self.token_forwards = 0
        self.watch = StallGuard()
        self.average = WeightAverage(setup.model, run.averaging) if run.averaging else None
        self.selection = fastest(run.accuracy_tolerance_pct, setup.world.is_first, dtype_of(run.precision))

    @property
    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"watch": self.watch, "selection": self.selection, "algorithm": self.algorithm}
        return parts | ({"average": self.average} if self.average else {})

    @property
    def forwards_a_position(self) -> int:
        """Forwards a trained position, a backward counted as two: the update, the base's and old log-probabilities
        where they are computed, and those of the algorithm's own models."""
        scored = self.algorithm.needs_reference + (not self.algorithm.states.happened)
        return 3 + scored + self.algorithm.own_forwards

    @property
    def spent(self) -> float:
        """The share of the training that is over: of another run's compute, if that is matched, else of the steps."""
        budget = self.setup.compute_budget
        return self.steps_done / self.setup.run.steps if budget is None else self.token_forwards / budget

    @property
    def done(self) -> bool:
        """Whether all is spent, by one step at least."""
        return self.steps_done > 0 and self.spent >= 1.0

    def step(self) -> StepResult:
        run, setup, at = self.setup.run, self.setup, {"start": time.monotonic()}
        if self.steps_done == 0:
            self.selection.start(setup.validate())  # the average begins at the base, too
        step = self.steps_done + 1
        drawn, ledger = self._draw(step), setup.decoder.ledger
        rollout_positions = int(setup.world.totals({"positions": ledger.positions})["positions"])
        ledger.clear()
        setup.decoder.release()  # an update needs the memory
        at["rollout_s"] = time.monotonic()
        metrics = {"step": step} | rollout_metrics(drawn, run.prompts, setup.tokenizer.all_special_ids)
        failed = self.algorithm.dropped(drawn.sampled) if drawn.sampled.answers else {}
        dropped = {name: int(failed_N.sum()) for name, failed_N in failed.items()}
        metrics |= {f"groups_dropped_{name.removeprefix('filter_')}": count for name, count in dropped.items()}
        batches, advantage_NG = self._batches(drawn.kept, step)
        if batches:
            metrics |= self.algorithm.metrics(drawn.kept, advantage_NG)
        at["reference_s"] = time.monotonic()
        metrics |= self._update_all(batches)
        if self.average:
            self.average.update()
        self.watch.see(drawn, dropped, metrics)
        setup.publish()
        at["update_s"] = time.monotonic()
        trained = sum(batch.positions for batch in batches)
        self.token_forwards += rollout_positions + self.forwards_a_position * trained
        self.token_forwards += sum(batch.untrained_positions for batch in batches)
        metrics |= {"rollout_positions": rollout_positions, "trained_positions": trained}
        metrics["token_forwards"] = self.token_forwards
        self.steps_done = step
        if step % run.validate_every == 0 or self.done:
            # Validated and shipped is the average, if there is one.
            with self.average.in_place() if self.average else nullcontext():
                setup.publish()
                metrics |= self.selection.offer(step, setup.validate(), setup.model)
            setup.publish()
            at["validation_s"] = time.monotonic()
        timing = {name: at[name] - at[before] for before, name in pairwise(at)}
        timing["rollout_tokens_per_s"] = float(drawn.sampled.length_NG.sum() / timing["rollout_s"])
        timing["update_positions_per_s"] = trained / timing["update_s"]
        timing["peak_memory_bytes"] = float(peak_memory_bytes(setup.model.device))
        sample = None
        if (step - 1) % SAMPLE_EVERY == 0 and drawn.kept.answers:
            rewards = self.algorithm.rewards(drawn.kept)
            sample = sample_row(drawn.kept, rewards, setup.tokenizer, seed=setup.seed, step=step)
        return StepResult(metrics, timing, sample)

    def _draw(self, step: int) -> RolloutBatch:
        run, setup, algorithm = self.setup.run, self.setup, self.algorithm
        roll, read = partial(setup.rollouts, step=step), partial(algorithm.groups, task=setup.task)
        size = run.prompts, run.responses, run.max_rounds
        return draw_groups(setup.train, self.order, *size, roll, algorithm.keep, read)

    def _batches(self, kept: Groups, step: int) -> tuple[list[Batch], np.ndarray]:
        """Split the kept groups among the step's updates; advantages are of each update's own batch.

        Returns the batches, and the trajectories' advantages (N, G) in the order of the kept groups.
        """
        run, setup, algorithm = self.setup.run, self.setup, self.algorithm
        shuffled = np.random.default_rng([setup.seed, step]).permutation(len(kept.answers))
        advantage_NG = np.zeros((len(kept.answers), run.responses))
        batches = []
        for number, chosen in enumerate(np.array_split(shuffled, run.updates), 1):
            if not len(chosen):
                continue
            groups = kept.chosen(chosen.tolist())
            advantage_NG[chosen] = algorithm.advantages(groups)
            sampling = StateSampling(run.state_share, setup.seed, step, number) if run.state_share < 1 else None
            batch = Batch.build(
                algorithm, groups.trajectories, advantage_NG[chosen].ravel(), algorithm.imitated(groups).ravel(),
                setup.model, setup.reference, run.microbatch, setup.world, run.microbatch_positions, sampling,
            )  # fmt: skip
            algorithm.prepare(batch)
            batches.append(batch)
        return batches, advantage_NG

    def _update_all(self, batches: list[Batch]) -> dict[str, Any]:
        """Take the updates; returns their mean figures, and the gap between decoder and trainer before the first.

        In the states that happened that is what the first update, skipped or not, finds anyway; else it is computed.
        Raises CheckpointError, before the second update, when at the run's first the decoder's log-probabilities are
        not of the trainer's model.
        """
        run, setup, algorithm, rows = self.setup.run, self.setup, self.algorithm, []
        if not batches:
            return {"updates": 0}
        is_first, noted = self.updates_done == 0, dict[str, Any]()
        mean, largest = self._logp_gap(batches[0].first) if not algorithm.states.happened else (None, None)
        for batch in batches:
            self.updates_done += 1
            for group in self.optimiser.param_groups:
                group["lr"] = run.learning_rate * self._rate()
            row = update(algorithm, setup.model, self.optimiser, batch, run.max_grad_norm, setup.world)
            rows.append(row | algorithm.update(batch))
            if len(rows) == 1:
                if algorithm.states.happened:
                    mean, largest = row["log_ratio_abs_mean"], row["log_ratio_abs_max"]
                noted = check_gap(mean, run, step=self.steps_done + 1, is_first=is_first)
        means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
        first = {f"first_{name}": rows[0][name] for name in ("ratio", "clip_fraction")}
        gap = {"logp_gap_mean": _mean([mean]), "logp_gap_max": _mean([largest])}
        return means | first | gap | noted | {"updates": len(rows)}

    def _rate(self) -> float:
        """Returns the rate's factor at the next update: warm-up once a run, then constant or linear decay."""
        run = self.setup.run
        warm = min(1.0, self.updates_done / run.warmup_updates) if run.warmup_updates else 1.0
        return warm * (1.0 - self.spent) if run.decay else warm

    @torch.no_grad()
    def _logp_gap(self, trajectories: list[Trajectory]) -> tuple[float, float]:
        """Returns the mean and the largest |decoder - trainer| log-probability in the states that happened, nats."""
        run, gaps = self.setup.run, []
        for forward in forwards_of(trajectories, AS_DECODED, run.microbatch, run.microbatch_positions, by_cost=False):
            rows = [trajectories[index] for index in forward.index_B]
            scores = score_tokens(self.setup.model, rows, AS_DECODED, forward.copies)
            gaps.append((scores.logp_n - behaviour_of(rows, scores)).abs())
        gap_n = torch.cat(gaps)
        return float(gap_n.mean()), float(gap_n.max())

    def describe(self, result: StepResult) -> str:
        row, total = result.metrics, f"/{self.setup.run.steps}"
        if self.setup.compute_budget is not None:
            total = f", {100 * self.spent:.0f} % of the budget"
        where = f"step {row['step']}{total}  "
        if "reward_total_mean" not in row:
            return where + "no response could be scored: see groups_unscorable"
        gap = f"  logp gap {row['logp_gap_mean']:.3f} nats" if "logp_gap_allowed" in row else ""
        return where + (
            f"accuracy reward {row['reward_accuracy_mean']:.2f}  accuracy {row['accuracy_pct']:.0f} %  "
            f"tpf {row['tpf']:.2f}  kept {row['groups_kept']} of {row['groups_sampled']} groups{gap}"
        )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"cursor": self.order.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.order.cursor = state["cursor"]
        self.setup.publish()


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of what is there and finite; None when a skipped update left nothing."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the most bytes that this process has had so far, on its device or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
