"""Prompts from files: a JSON object with its own settings, or a plain prompt, on each line. No torch.

A line has one of `prompt` (a user's turn), `messages` (a conversation) and `prompt_ids` (token ids, no chat template),
an optional `id`, and any field of `Settings`; `threshold` is another name for `parameter`. A line that cannot be used
does not stop the others: it becomes an `InputLine` with an error. Lines are data, perhaps from other people; so a
selector or ranking that is code (`module:attribute`) is accepted only in the caller's defaults.
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

MAY_BE_CODE = ("selector", "ranking", "schedule", "stop")


class Settings(Section, strict=True):
    """How responses are generated. Numbers outside the range of a decoding component are refused by `policy_of`."""

    samples: int = Field(1, ge=1, le=1_000_000)
    """Responses to each prompt; they differ only at a temperature above 0."""
    max_new_tokens: int | None = None
    """None: what `LLM.request` chooses."""
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

    def policy_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `policy_of`."""
        arguments = self.model_dump(
            include=set(Settings.model_fields) - {"samples", "max_new_tokens", "selector_options"}
        )
        return arguments | {"options": self.selector_options}


def make_settings(**values: Any) -> Settings:
    """Returns the caller's defaults. Raises ConfigError naming a value of a wrong type or out of range."""
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_first_error(error)) from None


class Turn(Section, strict=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class PromptSpec(Settings, strict=True):
    """One prompt with its settings."""

    id: str | int | None = None
    """The key of its draws, and of its results in the output; unique in the input."""
    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    prompt_ids: Annotated[list[int], Field(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class InputLine:
    """A line of the input: its prompt, or the reason why it cannot be used."""

    index: int
    """Its place among the prompts of the input, counted from 0."""
    id: str | int
    """Its own id, or `prompt/<index>` when it has none."""
    spec: PromptSpec | None = None
    error: str | None = None


def read_prompts(source: str, defaults: Settings) -> list[InputLine]:
    """Returns the prompts of a file: plain text if its name ends in `.txt`, else JSON lines; `-` is standard input.

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
        [_input_line(index, f"{name}, line {n}", line, plain, defaults) for index, (n, line) in enumerate(numbered)]
    )


def prompts_from_options(prompts: Sequence[str], defaults: Settings) -> list[InputLine]:
    """Returns the prompts of the command line's `--prompt` options."""
    raw_prompts = ((f"--prompt {number}", {"prompt": prompt}) for number, prompt in enumerate(prompts, 1))
    return [_checked(index, where, raw, defaults) for index, (where, raw) in enumerate(raw_prompts)]


def _input_line(index: int, where: str, data: bytes, plain: bool, defaults: Settings) -> InputLine:
    try:
        text = data.decode()
        raw = {"prompt": text} if plain else json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        return InputLine(index, f"prompt/{index}", error=f"{where}: this is not {what}: {error}")
    if not isinstance(raw, dict):
        error = f'{where}: found {type(raw).__name__}, expected an object like {{"prompt": "..."}}'
        return InputLine(index, f"prompt/{index}", error=error)
    return _checked(index, where, raw, defaults)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _checked(index: int, where: str, raw: dict[str, Any], defaults: Settings) -> InputLine:
    uid = raw.get("id")
    if not isinstance(uid, (str, int)) or isinstance(uid, bool):
        uid = f"prompt/{index}"
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        error = f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no text"
        return InputLine(index, f"prompt/{index}", error=error)
    renamed = "threshold" in raw
    if renamed:
        if "parameter" in raw:
            return InputLine(index, uid, error=f"{where}: threshold and parameter are two names of one thing; give one")
        raw = {"parameter" if key == "threshold" else key: value for key, value in raw.items()}
    try:
        spec = PromptSpec.model_validate(defaults.model_dump() | raw)
    except ValidationError as error:
        message = _first_error(error)
        if renamed and message.startswith("parameter:"):
            message = "threshold" + message.removeprefix("parameter")
        return InputLine(index, uid, error=f"{where}: {message}")
    if sum(value is not None for value in (spec.prompt, spec.messages, spec.prompt_ids)) != 1:
        return InputLine(index, uid, error=f"{where}: expected one of prompt, messages and prompt_ids")
    for key in MAY_BE_CODE:
        value = getattr(spec, key)
        if ":" in value and value != getattr(defaults, key):
            error = f"{where}: {key} {value!r} is code; name it on the command line, lines take registry names only"
            return InputLine(index, uid, error=error)
    return InputLine(index, uid, spec)


def _first_error(error: ValidationError) -> str:
    """Returns the first error's message behind the path of its key."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [*PromptSpec.model_fields, "threshold"] if len(first["loc"]) == 1 else list(Turn.model_fields)
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        return f"unknown key {path!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
    return f"{path}: {first['msg'].removeprefix('Value error, ')}"


def _unique(lines: Iterable[InputLine]) -> list[InputLine]:
    """Turns lines with the id of an earlier one into errors, because their results could not be told apart."""
    seen: dict[str, int] = {}
    checked = []
    for line in lines:
        first = seen.setdefault(str(line.id), line.index)
        if first != line.index and line.error is None:
            error = f"id {line.id!r} is that of prompt {first} already (counted from 0); ids must be unique"
            line = InputLine(line.index, line.id, error=error)
        checked.append(line)
    return checked
