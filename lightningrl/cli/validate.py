"""`lightningrl validate`: what is wrong with an experiment, before anything runs; and `config-help`, its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightningrl.cli.pin import note_pins
from lightningrl.cli.stages import DEFAULT_CONFIG, Config
from lightningrl.config.decoding import Decoding, preset
from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment, load
from lightningrl.config.systems import System
from lightningrl.errors import ConfigError, DecodeError, LightningRLError, SandboxUnavailable
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.sandbox import probe
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.decoding.protocol import DecodePolicy
    from lightningrl.models.transformer import ModelConfig

MODEL_JOBS = ("pretrain", "train", "evaluate")
"""The package's jobs that run models on `resources.device`."""


def validate(config: Config = DEFAULT_CONFIG) -> None:
    """Check an experiment's YAML, and the names in it, before anything runs."""
    experiment = load(config)
    planned = plan(experiment)
    _check_pieces(experiment, planned)
    typer.echo(f"{config}: OK, {len(planned.stages)} stages")
    note_pins(planned)
    _note_jobs(experiment, planned)
    _warn_without_jail(planned)


def _note_jobs(experiment: Experiment, planned: Plan) -> None:
    """Says which entries of `resources.jobs` no stage asks for, and which jobs on `cuda` would ask for no GPU."""
    resources = experiment.resources
    asked = {(planned.kinds[stage.kind].job, stage.size) for stage in planned if planned.kinds[stage.kind].job}
    known = {f"{job}/{size}" for job, size in asked if size}
    for name in resources.jobs:
        if "/" in name and name not in known:  # maybe a size that was mistyped
            sizes = ", ".join(sorted(known)) or "none has a size"
            typer.echo(f"note: resources.jobs.{name}: no stage asks for it; there are: {sizes}", err=True)
    if resources.device != "cuda" or not resources.jobs:
        return
    without = {
        f"{job}/{size}".rstrip("/") for job, size in asked if job in MODEL_JOBS and not resources.job(job, size).gpus
    }
    if without:
        typer.echo(
            f"note: resources.device is cuda, but jobs of {', '.join(sorted(without))} ask for no GPU, and on a "
            "cluster get none. Set `gpus` in their entries of resources.jobs; an entry takes nothing from another one.",
            err=True,
        )


def _check_pieces(experiment: Experiment, planned: Plan) -> None:
    """Makes every decoder, objective and quantizer once, so that unknown options, parameters out of range, and what
    does not fit a model are said first."""
    from lightningrl.pipeline.stages.fitting import check_objectives, known_shapes

    for stage in planned.of("train"):
        for role, reference in stage.members.items():
            resolve(reference, f"runs.{stage.name}, its {role}")
    shapes = known_shapes(experiment)
    check_objectives(experiment, shapes)
    _check_runs(experiment, shapes)
    _check_systems(experiment, planned, shapes)
    _check_distillations(experiment, planned, shapes)
    _check_pretraining(experiment, planned, shapes)
    _check_quantizers(experiment, planned, shapes)


def _check_runs(experiment: Experiment, shapes: dict[str, ModelConfig]) -> None:
    """Raises ConfigError for a base that a run's algorithm cannot train, for rollouts that it cannot have, or that have
    no likelihood to train on. Adds to `shapes` those of the policies that are trained."""
    from lightningrl.pipeline.stages.fitting import check_lengths, inspected
    from lightningrl.rl.algorithm import OnlineAlgorithm
    from lightningrl.rl.likelihood import check_scorable

    for run in experiment.runs:
        where, shape, algorithm = f"runs.{run.name}", shapes.get(run.base), run.implementation
        if shape is not None:
            asked = {role: (each, f"{where}.method.{role}") for role, each in algorithm.checkpoints.items()}
            here = {role: each for role, each in asked.items() if Path(each[0].checkpoint).is_dir()}
            algorithm.check(shape, where, {role: inspected(*each) for role, each in here.items()})
            shape = shapes[run.name] = replace(shape, has_planner=shape.has_planner or algorithm.adds_planner)
        numbers = {f"{where}.threshold": run.threshold}
        numbers |= {f"{where}.rollout_thresholds.{n}": value for n, value in enumerate(run.rollout_thresholds)}
        decoding = run.decoding.over(experiment.decoding)
        said = f"{where}.decoding" if run.decoding.model_fields_set else "decoding"
        policies = _make_policies(decoding, said, experiment.plugins, numbers)
        if shape is not None:
            told = f"{said}, by which {where} decodes {run.base}"
            check_lengths(shape, policies[0], [experiment.benchmark(run.benchmark)], decoding, told)
        if isinstance(algorithm, OnlineAlgorithm):
            try:
                check_scorable(None if shape is None else shape.attention, policies, run.accept_inexact_caches)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None


