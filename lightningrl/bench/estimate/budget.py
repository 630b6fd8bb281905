"""What an experiment will need: memory on each device by phase, seconds of an RL step by phase, GPU-hours.

The numbers follow from the config, a model's shape, a device's data sheet and named assumptions; the formulas are in
`memory`, `work` and `seconds`. Supervised controls are not estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lightningrl.bench.estimate import memory, seconds
from lightningrl.bench.estimate.device import Device, Shares
from lightningrl.bench.estimate.lengths import LengthOverrides
from lightningrl.bench.estimate.work import Lengths, trained_positions, training_work
from lightningrl.bench.model_shape import Shape
from lightningrl.config.base import Base
from lightningrl.config.experiment import Experiment
from lightningrl.config.registries import member
from lightningrl.config.tasks import Benchmark
from lightningrl.config.train import Run
from lightningrl.decoding.canvas import page_size
from lightningrl.utils.registry import resolve

VOCABULARY = 400
"""The assumed vocabulary of a tokenizer that the experiment builds itself, which is not known before."""
PROBLEMS = 300
"""The assumed size of a split whose size is not known."""
HOUR_S = 3600.0
COUNTS = ("parameters", "trunk_matrices", "head_parameters", "layer_activations", "kv_numbers")
"""The names of the counts that an estimate shows of a model beside its shape."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An experiment, and the assumptions about how it runs."""

    experiment: Experiment
    shapes: Mapping[str, Shape]
    """The shapes of `base` and of each of the experiment's checkpoints, by name."""
    device: Device
    devices: int | None
    """The devices of every training; None: those that the experiment's resources name for the size of each base."""
    shares: Shares = field(default_factory=Shares)
    lengths_assumed: LengthOverrides = field(default_factory=LengthOverrides)
    checkpointed: bool = True
    """Whether the update uses activation checkpointing."""
    head_chunk: int = 1024
    """Scored positions whose logits exist at the same time."""

    def to_json(self) -> dict[str, Any]:
        """Returns everything that `lightningrl plan` prints."""
        runs = [run for run in self.experiment.runs if run.implementation.rolls_out]
        found = {
            "experiment": self.experiment.experiment,
            "device": asdict(self.device),
            "assumed": asdict(self.shares) | asdict(self.lengths_assumed) | {
                "activation_checkpointing": self.checkpointed, "head_chunk_positions": self.head_chunk
            },
            "models": {
                name: asdict(shape) | {count: getattr(shape, count) for count in COUNTS}
                for name, shape in self.shapes.items()
            },
            "memory": {run.name: self.memory(run) for run in runs},
            "runs": {run.name: self.run(run) for run in runs},
            "evaluations": self.evaluations(),
            "not_estimated": [run.name for run in self.experiment.runs if run not in runs],
        }  # fmt: skip
        hours = [row["gpu_hours"] for kind in ("runs", "evaluations") for row in found[kind].values()]
        return found | {"gpu_hours": sum(hours)}

    def lengths(self, benchmark: str, policy: str = "base") -> Lengths:
        """Returns the lengths of a policy's answers; for a run's rollouts, name its base."""
        return self.lengths_assumed.lengths(benchmark, self._rows[policy], self._shape_of(policy).block_size)

    def devices_of(self, run: Run) -> int:
        """Returns how many devices a training takes."""
        if self.devices is not None:
            return self.devices
        base = self.experiment.base_named(run.base)
        return self.experiment.resources.processes("" if base is None else base.size_label)

    @property
    def _rows(self) -> dict[str, str]:
        """The published row that each policy stands for."""
        base, experiment = self.experiment.base, self.experiment
        named = {each.name: each.published for each in (*experiment.checkpoints, *experiment.runs)}
        return {"base": "" if base is None else base.published, **named}

    def _shape_of(self, policy: str) -> Shape:
        return self.shapes[policy] if policy in self.shapes else self.shapes[self.experiment.run(policy).base]

    @property
    def budget_bytes(self) -> float:
        """The memory of a device without the reserve."""
        return self.device.memory_bytes * (1 - self.shares.reserve)

    def kv(self, benchmark: Benchmark, shape: Shape) -> tuple[float, int]:
        """Returns (bytes of the pool, rows that decode together), by the config or else by the longest rows."""
        decoding, size, lengths = self.experiment.decoding, shape.block_size, self.lengths(benchmark.name)
        page = page_size(size)

        def row_bytes(response_tokens: float) -> int:
            end = -(-int(lengths.prompt_tokens + response_tokens) // size) * size
            return memory.kv_bytes(shape, memory.page_positions(end, page), self.device.compute_bytes)

        pool = decoding.rows * row_bytes(benchmark.max_new_tokens)
        if decoding.memory_mb is not None:
            pool = min(pool, decoding.memory_mb * 1_000_000)
        return pool, max(1, min(decoding.rows, int(pool / row_bytes(lengths.response_tokens))))

    def memory(self, run: Run) -> dict[str, Any]:
        """Returns the bytes on each device: what stays, what rollouts add, what an update adds; and whether it fits."""
        benchmark, shape = self.experiment.benchmark(run.benchmark), self.shapes[run.base]
        devices = self.devices_of(run)
        layout = memory.Layout(devices, self.device.compute_bytes)
        resident = memory.resident_bytes(shape, layout, run.implementation.has_value_model)
        pool, rows = self.kv(benchmark, shape)
        positions = (
            training_work(self.lengths(run.benchmark, run.base), shape.block_size).times(run.microbatch).positions
        )
        positions = min(positions, run.microbatch_positions or positions)
        longest = self._longest(run, benchmark)
        added = {
            name: memory.update_bytes(shape, layout, count, self.head_chunk, checkpointed)
            for name, count, checkpointed in (
                ("with_checkpointing", positions, True),
                ("without_checkpointing", positions, False),
                ("longest_response_with_checkpointing", longest, True),
            )
        }
        stays = sum(resident.values())
        update_bytes = {name: stays + sum(rows.values()) for name, rows in added.items()}
        chosen = "with_checkpointing" if self.checkpointed else "without_checkpointing"
        peak = max(stays + pool, update_bytes[chosen])
        return {
            "devices": devices,
            "resident": resident,
            "rollout": {"KV pages": pool},
            "rows": rows,
            "update": added[chosen],
            "micro_batch_positions": positions,
            "longest_response_positions": longest,
            "rollout_bytes": stays + pool,
            "update_bytes": update_bytes,
            "peak_bytes": peak,
            "budget_bytes": self.budget_bytes,
            "fits": peak <= self.budget_bytes,
            "update_fits": {name: total <= self.budget_bytes for name, total in update_bytes.items()},
        }

    def _longest(self, run: Run, benchmark: Benchmark) -> int:
        """Returns the positions of the largest forward over a response at the length limit."""
        lengths, size = self.lengths(benchmark.name, run.base), self.shapes[run.base].block_size
        prompt_tokens, tokens = round(lengths.prompt_tokens), benchmark.max_new_tokens
        whole = trained_positions(prompt_tokens, tokens, round(tokens / lengths.tpf), size)
        least = trained_positions(prompt_tokens, tokens, 1, size)
        return min(whole, max(least, run.microbatch_positions or whole))

    def run(self, run: Run) -> dict[str, Any]:
        """Returns the phases of a step on each device, validations, and GPU-hours of the whole run."""
        benchmark, shape = self.experiment.benchmark(run.benchmark), self.shapes[run.base]
        lengths, (_, rows) = self.lengths(run.benchmark, run.base), self.kv(benchmark, shape)
        trained = run.prompts * run.responses
        setting = (shape, self.device, self.shares)
        devices = self.devices_of(run)
        work = training_work(lengths, shape.block_size).times(trained / devices)
        step = [
            seconds.decoding(*setting, lengths, trained / self.lengths_assumed.kept / devices, rows),
            seconds.reference(*setting, work),
            seconds.update(*setting, work, run.updates, devices, self.checkpointed),
        ]
        if run.implementation.has_value_model:  # one forward for the advantages, and an update of its own
            step += [replace(phase, name=f"value {phase.name}") for phase in step[1:]]
        problems = benchmark.validation or self._published(benchmark.name, "train", 10)
        validation = seconds.decoding(*setting, lengths, problems / devices, rows, "validation")
        step_s = sum(phase.seconds for phase in step)
        validations = 1 + -(-run.steps // run.validate_every)
        total_s = run.steps * step_s + validations * validation.seconds
        return {
            "base": run.base,
            "devices": devices,
            "benchmark": run.benchmark,
            "lengths": asdict(lengths),
            "steps": run.steps,
            "trained_responses": trained,
            "rolled_out_responses": trained / self.lengths_assumed.kept,
            "rows_together": rows,
            "step": [asdict(phase) for phase in step],
            "step_s": step_s,
            "validation": asdict(validation) | {"problems": problems, "times": validations},
            "hours": total_s / HOUR_S,
            "gpu_hours": total_s * devices / HOUR_S,
        }

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Returns each evaluation's sweep on one device, at the same assumed TPF for every threshold."""
        experiment, found = self.experiment, {}
        split, samples = experiment.evaluation.split, experiment.evaluation.samples
        tested = [b.name for b in experiment.benchmarks if getattr(b, split) != 0 and self._has(b.name, split)]
        for system in experiment.all_systems():
            shape = self._shape_of(system.policy)
            for name in tested if system.evaluate_on is None else [n for n in system.evaluate_on if n in tested]:
                benchmark = experiment.benchmark(name)
                problems = getattr(benchmark, split)
                if not problems:
                    problems = self._published(name, *(("test", 1) if split == "test" else ("train", 10)))
                _, rows = self.kv(benchmark, shape)
                lengths = self.lengths(name, system.policy)
                point = seconds.decoding(
                    shape, self.device, self.shares, lengths, problems * samples, rows, "evaluation"
                )  # fmt: skip
                points = len(system.thresholds)
                found[f"{system.name}/{name}"] = {
                    "problems": problems,
                    "samples": samples,
                    "thresholds": points,
                    "point": asdict(point),
                    "gpu_hours": points * point.seconds / HOUR_S,
                }
        return found

    def _benchmark(self, name: str) -> Any:
        """Returns the benchmark of a name."""
        return resolve(member("benchmark", name, "benchmarks.name", self.experiment.plugins))

    def _has(self, name: str, split: str) -> bool:
        return split in getattr(self._benchmark(name), "splits", (split,))

    def _published(self, name: str, split: str, part: int) -> int:
        """Returns the rows of a published split, or a `part` of them."""
        rows = next((source.rows for source in self._benchmark(name).sources if source.key == split), None)
        return PROBLEMS if rows is None else rows // part


def shapes_of(experiment: Experiment, size: str | None = None) -> dict[str, Shape]:
    """Returns the shapes of `base`, which a named size replaces, and of each checkpoint.

    Raises ConfigError when neither a size nor the checkpoint's name says it.
    """
    base, model = experiment.base, experiment.model
    found = {checkpoint.name: _shape(checkpoint, None) for checkpoint in experiment.checkpoints}
    if base is not None:
        return {"base": _shape(base, size), **found}
    assert model is not None
    known = model.model_dump() | {"vocab_size": VOCABULARY}
    return {
        "base": Shape.of_size(size, model.block_size) if size else Shape.of(known, model.block_size),
        **found,
    }


def _shape(base: Base, size: str | None) -> Shape:
    named = size or base.size
    return Shape.of_size(named, base.block_size) if named else Shape.of_checkpoint(base.checkpoint, base.block_size)
