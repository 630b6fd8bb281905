"""What a trainer is, and the loop around every one: resume, step, save, stop.

A kill at any moment costs at most `save_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightningrl.errors import Interrupted, TrainingError
from lightningrl.models.transformer import Transformer
from lightningrl.training.shards import load_optimiser, load_weights, local_state
from lightningrl.training.state import load_state, save_state
from lightningrl.training.world import World
from lightningrl.utils import files
from lightningrl.utils.lease import lease

LEASE = "training.lease"
REPORT_S = 10.0
MOST_SKIPPED = 5
"""Steps running without an update, because their loss or gradient was not finite, that end a run."""


def diverged(steps: int) -> TrainingError:
    """Returns the error that ends a run in which no update could be taken for so many steps."""
    return TrainingError(
        f"no update could be taken in {steps} steps running: their loss or gradient is not finite. Begin anew with a "
        "lower learning rate, or look at what is trained on; the last saved state stays."
    )


@dataclass(frozen=True, slots=True)
class StepResult:
    """The metrics of one step, and the volatile figures beside them."""

    metrics: Mapping[str, Any]
    """Reproducible numbers of the step, JSON values; `step` counts from 1."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase, which are never compared and never part of a result."""
    sample: Mapping[str, Any] | None = None
    """Responses of the step for people to read: reproducible JSON values, a line of the samples file."""


class Trained:
    """A model in training. Its state is the model's, its optimiser's, that of `parts`, and the values of `counters`."""

    model: Transformer
    optimiser: Any
    counters: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """What else has a state of its own, by name."""
        return {}

    @property
    def trained(self) -> dict[str, Any]:
        """The weights that training changes, by name; frozen ones are the base's and need no saving."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the next step depends on, as this process's tensors and plain values."""
        return {
            "model": local_state(self.trained),
            "optimiser": local_state(self.optimiser.state_dict()),
            **{name: getattr(self, name) for name in self.counters},
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        load_weights(self.trained, state["model"])
        load_optimiser(self.optimiser, state["optimiser"])
        for name in self.counters:
            setattr(self, name, state[name])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class Trainer(Trained):
    """Takes the steps of a training until it is done, and says of each what a person reads.

    Pre-training, reinforcement learning, the supervised control, the distillations and planner pre-training are
    subclasses.
    """

    selection: Any = None
    """The object that keeps the weights that the run would end with (rl/selection.py); None: those of its last step."""

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        raise NotImplementedError

    def step(self) -> StepResult:
        """Takes one step, which depends on the state alone: after load_state_dict it goes on bit for bit."""
        raise NotImplementedError

    def describe(self, result: StepResult) -> str:
        """Returns one line of progress for people."""
        raise NotImplementedError


class History(NamedTuple):
    """The metrics of each step of a run, with those before it was resumed, and the samples of those that have one."""

    rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]


def train(
    trainer: Trainer, state: Path, *, save_every: int, fingerprint: Mapping[str, Any],
    report: Callable[[str], None], timing: Callable[..., None], should_stop: Callable[[], bool],
    growing: Collection[str] = (), world: World = World(),  # noqa: B008 (frozen)
) -> History:  # fmt: skip
    """Trains until the trainer is done; returns the history of the whole run.

    Every process of the world calls it with the same folder `state`. fingerprint: the scientific config as JSON data; a
    state that was saved under another one is refused. growing: its keys whose numbers may rise, such as `steps` where
    nothing but the run's end depends on them.

    Raises Interrupted, after saving, when `should_stop` says so; StageError when another process trains in `state` or
    the disk is full (the last saved state stays); CheckpointError when the saved state is damaged or belongs to another
    config.
    """
    with lease(state, LEASE, target=state) if world.is_first else nullcontext():
        world.barrier()
        saved = load_state(state, fingerprint=fingerprint, growing=growing, world=world)
        history = History(saved["rows"], saved["samples"]) if saved else History([], [])
        rows, samples = history.rows, history.samples
        if saved:
            trainer.load_state_dict(saved["trainer"])
            if "chosen" in saved:
                trainer.selection.take_chosen(saved["chosen"])
            report(f"resumed after step {len(rows)}")
        reported = time.monotonic()
        while not trainer.done:
            start = time.monotonic()
            result = trainer.step()
            rows.append(dict(result.metrics))
            if result.sample is not None:
                samples.append(dict(result.sample))
            timing(step=len(rows), seconds=time.monotonic() - start, **result.timing)
            stopping = world.any(should_stop()) and not trainer.done
            if stopping or trainer.done or len(rows) % save_every == 0:
                content = {"trainer": trainer.state_dict(), "rows": rows, "samples": samples}
                chosen = trainer.selection.chosen_weights if trainer.selection else None
                save_state(state, len(rows), content, fingerprint=fingerprint, world=world, chosen=chosen)
                if world.is_first:
                    files.write_jsonl(state / "metrics.jsonl", rows)
                    if samples:
                        files.write_jsonl(state / "samples.jsonl", samples)
            if stopping:
                raise Interrupted(f"stopped after step {len(rows)}; run the same command again to resume from there")
            if trainer.done or time.monotonic() - reported > REPORT_S:
                report(trainer.describe(result))
                reported = time.monotonic()
    return history
