"""From prompts to responses as plain rows: what `lightningrl generate` writes, one JSON object for each response.

The row of a response:

    id, sample, index       which prompt, which of its responses, which line (from 0) of the input
    text                    up to the first stop token, without special tokens
    stop                    `eos` or `length`
    response_tokens         up to and including the stop token
    denoise_forwards, commit_forwards, prefill_forwards, tpf, tpf_true, prefill_positions, prefill_keys,
                            decode_positions, decode_keys       see types.DecodeStats
    token_ids, tokens, logprobs, entropies, reveal_steps    one entry per response token: id, vocabulary piece, nats,
                            nats, and the denoise forward that revealed it (from 1)
    hash                    of prompt, settings and model: it shows a resumed run what has changed

The row of a failed request has id, sample, index and `error`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.errors import LightningRLError
from lightningrl.inference.jsonl import InputLine, PromptSpec
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.types import Trajectory
from lightningrl.utils import files

HASH_DIGITS = 12
COUNTS = (
    "response_tokens", "denoise_forwards", "commit_forwards", "prefill_forwards", "tpf", "tpf_true",
    "prefill_positions", "prefill_keys", "decode_positions", "decode_keys",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PlannedResponse:
    """One response to generate: a request, or the error for which there is none."""

    source: InputLine
    sample: int
    request: Request | None = None
    hash: str = ""
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        return str(self.source.id), self.sample

    def row(self, **rest: Any) -> dict[str, Any]:
        return {"id": self.source.id, "sample": self.sample, "index": self.source.index, **rest}


def plan_responses(llm: LLM, lines: Iterable[InputLine]) -> list[PlannedResponse]:
    """Returns all responses to generate, in order; a line that cannot be decoded becomes one failed response."""
    policies: dict[str, DecodePolicy] = {}  # equal settings share one object: the decoder treats its rows together
    planned = []
    for line in lines:
        if (spec := line.spec) is None:
            planned.append(PlannedResponse(line, 0, error=line.error))
            continue
        try:
            arguments = spec.policy_arguments()
            key = files.canonical_json(arguments)
            policy = policies.get(key) or policies.setdefault(key, policy_of(**arguments))
            request = _request(llm, str(line.id), spec, policy)
        except LightningRLError as error:
            planned.append(PlannedResponse(line, 0, error=str(error)))
            continue
        hashed = spec.model_dump(exclude={"id", "samples"}) | {"model": llm.fingerprint}
        digest = files.sha256_text(files.canonical_json(hashed))[:HASH_DIGITS]
        planned += [PlannedResponse(line, s, replace(request, sample=s), digest) for s in range(spec.samples)]
    return planned


def _request(llm: LLM, uid: str, spec: PromptSpec, policy: DecodePolicy) -> Request:
    if spec.prompt_ids is None:
        prompt = spec.prompt if spec.prompt is not None else [turn.model_dump() for turn in spec.messages or ()]
    else:
        size = llm.model.config.vocab_size
        bad = next((token for token in spec.prompt_ids if not 0 <= token < size), None)
        if bad is not None:
            raise LightningRLError(f"{uid}: prompt token {bad} lies outside the vocabulary of {size}")
        prompt = np.array(spec.prompt_ids, dtype=np.int64)
    return llm.request(prompt, uid=uid, max_new_tokens=spec.max_new_tokens, policy=policy)


def generate_rows(llm: LLM, planned: Iterable[PlannedResponse], *, tokens: bool = True) -> Iterator[dict[str, Any]]:
    """Yields the row of each response as soon as it is known. tokens: whether it has the arrays with token entries."""
    requested: list[PlannedResponse] = []
    for one in planned:
        if one.request is None:
            yield one.row(error=one.error)
        else:
            requested.append(one)
    for result in llm.stream([one.request for one in requested if one.request]):
        one = requested[result.index]
        if result.trajectory is None:
            yield one.row(error=str(result.error))
        else:
            yield one.row(**_response(llm, result.trajectory, tokens), hash=one.hash)


def _response(llm: LLM, trajectory: Trajectory, tokens: bool) -> dict[str, Any]:
    response = slice(trajectory.response_len)
    row = {"text": llm.text(trajectory), "stop": trajectory.stop}
    row |= {name: getattr(trajectory.stats, name) for name in COUNTS}
    if tokens:
        ids = trajectory.response_ids.tolist()
        row |= {
            "token_ids": ids,
            "tokens": llm.tokenizer.convert_ids_to_tokens(ids),
            "logprobs": _shortest(trajectory.behaviour_logp[response]),
            "entropies": None if trajectory.entropy is None else _shortest(trajectory.entropy[response]),
            "reveal_steps": trajectory.reveal_step[response].tolist(),
        }
    return row


def _shortest(values: np.ndarray) -> list[float]:
    """Returns float32 numbers with the fewest digits that give the same float32 back."""
    return [float(str(value)) for value in values.astype(np.float32)]
