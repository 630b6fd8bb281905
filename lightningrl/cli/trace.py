"""`lightningrl trace`: one response, forward by forward, in the terminal and as a page to look at and pass on."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.outputs import Overwrite, check_out
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.hub import REPOSITORY
from lightningrl.utils.files import write_text


@options.decoding_options("rows", "memory_mb", dtype="float32")
def trace(
    model: options.Model,
    prompt: Annotated[str, typer.Argument(help="The user's turn, in quotes; `-` reads it from standard input.")],
    against: Annotated[list[Path] | None, typer.Option(help="Another model beside MODEL; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the page here, say trace.html: one file, complete.")] = None,
    overwrite: Overwrite = False,
    max_new_tokens: options.MaxNewTokens = None,
    **given: Any,
) -> None:
    """Show which forward revealed each token of a response.

    In the terminal each token stands on the colour of its forward (NO_COLOR: numbers instead). With --out, a page
    replays the response: a slider over the forwards, the model's guesses at masked positions, and each token's
    confidence and alternatives. With --against, several models answer side by side, forward by forward.

    Example: lightningrl trace CHECKPOINT "How many legs have 3 cats?" --against OTHER --out trace.html
    """
    check_out(out, overwrite)
    folders = [model, *(against or [])]
    for folder in folders:  # before another's response is waited for
        if not folder.is_dir() and not REPOSITORY.fullmatch(str(folder)):
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise CheckpointError(
                f"{folder} {problem}; give the folder of a checkpoint (`lightningrl stages` lists those of this "
                "experiment), or a repository of the hub as owner/name"
            )
    question = sys.stdin.read().strip() if prompt == "-" else prompt
    if not question.strip():
        raise ConfigError("the prompt is empty; give a question in quotes, or `-` and a question on standard input")
    from rich.console import Console
    from rich.text import Text

    from lightningrl.inference.policy import direct_policy
    from lightningrl.inference.trace import trace_response
    from lightningrl.inference.trace_page import render_page
    from lightningrl.inference.trace_text import render, visible

    decoding = options.decoding_of(given | {"rows": 1})
    policy, traces = direct_policy(decoding), []
    for folder, name in zip(folders, _names(folders), strict=True):
        llm = options.open_llm(folder, decoding)
        traces.append(trace_response(llm, question, policy, name=name, max_new_tokens=max_new_tokens))
    sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    console = Console(highlight=False)
    console.print(Text(visible(question, "\n"), "italic"), "")
    coloured = console.color_system in ("256", "truecolor") and not console.no_color
    for each in traces:
        console.print(render(each, coloured=coloured, longest=max(t.forwards for t in traces)))
    if out is not None:
        write_text(out, render_page(traces))
        typer.echo(f"page: {out}")


def _names(folders: list[Path]) -> list[str]:
    """Folder names, without the key of a stage's folder where they differ without it."""
    full = [folder.resolve().name for folder in folders]
    short = [re.sub(r"-[0-9a-f]{8}$", "", name) for name in full]
    count = Counter(short)
    return [name if count[brief] > 1 else brief for name, brief in zip(full, short, strict=True)]
