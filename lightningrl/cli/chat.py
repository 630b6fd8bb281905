"""`lightningrl chat`: talk to a checkpoint in the terminal; answers appear block by block."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.errors import LightningRLError

if TYPE_CHECKING:
    from rich.live import Live

    from lightningrl.decoding.protocol import DecodePolicy
    from lightningrl.inference.conversation import Conversation, Draft

HELP = """/new                 forget the conversation
/threshold 0.7       reveal surer (higher) or faster (lower); without a number: show
/temperature 0.8     0 is greedy;  /top_k 50, /top_p 0.95, /seed 1 likewise
/quit                leave (or Ctrl-D); Ctrl-C stops an answer and keeps the conversation
A line that starts with a blank is no command."""
NUMBERS = ("threshold", "temperature", "top_k", "top_p", "seed")
MASKED = "░"


@options.decoding_options("rows", "memory_mb")
def chat(
    model: options.Model,
    system: Annotated[str | None, typer.Option(help="A system turn before the conversation.")] = None,
    max_new_tokens: options.MaxNewTokens = None,
    **given: Any,
) -> None:
    """Talk to a checkpoint in the terminal.

    An answer appears block by block; on a terminal the block that is being decoded is shown too, with a shade for every
    token that is still masked. After each: its tokens, forwards, tokens per forward (TPF) and tokens per second, on
    standard error. Questions may come from a pipe, one per line.

    \b
    While it runs:
    /new, /threshold 0.7, /temperature 0.8, /top_k, /top_p, /seed, /help, /quit
    Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves.
    """
    from lightningrl.inference.conversation import Conversation

    given |= {"rows": 1}
    _policy(given)  # what is wrong is said before the checkpoint is loaded
    conversation = Conversation(options.open_llm(model, options.decoding_of(given)), max_new_tokens, system)
    for line in _lines():
        match line[1:].split(maxsplit=1) or [""] if line.startswith("/") else None:
            case None if line.strip():
                _ask(conversation, line.strip(), _policy(given))
            case None:
                continue
            case ["quit", *_]:
                return
            case ["new", *_]:
                conversation.clear()
                _note("a new conversation")
            case ["help", *_]:
                _note(HELP)
            case [name, *value] if name in NUMBERS:
                given = _changed(given, name, *value)
            case [name, *_]:
                near = difflib.get_close_matches(name, ("new", "help", "quit", *NUMBERS), 1)
                hint = f"did you mean /{near[0]}?" if near else "/help lists what there is"
                _note(f"there is no /{name}; {hint}")


def _policy(given: dict[str, Any]) -> DecodePolicy:
    from lightningrl.inference.policy import direct_policy

    return direct_policy(options.decoding_of(given))


def _changed(given: dict[str, Any], name: str, value: str = "") -> dict[str, Any]:
    """Returns the options with one of `NUMBERS` changed, and says what it is; as they were where it cannot be so."""
    try:
        changed = given | ({name: float(value)} if value else {})
        _policy(changed)
    except (LightningRLError, ValueError) as error:
        _note(f"/{name} {value}: {error}")
        return given
    _note(f"{name} is {getattr(options.decoding_of(changed), name)}")
    return changed


def _ask(conversation: Conversation, text: str, policy: DecodePolicy) -> None:
    began = time.perf_counter()
    try:
        with _Screen() as screen:
            trajectory = conversation.answer(text, policy, screen.show)
            screen.show(conversation.messages[-1]["content"], [])
    except KeyboardInterrupt:
        _note("stopped; the conversation continues")
    except LightningRLError as error:
        _note(f"error: {error}")
    else:
        stats, seconds = trajectory.stats, time.perf_counter() - began
        cut = "" if trajectory.stop == "eos" else ", cut at the longest length"
        _note(
            f"{stats.response_tokens} tokens, {stats.denoise_forwards} forwards, {stats.tpf:.2f} TPF, "
            f"{stats.response_tokens / seconds:.0f} tokens/s{cut}"
        )


def _note(text: str) -> None:
    sys.stdout.flush()
    typer.secho(text, err=True, dim=True)


def _lines() -> Iterator[str]:
    """What the user says, until Ctrl-D or the pipe's end."""
    if not sys.stdin.isatty():
        getattr(sys.stdin, "reconfigure", lambda **_: None)(encoding="utf-8", errors="replace")
        yield from (line.rstrip("\r\n") for line in iter(sys.stdin.readline, ""))
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its history and editing
    _note("/help lists the commands")
    while True:
        try:
            yield input("> ").encode("utf-8", "replace").decode()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            _note("\n/quit or Ctrl-D leaves")


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
        """Shows the text of finished blocks, which only grows, and the block that is being decoded."""
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
