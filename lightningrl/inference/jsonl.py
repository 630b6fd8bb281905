"""Prompts from files: one JSON object a line, or one plain prompt a line, with settings of their own. No torch.

A line has one of `prompt` (a user's turn), `messages` (a conversation) and `prompt_ids` (token ids, no chat template),
an optional `id`, and any field of `Settings`; `threshold` is another name for `parameter`. A line that cannot be used
does not stop the others: it becomes an `Ask` with an error. Lines are data, perhaps other people's, so a selector or
ranking of one's own (`module:attribute`, which is code) is taken from the caller's defaults only.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError

CODE = ("selector", "ranking", "schedule", "stop")


class Settings(Section, strict=True):
    """How a response is asked for; what is out of a piece's range is refused when the policy is made."""

    samples: int = Field(1, ge=1, le=1_000_000)
    """Responses to each prompt; they differ only at a temperature over 0."""
    max_new_tokens: int | None = None
    """None: see LLM.request."""
    selector: str = "threshold"
    parameter: float = 0.9
    selector_options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    ranking: str = "confidence"
    schedule: str = "fused"
    stop: str = "finish_block"
    temperature: float = 0.0
    top_k: int = Field(0, le=2**31)
    top_p: float = 1.0
    seed: int = 0

    @field_validator("selector_options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if not (value is None or (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max)):
                raise ValueError(f"{name} is {value!r}, expected true, false, null or a finite number")
        return options

    def words(self) -> dict[str, Any]:
        """The arguments of `policy_of`."""
        words = self.model_dump(include=set(Settings.model_fields) - {"samples", "max_new_tokens", "selector_options"})
        return words | {"options": self.selector_options}


def settings_of(**given: Any) -> Settings:
    """The caller's defaults. Raises ConfigError naming what is of another type or out of range."""
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(_said(error)) from None


class Turn(Section, strict=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Line(Settings, strict=True):
    """One prompt with its settings."""

    id: str | int | None = None
    """The key of its draws, and of its results in the output: unique in the input."""
    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    prompt_ids: Annotated[list[int], Field(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A line of the input: what it asks for, or why it cannot be used."""

    index: int
    """Among the prompts of the input, from 0."""
    id: str | int
    """As given; `prompt/<index>` when it is not."""
    line: Line | None = None
    error: str | None = None


def read_asks(source: str, defaults: Settings) -> list[Ask]:
    """The prompts of a file: plain text when its name ends in `.txt`, else JSON lines; `-` is standard input.

    Empty lines are skipped. Raises ConfigError when the file cannot be read or has no prompt.
    """
    try:
        if source == "-":
            data, name = sys.stdin.buffer.read(), "standard input"
        else:
            data, name = Path(source).read_bytes(), source
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line.rstrip(b"\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{name} has no prompt: expected one a line")
    plain = name.endswith(".txt")
    return _unique(
        [_ask(index, f"{name}, line {n}", line, plain, defaults) for index, (n, line) in enumerate(numbered)]
    )


def asks_of(prompts: Sequence[str], defaults: Settings) -> list[Ask]:
    """Prompts given by themselves."""
    given = ((f"--prompt {number}", {"prompt": prompt}) for number, prompt in enumerate(prompts, 1))
    return [_checked(index, where, raw, defaults) for index, (where, raw) in enumerate(given)]


def _ask(index: int, where: str, data: bytes, plain: bool, defaults: Settings) -> Ask:
    try:
        text = data.decode()
        raw = {"prompt": text} if plain else json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        return Ask(index, f"prompt/{index}", error=f"{where}: this is not {what}: {error}")
    if not isinstance(raw, dict):
        error = f'{where}: found {type(raw).__name__}, expected an object like {{"prompt": "..."}}'
        return Ask(index, f"prompt/{index}", error=error)
    return _checked(index, where, raw, defaults)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _checked(index: int, where: str, raw: dict[str, Any], defaults: Settings) -> Ask:
    uid = raw.get("id")
    if not isinstance(uid, (str, int)) or isinstance(uid, bool):
        uid = f"prompt/{index}"
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        error = f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no text"
        return Ask(index, f"prompt/{index}", error=error)
    renamed = "threshold" in raw
    if renamed:
        if "parameter" in raw:
            return Ask(index, uid, error=f"{where}: threshold and parameter are two names of one thing; give one")
        raw = {"parameter" if key == "threshold" else key: value for key, value in raw.items()}
    try:
        line = Line.model_validate(defaults.model_dump() | raw)
    except ValidationError as error:
        said = _said(error)
        said = "threshold" + said.removeprefix("parameter") if renamed and said.startswith("parameter:") else said
        return Ask(index, uid, error=f"{where}: {said}")
    if sum(value is not None for value in (line.prompt, line.messages, line.prompt_ids)) != 1:
        return Ask(index, uid, error=f"{where}: expected one of prompt, messages and prompt_ids")
    for key in CODE:
        value = getattr(line, key)
        if ":" in value and value != getattr(defaults, key):
            error = f"{where}: {key} {value!r} is code; name it on the command line, lines take registry names only"
            return Ask(index, uid, error=error)
    return Ask(index, uid, line)


def _said(error: ValidationError) -> str:
    """The first thing that is wrong, with the key's path."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [*Line.model_fields, "threshold"] if len(first["loc"]) == 1 else list(Turn.model_fields)
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        return f"unknown key {path!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
    return f"{path}: {first['msg'].removeprefix('Value error, ')}"


def _unique(asks: Iterable[Ask]) -> list[Ask]:
    """Later asks with the id of an earlier one get an error: their results could not be told apart."""
    seen: dict[str, int] = {}
    checked = []
    for ask in asks:
        first = seen.setdefault(str(ask.id), ask.index)
        if first != ask.index and ask.error is None:
            error = f"id {ask.id!r} is that of prompt {first} already (counted from 0); ids must be unique"
            ask = Ask(ask.index, ask.id, error=error)
        checked.append(ask)
    return checked
