"""What a server's reply says: the answer, why it ended, and the server's own counts, believed where they can be.

Everything here is a stranger's word. A reply that is no answer (no text, a filtered one, another model's) is a failure.
Counts that contradict the answer or each other are left out and the contradiction is written down; the text is judged
all the same. Counts are read where the engines put them: `usage` (OpenAI's API); `meta_info` of the choice (SGLang,
when asked with `return_meta_info`: `spec_verify_ct`, `spec_accept_token_num`, `spec_draft_token_num`); and
`metrics.speculative_decoding` (vLLM, started with `--per-request-spec-decode-metrics`: `num_spec_steps`,
`num_accepted_draft_tokens`, `num_draft_tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightningrl.errors import LightningRLError
from lightningrl.types import Stop
from lightningrl.utils import files

MOST = 2**31
"""No count of one answer reaches it."""
UNSEEN_TOKENS = 64
"""Tokens of an answer that may be no text: the stop token, and what an engine of blocks decoded behind it."""
BYTES_A_TOKEN = 512
"""More bytes of text than that for each token are of no known vocabulary."""
FORWARDS_AT = ("choices.0.meta_info.spec_verify_ct", "metrics.speculative_decoding.num_spec_steps",
               "choices.0.metrics.speculative_decoding.num_spec_steps")  # fmt: skip
ACCEPTED_AT = ("choices.0.meta_info.spec_accept_token_num",
               "metrics.speculative_decoding.num_accepted_draft_tokens",
               "choices.0.metrics.speculative_decoding.num_accepted_draft_tokens")  # fmt: skip
DRAFTED_AT = ("choices.0.meta_info.spec_draft_token_num", "metrics.speculative_decoding.num_draft_tokens",
              "choices.0.metrics.speculative_decoding.num_draft_tokens")  # fmt: skip
_STOP_TOKEN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text)\|>")
_MASK_TOKEN = re.compile(r"<\|?(?:mdm_)?mask\|?>", re.IGNORECASE)


class RequestFailed(LightningRLError):
    """A request that has no answer.

    again: whether another attempt may have one; after_s: how long the server asks to wait before it. fatal: no other
    request of the run can have an answer either (the key is refused, there is no such model).
    """

    def __init__(self, message: str, *, again: bool = False, fatal: bool = False, after_s: float | None = None):
        super().__init__(message)
        self.again, self.fatal, self.after_s = again, fatal, after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what the server says of it."""

    text: str
    """Up to the first literal stop token."""
    stop: Stop | None
    """Why it ended; None where the server does not say."""
    completion_tokens: int | None = None
    """The answer's tokens by the server's `usage`."""
    prompt_tokens: int | None = None
    forwards: int | None = None
    """Forwards of the model that decoded it: verifications of drafts, or denoise forwards."""
    accepted: int | None = None
    """Draft tokens that were accepted."""
    drafted: int | None = None
    """Draft tokens that were proposed."""
    reply_id: str = ""
    doubts: tuple[str, ...] = ()
    """What was contradictory in the server's words, and so is not believed."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Reply:
        return Reply(**{**row, "doubts": tuple(row["doubts"])})


def read_reply(body: bytes, *, chat: bool, model: str, max_tokens: int, forwards_at: str = "") -> Reply:
    """Returns the answer of a whole body. model: what the reply must name, if it names any. Raises RequestFailed."""
    row = _object(body)
    if row.get("error"):
        raise RequestFailed(f"the server replied with an error: {excerpt(row['error'])}")
    named = row.get("model")
    if isinstance(named, str) and named and named != model:
        raise RequestFailed(
            f"the reply is of the model {excerpt(named)}, asked was {model!r}. Where the server calls the same model "
            "by another name, say it in `reply_model`",
            fatal=True,
        )
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        found = f"{len(choices)} of them" if isinstance(choices, list) else excerpt(choices)
        raise RequestFailed(f"the reply has no answer: expected one object in `choices`, found {found}")
    choice = choices[0]
    if choice.get("index") not in (0, None):
        raise RequestFailed(f"the reply is choice {excerpt(choice['index'])}, but only one (0) was asked for")
    text, reasoned = _text(choice, chat)
    text, doubts = files.escape_surrogates(_STOP_TOKEN.split(text, maxsplit=1)[0]), list[str]()
    if _MASK_TOKEN.search(text):
        doubts.append("the answer holds mask tokens: positions that were never decoded")
    counts = _counts(row, (forwards_at,) if forwards_at else FORWARDS_AT, doubts)
    _compare(counts, len(text.encode()), reasoned, max_tokens, doubts)
    reply_id = row.get("id") if isinstance(row.get("id"), str) else ""
    reply_id = files.escape_surrogates(str(reply_id))[:200]
    return Reply(text, _stop(choice), reply_id=reply_id, doubts=tuple(doubts), **counts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestFailed(f"the reply is not JSON: {excerpt(body.decode(errors='replace'))}") from None
    if not isinstance(row, dict):
        raise RequestFailed(f"the reply is {excerpt(row)}, expected an object")
    return row


def _text(choice: dict[str, Any], chat: bool) -> tuple[str, bool]:
    """Returns the text that is judged, and whether there was more that is not: reasoning apart from the answer."""
    holder = choice.get("message") if chat else choice
    holder = holder if isinstance(holder, dict) else {}
    text = holder.get("content" if chat else "text")
    reasoned = any(isinstance(holder.get(name), str) and holder[name] for name in ("reasoning_content", "reasoning"))
    if text is None and reasoned:  # it thought to the end of its length
        text = ""
    if not isinstance(text, str):
        where = "message.content" if chat else "text"
        raise RequestFailed(f"the reply has no text: `choices[0].{where}` is {excerpt(text)}")
    return text, reasoned


def _stop(choice: dict[str, Any]) -> Stop | None:
    reason = choice.get("finish_reason")
    known: dict[Any, Stop | None] = {"stop": "eos", "length": "length", None: None, "eos": "eos"}
    if not isinstance(reason, str | None) or reason not in known:
        raise RequestFailed(f"the reply is no whole answer: it ended by {excerpt(reason)}, expected `stop` or `length`")
    return known[reason]


def _counts(row: dict[str, Any], forwards_at: tuple[str, ...], doubts: list[str]) -> dict[str, int | None]:
    places = {
        "completion_tokens": ("usage.completion_tokens",), "prompt_tokens": ("usage.prompt_tokens",),
        "forwards": forwards_at, "accepted": ACCEPTED_AT, "drafted": DRAFTED_AT,
    }  # fmt: skip
    found: dict[str, int | None] = {}
    for name, paths in places.items():
        value = next((value for path in paths if (value := _at(row, path)) is not None), None)
        least = 1 if name == "forwards" else 0
        if value is not None and not (type(value) is int and least <= value < MOST):
            doubts.append(f"{name} is {excerpt(value)}, which is no count")
            value = None
        found[name] = value
    usage = row.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    parts = found["prompt_tokens"], found["completion_tokens"]
    if type(total) is int and None not in parts and total != sum(part for part in parts if part is not None):
        doubts.append(f"usage: {parts[0]} prompt and {parts[1]} completion tokens are not {total} together")
        found["prompt_tokens"] = found["completion_tokens"] = None
    return found


def _compare(
    counts: dict[str, int | None], text_bytes: int, reasoned: bool, max_tokens: int, doubts: list[str]
) -> None:
    """Takes away the counts that cannot be of this answer."""
    tokens, forwards, accepted, drafted = (
        counts[name] for name in ("completion_tokens", "forwards", "accepted", "drafted")
    )
    if tokens is not None:
        told = f"usage: {tokens} completion tokens"
        if tokens > max_tokens + UNSEEN_TOKENS:
            doubts.append(f"{told}, but at most {max_tokens} were asked for")
            tokens = None
        elif tokens * BYTES_A_TOKEN < text_bytes or (not reasoned and tokens > text_bytes + UNSEEN_TOKENS):
            doubts.append(f"{told}, but the answer has {text_bytes} bytes")
            tokens = None
        counts["completion_tokens"] = tokens
    if accepted is not None and drafted is not None and accepted > drafted:
        doubts.append(f"{accepted} draft tokens accepted of {drafted} proposed")
        counts["accepted"] = counts["drafted"] = accepted = None
    if tokens is not None and accepted is not None and accepted > tokens:
        doubts.append(f"{accepted} draft tokens accepted, but the answer has {tokens}")
        counts["accepted"] = counts["drafted"] = None
    if tokens is not None and forwards is not None and forwards > tokens + UNSEEN_TOKENS:
        doubts.append(f"{forwards} forwards, but the answer has {tokens} tokens, and each forward decodes one or more")
        counts["forwards"] = None


def _at(value: Any, path: str) -> Any:
    """Returns what lies at a path like `choices.0.meta_info`, or None."""
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def excerpt(value: Any, most: int = 160) -> str:
    """Returns the beginning of what a server sent, on one line and in quotes, for messages."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} of great depth"
    text = " ".join(files.escape_surrogates(text[: 4 * most]).split())
    return repr(text if len(text) <= most else text[: most - 1] + "…")
