"""An engine from outside: a server that speaks the OpenAI API, its address, its limits, and what it is asked with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lightningrl.config.section import Section
from lightningrl.errors import ConfigError

RESERVED = {
    "model": "endpoint.model", "messages": "the benchmark's prompt", "prompt": "the benchmark's prompt",
    "max_tokens": "benchmarks.max_new_tokens", "max_completion_tokens": "benchmarks.max_new_tokens",
    "temperature": "evaluation.temperature", "seed": "seed", "n": "evaluation.samples", "stop": "endpoint.stop",
    "stream": "nothing: answers are taken whole", "api_key": "endpoint.api_key_env",
    "authorization": "endpoint.api_key_env",
}  # fmt: skip
"""Fields of a request's body that have a key of their own -> that key."""
SECRET = re.compile(r"[!-~]{8,}")
"""A key: 8 printable characters or more, without blanks, as an HTTP header can carry."""


class Endpoint(Section):
    """A server that speaks the OpenAI API (SGLang, vLLM, LMDeploy, `transformers serve`). What it says of tokens and
    forwards enters the records as its word."""

    UNKEYED = frozenset({
        "url", "api_key_env", "api_key_file", "concurrency", "timeout_s", "retries", "max_failed_pct",
    })  # fmt: skip

    url: str = ""
    """The API's address with its version: `http://127.0.0.1:30000/v1`. No part of a stage's key: the same model may be
    served elsewhere tomorrow. Empty: there is no server yet, so nothing is asked and the row has no measurement."""
    model: str = Field(min_length=1)
    """The model's name at the server. Part of the key, as are the prompts, the sampling settings and `extra_body`."""
    reply_model: str = ""
    """What the server calls the model in its replies, where that is not `model`. Replies of any other model stop the
    stage."""
    chat: bool = True
    """Ask `/chat/completions` with the benchmark's chat turns. False: `/completions` with the text that they are
    rendered to, which needs `tokenizer`."""
    tokenizer: str = ""
    """A folder with the model's tokenizer and chat template. It renders the prompts where `chat` is false, and counts
    the tokens of answers beside the server's own count."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of each request: `{"top_p": 0.95, "return_meta_info": true}`. The second one asks SGLang for its
    forwards."""
    stop: list[str] = []
    """Texts at which the server ends an answer, beside the model's own stop tokens."""
    parameter: str = ""
    """The field of the request that takes the swept parameter (`thresholds`), where the server takes one. Default: a
    server decodes in one way, so a system has one threshold, which is a label."""
    forwards_at: str = ""
    """Where a reply says how many forwards it took, with dots: `choices.0.meta_info.spec_verify_ct`. Default: where
    SGLang and vLLM say it."""
    lossless: bool = False
    """The server decodes speculatively without changing an answer, as EAGLE-3 does: at a token a forward it would give
    the same text. The curve of its AUP by its own word then begins at (1, its accuracy), as on the d3LLM leaderboard.
    """
    api_key_env: str = ""
    """The environment variable that holds the API key. The key itself is never written anywhere."""
    api_key_file: str = ""
    """A file that holds the API key, in place of a variable."""
    concurrency: int = Field(16, gt=0, le=1024)
    """Requests that are open at the same time."""
    timeout_s: float = Field(600.0, gt=0)
    """The longest that one attempt may take, from connecting to the last byte."""
    retries: int = Field(5, ge=0, le=100)
    """Further attempts where the server is busy, fails or does not answer in time (429, 5xx, timeouts, lost
    connections), with growing pauses; a `Retry-After` is obeyed."""
    max_failed_pct: float = Field(0.0, ge=0, lt=100)
    """Percent of the answers that may be missing in the end: they count as wrong, with the status `no_answer`. With
    more the stage stops, and the next start asks again for those alone."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if not url:
            return url
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"found {url!r}, which is no address: {error}") from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "an address may not hold a user, a password, a query or a fragment: keys are taken from the "
                "environment (`api_key_env`) or a file (`api_key_file`)"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
            raise ValueError(f"found {url!r}, expected an address like http://127.0.0.1:30000/v1")
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError(f"found {url!r}; give the address without `/completions`, like http://127.0.0.1:30000/v1")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
            raise ValueError(
                "expected the name of an environment variable, like OPENAI_API_KEY, and not the key itself"
            )
        return name

    @field_validator("extra_body")
    @classmethod
    def _has_no_key_of_its_own(cls, body: dict[str, Any]) -> dict[str, Any]:
        for name in body:
            if name.lower() in RESERVED:
                raise ValueError(f"{name!r} is set by {RESERVED[name.lower()]}; leave it out here")
        try:
            json.dumps(body, allow_nan=False)
        except ValueError:
            raise ValueError("it has a number that is not finite, which JSON cannot say") from None
        return body

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.chat and not self.tokenizer:
            raise ValueError("chat is false, so the prompts are rendered here: name the `tokenizer` that does it")
        if self.api_key_env and self.api_key_file:
            raise ValueError("found api_key_env and api_key_file; give one of them")
        if self.parameter.lower() in RESERVED or self.parameter in self.extra_body:
            raise ValueError(f"parameter: {self.parameter!r} is set otherwise already; name the field of the sweep")
        return self

    def secret(self) -> str:
        """Returns the API key, or an empty text where none is named. Raises ConfigError where it cannot be had."""
        if self.api_key_env:
            value, where = os.environ.get(self.api_key_env), f"the environment variable {self.api_key_env}"
        elif self.api_key_file:
            where = f"the file {self.api_key_file}"
            try:
                value = Path(self.api_key_file).read_text(encoding="utf-8")
            except (OSError, UnicodeError):
                value = None
        else:
            return ""
        if value is None:
            raise ConfigError(f"endpoint: {where}, which should hold the API key, cannot be read; set it and run again")
        if not SECRET.fullmatch(value.strip()):
            raise ConfigError(
                f"endpoint: {where} holds no API key: expected at least 8 printable characters, no blanks"
            )
        return value.strip()
