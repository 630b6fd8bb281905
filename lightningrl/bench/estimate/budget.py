"""What an experiment will need: memory on each device by phase, seconds of an RL step by phase, GPU-hours.

The numbers follow from the config, a model's shape, a device's data sheet and named assumptions; the formulas are in
`bench/costs.py`. Supervised controls are not estimated.

Prompt lengths are assumed. The TPF is that of the paper's Tables 1, 2 and 6 for the row that a policy stands for; a run
has that of its base, from which it starts (one that succeeds is faster at its end); all others have SDAR-8B-b32's.
Figures of a run should replace them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from lightningrl.bench import costs
from lightningrl.bench.costs import MASTER, Device, Lengths, Shares, trained_positions, training_work
from lightningrl.bench.disk import TrainingDisk
from lightningrl.bench.estimate.evaluations import evaluations
from lightningrl.bench.estimate.likelihood import likelihood_cost
from lightningrl.bench.estimate.quantization import quantizations
from lightningrl.bench.memory import OVERHEAD, FrozenModel, TrainingMemory
from lightningrl.bench.model_shape import Shape, sized
from lightningrl.bench.overheads import Overheads, judging_cost, rounds_of, save_s, saving_cost, tail_s, tails_cost
from lightningrl.config.base import Base
from lightningrl.config.experiment import Experiment
from lightningrl.config.registries import member
from lightningrl.config.systems import System
from lightningrl.config.tasks import Benchmark
from lightningrl.config.train import Run
from lightningrl.decoding.canvas import page_size
from lightningrl.errors import ConfigError
from lightningrl.report.paper.printed import printed
from lightningrl.utils.registry import resolve

VOCABULARY = 400
"""The assumed vocabulary of a tokenizer that the experiment builds itself, which is not known before."""
PROBLEMS = 300
"""The assumed size of a split whose size is not known."""
HOUR_S = 3600.0
COUNTS = ("parameters", "trunk_matrices", "head_parameters", "layer_activations", "kv_numbers")
"""The names of the counts that an estimate shows of a model beside its shape."""

DEVICES = {
    # NVIDIA H100 SXM data sheet: 989 TFLOP/s bf16 dense (1,979 with sparsity), 3.35 TB/s, 80 GB.
    "h100": Device("H100 SXM 80 GB", 989e12, 3.35e12, 80_000_000_000),
    # NVIDIA H200 SXM data sheet: the same arithmetic, 4.8 TB/s, 141 GB.
    "h200": Device("H200 SXM 141 GB", 989e12, 4.8e12, 141_000_000_000),
    # NVIDIA A100 SXM 80 GB data sheet: 312 TFLOP/s bf16 dense, 2.04 TB/s (taken as 2.0), 80 GB.
    "a100": Device("A100 SXM 80 GB", 312e12, 2.0e12, 80_000_000_000),
}
MEASURED = Shares(update=0.35, reference=0.35, rollout=0.25)
"""Shares of a processor's measured peak: about what the miniature, whose matrices are small, reached on one thread;
larger models reach more."""

KNOWN = {
    # 151 response tokens: the first public commit's records of static decoding at block 4 (inferred: on GSM8K).
    "gsm8k": Lengths(120, 151, 2.85),
    # Assumed: three to four times GSM8K's.
    "math500": Lengths(130, 550, 4.81),
    # Assumed: a short function and its fence.
    "mbpp": Lengths(150, 120, 2.44),
    # Assumed: the body of a function whose signature is in the prompt.
    "humaneval": Lengths(320, 120, 2.39),
    # Assumed: a statement with examples, a whole script; its TPF as MBPP's.
    "primeintellect": Lengths(600, 350, 2.44),
    # Measured for the base of the miniature's prototype.
    "gsm-mini": Lengths(30, 33, 1.64),
    # Assumed.
    "code-mini": Lengths(30, 20, 1.64),
}
OTHER = Lengths(200, 300, 3.0)
"""The assumption for all other benchmarks."""


def device_of(kind: str) -> Device:
    """Returns a device by name; `cpu` is measured, which takes seconds. Raises ConfigError for an unknown name."""
    if kind == "cpu":
        from lightningrl.bench.estimate.check import measure_cpu

        return measure_cpu()
    if kind not in DEVICES:
        raise ConfigError(f"--gpu: found {kind!r}, allowed: {', '.join(DEVICES)}, cpu")
    return DEVICES[kind]


@dataclass(frozen=True, slots=True)
class LengthOverrides:
    """What the caller assumes for all benchmarks instead; None keeps the known value.

    >>> LengthOverrides(tpf=5.0).lengths("gsm8k").tpf
    5.0
    """

    prompt_tokens: float | None = None
    response_tokens: float | None = None
    tpf: float | None = None
    kept: float = 0.65
    """Share of groups that pass the filter; the rest is sampled again (assumed: 50 to 80 % in the miniature)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')}: found {value}, expected a finite number above 0")

    def lengths(self, benchmark: str, row: str = "", block_size: float = float("inf")) -> Lengths:
        """Returns a benchmark's lengths for the published row of a policy; a known TPF is at most the block size."""
        known = KNOWN.get(benchmark, OTHER)
        tpf = min(_printed_tpf().get((row, benchmark), known.tpf), float(block_size))
        given = {name: getattr(self, name) for name in ("prompt_tokens", "response_tokens", "tpf")}
        return replace(known, **{"tpf": tpf} | {name: value for name, value in given.items() if value is not None})