def _check_systems(experiment: Experiment, planned: Plan, shapes: Mapping[str, ModelConfig]) -> None:
    """Raises ConfigError for decoders that a system's model cannot have, and answers that it has no room for."""
    from lightningrl.pipeline.stages.fitting import check_lengths

    for system in experiment.all_systems():
        if system.endpoint is not None:
            system.endpoint.secret()  # asked for now, used later
            continue
        numbers = dict(zip(_keys_of(system, experiment), system.thresholds, strict=True))
        policies = _make_policies(system.decoding, system.where, experiment.plugins, numbers)
        base = experiment.origin(system.policy)
        if (shape := shapes.get(system.policy)) is not None:
            names = {
                stage.config["benchmark"] for stage in planned.of("evaluate") if stage.config["policy"] == system.name
            }
            answered = [system.asked(each) for each in experiment.benchmarks if each.name in names]
            told = f"{system.where}, of {system.name} ({base})"
            check_lengths(shape, policies[0], answered, system.decoding, told, _own_length(system))
        _note_adapter(experiment, system, base)


def _own_length(system: System) -> str:
    """What the config calls the length of a system's answers, where that is no benchmark's."""
    return f"systems.{system.name}.max_new_tokens" if system.max_new_tokens else ""


def _check_distillations(experiment: Experiment, planned: Plan, shapes: Mapping[str, ModelConfig]) -> None:
    """Raises ConfigError for decoders by which a base cannot make the answers that a distillation trains on."""
    from lightningrl.pipeline.stages.fitting import check_lengths

    for stage in (stage for stage in planned.of("distill_data") if "decoding" in stage.config):
        run, where, decoding = experiment.run(stage.name), f"runs.{stage.name}.method.data", stage.config["decoding"]
        numbers = {f"{where}.threshold": stage.config["threshold"]}
        said = f"{where}.decoding" if stage.config["data"].decoding.model_fields_set else "decoding"
        policies = _make_policies(decoding, said, experiment.plugins, numbers)
        if (shape := shapes.get(run.base)) is not None:
            told = f"{said}, by which {run.base} makes the data of {run.name}"
            check_lengths(shape, policies[0], [experiment.benchmark(run.benchmark)], decoding, told)


def _check_pretraining(experiment: Experiment, planned: Plan, shapes: Mapping[str, ModelConfig]) -> None:
    """Raises ConfigError for decoders by which a base cannot be validated while it is pre-trained."""
    from lightningrl.pipeline.stages.fitting import check_lengths

    systems = {system.name: system for system in experiment.all_systems()}
    for stage in planned.of("pretrain"):
        decoding, lengths, system = stage.config["decoding"], stage.config["max_new_tokens"], systems[stage.name]
        is_own = stage.name == "base"
        where = "decoding" if is_own else system.where
        numbers = {"evaluation.primary_threshold" if is_own else where: stage.config["primary_threshold"]}
        [policy] = _make_policies(decoding, where, experiment.plugins, numbers)
        answered = [
            each.model_copy(update={"max_new_tokens": lengths[each.name]})
            for each in experiment.benchmarks
            if each.name in lengths
        ]
        told = f"{where}, by which {stage.name} is validated while it is pre-trained"
        check_lengths(shapes[stage.name], policy, answered, decoding, told, "" if is_own else _own_length(system))


