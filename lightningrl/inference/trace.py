"""The trace of one response as plain data: what every forward saw, drew and revealed.

    trace = trace_response(llm, "How many legs have 3 cats?", DecodePolicy(Threshold(0.9)), name="base")
    json.dumps(dataclasses.asdict(trace))

Positions are counted from the first response token, forwards and blocks from 1. Probabilities and entropies are those
of the decoder at its temperature, to six decimals. `trace_text` and `trace_page` show a trace.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from lightningrl.decoding.protocol import DecodePolicy, Observation
from lightningrl.inference.llm import LLM, Prompt
from lightningrl.tokenization import text_pieces
from lightningrl.types import Trajectory
from lightningrl.utils.numbers import shortest

DIGITS = 6


@dataclass(frozen=True, slots=True)
class Guess:
    """The token that a forward drew at one open position."""

    position: int
    token_id: int
    probability: float
    entropy_nats: float
    alternatives: tuple[tuple[int, float], ...]
    """The likeliest tokens and their probabilities, likeliest first."""


@dataclass(frozen=True, slots=True)
class Token:
    """One position of the finished response."""

    text: str
    """Its part of the text; empty where a character needs the next token too."""
    special: bool
    block: int
    forward: int
    """The forward that revealed it, or 0 if none did (behind the stop token, if decoding stops inside a block)."""
    guess: Guess | None
    """The guess of that forward, which is this token."""
    ahead: bool = False
    """It was revealed outside the active block: an earlier block had masks still."""


@dataclass(frozen=True, slots=True)
class Trace:
    model: str
    policy: str
    """The decoding policy in words."""
    prompt: str
    block_size: int
    prompt_tokens: int
    """Tokens of the rendered prompt; the response's first block may begin with some of them."""
    response_tokens: int
    """Tokens up to and including the first stop token; those behind it were context only."""
    stop: str
    tpf: float
    tokens: tuple[Token, ...]
    left_masked: tuple[tuple[Guess, ...], ...]
    """The guesses of each forward at the open positions that it did not reveal."""
    vocabulary: dict[int, str]
    """The texts of all tokens that a guess names."""

    @property
    def forwards(self) -> int:
        return len(self.left_masked)

    @property
    def text(self) -> str:
        """The whole text, with special tokens and what follows the stop token."""
        return "".join(token.text for token in self.tokens)


class Recorder:
    """An `Observer` that keeps all guesses of the requests at these indices."""

    def __init__(self, indices: Collection[int] = (0,), alternatives: int = 5):
        self.alternatives = alternatives
        self.seen: dict[int, list[tuple[int, bool, Guess]]] = {index: [] for index in indices}
        """For each request: the forward, whether it revealed the position, and the guess, whose position is counted
        from the prompt's first token."""

    def observe(self, seen: Observation) -> None:
        for n in np.flatnonzero(np.isin(seen.index_n, list(self.seen))):
            probability, *likeliest = _rounded(np.exp(np.r_[seen.logp_n[n], seen.top_logp_nA[n]].astype(float)))
            alternatives = tuple(zip(seen.top_ids_nA[n].tolist(), likeliest, strict=True))
            [entropy] = _rounded(seen.entropy_n[n : n + 1])
            guess = Guess(int(seen.position_n[n]), int(seen.token_n[n]), probability, entropy, alternatives)
            self.seen[int(seen.index_n[n])].append((int(seen.forward_n[n]), bool(seen.chosen_n[n]), guess))


def trace_response(
    llm: LLM, prompt: Prompt, policy: DecodePolicy, *, name: str, max_new_tokens: int | None = None
) -> Trace:
    """Generates the response of `LLM.generate([prompt], policy)` and returns its trace.

    Raises DecodeError when the prompt cannot be decoded, BenchmarkError when the tokenizer lacks a word of it.
    """
    recorder = Recorder()
    request = llm.request(prompt, uid="prompt/0", max_new_tokens=max_new_tokens, policy=policy)
    [trajectory] = llm.decoder.decode([request], policy, recorder)
    return trace_of(llm.tokenizer, prompt, trajectory, recorder.seen[0], name=name, policy=policy)


