"""Prompts from files: a JSON object with its own settings, or a plain prompt, on each line. No torch.

A line has one of `prompt` (a user's turn), `messages` (a conversation) and `prompt_ids` (token ids, no chat template),
an optional `id`, and any field of `Settings`; `threshold` is another name for `parameter`. A line that cannot be used
does not stop the others: it becomes an `InputLine` with an error. Lines are data, perhaps from other people; so a
selector or ranking that is code (`module:attribute`) is accepted only in the caller's defaults.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from lightningrl.config.registries import DECODER, names
from lightningrl.config.section import Section
from lightningrl.errors import ConfigError


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
    ranking_options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    schedule: str = "fused"
    schedule_options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    stop: str = "finish_block"
    logits_options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    temperature: float = 0.0
    top_k: int = Field(0, le=2**31)
    top_p: float = 1.0
    seed: int = 0

    @field_validator("selector_options", "ranking_options", "schedule_options", "logits_options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if not (value is None or (isinstance(value, (int, float)) and abs(value) <= sys.float_info.max)):
                raise ValueError(f"{name} is {value!r}, expected true, false, null or a finite number")
        return options

    def policy_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `policy_of`."""
        arguments = self.model_dump(include=Settings.model_fields.keys() - {"samples", "max_new_tokens"})
        arguments["options"] = arguments.pop("selector_options")
        return arguments


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


def read_prompts(source: str, defaults: Settings, plugins: Sequence[str] = ()) -> list[InputLine]:
    """Returns the prompts of a file: plain text if its name ends in `.txt`, else JSON lines; `-` is standard input.

    plugins: modules that add names of selectors and the like, which lines may use. Empty lines are skipped; a line
    with the id of an earlier one becomes an error, because their results could not be told apart. Raises ConfigError
    when the file cannot be read or has no prompt.
    """
    name = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line.rstrip(b"\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{name} has no prompt: expected one per line")
    found, first_use = [], dict[str, int]()
    for index, (number, text) in enumerate(numbered):
        read = partial(_parse, text, name.endswith(".txt"))
        line = _input_line(index, f"{name}, line {number}", read, defaults, plugins)
        first = first_use.setdefault(str(line.id), index)
        if first != index and line.error is None:
            error = f"id {line.id!r} is that of prompt {first} already (counted from 0); ids must be unique"
            line = replace(line, spec=None, error=error)
        found.append(line)
    return found


def prompts_from_options(prompts: Sequence[str], defaults: Settings) -> list[InputLine]:
    """Returns the prompts of the command line's `--prompt` options."""
    return [
        _input_line(index, f"--prompt {index + 1}", partial(dict, prompt=prompt), defaults)
        for index, prompt in enumerate(prompts)
    ]


def _parse(line: bytes, is_plain: bool) -> Any:
    text = line.decode()
    return {"prompt": text} if is_plain else json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _input_line(
    index: int, where: str, read: Callable[[], Any], defaults: Settings, plugins: Sequence[str] = ()
) -> InputLine:
    uid: str | int = f"prompt/{index}"
    try:
        raw = read()
        if not isinstance(raw, dict):
            raise ConfigError(f'found {type(raw).__name__}, expected an object like {{"prompt": "..."}}')
        json.dumps(raw, ensure_ascii=False).encode()
        if isinstance(raw.get("id"), (str, int)) and not isinstance(raw["id"], bool):
            uid = raw["id"]
        return InputLine(index, uid, _spec(raw, defaults, plugins))
    except ConfigError as error:
        reason = str(error)
    except UnicodeEncodeError:
        reason = "half of a surrogate pair (\\ud800 to \\udfff) is no text"
    except (ValueError, RecursionError) as error:
        reason = f"this is not {'UTF-8' if isinstance(error, UnicodeDecodeError) else 'JSON'}: {error}"
    return InputLine(index, uid, error=f"{where}: {reason}")


def _spec(raw: dict[str, Any], defaults: Settings, plugins: Sequence[str]) -> PromptSpec:
    """Returns the settings of a line over the defaults. Raises ConfigError when they cannot be used."""
    if {"threshold", "parameter"} <= raw.keys():
        raise ConfigError("threshold and parameter are two names of one thing; give one")
    named = {"parameter" if key == "threshold" else key: value for key, value in raw.items()}
    try:
        spec = PromptSpec.model_validate(defaults.model_dump() | named)
    except ValidationError as error:
        reason = _first_error(error)
        raise ConfigError(re.sub("^parameter:", "threshold:", reason) if "threshold" in raw else reason) from None
    if sum(value is not None for value in (spec.prompt, spec.messages, spec.prompt_ids)) != 1:
        raise ConfigError("expected one of prompt, messages and prompt_ids")
    for key in DECODER:
        value = getattr(spec, key)
        if ":" in value and value != getattr(defaults, key):
            raise ConfigError(f"{key} {value!r} is code; name it on the command line, lines take registry names only")
    added = {key: names(key, plugins) for key in DECODER if getattr(spec, key) not in names(key)}
    return spec.model_copy(update={k: own[getattr(spec, k)] for k, own in added.items() if getattr(spec, k) in own})


def _first_error(error: ValidationError) -> str:
    """Returns the first error's message behind the path of its key."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [*PromptSpec.model_fields, "threshold"] if len(first["loc"]) == 1 else list(Turn.model_fields)
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        return f"unknown key {path!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")
    return f"{path}: {first['msg'].removeprefix('Value error, ')}"
