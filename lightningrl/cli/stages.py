"""The verbs that make stages, one a kind, those of kinds from outside included; and `stages`, which lists them."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lightningrl.cli.errors import user_errors
from lightningrl.cli.pin import note_pins
from lightningrl.pipeline.kinds import Kind, kinds_of

Config = Annotated[Path, typer.Option("--config", help="The experiment's YAML file.")]
Name = Annotated[str | None, typer.Option("--name", help="Which stage of this kind; `lightningrl stages` lists them.")]
Key = Annotated[str | None, typer.Option("--key", help="Refuse to run unless the stage has this key (Snakemake).")]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="Time budget beside resources.max_minutes: shortly before its end it saves and exits 75."
    ),
]
DEFAULT_CONFIG = Path("config/config.yaml")


class StageCommand(TyperCommand):
    """A verb whose help ends with the config keys that its stages read, from the config's own docstrings."""

    reads: tuple[str, ...]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from lightningrl.config.describe import describe
        from lightningrl.config.experiment import Experiment

        formatter.write("\nIts keys in the config (all of them: lightningrl config-help):\n\n")
        for part in self.reads:
            formatter.write("".join(f"  {line}\n" for line in describe(Experiment, part)))


class Verbs(TyperGroup):
    """All verbs, and those of the kinds of stages that the plug-ins of the command's config add."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            kind = _kind_from_outside(args[0], args[1:])
            if kind is not None:
                alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
                add_stage_verb(alone, kind)
                self.commands[kind.name] = typer.main.get_command(alone)
        return super().resolve_command(ctx, args)


def _kind_from_outside(verb: str, options: list[str]) -> Kind | None:
    """Returns the kind of this name that the plug-ins of `--config` add; None where they add none."""
    named = [value for option, value in pairwise(options) if option == "--config"]
    named += [option.removeprefix("--config=") for option in options if option.startswith("--config=")]
    config = Path(named[-1]) if named else DEFAULT_CONFIG
    if not config.is_file():
        return None
    with user_errors():
        from lightningrl.config.experiment import load

        return kinds_of(load(config).plugins).get(verb)


def stage_command(kind: Kind) -> dict[str, Any]:
    """Returns the arguments of `Typer.command` that make a kind's verb: its name, its help and its class."""
    command = type("StageCommand", (StageCommand,), {"reads": kind.reads})
    return {"name": kind.name, "help": _docstring(kind), "cls": command}


def _docstring(kind: Kind) -> str:
    """Returns the docstring of the module that makes a kind's stages, which is read without importing the module."""
    spec = find_spec(kind.module)
    if spec is None or spec.origin is None:
        return kind.name
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or kind.name


def add_stage_verb(app: typer.Typer, kind: Kind) -> None:
    """Adds the verb of a kind of stage to a command line."""

    @app.command(**stage_command(kind))
    def verb(
        config: Config = DEFAULT_CONFIG, name: Name = None, key: Key = None, max_minutes: MaxMinutes = None
    ) -> None:
        with user_errors():
            make_stage(kind.name, config, name, key, max_minutes)


def make_stage(
    kind: str,
    config: Path,
    name: str | None,
    key: str | None,
    max_minutes: float | None = None,
    part: str | None = None,
) -> None:
    """Makes one stage, or a part like `2/8` of it. Raises StageError where the name is missing or unknown."""
    from lightningrl.config.experiment import load
    from lightningrl.errors import StageError
    from lightningrl.pipeline.plan import plan
    from lightningrl.pipeline.runner import run_stage
    from lightningrl.pipeline.sharded_evaluation import read_part, run_part

    planned = plan(load(config))
    names = [stage.name for stage in planned.of(kind)]
    if name is None and len(names) != 1:
        raise StageError(f"--name is needed; one of: {', '.join(names) or 'this experiment has none'}")
    stage = planned.stage(kind, name or names[0])
    if part is None:
        run_stage(planned, stage, key, max_minutes)
    else:
        run_part(planned, stage, key, read_part(part), max_minutes)


def stages(
    config: Config = DEFAULT_CONFIG,
    verify: Annotated[bool, typer.Option("--verify", help="Compare files with the hashes in their manifests.")] = False,
) -> None:
    """List the experiment's stages: done, missing, partial (begun, or a file is gone), stale (what it was made from has
    other content now), damaged; key, folder.

    A key with a * is of pinned code (`lightningrl pin`).
    """
    with user_errors():
        from lightningrl.config.experiment import load
        from lightningrl.pipeline.manifest import state
        from lightningrl.pipeline.plan import plan

        planned = plan(load(config))
        for stage in planned:
            mark = "*" if stage.pin is not None else " "
            typer.echo(f"{state(stage, verify):8}{stage.key}{mark} {stage.kind:11}{stage.name:32} {stage.folder}")
        note_pins(planned)
