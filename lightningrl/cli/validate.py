"""`lightningrl validate`: what is wrong with an experiment, before anything runs; and `config-help`, its keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lightningrl.cli.lengths import base_of, check_lengths
from lightningrl.cli.pin import note_pins
from lightningrl.cli.stages import DEFAULT_CONFIG, Config
from lightningrl.config.decoding import Decoding, preset
from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment, load
from lightningrl.config.systems import System
from lightningrl.errors import ConfigError, LightningRLError, SandboxUnavailable
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.sandbox import probe
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.decoding.protocol import DecodePolicy


def validate(config: Config = DEFAULT_CONFIG) -> None:
    """Check an experiment's YAML, and the names in it, before anything runs."""
    experiment = load(config)
    planned = plan(experiment)
    _check_pieces(experiment, planned)
    typer.echo(f"{config}: OK, {len(planned.stages)} stages")
    note_pins(planned)
    known = {f"{stage.kind}/{stage.size}" for stage in planned if stage.size}
    for name in experiment.resources.jobs:
        if "/" in name and name not in known:  # maybe a size that was mistyped
            sizes = ", ".join(sorted(known)) or "none has a size"
            typer.echo(f"note: resources.jobs.{name}: no stage asks for it; there are: {sizes}", err=True)
    _warn_without_jail(planned)


def _check_pieces(experiment: Experiment, planned: Plan) -> None:
    """Makes every decoder and quantizer once, so that unknown options and parameters out of range are said first."""
    from lightningrl.quantization.protocol import check_widths, make_quantizer
    from lightningrl.rl.algorithm import OnlineAlgorithm
    from lightningrl.rl.likelihood import check_scorable

    for stage in planned.of("train"):
        for role, reference in stage.members.items():
            resolve(reference, f"runs.{stage.name}, its {role}")
    rollouts = [value for run in experiment.runs for value in (run.threshold, *run.rollout_thresholds)]
    policies = _make_policies(experiment.decoding, "decoding", experiment.plugins, rollouts)
    for run in (run for run in experiment.runs if isinstance(run.implementation, OnlineAlgorithm)):
        try:
            check_scorable("block_causal", policies, run.accept_inexact_caches)
        except ConfigError as error:
            raise ConfigError(f"runs.{run.name}: {error}") from None
    for system in experiment.all_systems():
        if system.endpoint is not None:
            system.endpoint.secret()  # asked for now, used later
            continue
        policy, *_ = _make_policies(system.decoding, system.where, experiment.plugins, system.thresholds)
        tested = {
            stage.config["benchmark"] for stage in planned.of("evaluate") if stage.config["policy"] == system.name
        }
        check_lengths(experiment, system, policy, sorted(tested))
        _note_adapter(experiment, system)
    for stage in planned.of("quantize"):
        resolve(stage.members["quantizer"], f"systems.{stage.name}.quantizer.name")
        try:
            quantizer = make_quantizer(stage.members["quantizer"], stage.config["options"])
            if experiment.model is not None:
                check_widths(quantizer, experiment.model.widths)
        except ConfigError as error:
            raise ConfigError(f"systems.{stage.name}.quantizer.options: {error}") from None
        if quantizer.needs_calibration and "calibration" not in stage.config:
            raise ConfigError(f"systems.{stage.name}.quantizer.calibration: left out, but the quantizer needs data")


def _note_adapter(experiment: Experiment, system: System) -> None:
    """Says where a decoder is for weights with an adapter, and none is named: they may be merged already."""
    named = preset(system.decoding.preset).get("adapter") if system.decoding.preset else None
    base = base_of(experiment, system)
    if named and not (base and base.adapter):
        told = f"its policy {system.policy} names no `adapter`; right only where it is merged already"
        typer.echo(
            f"note: {system.where}.preset: {system.decoding.preset} is for weights with {named}, and {told}", err=True
        )


def _make_policies(
    decoding: Decoding, where: str, plugins: list[str], parameters: Iterable[float]
) -> list[DecodePolicy]:  # fmt: skip
    from lightningrl.inference.policy import make_policy

    made = []
    config = {"decoding": decoding, "members": decoding.members(f"{where}.", plugins)}
    for parameter in sorted(set(parameters)):
        try:
            made.append(make_policy(config, parameter))
        except LightningRLError as error:
            raise type(error)(f"{where}: {error}") from None
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