def trace_of(
    tokenizer: Any,
    prompt: Prompt,
    trajectory: Trajectory,
    seen: Sequence[tuple[int, bool, Guess]],
    *,
    name: str,
    policy: DecodePolicy,
) -> Trace:
    """Returns the trace of a trajectory from what a `Recorder` saw of its request."""
    ids, start, size = trajectory.token_ids.tolist(), len(trajectory.prompt_ids), trajectory.block_size
    first, revealed = start - trajectory.origin, dict[int, Guess]()
    left: list[list[Guess]] = [[] for _ in range(trajectory.stats.denoise_forwards)]
    for forward, chosen, guess in seen:
        here = replace(guess, position=guess.position - start)
        if chosen:
            revealed[here.position] = here
        else:
            left[forward - 1].append(here)
    pieces = text_pieces(lambda part: tokenizer.decode(part, clean_up_tokenization_spaces=False), ids)
    special = set(tokenizer.all_special_ids)
    blocks_S = (first + np.arange(len(ids))) // size - first // size
    last_S = np.array([trajectory.reveal_step[blocks_S < block].max(initial=0) for block in blocks_S.tolist()])
    ahead_S = (trajectory.reveal_step > 0) & (trajectory.reveal_step <= last_S)
    tokens = tuple(
        Token(piece, token in special, int(blocks_S[at]) + 1, int(step), revealed.get(at), bool(ahead_S[at]))
        for at, (piece, token, step) in enumerate(zip(pieces, ids, trajectory.reveal_step, strict=True))
    )
    guesses = [*revealed.values(), *(guess for forward in left for guess in forward)]
    named = {token for guess in guesses for token in (guess.token_id, *(i for i, _ in guess.alternatives))}
    return Trace(
        model=name,
        policy=policy_in_words(policy),
        prompt=prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt),
        block_size=size,
        prompt_tokens=start,
        response_tokens=trajectory.response_len,
        stop=trajectory.stop,
        tpf=round(trajectory.stats.tpf, DIGITS),
        tokens=tokens,
        left_masked=tuple(tuple(forward) for forward in left),
        vocabulary={token: token_text(tokenizer, token) for token in sorted(named)},
    )


def token_text(tokenizer: Any, token: int) -> str:
    """Returns the text of a single token, or the tokenizer's own spelling where that is no whole character."""
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        return str(tokenizer.convert_ids_to_tokens(token) or f"<{token}>")
    return text


def policy_in_words(policy: DecodePolicy) -> str:
    """Describes selector, temperature, and whatever differs from the defaults.

    >>> from lightningrl.inference.policy import policy_of
    >>> policy_in_words(policy_of("threshold", 0.8)), policy_in_words(policy_of("quota", 4, temperature=1, top_k=20))
    ('threshold 0.8, greedy', 'quota 4, temperature 1, top-k 20, seed 0')
    """
    drawn = "greedy" if policy.temperature == 0 else f"temperature {shortest(policy.temperature)}"
    words = [_words(policy.selector), drawn]
    if policy.temperature:
        words += [f"top-k {policy.top_k}"] * (policy.top_k > 0)
        words += [f"top-p {shortest(policy.top_p)}"] * (policy.top_p < 1)
        words.append(f"seed {policy.seed}")
    pieces = {piece: getattr(policy, piece) for piece in ("ranking", "schedule", "stop")}
    usual = DecodePolicy(policy.selector)
    words += [f"{name} {_words(piece)}" for name, piece in pieces.items() if piece != getattr(usual, name)]
    return ", ".join(words)


def _words(piece: Any) -> str:
    """Describes a component by its name and parameters; `repr` would show addresses unless it is a dataclass."""
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(piece).__name__).strip()
    if not is_dataclass(piece):
        return name
    fields = [(field.name, getattr(piece, field.name), field.default) for field in piece.__dataclass_fields__.values()]
    first = [f"{value}" for _, value, _ in fields[:1]]
    return " ".join([name, *first, *(f"{key}={value}" for key, value, default in fields[1:] if value != default)])


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, DIGITS) for value in values.astype(float).tolist()]
