"""`lightningrl validate`: what is wrong with an experiment, before anything runs; and `config-help`, its keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lightningrl.cli.pin import note_pins
from lightningrl.cli.stages import DEFAULT_CONFIG, Config
from lightningrl.config.decoding import Decoding
from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment, load
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
    for run in experiment.runs:
        decoding, where = run.decoding.over(experiment.decoding), f"runs.{run.name}.decoding"
        policies = _make_policies(
            decoding, where if run.decoding.model_fields_set else "decoding", experiment.plugins,
            [run.threshold, *run.rollout_thresholds],
        )  # fmt: skip
        if not isinstance(run.implementation, OnlineAlgorithm):
            continue
        known = "block_causal" if run.base == "base" and experiment.model is not None else None
        try:
            check_scorable(known, policies, run.accept_inexact_caches)
        except ConfigError as error:
            raise ConfigError(f"runs.{run.name}: {error}") from None
    for system in experiment.all_systems():
        if system.endpoint is not None:
            system.endpoint.secret()  # asked for now, used later
            continue
        _make_policies(system.decoding, system.where, experiment.plugins, system.thresholds)
    for stage in planned.of("distill_data"):
        if "decoding" in stage.config:
            where = f"runs.{stage.name}.method.data.decoding"
            _make_policies(stage.config["decoding"], where, experiment.plugins, [stage.config["threshold"]])
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
