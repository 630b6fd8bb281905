"""The command line: one verb a stage, and tools around an experiment; tools of a module each are in this package.

Only this package prints. Verbs import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from lightningrl.cli import bench, options
from lightningrl.cli import evaluate as direct
from lightningrl.cli.chat import chat
from lightningrl.cli.diff import diff
from lightningrl.cli.doctor import doctor
from lightningrl.cli.errors import user_errors
from lightningrl.cli.explain import explain
from lightningrl.cli.generate import generate
from lightningrl.cli.pin import note_pins, pin
from lightningrl.cli.plan import plan_budget
from lightningrl.cli.prompts import prompts
from lightningrl.cli.redraw import redraw
from lightningrl.cli.results import results
from lightningrl.cli.score import compare, score
from lightningrl.cli.stages import (
    DEFAULT_CONFIG,
    Config,
    Key,
    MaxMinutes,
    Name,
    Verbs,
    add_stage_verb,
    make_stage,
    stage_command,
    stages,
)
from lightningrl.cli.trace import trace
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.system import spin_briefly

if TYPE_CHECKING:
    from lightningrl.config.experiment import Experiment
    from lightningrl.config.tasks import Decoding
    from lightningrl.pipeline.plan import Plan

EVALUATE_DIRECTLY = """With a MODEL, --benchmark and --out, no experiment is needed. The benchmark's judge is proved
first (official answers right, empty and `exit()` wrong). Records gather in OUT/state by problem and sample; stopped or
killed, the same command goes on; one more --threshold costs only itself. OUT then has records.jsonl, summary.json and
run.json.

\b
lightningrl evaluate --config config/config.yaml --name base/gsm-mini
lightningrl evaluate models/SDAR-8B-Chat-b32 --block-size 32 --benchmark gsm8k --out sdar-gsm8k --device cuda"""

spin_briefly()
sys.path.append("")  # a user's own `module:attribute` beside them is found, as under `python -m`

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

for _kind in KINDS.values():
    if _kind.name != "evaluate":
        add_stage_verb(app, _kind)
_evaluate = stage_command(KINDS["evaluate"])


@app.command("evaluate", cls=_evaluate["cls"], help=f"{_evaluate['help']}\n\n{EVALUATE_DIRECTLY}")
def evaluate(
    model: direct.Model = None,
    config: Config = DEFAULT_CONFIG,
    name: Name = None,
    key: Key = None,
    max_minutes: MaxMinutes = None,
    part: Annotated[str | None, typer.Option("--part", help="A stage: decode only the 2nd of 8 parts: 2/8.")] = None,
    benchmark: direct.BenchmarkName = None,
    out: direct.Out = None,
    split: direct.Split = "test",
    data: direct.DataFile = None,
    mirror: options.Mirror = None,
    limit: direct.Limit = None,
    threshold: direct.Thresholds = None,
    samples: direct.Samples = 1,
    max_new_tokens: direct.MaxNewTokens = 8192,
    style: direct.Style = "default",
    shots: direct.Shots = 0,
    compat: direct.Compat = False,
    selector: options.Selector = "threshold",
    selector_options: options.SelectorOptions = "{}",
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    ranking: options.Ranking = "confidence",
    schedule: options.Schedule = "fused",
    stop: options.Stop = "finish_block",
    seed: options.Seed = 0,
    shard: direct.Shard = 250,
    workers: direct.Workers = 1,
    rows: options.Rows = 64,
    memory_mb: options.MemoryMB = None,
    block_size: options.BlockSize = None,
    dtype: options.Dtype = "stored",
    device: options.Device = "cpu",
) -> None:
    """A stage, or a checkpoint's folder."""
    given = dict(locals())
    with user_errors():
        if model is None:
            make_stage("evaluate", config, name, key, max_minutes, part)
        else:
            for option in ("model", "config", "name", "key", "max_minutes", "part", "benchmark", "out"):
                given.pop(option)
            direct.run(model, benchmark, out, **given)


app.command()(generate)
app.command()(prompts)
app.command()(score)
app.command()(compare)
app.command()(doctor)
app.command()(chat)
app.command("plan")(plan_budget)
app.command()(pin)
app.command()(stages)
app.command(no_args_is_help=True)(explain)
app.command()(results)
app.command(no_args_is_help=True)(diff)
app.command(no_args_is_help=True)(redraw)