@cache
def _printed_tpf() -> dict[tuple[str, str], float]:
    """Returns (published row, benchmark) -> TPF."""
    return {
        (row.identity, benchmark): value
        for table in ("table2", "table1", "table6")
        for row in printed(table)
        for (benchmark, metric), value in row.numbers.items()
        if metric == "tpf"
    }


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
    overheads: Overheads = field(default_factory=Overheads)
    """The costs that are neither arithmetic nor bandwidth."""

    def to_json(self) -> dict[str, Any]:
        """Returns everything that `lightningrl plan` prints."""
        runs = [run for run in self.experiment.runs if run.implementation.rolls_out]
        found = {
            "experiment": self.experiment.experiment,
            "device": asdict(self.device),
            "assumed": asdict(self.shares) | asdict(self.lengths_assumed) | asdict(self.overheads) | {
                "float32": round(costs.FLOAT32_SHARE, 3), "activation_checkpointing": self.checkpointed
            },
            "models": {
                name: asdict(shape) | {count: getattr(shape, count) for count in COUNTS}
                for name, shape in self.shapes.items()
            },
            "memory": {run.name: self.memory(run) for run in runs},
            "runs": {run.name: self.run(run) for run in runs},
            "quantizations": quantizations(self),
            "evaluations": self.evaluations(),
            "not_estimated": [run.name for run in self.experiment.runs if run not in runs],
        }  # fmt: skip
        hours = [row["gpu_hours"] for kind in ("runs", "quantizations", "evaluations") for row in found[kind].values()]
        return found | {"gpu_hours": sum(hours)}

    def lengths(self, benchmark: str, policy: str = "base") -> Lengths:
        """Returns the lengths of a policy's answers; for a run's rollouts, name its base."""
        experiment = self.experiment
        named = {each.name: each.published for each in (*experiment.checkpoints, *experiment.runs)}
        row = named.get(policy, experiment.base.published if experiment.base else "")
        return self.lengths_assumed.lengths(benchmark, row, self.shape_of(policy).block_size)

    def lengths_of(self, system: System, benchmark: str) -> Lengths:
        """Returns the lengths of a system's answers, with the TPF of the published row that it stands for."""
        if not system.published:
            return self.lengths(benchmark, system.policy)
        return self.lengths_assumed.lengths(benchmark, system.published)

    def shape_of(self, policy: str) -> Shape:
        """Returns the shape of a policy's model; a run has that of the base that it began from."""
        return self.shapes[policy] if policy in self.shapes else self.shapes[self.experiment.origin(policy)]

    def _devices_of(self, run: Run) -> int:
        base = self.experiment.base_named(run.base)
        return self.devices or self.experiment.resources.processes("" if base is None else base.size_label)

    def kv(self, benchmark: Benchmark, shape: Shape, number_bytes: int | None = None) -> tuple[float, int]:
        """Returns (bytes of the pool, rows that decode together), by the config or else by the longest rows."""
        lengths = self.lengths(benchmark.name)
        longest, mean = (lengths.prompt_tokens + n for n in (benchmark.max_new_tokens, lengths.response_tokens))
        return self.pool(shape, longest, mean, shape.block_size, number_bytes)

    @property
    def evaluating(self) -> Device:
        """The device as evaluations find it, in the precision that `evaluation.precision` stands for there."""
        kind = "cpu" if self.device.compute_bytes == MASTER else "cuda"
        return self.device.computing_in(self.experiment.evaluation.precision_on(kind))

    def pool(
        self, shape: Shape, longest: float, mean: float, block_size: int, number_bytes: int | None = None
    ) -> tuple[float, int]:  # fmt: skip
        """Returns the same for rows of these lengths, in positions."""
        decoding, each = self.experiment.decoding, number_bytes or self.device.compute_bytes
        most, usual = (costs.kv_bytes(shape, int(n), page_size(block_size), each) for n in (longest, mean))
        pool = decoding.rows * most
        if decoding.memory_mb is not None:
            pool = min(pool, decoding.memory_mb * 1_000_000)
        return pool, max(1, min(decoding.rows, int(pool / usual)))

    def memory(self, run: Run) -> dict[str, Any]:
        """Returns the bytes on each device at every point of a training, and whether they fit; and those on disk."""
        benchmark, shape = self.experiment.benchmark(run.benchmark), self.shape_of(run.base)
        lengths = self.lengths(run.benchmark, run.base)
        disk = self._disk(run)
        pool, rows = self.kv(benchmark, shape, disk.number_bytes)
        positions = float(training_work(lengths, shape.block_size)[0]) * run.microbatch
        least = trained_positions(round(lengths.prompt_tokens), round(lengths.response_tokens), 1, shape.block_size)
        positions = min(positions, max(least, run.microbatch_positions or positions))
        longest = self._longest(run, benchmark, lengths)
        models = {"has_value_model": disk.has_value_model, "has_average": disk.has_average}
        models["has_reference"] = run.implementation.needs_reference
        chosen = TrainingMemory(
            shape, disk.devices, disk.number_bytes, positions, pool, self.experiment.decoding.rows, **models,
            checkpointed=self.checkpointed,
            overhead=0 if self.device.compute_bytes == MASTER else OVERHEAD,
            beside=self._beside(run, lengths),
        )  # fmt: skip
        others = {
            "with_checkpointing": replace(chosen, checkpointed=True),
            "without_checkpointing": replace(chosen, checkpointed=False),
            "longest_response_with_checkpointing": replace(chosen, positions=longest, checkpointed=True),
        }
        stays, points = sum(chosen.resident.values()), chosen.totals()
        update_bytes = {
            name: stays + max(sum(added.values()) for added in other.update().values())
            for name, other in others.items()
        }
        budget = self.device.memory_bytes * (1 - self.shares.reserve)
        return {
            "devices": disk.devices,
            "resident": chosen.resident,
            "rows": rows,
            "points": chosen.points(),
            "point_bytes": points,
            "micro_batch_positions": positions,
            "longest_response_positions": longest,
            "update_bytes": update_bytes,
            "peak_bytes": max(points.values()),
            "peak_at": max(points, key=lambda name: points[name]),
            "budget_bytes": budget,
            "fits": max(points.values()) <= budget,
            "update_fits": {name: total <= budget for name, total in update_bytes.items()},
            "disk": disk.most,
            "disk_bytes": sum(disk.most.values()),
            "save_s": sum(save_s(disk, self.overheads)),
            "save_every": run.save_every,
        }

    def _beside(self, run: Run, lengths: Lengths) -> tuple[FrozenModel, ...]:
        """Returns the algorithm's frozen models, each of which scores so many responses in a forward as it says."""
        length, found = lengths.prompt_tokens + lengths.response_tokens, list[FrozenModel]()
        for role, each in run.implementation.checkpoints.items():
            positions = length * getattr(each, "microbatch", run.microbatch)
            found.append(FrozenModel(role, _shape(each, each.size), positions))
        return tuple(found)

    def _disk(self, run: Run) -> TrainingDisk:
        """Returns the files of a training."""
        number_bytes = MASTER if run.precision == "float32" else self.device.compute_bytes
        has_value_model = run.implementation.has_value_model
        return TrainingDisk(
            self.shape_of(run.base), self._devices_of(run), number_bytes, has_value_model, run.averaging > 0
        )

    def _longest(self, run: Run, benchmark: Benchmark, lengths: Lengths) -> int:
        """Returns the positions of the largest forward over a response at the length limit."""
        prompt_tokens, tokens = round(lengths.prompt_tokens), benchmark.max_new_tokens
        whole, least = (
            trained_positions(prompt_tokens, tokens, forwards, self.shape_of(run.base).block_size)
            for forwards in (round(tokens / lengths.tpf), 1)
        )
        return min(whole, max(least, run.microbatch_positions or whole))

    def run(self, run: Run) -> dict[str, Any]:
        """Returns the phases of a step on each device, validations, and GPU-hours of the whole run."""
        benchmark, shape = self.experiment.benchmark(run.benchmark), self.shape_of(run.base)
        device, devices = self.device.computing_in(run.precision), self._devices_of(run)
        lengths, (_, rows) = self.lengths(run.benchmark, run.base), self.kv(benchmark, shape, device.compute_bytes)
        setting = shape, device, self.shares
        trained = run.prompts * run.responses
        rolled_out = trained / self.lengths_assumed.kept
        algorithm, own = run.implementation, self.overheads
        whole, work = (
            training_work(lengths, shape.block_size, share) * trained / devices for share in (1.0, run.state_share)
        )
        update = costs.update_cost(*setting, work, run.updates, devices, self.checkpointed)
        samples = 1 if own.in_rounds else run.responses
        step = [costs.decoding_cost(*setting, lengths, rolled_out / devices, rows, samples=samples)]
        for each in self._beside(run, lengths):  # each process scores all responses
            step.append(costs.scoring_cost(each.role, each.shape, device, self.shares, lengths, trained))
        if algorithm.needs_reference:
            step.append(costs.reference_cost(*setting, work))
        step.append(update)
        if algorithm.has_value_model:  # a forward over all states for the advantages, and an update of its own
            step.append(replace(costs.reference_cost(*setting, whole), name="value reference"))
            step.append(replace(update, name="value update"))
        rounds = rounds_of(run.prompts, self.lengths_assumed.kept, run.max_rounds)
        workers, is_program = self.experiment.resources.judge_workers, self.is_program(benchmark.name)
        beside = {} if own.in_rounds else {"beside_s": step[0].seconds, "last": run.responses}
        step += [
            tails_cost(lengths, benchmark.max_new_tokens, own, rounds),
            judging_cost(rolled_out / devices, workers, is_program, own, **beside),
            saving_cost(self._disk(run), (run.save_every, run.validate_every), own),
        ]
        problems = benchmark.validation or self.problems(benchmark.name, "validation")
        validation = costs.decoding_cost(*setting, lengths, problems / devices, rows, "validation")
        judged = judging_cost(problems / devices, workers, is_program, own).seconds
        tail = tail_s(lengths, benchmark.max_new_tokens, own)
        validation = replace(validation, seconds=validation.seconds + judged + tail)
        step_s = sum(phase.seconds for phase in step)
        validations = 1 + -(-run.steps // run.validate_every)
        hours = (own.startup_s + run.steps * step_s + validations * validation.seconds) / HOUR_S
        return {
            "base": run.base,
            "devices": devices,
            "benchmark": run.benchmark,
            "lengths": asdict(lengths),
            "steps": run.steps,
            "trained_responses": trained,
            "rolled_out_responses": rolled_out,
            "rows_together": rows,
            "step": [asdict(phase) for phase in step],
            "step_s": step_s,
            "rounds": rounds,
            "startup_s": own.startup_s,
            "validation": asdict(validation) | {"problems": problems, "times": validations},
            "hours": hours,
            "gpu_hours": hours * devices,
        }

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Returns each evaluation's sweep on one device (bench/estimate/evaluations.py)."""
        return evaluations(self)

    def by_likelihood(self, policy: str, name: str, problems: int) -> dict[str, Any]:
        """Returns the row of an evaluation in which nothing is decoded: one point, whatever the system's sweep."""
        base = None if policy in {run.name for run in self.experiment.runs} else self.experiment.base_named(policy)
        has_blocks = base is None or base.block_size is not None
        how = self.experiment.evaluation.likelihood
        point = likelihood_cost(self.shape_of(policy), self.evaluating, self.shares, name, problems, how, has_blocks)
        found = {"problems": problems, "samples": 1, "thresholds": 1, "point": asdict(point)}
        return found | {"gpu_hours": point.seconds / HOUR_S}

    def benchmark(self, name: str) -> Any:
        """Returns the benchmark itself."""
        return resolve(member("benchmark", name, "benchmarks.name", self.experiment.plugins))

    def is_program(self, name: str) -> bool:
        """Whether a benchmark's judge runs programs."""
        return str(self.benchmark(name).judge).endswith(":CodeJudge")

    def problems(self, name: str, split: str) -> int:
        """Returns the rows of the published test split, or for validation a tenth of the published train split."""
        key, part = ("test", 1) if split == "test" else ("train", 10)
        rows = next((source.rows for source in self.benchmark(name).sources if source.key == key), None)
        return PROBLEMS if rows is None else rows // part


def shapes_of(experiment: Experiment, size: str | None = None) -> dict[str, Shape]:
    """Returns the shapes of `base`, which a named size replaces, and of each checkpoint.

    Raises ConfigError when neither a size nor the checkpoint's name says it.
    """
    base, model = experiment.base, experiment.model
    if base is not None:
        own = _shape(base, size or base.size)
    else:
        assert model is not None
        known = model.model_dump() | {"vocab_size": VOCABULARY}
        own = Shape.of_size(size, model.block_size) if size else Shape.of(known, model.block_size)
    others = {each.name: each.model.model_dump() | {"vocab_size": VOCABULARY} for each in experiment.bases}
    trained = {name: Shape.of(known, known["block_size"]) for name, known in others.items()}
    return {"base": own} | trained | {each.name: _shape(each, each.size) for each in experiment.checkpoints}


def _shape(base: Base, size: str | None) -> Shape:
    block_size = base.block_size or 32  # where the family says it, its own is not known before the files are here
    if size:
        return Shape.of_size(sized(base.checkpoint, size), block_size)
    return Shape.of_checkpoint(base.checkpoint, block_size)
