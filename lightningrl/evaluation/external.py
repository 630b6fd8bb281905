"""Responses that another engine generated: how they are read from JSON lines, and the summary of their verdicts.

A line is one response. Accepted are

    {"uid": ..., "response": ...}           the least: the problem's uid and the text
    rows of `lightningrl generate`          {"id": the problem's uid, "text": ..., counts of tokens and forwards}
    our own records                         to judge them again

and each may have `sample` (0), `policy`, `threshold`, and the counts and prompt hash of `types.EvalRecord`. What a bare
number for a uid (17, or "17") means, the caller decides. What a line does not say stays unknown (None), and so does
every number of the summary that depends on it. Lines with `error` are responses that failed; they are counted and left
out, and so are lines whose response is null. Text behind a literal stop token (`<|im_end|>`, `<|endoftext|>`) does not
belong to the answer. Other keys are ignored. No torch.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightningrl.errors import ConfigError
from lightningrl.evaluation.metrics import summarise
from lightningrl.types import EvalRecord, Example, Stop
from lightningrl.utils import files

Key = tuple[str, float | None, str, int]
"""(policy, threshold, uid, sample): no two responses share it."""
Count = Annotated[int, Field(ge=0, lt=2**31)]
WorkCount = Annotated[int, Field(ge=0, lt=2**63)]
PositiveCount = Annotated[int, Field(ge=1, lt=2**31)]
UidOfNumber = Callable[[int], str]
"""Returns the uid that a bare number means, or raises ConfigError."""

MAX_EXAMPLES = 3
"""Uids that a message names before it stops with `...`."""
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_STOP_TOKEN = re.compile(r"<\|(?:im_end|endoftext)\|>")


@dataclass(frozen=True, slots=True)
class ExternalResponse:
    """One response as its line says it."""

    policy: str
    threshold: float | None
    uid: str
    sample: int
    text: str
    facts: Mapping[str, Any]
    """Fields of the record that do not come from the judge: counts, `stop`, `prompt_sha256`, `tokens_by_step`."""

    @property
    def key(self) -> Key:
        return self.policy, self.threshold, self.uid, self.sample


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """The responses of a file, in its order."""

    responses: tuple[ExternalResponse, ...]
    failed: int
    """Lines without a text: failed requests, or responses that are null."""
    backspaces: tuple[int, ...] = ()
    r"""Numbers of the lines whose response has a backspace before `oxed`: JSON reads `"\boxed"` that way."""

    def note(self) -> str | None:
        """Returns what the author of the file should know before it is judged, or None."""
        if not self.backspaces:
            return None
        count, first = len(self.backspaces), self.backspaces[0]
        what = f"the response in line {first} has" if count == 1 else f"{count} responses (first: line {first}) have"
        return f"{what} a backspace where \\boxed was probably meant: write \\\\boxed in JSON"


class _Line(BaseModel):
    """The optional fields of a line."""

    model_config = ConfigDict(strict=True)
    sample: Count = 0
    policy: str | None = None
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    response_tokens: PositiveCount | None = None
    emitted_tokens: Count | None = None
    denoise_forwards: PositiveCount | None = None
    commit_forwards: Count | None = None
    prefill_forwards: Count | None = None
    prefill_positions: WorkCount | None = None
    prefill_keys: WorkCount | None = None
    decode_positions: WorkCount | None = None
    decode_keys: WorkCount | None = None
    visible_tokens: Count | None = None
    stop: Stop | None = None


def read_responses(
    path: Path,
    policy: str | None = None,
    threshold: float | None = None,
    uid_of_number: UidOfNumber | None = None,
) -> ExternalFile:
    """Reads the responses of a JSON lines file.

    policy, threshold: those of lines that do not name theirs (the default policy is the file's name). uid_of_number:
    with None, numbers are not accepted. Raises ConfigError, naming the line, for a line that is not a response and for
    two responses under one key.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    found: dict[Key, tuple[int, ExternalResponse]] = {}
    failed, backspaces = 0, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            texts = [row[name] for name in ("response", "text") if name in row]
            if row.get("error") is not None or (texts and all(text is None for text in texts)):
                failed += 1
                continue
            response = _response(row, policy or path.stem, threshold, uid_of_number)
            if response.key in found:
                raise ConfigError(
                    f"a response to {response.uid}, sample {response.sample}, of policy {response.policy!r} at "
                    f"threshold {response.threshold} is in line {found[response.key][0]} already. Number samples with "
                    "`sample`, or name what differs with `policy` or `threshold`."
                )
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        found[response.key] = number, response
        if "\x08oxed" in response.text:
            backspaces.append(number)
    if not found:
        what = f" with a text in its {counted(failed, 'line')}" if failed else ""
        raise ConfigError(f'{path} has no response{what}. Expected lines like {{"uid": "...", "response": "..."}}.')
    return ExternalFile(tuple(response for _, response in found.values()), failed, tuple(backspaces))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ConfigError(f'found {type(row).__name__}, expected an object like {{"uid": ..., "response": ...}}')
    return row


def _response(
    row: dict[str, Any], policy: str, threshold: float | None, uid_of_number: UidOfNumber | None
) -> ExternalResponse:
    uid, text = (
        row.get(name) if row.get(name) is not None else row.get(other)
        for name, other in (("uid", "id"), ("response", "text"))
    )
    number = int(uid) if isinstance(uid, str) and _NUMBER.fullmatch(uid) else uid
    if uid_of_number is not None and type(number) is int and number >= 0:
        uid = uid_of_number(number)
    if not isinstance(uid, str) or not isinstance(text, str):
        odd = {name: row[name] for name in ("uid", "id", "response", "text") if not isinstance(row.get(name, ""), str)}
        shown = (name + (f" ({json.dumps(odd[name])[:40]})" if name in odd else "") for name in sorted(row))
        raise ConfigError(
            "expected `uid` or `id` (a text, or a whole number from 0) and `response` or `text` (a text); found the "
            f"keys: {files.escape_surrogates(', '.join(shown)) or 'none'}"
        )
    try:
        line = _Line.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    facts = line.model_dump(exclude={"sample", "policy", "threshold"}, exclude_none=True)
    facts |= {
        name: files.escape_surrogates(row[name])
        for name in ("prompt_sha256", "family")
        if isinstance(row.get(name), str)
    }
    steps = row.get("tokens_by_step")
    if isinstance(steps, list) and all(type(step) is int and 0 <= step < 2**31 for step in steps):
        facts["tokens_by_step"] = steps
    return ExternalResponse(
        files.escape_surrogates(policy if line.policy is None else line.policy),
        threshold if line.threshold is None else line.threshold,
        files.escape_surrogates(uid),
        line.sample,
        files.escape_surrogates(_STOP_TOKEN.split(text, maxsplit=1)[0]),
        facts,
    )


def counted(number: int, noun: str) -> str:
    """Returns `1 line`, `2 lines`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summaries(
    rows: Sequence[Mapping[str, Any]], examples: Sequence[Example], n_bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Returns one summary for each (policy, threshold), in the order of their first rows.

    The numbers are those of `metrics.summarise`, None where they need a count that a record lacks. Accuracy is over
    the problems that were answered; `n_missing` counts the other ones of `examples`, which are all problems there are,
    and `accuracy_missing_wrong_pct` counts them as wrong.
    """
    groups: dict[tuple[str, float | None], list[EvalRecord]] = {}
    for row in rows:
        record = EvalRecord.from_json(dict(row))
        groups.setdefault((record.policy, record.threshold), []).append(record)
    found = []
    for records in groups.values():
        summary = summarise(records, n_bootstrap, seed, require_counts=False).to_json()
        samples = Counter(record.uid for record in records)
        missing = [example.uid for example in examples if example.uid not in samples]
        by_problem = sum(record.correct / samples[record.uid] for record in records)
        found.append({
            **{name: None if isinstance(x, float) and math.isnan(x) else x for name, x in summary.items()},
            "n_benchmark": len(examples),
            "n_missing": len(missing),
            "missing": missing[:MAX_EXAMPLES],
            "samples_per_problem": sorted(set(samples.values())),
            "accuracy_missing_wrong_pct": 100.0 * by_problem / len(examples),
        })  # fmt: skip
    return found


def notes(summary: Mapping[str, Any], failed: int = 0) -> list[str]:
    """Returns what a reader must know beside the numbers of a summary. failed: lines of the input without a text."""
    found = []
    if summary["n_missing"]:
        found.append(
            f"{summary['n_missing']} of {summary['n_benchmark']} problems have no response (for example "
            f"{', '.join(summary['missing'])}): accuracy is over the {summary['n_problems']} that have one; with the "
            f"missing ones counted as wrong it is {summary['accuracy_missing_wrong_pct']:.1f} %"
        )
    if failed:
        found.append(f"{counted(failed, 'line')} of the input left out, without a text (null, or a failed request)")
    if len(summary["samples_per_problem"]) > 1:
        counts = summary["samples_per_problem"]
        found.append(f"problems have between {counts[0]} and {counts[-1]} samples: those with more weigh more")
    if summary["tpf"] is None:
        found.append("no TPF: the responses come without counts of tokens and forwards")
    return found
