"""From asks to responses as plain rows: what `lightningrl generate` writes, one JSON object a response.

A row that succeeded:

    id, sample, index       which prompt, which of its responses, which line (from 0) of the input
    text                    up to the first stop token, special tokens left out
    stop                    `eos` or `length`
    response_tokens         up to and including the stop token
    denoise_forwards, commit_forwards, prefill_forwards, tpf, tpf_true      see types.DecodeStats
    token_ids, tokens, logprobs, entropies, reveal_steps    one entry a response token: id, vocabulary piece, nats,
                            nats, and the denoise forward that revealed it (from 1)
    hash                    of prompt, settings and model: a resumed run tells by it what has changed

A row that failed has id, sample, index and `error`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.errors import LightningRLError
from lightningrl.inference.jsonl import Ask, Line
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.types import Trajectory
from lightningrl.utils import files

HASH_DIGITS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """One response to make: a request, or why there is none."""

    ask: Ask
    sample: int
    request: Request | None = None
    hash: str = ""
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        return str(self.ask.id), self.sample

    def row(self, **rest: Any) -> dict[str, Any]:
        return {"id": self.ask.id, "sample": self.sample, "index": self.ask.index, **rest}


def plan(llm: LLM, asks: Iterable[Ask]) -> list[Planned]:
    """Every response asked for, in order; asks that cannot be decoded as one failed response each."""
    policies: dict[str, DecodePolicy] = {}  # equal settings share one object: the decoder treats its rows together
    planned = []
    for ask in asks:
        if ask.line is None:
            planned.append(Planned(ask, 0, error=ask.error))
            continue
        try:
            words = ask.line.words()
            key = files.canonical_json(words)
            policy = policies.get(key) or policies.setdefault(key, policy_of(**words))
            request = _request(llm, ask, ask.line, policy)
        except LightningRLError as error:
            planned.append(Planned(ask, 0, error=str(error)))
            continue
        made_of = ask.line.model_dump(exclude={"id", "samples"}) | {"model": llm.fingerprint}
        digest = files.sha256_text(files.canonical_json(made_of))[:HASH_DIGITS]
        planned += [Planned(ask, s, replace(request, sample=s), digest) for s in range(ask.line.samples)]
    return planned


def _request(llm: LLM, ask: Ask, line: Line, policy: DecodePolicy) -> Request:
    uid = str(ask.id)
    if line.prompt_ids is None:
        prompt = line.prompt if line.prompt is not None else [turn.model_dump() for turn in line.messages or ()]
        return llm.request(prompt, uid=uid, max_new_tokens=line.max_new_tokens, policy=policy)
    size = llm.model.config.vocab_size
    bad = next((token for token in line.prompt_ids if not 0 <= token < size), None)
    if bad is not None:
        raise LightningRLError(f"{uid}: prompt token {bad} lies outside the vocabulary of {size}")
    longest = llm.room(len(line.prompt_ids)) if line.max_new_tokens is None else line.max_new_tokens
    return Request(uid, 0, np.array(line.prompt_ids, dtype=np.int64), longest, policy)


def respond(llm: LLM, planned: Iterable[Planned], *, tokens: bool = True) -> Iterator[dict[str, Any]]:
    """A row for each response, as soon as it is known. tokens: with the arrays of one entry a token."""
    asked: list[Planned] = []
    for one in planned:
        if one.request is None:
            yield one.row(error=one.error)
        else:
            asked.append(one)
    for outcome in llm.stream([one.request for one in asked if one.request]):
        one = asked[outcome.index]
        if outcome.trajectory is None:
            yield one.row(error=str(outcome.error))
        else:
            yield one.row(**_response(llm, outcome.trajectory, tokens), hash=one.hash)


def _response(llm: LLM, trajectory: Trajectory, tokens: bool) -> dict[str, Any]:
    stats, response = trajectory.stats, slice(trajectory.response_len)
    row = {
        "text": llm.text(trajectory),
        "stop": trajectory.stop,
        "response_tokens": stats.response_tokens,
        "denoise_forwards": stats.denoise_forwards,
        "commit_forwards": stats.commit_forwards,
        "prefill_forwards": stats.prefill_forwards,
        "tpf": stats.tpf,
        "tpf_true": stats.tpf_true,
    }
    if tokens:
        ids = trajectory.response_ids.tolist()
        entropy = trajectory.entropy
        row |= {
            "token_ids": ids,
            "tokens": llm.tokenizer.convert_ids_to_tokens(ids),
            "logprobs": _short(trajectory.behaviour_logp[response]),
            "entropies": None if entropy is None else _short(entropy[response]),
            "reveal_steps": trajectory.reveal_step[response].tolist(),
        }
    return row


def _short(values: np.ndarray) -> list[float]:
    """float32 numbers with no more digits than give the same float32 back."""
    return [float(str(value)) for value in values.astype(np.float32)]