@app.command()
def validate(config: Config = DEFAULT_CONFIG) -> None:
    """Check an experiment's YAML, and the names in it, before anything runs."""
    with user_errors():
        from lightningrl.config.experiment import load
        from lightningrl.pipeline.plan import plan

        experiment = load(config)
        planned = plan(experiment)
        _check_pieces(experiment, planned)
        typer.echo(f"{config}: OK, {len(planned.stages)} stages")
        note_pins(planned)
        _note_sizes(experiment, planned)
        _warn_without_jail(planned)


def _note_sizes(experiment: Experiment, planned: Plan) -> None:
    """Jobs that no model of the experiment will ask for: maybe a size that was mistyped."""
    known = {f"{stage.kind}/{stage.size}" for stage in planned if stage.size}
    for name in experiment.resources.jobs:
        if "/" in name and name not in known:
            sizes = ", ".join(sorted(known)) or "none has a size"
            typer.echo(f"note: resources.jobs.{name}: no stage asks for it; there are: {sizes}", err=True)


def _check_pieces(experiment: Experiment, planned: Plan) -> None:
    """Makes every decoder and quantizer once, so that unknown options and parameters out of range are said first."""
    from lightningrl.errors import ConfigError
    from lightningrl.quantization.protocol import make_quantizer
    from lightningrl.utils.registry import resolve

    for stage in planned.of("train"):
        for reference in stage.members.values():
            resolve(reference)
    rollouts = [value for run in experiment.runs for value in (run.threshold, *run.rollout_thresholds)]
    _make_policies(experiment.decoding, "decoding", experiment.plugins, rollouts)
    for system in experiment.all_systems():
        _make_policies(system.decoding, system.where, experiment.plugins, system.thresholds)
    for stage in planned.of("quantize"):
        try:
            quantizer = make_quantizer(stage.members["quantizer"], stage.config["options"])
        except ConfigError as error:
            raise ConfigError(f"systems.{stage.name}.quantizer.options: {error}") from None
        if quantizer.needs_calibration and "calibration" not in stage.config:
            raise ConfigError(f"systems.{stage.name}.quantizer.calibration: left out, but the quantizer needs data")


def _make_policies(decoding: Decoding, where: str, plugins: list[str], parameters: Iterable[float]) -> None:
    from lightningrl.config.registries import DECODER, member
    from lightningrl.errors import LightningRLError
    from lightningrl.inference.build_policy import build_policy

    members = {piece: member(piece, getattr(decoding, piece), f"{where}.{piece}", plugins) for piece in DECODER}
    for parameter in sorted(set(parameters)):
        try:
            build_policy(decoding, members, parameter)
        except LightningRLError as error:
            raise type(error)(f"{where}: {error}") from None


def _warn_without_jail(planned: Plan) -> None:
    """A config is valid without a jail, but its stages that judge programs would stop: better said now."""
    from lightningrl.errors import SandboxUnavailable
    from lightningrl.utils.registry import resolve

    judges = {reference for stage in planned for name, reference in stage.members.items() if name.startswith("judge")}
    if any(getattr(resolve(reference), "needs_jail", False) for reference in judges):
        from lightningrl.sandbox.probe import choose, probe

        sandbox = planned.experiment.sandbox
        choose(sandbox.level, acknowledged=sandbox.level == "none")
        try:
            probe().require()
        except SandboxUnavailable as error:
            typer.echo(f"but: {error}", err=True)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"lightningrl {version('lightningrl')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Block-diffusion language models that decode more tokens per forward pass: LightningRL, reproduced."""


@app.command("config-help")
def config_help(
    key: Annotated[str, typer.Argument(help="A key's path, like `runs.threshold`; empty: all.")] = "",
) -> None:
    """Every key of an experiment's YAML: type, default, what it means."""
    with user_errors():
        from lightningrl.config.describe import describe
        from lightningrl.config.experiment import Experiment

        for line in describe(Experiment, key):
            typer.echo(line)


app.add_typer(bench.app, name="bench")
app.command("trace", no_args_is_help=True)(trace)
