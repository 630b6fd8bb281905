"""`lightningrl chat`: talk to a checkpoint in the terminal; answers appear block by block."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.errors import user_errors

if TYPE_CHECKING:
    from rich.live import Live

    from lightningrl.inference.conversation import Conversation, Draft
    from lightningrl.types import Trajectory

HELP = """/new                 forget the conversation
/threshold 0.7       reveal surer (higher) or faster (lower); without a number: show
/temperature 0.8     0 is greedy;  /top_k 50, /top_p 0.95, /seed 1 likewise
/quit                leave (or Ctrl-D); Ctrl-C stops an answer and keeps the conversation
A line that starts with a blank is no command."""

NUMBERS: dict[str, Callable[[str], float | int]] = {
    "threshold": float, "temperature": float, "top_k": int, "top_p": float, "seed": int,
}  # fmt: skip
MASKED = "░"

System = Annotated[str | None, typer.Option(help="A system turn before the conversation.")]


def chat(
    model: options.Model,
    system: System = None,
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
    block_size: options.BlockSize = None,
    dtype: options.Dtype = "stored",
    device: options.Device = "cpu",
) -> None:
    """Talk to a checkpoint in the terminal.

    An answer appears block by block; on a terminal the block that is being decoded is shown too, with a shade for every
    token that is still masked. After each: its tokens, forwards, tokens per forward (TPF) and tokens a second, on
    standard error. Questions may come from a pipe, one a line.

    \b
    While it runs:
    /new, /threshold 0.7, /temperature 0.8, /top_k, /top_p, /seed, /help, /quit
    Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves.
    """
    with user_errors(resumes=False):
        words: dict[str, Any] = {
            "selector": selector, "options": options.selector_options_of(selector_options), "parameter": threshold,
            "ranking": ranking, "schedule": schedule, "stop": stop, "temperature": temperature, "top_k": top_k,
            "top_p": top_p, "seed": seed,
        }  # fmt: skip
        options.policy_from(**words)
        llm = options.open_llm(model, block_size, dtype, device, rows=1)
        from lightningrl.inference.conversation import Conversation

        _Chat(Conversation(llm, max_new_tokens, system), words).run()


class _Chat:
    def __init__(self, conversation: Conversation, words: dict[str, Any]):
        self.conversation, self.words = conversation, words

    def run(self) -> None:
        for line in _lines():
            if line.startswith("/"):
                if not self.command(*line[1:].split(maxsplit=1)):
                    return
            elif line.strip():
                self.ask(line.strip())

    def command(self, name: str = "", value: str = "") -> bool:
        """Do what a line with a slash says; false: leave."""
        if name == "quit":
            return False
        if name == "new":
            self.conversation.clear()
            _note("a new conversation")
        elif name == "help":
            _note(HELP)
        elif name in NUMBERS:
            self.set(name, value)
        else:
            close = difflib.get_close_matches(name, ("new", "help", "quit", *NUMBERS), 1)
            _note(f"there is no /{name}; " + (f"did you mean /{close[0]}?" if close else "/help lists what there is"))
        return True

    def set(self, name: str, value: str) -> None:
        from lightningrl.errors import LightningRLError

        key = "parameter" if name == "threshold" else name
        if value:
            try:
                words = self.words | {key: NUMBERS[name](value)}
                options.policy_from(**words)
            except (LightningRLError, ValueError) as error:
                _note(f"/{name} {value}: {error}")
                return
            self.words = words
        _note(f"{name} is {self.words[key]}")

    def ask(self, text: str) -> None:
        from lightningrl.errors import LightningRLError

        began = time.perf_counter()
        try:
            with _Screen() as screen:
                trajectory = self.conversation.answer(text, options.policy_from(**self.words), screen.show)
                screen.show(self.conversation.messages[-1]["content"], [])
        except KeyboardInterrupt:
            _note("stopped; the conversation goes on")
        except LightningRLError as error:
            _note(f"error: {error}")
        else:
            _note(_cost(trajectory, time.perf_counter() - began))


def _cost(trajectory: Trajectory, seconds: float) -> str:
    stats = trajectory.stats
    cut = "" if trajectory.stop == "eos" else ", cut at the longest length"
    return (
        f"{stats.response_tokens} tokens, {stats.denoise_forwards} forwards, {stats.tpf:.2f} TPF, "
        f"{stats.response_tokens / seconds:.0f} tokens/s{cut}"
    )


def _note(text: str) -> None:
    sys.stdout.flush()
    typer.secho(text, err=True, dim=True)


def _lines() -> Iterator[str]:
    """What the user says, until Ctrl-D or the pipe's end."""
    asks = sys.stdin.isatty()
    if asks:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its history and editing
        _note("/help lists the commands")
    else:
        getattr(sys.stdin, "reconfigure", lambda **_: None)(encoding="utf-8", errors="replace")
    while True:
        try:
            line = input("> ") if asks else sys.stdin.readline()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            if not asks:
                raise
            _note("\n/quit or Ctrl-D leaves")
            continue
        if not asks and not line:
            return
        yield line.rstrip("\r\n").encode("utf-8", "replace").decode()


class _Screen:
    """Writes an answer as it grows. On a terminal its last line, with the draft, is redrawn; lines before it stay."""

    def __init__(self) -> None:
        self._written = 0
        self._live: Live | None = None
        self._last = ""

    def __enter__(self) -> _Screen:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def show(self, text: str, draft: Draft) -> None:
        """The text of finished blocks, which only grows, and the block that is being decoded."""
        if self._live is None:
            typer.echo(text[self._written :], nl=False)
            sys.stdout.flush()
            self._written = max(self._written, len(text))
            return
        from rich.text import Text

        whole = text.rfind("\n") + 1
        if whole > self._written:
            self._live.console.print(Text(_visible(text[self._written : whole - 1])))
            self._written = whole
        self._last = _visible(text[self._written :])
        pieces = "".join(MASKED if piece is None else piece for piece in draft)
        self._live.update(Text(self._last).append(_visible(pieces), style="dim"), refresh=True)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(self._last), refresh=True)  # an answer that was stopped leaves no draft behind
            self._live.stop()
        elif failed is None or self._written:
            typer.echo()


def _visible(text: str) -> str:
    """Without control characters, which could redraw the terminal or ring its bell."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
