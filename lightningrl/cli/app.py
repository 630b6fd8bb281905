"""The command line: which verbs there are, and what all of them do with errors. Only this package prints.

Each verb is imported when it is asked for, so that `--help` is quick. Exit codes: 0 done, 2 an error of the user's to
fix, 75 interrupted with the state saved, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lightningrl.cli.stages import command_of, documentation, kind_from_outside, stage_verb
from lightningrl.errors import Interrupted, LightningRLError
from lightningrl.pipeline.kinds import KINDS
from lightningrl.utils.registry import resolve

VERBS = {
    "evaluate": "lightningrl.cli.evaluate:evaluate",
    "generate": "lightningrl.cli.generate:generate",
    "prompts": "lightningrl.cli.prompts:prompts",
    "score": "lightningrl.cli.score:score",
    "compare": "lightningrl.cli.compare:compare",
    "doctor": "lightningrl.cli.doctor:doctor",
    "decoders": "lightningrl.cli.decoders:decoders",
    "chat": "lightningrl.cli.chat:chat",
    "serve": "lightningrl.cli.serve:serve",
    "harness": "lightningrl.cli.harness:harness",
    "plan": "lightningrl.cli.plan:plan_budget",
    "pin": "lightningrl.cli.pin:pin",
    "stages": "lightningrl.cli.stages:stages",
    "explain": "lightningrl.cli.explain:explain",
    "results": "lightningrl.cli.results:results",
    "diff": "lightningrl.cli.diff:diff",
    "redraw": "lightningrl.cli.redraw:redraw",
    "export": "lightningrl.cli.export:export",
    "validate": "lightningrl.cli.validate:validate",
    "config-help": "lightningrl.cli.validate:config_help",
    "trace": "lightningrl.cli.trace:trace",
    "bench": "lightningrl.cli.bench:app",
}
"""Verbs beside those that make stages, one a kind; `evaluate` is both."""
HELPED = ("explain", "diff", "redraw", "trace")
"""Verbs that show their help when nothing is said."""
ONCE = VERBS.keys() - {"evaluate", "score", "harness"}
"""Verbs that do not go on where they were stopped; `generate` says itself whether it does."""

sys.path.append("")  # a user's own `module:attribute` beside them is found, as under `python -m`


class Verbs(TyperGroup):
    """All verbs, each a stub with its help until it is asked for; and those that the plug-ins of the config add."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        stages = {name: kind.module for name, kind in KINDS.items()}
        for name in dict.fromkeys([*(name for name in KINDS if name not in VERBS), *VERBS]):
            text = documentation(stages.get(name) or VERBS[name])
            self.commands[name] = TyperCommand(name, help=text, rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from lightningrl.pipeline.system import spin_briefly

        spin_briefly()
        name = args[0] if args else ""
        kind = KINDS.get(name) or (None if name in VERBS else kind_from_outside(name, args[1:]))
        verb = resolve(VERBS[name]) if name in VERBS else None
        if kind is not None:
            self.commands[name] = stage_verb(kind, verb)
        elif isinstance(verb, typer.Typer):
            self.commands[name] = typer.main.get_command(verb)
        elif verb is not None:
            self.commands[name] = command_of(verb, name, no_args_is_help=name in HELPED)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Errors that the user can fix, or of a file, become one message, no traceback, and an exit code."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            message, code = f"interrupted: {error}", 75
        except LightningRLError as error:
            message, code = f"error: {error}", 2
        except OSError as error:
            if error.filename is None:  # a closed pipe, say
                raise
            message, code = f"error: {error.filename}: {error.strerror}", 2
        except KeyboardInterrupt:
            again = "" if ctx.invoked_subcommand in ONCE else "; run the same command again to resume"
            message, code = f"stopped by Ctrl-C{again}", 130
        typer.echo(message, err=True)
        raise typer.Exit(code)


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None
)


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