def _check_quantizers(experiment: Experiment, planned: Plan, shapes: Mapping[str, ModelConfig]) -> None:
    """Raises ConfigError for quantizers that there are not, and for options that they do not take."""
    from lightningrl.quantization.protocol import check_shape, find_quantizer, make_quantizer

    for stage in planned.of("quantize"):
        where = f"systems.{stage.name}.quantizer"
        find_quantizer(stage.members["quantizer"], f"{where}.name")
        try:
            quantizer = make_quantizer(stage.members["quantizer"], stage.config["options"])
            if (shape := shapes.get(stage.inputs["policy"].name)) is not None:
                check_shape(quantizer, shape)
        except ConfigError as error:
            raise ConfigError(f"{where}.options: {error}") from None
        if quantizer.needs_calibration and "calibration" not in stage.config:
            raise ConfigError(f"{where}.calibration: left out, but the quantizer needs data")


def _note_adapter(experiment: Experiment, system: System, base: str) -> None:
    """Says where a decoder is for weights with an adapter, and none is named: they may be merged already, and those
    that a distillation here leaves are. base: the name of what the policy is, or was trained from."""
    named = preset(system.decoding.preset).get("adapter") if system.decoding.preset else None
    found = experiment.base_named(base)
    is_own = any(run.name == system.policy and not run.implementation.rolls_out for run in experiment.runs)
    if named and not is_own and not (found and found.adapter):
        told = (
            f"{system.decoding.preset} is for weights with {named}, and its policy {system.policy} names no `adapter`"
        )
        typer.echo(f"note: {system.where}.preset: {told}; right only where it is merged already", err=True)


def _keys_of(system: System, experiment: Experiment) -> list[str]:
    """What the config calls each of a system's thresholds."""
    entry = next((each for each in experiment.systems if system.where == f"systems.{each.name}.decoding"), None)
    if entry is not None and not entry.thresholds and system.thresholds != experiment.evaluation.thresholds:
        return [f"{system.where}.preset"] * len(system.thresholds)  # published with it
    where = f"systems.{entry.name}.thresholds" if entry is not None and entry.thresholds else "evaluation.thresholds"
    return [f"{where}.{number}" for number in range(len(system.thresholds))]


def _make_policies(
    decoding: Decoding, where: str, plugins: list[str], parameters: Mapping[str, float]
) -> list[DecodePolicy]:  # fmt: skip
    """parameters: of the selector, by what the config calls each."""
    from lightningrl.inference.policy import make_policy

    made = []
    config = {"decoding": decoding, "members": decoding.members(f"{where}.", plugins)}
    for key, parameter in parameters.items():
        try:
            made.append(make_policy(config, parameter))
        except LightningRLError as error:
            blamed = where
            if (
                isinstance(error, DecodeError) and not decoding.selector_options
            ):  # then no other number is the selector's
                try:
                    resolve(config["members"]["selector"])(parameter)
                except DecodeError:
                    blamed = f"{key} (found {shortest(parameter)}, of {where})"
            raise type(error)(f"{blamed}: {error}") from None
    return made


def _warn_without_jail(planned: Plan) -> None:
    """A config is valid without a jail, but its stages that judge programs would stop: better said now."""
    judges = {reference for stage in planned for name, reference in stage.members.items() if name.startswith("judge")}
    if any(getattr(resolve(reference), "needs_jail", False) for reference in judges):
        level = planned.experiment.sandbox.level
        probe.choose(level, acknowledged=level == "none")
        try:
            probe.probe().require()
        except SandboxUnavailable as error:
            typer.echo(f"but: {error}", err=True)


def config_help(
    key: Annotated[str, typer.Argument(help="A key's path, like `runs.threshold`; empty: all.")] = "",
) -> None:
    """Every key of an experiment's YAML: type, default, what it means."""
    for line in describe(Experiment, key):
        typer.echo(line)
