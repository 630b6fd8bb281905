"""The verbs that make stages, one a kind, those of kinds from outside included; and `stages`, which lists them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lightningrl.pipeline.kinds import Kind, kinds_of

Config = Annotated[Path, typer.Option("--config", help="The experiment's YAML file.")]
Name = Annotated[str | None, typer.Option("--name", help="Which stage of this kind; `lightningrl stages` lists them.")]
Key = Annotated[str | None, typer.Option("--key", help="Refuse to run unless the stage has this key (Snakemake).")]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0.0, help="Budget beside resources.max_minutes: before its end it saves, exits 75.")
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


@cache
def documentation(reference: str) -> str:
    """Returns the docstring of a module, or of the function of `module:function`, without importing the module."""
    module, _, name = reference.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.get_docstring(functions[0] if functions else tree) or ""


def command_of(verb: Callable[..., None], name: str, **settings: Any) -> Any:
    """Returns the command of a function, whose parameters are its arguments and options."""
    alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    alone.command(name, **settings)(verb)
    return typer.main.get_command(alone)


def stage_verb(kind: Kind, verb: Callable[..., None] | None = None) -> Any:
    """Returns the command that makes a kind's stages. verb: a function that does so and more, as its docstring says."""

    def make(
        config: Config = DEFAULT_CONFIG, name: Name = None, key: Key = None, max_minutes: MaxMinutes = None
    ) -> None:
        make_stage(kind.name, config, name, key, max_minutes)

    text = documentation(kind.module) + (f"\n\n{inspect.getdoc(verb)}" if verb else "")
    command = type("StageCommand", (StageCommand,), {"reads": kind.reads})
    return command_of(verb or make, kind.name, cls=command, help=text or kind.name)


def kind_from_outside(verb: str, options: list[str]) -> Kind | None:
    """Returns the kind of this name that the plug-ins of `--config` add; None where they add none."""
    from lightningrl.config.experiment import load

    named = [value for option, value in pairwise(options) if option == "--config"]
    named += [option.removeprefix("--config=") for option in options if option.startswith("--config=")]
    config = Path(named[-1]) if named else DEFAULT_CONFIG
    return kinds_of(load(config).plugins).get(verb) if config.is_file() else None


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
    from lightningrl.cli.pin import note_pins
    from lightningrl.config.experiment import load
    from lightningrl.pipeline.manifest import state
    from lightningrl.pipeline.plan import plan

    planned = plan(load(config))
    for stage in planned:
        mark = "*" if stage.pin is not None else " "
        typer.echo(f"{state(stage, verify):8}{stage.key}{mark} {stage.kind:13}{stage.name:32} {stage.folder}")
    note_pins(planned)
