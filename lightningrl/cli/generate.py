"""`lightningrl generate`: prompts in, JSON lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.errors import EXIT_CTRL_C, user_errors

if TYPE_CHECKING:
    from lightningrl.inference.jsonl import InputLine, Settings
    from lightningrl.inference.response_file import ResponseFile
    from lightningrl.inference.responses import PlannedResponse

Input = Annotated[
    str | None, typer.Argument(help="JSON lines, or plain prompts one a line (name.txt); `-`: JSON lines from stdin.")
]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="A prompt by itself; can be given several times.")]
Out = Annotated[Path | None, typer.Option(help="File to append to, and to go on with. Left out: standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start --out anew.")]
Tokens = Annotated[bool, typer.Option(help="With arrays of one entry a token: ids, pieces, log-probs, entropies, ...")]
Samples = Annotated[int, typer.Option(min=1, help="Responses to each prompt.")]


def generate(
    model: options.Model,
    input: Input = None,
    prompt: Prompts = None,
    out: Out = None,
    overwrite: Overwrite = False,
    tokens: Tokens = True,
    samples: Samples = 1,
    max_new_tokens: options.MaxNewTokens = None,
    selector: options.Selector = "threshold",
    threshold: options.Threshold = 0.9,
    selector_options: options.SelectorOptions = "{}",
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    ranking: options.Ranking = "confidence",
    schedule: options.Schedule = "fused",
    stop: options.Stop = "finish_block",
    seed: options.Seed = 0,
    rows: options.Rows = 64,
    memory_mb: options.MemoryMB = None,
    block_size: options.BlockSize = None,
    dtype: options.Dtype = "stored",
    device: options.Device = "cpu",
) -> None:
    """Decode prompts: one JSON line a response, written as soon as it is known.

    A line of the input is {"prompt": "..."}, {"messages": [{"role": "user", "content": "..."}]} or
    {"prompt_ids": [...]}, with an `id` if you like, and settings of its own that override the options: samples,
    max_new_tokens, temperature, top_k, top_p, threshold, selector, selector_options, ranking, schedule, stop, seed.

    A line of the output has id, sample, index (the prompt's place in the input), text, stop, counts of tokens and
    forwards, TPF, and for every token its id, piece, log-probability and entropy (nats) and the forward that revealed
    it. A prompt that cannot be decoded gets a line with `error` and leaves the others alone.

    Stopped by Ctrl-C or killed, the same command goes on with --out: what is in it is kept, failed prompts are tried
    again. Exit codes: 0 all done, 1 some prompts failed, 2 nothing could be done, 130 Ctrl-C.

    \b
    lightningrl generate models/SDAR-8B-Chat-b32 --prompt "How many legs have 3 cats?"
    lightningrl generate models/SDAR-8B-Chat-b32 prompts.jsonl --out answers.jsonl
    """
    with user_errors(resumes=out is not None):
        from lightningrl.inference.jsonl import make_settings

        settings = make_settings(
            samples=samples, max_new_tokens=max_new_tokens, selector=selector, parameter=threshold,
            selector_options=options.selector_options_of(selector_options), ranking=ranking, schedule=schedule,
            stop=stop, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip
        options.policy_from(**settings.policy_arguments())  # wrong on the command line is wrong for all: say so at once
        lines = _lines(input, prompt, out, settings)
        file = _open(out, overwrite)
        try:
            memory = None if memory_mb is None else memory_mb * 1_000_000
            llm = options.open_llm(model, block_size, dtype, device, rows=rows, memory_bytes=memory)
            _run(llm, lines, file, tokens)
        finally:
            if file is not None:
                file.close()


def _lines(input: str | None, prompts: list[str] | None, out: Path | None, settings: Settings) -> list[InputLine]:
    from lightningrl.errors import ConfigError
    from lightningrl.inference.jsonl import prompts_from_options, read_prompts

    if (input is None) == (not prompts):
        raise ConfigError("give prompts: a file (`-` for standard input), or --prompt once or more; not both")
    if prompts:
        return prompts_from_options(prompts, settings)
    assert input is not None
    if out is not None and input != "-" and out.exists() and Path(input).exists() and out.samefile(input):
        raise ConfigError(f"--out {out} is the input; name another file")
    return read_prompts(input, settings)


def _open(out: Path | None, overwrite: bool) -> ResponseFile | None:
    from lightningrl.inference.response_file import ResponseFile

    return None if out is None else ResponseFile(out, overwrite=overwrite)


def _run(llm: Any, lines: list[InputLine], file: ResponseFile | None, tokens: bool) -> None:
    from lightningrl.inference.response_file import to_line
    from lightningrl.inference.responses import generate_rows, plan_responses

    planned = plan_responses(llm, lines)
    missing = planned if file is None else _missing(planned, file)
    tally = _Tally()
    try:
        with _progress(len(planned), len(planned) - len(missing)) as advance:
            for row in generate_rows(llm, missing, tokens=tokens):
                if file is None:
                    typer.echo(to_line(row), nl=False)
                else:
                    file.append(row)
                tally.add(row)
                advance()
    except KeyboardInterrupt:
        typer.echo(_stopped(file, len(planned) - len(missing), len(planned)), err=True)
        raise typer.Exit(EXIT_CTRL_C) from None
    typer.echo(tally.summary(llm.decoder.ledger), err=True)
    if tally.failed:
        typer.echo(
            f"{tally.failed} of {len(planned)} failed: see `error` in the output; first: {tally.first}", err=True
        )
        raise typer.Exit(1)


def _missing(planned: list[PlannedResponse], file: ResponseFile) -> list[PlannedResponse]:
    """What the file does not have yet; it is made ready to go on with. Raises ConfigError when it has other answers."""
    from lightningrl.errors import ConfigError

    there = [one for one in planned if one.request is not None and one.key in file.finished]
    changed = [one for one in there if file.finished[one.key] != one.hash]
    if changed:
        raise ConfigError(
            f"{file.path} has {len(changed)} responses to another prompt, setting or model under the same id, the "
            f"first is {changed[0].source.id!r}. Name another file, or start this one anew with --overwrite."
        )
    file.begin()
    if there:
        typer.echo(f"{file.path} has {len(there)} of {len(planned)} responses already", err=True)
    return [one for one in planned if one.key not in file.finished or one.request is None]


def _stopped(file: ResponseFile | None, before: int, total: int) -> str:
    if file is None:
        return "stopped by Ctrl-C; what was printed is all there is (with --out, the same command goes on)"
    done = before + file.written
    return f"stopped by Ctrl-C: {done} of {total} are in {file.path}; run the same command again, it goes on from there"


class _Tally:
    def __init__(self) -> None:
        self.responses = self.tokens = self.denoise = self.failed = 0
        self.first = ""

    def add(self, row: dict[str, Any]) -> None:
        if "error" in row:
            self.first = self.first or row["error"]
            self.failed += 1
        else:
            self.responses += 1
            self.tokens += row["response_tokens"]
            self.denoise += row["denoise_forwards"]

    def summary(self, ledger: Any) -> str:
        seconds = sum(forward.seconds for forward in ledger.forwards)
        speed = f", {self.tokens / self.denoise:.2f} TPF, {self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        ran = f"{len(ledger.forwards)} forwards, {ledger.preemptions} preemptions"
        return f"{self.responses} responses, {self.tokens} tokens{speed}, {ran}"


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
