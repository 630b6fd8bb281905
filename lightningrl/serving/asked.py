"""What a client may ask: the bodies of chat and text completions, checked, as requests of the decoder.

Keys are those of the OpenAI API. What this server cannot do is refused when it is asked for, and not ignored; keys that
change no answer (`user`, `metadata`, ...) are accepted. Beyond that API: `threshold` and `top_k`, and `reveal`, for the
cells of every forward in a stream. No FastAPI here.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightningrl.config.decoding import DirectDecoding
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.errors import LightningRLError
from lightningrl.inference.llm import DEFAULT_MAX_NEW_TOKENS, LLM
from lightningrl.inference.policy import direct_policy
from lightningrl.tokenization import encode_texts

MOST_CHOICES = 16
MOST_STOPS = 4
MOST_POLICIES = 256
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "echo": (False,), "best_of": (1,), "suffix": ("",), "top_logprobs": (0,),
}  # fmt: skip
"""Keys of the API that this server has no code for, with the values that ask for nothing."""


class RefusedError(Exception):
    """A request that is answered with an error. `code` and `param` are the API's."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Part(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part]
    name: str | None = None

    def turn(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(_Body):
    """What both kinds of completions have in common."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31)
    threshold: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reveal: bool = False

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class AskedChat(Asked):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None


class AskedText(Asked):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be decoded for one body: a request for each choice, in order."""

    asked: Asked
    requests: list[Request]
    policy: DecodePolicy
    most_tokens: int
    """Of one choice; the decoder's own limit is a whole number of blocks."""
    prompt_tokens: int
    """Of all prompts, each once."""
    logprobs: bool


def parse(data: bytes, kind: type[Asked]) -> Asked:
    """Returns a body. Raises RefusedError, status 400, with the key that is wrong."""
    try:
        raw = json.loads(data, parse_constant=_no_number)
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RefusedError(400, "the body has half of a surrogate pair, which is no text") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise RefusedError(400, f"the body is {type(raw).__name__}, expected a JSON object")
    body = {key: value for key, value in raw.items() if key not in IGNORED and value is not None}
    for key, neutral in NEUTRAL.items():
        if key in body and body.pop(key) not in neutral:
            raise RefusedError(
                400, f"this server does not support {key} ({raw[key]!r:.100}); leave it out", param=key,
                code="unsupported_parameter",
            )  # fmt: skip
    try:
        asked = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise RefusedError(400, f"{path}: {first['msg']}", param=path) from None
    if len(asked.stops) > MOST_STOPS or not all(asked.stops):
        raise RefusedError(400, f"stop: expected at most {MOST_STOPS} texts, none of them empty", param="stop")
    return asked


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


class Planner:
    """Makes requests of the decoder from bodies. decoding: how the server decodes where a body does not say otherwise.
    context: the most positions of a request."""

    def __init__(self, llm: LLM, decoding: DirectDecoding, context: int):
        self.llm, self.decoding, self.context = llm, decoding, context
        self._policies: dict[tuple[Any, ...], DecodePolicy] = {}

    def plan(self, asked: Asked) -> Plan:
        """Raises RefusedError, status 400."""
        try:
            policy, prompts = self._policy(asked), self._prompts(asked)
            # Draws are keyed by the uid: with a seed they are those of `generate --seed` for the first prompt.
            choices, most = asked.n or 1, self._most_tokens(asked, prompts, policy)
            uid = "prompt/0" if asked.seed is not None else f"serve/{secrets.token_hex(8)}"
            requests = [
                replace(self.llm.request(prompt, uid=uid, max_new_tokens=most, policy=policy), sample=choice)
                for first, prompt in enumerate(prompts)
                for choice in range(first * choices, (first + 1) * choices)
            ]
        except LightningRLError as error:
            raise RefusedError(400, str(error)) from None
        has_logprobs = asked.logprobs if isinstance(asked, AskedChat) else getattr(asked, "logprobs", None) is not None
        return Plan(asked, requests, policy, most, sum(map(len, prompts)), bool(has_logprobs))

    def _policy(self, asked: Asked) -> DecodePolicy:
        """The policy of a body; those with equal numbers are one object, whose rows are treated together."""
        temperature = self.decoding.temperature if asked.temperature is None else asked.temperature
        seed = asked.seed if asked.seed is not None and temperature else self.decoding.seed
        key = (temperature, asked.top_p, asked.top_k, asked.threshold, seed)
        if key not in self._policies:
            if len(self._policies) >= MOST_POLICIES:
                self._policies.pop(next(iter(self._policies)))
            policy = direct_policy(self.decoding, asked.threshold)
            given = {"top_p": asked.top_p, "top_k": asked.top_k, "temperature": temperature, "seed": seed}
            self._policies[key] = replace(policy, **{k: v for k, v in given.items() if v is not None})
        return self._policies[key]

    def _prompts(self, asked: Asked) -> list[np.ndarray]:
        if isinstance(asked, AskedChat):
            turns = [message.turn() for message in asked.messages]
            return [self.llm.request(turns, uid="messages", max_new_tokens=1).prompt_ids]
        assert isinstance(asked, AskedText)
        prompt: Any = asked.prompt
        several = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
        if not 1 <= len(several) * (asked.n or 1) <= MOST_CHOICES:
            raise RefusedError(400, f"expected 1 to {MOST_CHOICES} prompts times n", param="prompt")
        vocabulary = self.llm.model.config.vocab_size
        found = []
        for one in several:
            ids = encode_texts(self.llm.tokenizer, [one])[0] if isinstance(one, str) else one
            if not len(ids):
                raise RefusedError(400, "the prompt is empty; give at least one token", param="prompt")
            if not 0 <= min(ids) <= max(ids) < vocabulary:
                raise RefusedError(400, f"a token lies outside the vocabulary of {vocabulary}", param="prompt")
            found.append(np.array(ids, dtype=np.int64))
        return found

    def _most_tokens(self, asked: Asked, prompts: list[np.ndarray], policy: DecodePolicy) -> int:
        """The tokens of a response: what is asked, or as many as there is room for. Raises RefusedError where there is
        no room."""
        longest = max(map(len, prompts))
        left = min(self.llm.tokens_left(longest, policy), self.context - longest)
        wanted = getattr(asked, "max_completion_tokens", None) or asked.max_tokens
        if left < 1 or (wanted is not None and wanted > left):
            more = f" and {wanted} are asked for" if wanted else ""
            raise RefusedError(
                400, f"the prompt has {longest} tokens{more}; the context of this server is {self.context} positions: "
                f"{max(0, left)} are left. Shorten the prompt or max_tokens",
                code="context_length_exceeded", param="messages" if isinstance(asked, AskedChat) else "prompt",
            )  # fmt: skip
        return wanted or min(left, DEFAULT_MAX_NEW_TOKENS)
