"""Responses that some engine made, read from JSON lines for judging. No torch.

A line is one response. Accepted are

    {"uid": ..., "response": ...}           the least: the problem's uid and the text
    rows of `lightningrl generate`          {"id": the problem's uid, "text": ..., counts of tokens and forwards}
    our own records                         to judge them again

and each may have `sample` (0), `policy`, `threshold`, and the counts and prompt hash of `types.EvalRecord`. A bare
number for a uid (17, or "17") means what the caller says it does. What a line does not say stays unknown (None): no
count is made up. Lines with `error` are responses that failed; they are counted and left out, as are lines whose
response is null. Text behind a literal stop token (`<|im_end|>`, `<|endoftext|>`) is no part of the answer. Other keys
are ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.errors import ConfigError
from lightningrl.utils import files

Key = tuple[str, float | None, str, int]
"""(policy, threshold, uid, sample): no two responses share it."""

COUNTS = (
    "response_tokens", "emitted_tokens", "denoise_forwards", "commit_forwards", "prefill_forwards", "visible_tokens",
)  # fmt: skip
SHOWN = 3
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_END = re.compile(r"<\|(?:im_end|endoftext)\|>")
"""Stop tokens that an engine has left in the text: what follows them is no part of the answer."""


@dataclass(frozen=True, slots=True)
class Given:
    """One response as it was given."""

    policy: str
    threshold: float | None
    uid: str
    sample: int
    text: str
    known: Mapping[str, Any]
    """Fields of the record that are not the judge's: counts, `stop`, `prompt_sha256`, `tokens_by_step`."""

    @property
    def key(self) -> Key:
        return self.policy, self.threshold, self.uid, self.sample

    @property
    def digest(self) -> str:
        """Tells this response from another one under the same key."""
        return files.sha256_text(files.canonical_json([*self.key, self.text, self.known]))


@dataclass(frozen=True, slots=True)
class GivenFile:
    """The responses of a file, in its order."""

    responses: tuple[Given, ...]
    failed: int
    """Lines without a text: failed requests, or responses that are null."""
    backspaces: tuple[int, ...] = ()
    r"""Numbers of the lines whose response has a backspace before `oxed`: JSON reads `"\boxed"` that way."""

    def note(self) -> str | None:
        """What the writer of the file must know before it is judged, if anything."""
        if not self.backspaces:
            return None
        count, first = len(self.backspaces), self.backspaces[0]
        what = f"the response in line {first} has" if count == 1 else f"{count} responses (first: line {first}) have"
        return f"{what} a backspace where \\boxed was probably meant: write \\\\boxed in JSON"


def read_given(
    path: Path,
    policy: str | None = None,
    threshold: float | None = None,
    uid_of_number: Callable[[int], str] | None = None,
) -> GivenFile:
    """Responses of a JSON lines file. policy, threshold: of lines that do not say theirs (policy: the file's name).

    uid_of_number: the uid that a bare number means, or ConfigError; None: a number is no uid.
    Raises ConfigError, naming the line, for what is no response, and for two under one key.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    found: dict[Key, tuple[int, Given]] = {}
    failed, backspaces = 0, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _row(line, where)
        if _is_failed(row):
            failed += 1
            continue
        given = _given(row, where, policy or path.stem, threshold, uid_of_number)
        if given.key in found:
            raise ConfigError(
                f"{where}: a response to {given.uid}, sample {given.sample}, of policy {given.policy!r} at threshold "
                f"{given.threshold} is in line {found[given.key][0]} already. Number samples with `sample`, or name "
                "what differs with `policy` or `threshold`."
            )
        found[given.key] = number, given
        if "\x08oxed" in given.text:
            backspaces.append(number)
    if not found:
        what = f" with a text in its {counted(failed, 'line')}" if failed else ""
        raise ConfigError(f'{path} has no response{what}. Expected lines like {{"uid": "...", "response": "..."}}.')
    return GivenFile(tuple(given for _, given in found.values()), failed, tuple(backspaces))


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: this is not JSON: {error}") from None
    if not isinstance(row, dict):
        expected = 'an object like {"uid": ..., "response": ...}'
        raise ConfigError(f"{where}: found {type(row).__name__}, expected {expected}")
    return row


def _is_failed(row: dict[str, Any]) -> bool:
    """Whether it is a failed request: it says so, or has a place for a text and nothing in it."""
    texts = [row[name] for name in ("response", "text") if name in row]
    return row.get("error") is not None or (bool(texts) and all(text is None for text in texts))


def _uid(row: dict[str, Any], where: str, uid_of_number: Callable[[int], str] | None) -> Any:
    """The line's `uid`, or its `id`; of a bare number, the uid that it means."""
    uid = row.get("uid") if row.get("uid") is not None else row.get("id")
    number = int(uid) if isinstance(uid, str) and _NUMBER.fullmatch(uid) else uid
    if uid_of_number is None or type(number) is not int or number < 0:
        return uid
    try:
        return uid_of_number(number)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _given(
    row: dict[str, Any],
    where: str,
    policy: str,
    threshold: float | None,
    uid_of_number: Callable[[int], str] | None,
) -> Given:
    uid = _uid(row, where, uid_of_number)
    text = row.get("response") if row.get("response") is not None else row.get("text")
    if not isinstance(uid, str) or not isinstance(text, str):
        raise ConfigError(
            f"{where}: expected `uid` or `id` (a text, or a whole number from 0) and `response` or `text` (a text); "
            f"found {_keys(row)}"
        )
    text = _END.split(text, maxsplit=1)[0]
    sample = row.get("sample", 0)
    if not _is_count(sample):
        raise ConfigError(f"{where}: sample is {sample!r}, expected a whole number from 0")
    named = row.get("policy")
    if named is not None and not isinstance(named, str):
        raise ConfigError(f"{where}: policy is {named!r}, expected a text")
    tau = row.get("threshold")
    if tau is not None and not _is_number(tau):
        raise ConfigError(f"{where}: threshold is {tau!r}, expected a finite number")
    return Given(
        writable(policy if named is None else named),
        threshold if tau is None else float(tau),
        writable(uid),
        sample,
        writable(text),
        _known(row, where),
    )


def _known(row: dict[str, Any], where: str) -> dict[str, Any]:
    known: dict[str, Any] = {name: row[name] for name in COUNTS if row.get(name) is not None}
    for name, value in known.items():
        least = 1 if name in ("response_tokens", "denoise_forwards") else 0
        if not _is_count(value) or value < least:
            raise ConfigError(f"{where}: {name} is {value!r}, expected a whole number from {least}, or nothing")
    if row.get("stop") is not None:
        if row["stop"] not in ("eos", "length"):
            raise ConfigError(f"{where}: stop is {row['stop']!r}, expected eos or length, or nothing")
        known["stop"] = row["stop"]
    if isinstance(row.get("prompt_sha256"), str):
        known["prompt_sha256"] = writable(row["prompt_sha256"])
    steps = row.get("tokens_by_step")
    if isinstance(steps, list) and all(_is_count(step) for step in steps):
        known["tokens_by_step"] = steps
    return known


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _keys(row: dict[str, Any]) -> str:
    """The line's keys, with the value of each that should be a text and is none: `the keys id (6.0), response`."""
    read = ("uid", "id", "response", "text")
    shown = []
    for name, value in sorted(row.items()):
        is_odd = name in read and not isinstance(value, str)
        shown.append(writable(name) + (f" ({json.dumps(value)[:40]})" if is_odd else ""))
    return f"the key{'s' if len(shown) > 1 else ''} {', '.join(shown)}" if shown else "no keys"


def counted(number: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def writable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
