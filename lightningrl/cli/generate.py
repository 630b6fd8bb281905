"""`lightningrl generate`: prompts in, JSON lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.outputs import say
from lightningrl.errors import ConfigError
from lightningrl.inference.jsonl import InputLine, Settings, make_settings, prompts_from_options, read_prompts

if TYPE_CHECKING:
    from lightningrl.inference.llm import LLM
    from lightningrl.inference.response_file import ResponseFile
    from lightningrl.inference.responses import PlannedResponse

Input = Annotated[
    str | None, typer.Argument(help="JSON lines, or plain prompts one per line (name.txt); `-`: JSON lines from stdin.")
]
Tokens = Annotated[
    bool, typer.Option(help="With arrays of one entry per token: ids, pieces, log-probs, entropies, ...")
]


@options.decoding_options()
def generate(
    model: options.Model,
    input: Input = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt by itself; can be given several times.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to append to and to resume from; default: standard output.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start --out anew.")] = False,
    tokens: Tokens = True,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt.")] = 1,
    max_new_tokens: options.MaxNewTokens = None,
    **given: Any,
) -> None:
    """Decode prompts: one JSON line per response, written as soon as it is known.

    A line of the input is {"prompt": "..."}, {"messages": [{"role": "user", "content": "..."}]} or
    {"prompt_ids": [...]}, with an `id` if you like, and settings of its own that override the options: samples,
    max_new_tokens, temperature, top_k, top_p, threshold, selector, selector_options, ranking, schedule,
    schedule_options, stop, seed.

    A line of the output has id, sample, index (the prompt's place in the input), text, stop, counts of tokens and
    forwards, TPF, and for every token its id, piece, log-probability and entropy (nats) and the forward that revealed
    it. A prompt that cannot be decoded gets a line with `error` and leaves the others alone.

    Stopped by Ctrl-C or killed, the same command with --out resumes: what is in it is kept, failed prompts are tried
    again. Exit codes: 0 all done, 1 some prompts failed, 2 nothing could be done, 130 Ctrl-C.

    \b
    lightningrl generate models/SDAR-8B-Chat-b32 --prompt "How many legs have 3 cats?"
    lightningrl generate models/SDAR-8B-Chat-b32 prompts.jsonl --out answers.jsonl
    """
    from lightningrl.inference.policy import direct_policy
    from lightningrl.inference.response_file import ResponseFile

    decoding = options.decoding_of(given)
    direct_policy(decoding)  # wrong on the command line is wrong for all: say so at once
    settings = make_settings(
        samples=samples, max_new_tokens=max_new_tokens, parameter=decoding.threshold, **decoding.identity()
    )
    lines = _lines(input, prompt, out, settings, decoding.plugins)
    file = None if out is None else ResponseFile(out, overwrite=overwrite)
    with nullcontext() if file is None else closing(file):
        _run(options.open_llm(model, decoding), lines, file, tokens)


def _lines(
    input: str | None, prompts: list[str] | None, out: Path | None, settings: Settings, plugins: list[str]
) -> list[InputLine]:
    if (input is None) == (not prompts):
        raise ConfigError("give prompts: a file (`-` for standard input), or --prompt once or more; not both")
    if input is None:
        return prompts_from_options(prompts or [], settings)
    if out is not None and input != "-" and out.exists() and Path(input).exists() and out.samefile(input):
        raise ConfigError(f"--out {out} is the input; name another file")
    return read_prompts(input, settings, plugins)


def _run(llm: LLM, lines: list[InputLine], file: ResponseFile | None, tokens: bool) -> None:
    from lightningrl.inference.response_file import to_line
    from lightningrl.inference.responses import generate_rows, plan_responses

    planned = plan_responses(llm, lines)
    missing = planned if file is None else _missing(planned, file)
    done, rows = len(planned) - len(missing), list[dict[str, Any]]()
    counts = ("response_tokens", "denoise_forwards", "error")
    try:
        with _progress(len(planned), done) as advance:
            for row in generate_rows(llm, missing, tokens=tokens):
                if file is None:
                    typer.echo(to_line(row), nl=False)
                else:
                    file.append(row)
                rows.append({name: row[name] for name in counts if name in row})
                advance()
    except KeyboardInterrupt:
        if file is None:
            say("stopped by Ctrl-C; what was printed is all there is (with --out, the same command resumes)")
        else:
            there = f"{done + file.written} of {len(planned)} are in {file.path}"
            say(f"stopped by Ctrl-C: {there}; run the same command again to resume from there")
        raise typer.Exit(130) from None
    errors, ledger = [row["error"] for row in rows if "error" in row], llm.decoder.ledger
    n_tokens, n_forwards = (sum(row.get(name, 0) for row in rows) for name in counts[:2])
    seconds = sum(forward.seconds for forward in ledger.forwards)
    speed = f", {n_tokens / n_forwards:.2f} TPF, {n_tokens / seconds:.0f} tokens/s" if n_tokens else ""
    ran = f"{len(ledger.forwards)} forwards, {ledger.preemptions} preemptions"
    say(f"{len(rows) - len(errors)} responses, {n_tokens} tokens{speed}, {ran}")
    if errors:
        say(f"{len(errors)} of {len(planned)} failed: see `error` in the output; first: {errors[0]}")
        raise typer.Exit(1)


def _missing(planned: list[PlannedResponse], file: ResponseFile) -> list[PlannedResponse]:
    """What the file does not have yet; it is made ready to go on with. Raises ConfigError when it has other answers."""
    there = [one for one in planned if one.request is not None and one.key in file.finished]
    changed = [one for one in there if file.finished[one.key] != one.hash]
    if changed:
        raise ConfigError(
            f"{file.path} has {len(changed)} responses to another prompt, setting or model under the same id, the "
            f"first is {changed[0].source.id!r}. Name another file, or start this one anew with --overwrite."
        )
    file.begin()
    if there:
        say(f"{file.path} has {len(there)} of {len(planned)} responses already")
    return [one for one in planned if one.key not in file.finished or one.request is None]


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("responses", total=total, completed=done)
        yield lambda: progress.advance(task)
