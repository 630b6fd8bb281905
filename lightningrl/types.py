"""The vocabulary of data: what flows between benchmarks, decoder, judges, trainer and evaluation.

Shapes: P prompt tokens; S decoded positions (from P to the end of the last block); L <= S response tokens,
up to and including the first stop token. Positions are absolute from the first prompt token; position p
lies in block (p - origin) // K, so with origin 0 the first decoded block may begin with prompt tokens. Plain data:
numpy, no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

VerdictStatus = Literal["ok", "wrong", "unparsable", "timeout", "output_limit", "crashed", "gold_error", "no_answer"]
"""`no_answer`: an engine from outside gave none, which counts as wrong and is told apart."""
Stop = Literal["eos", "length"]


@dataclass(frozen=True, slots=True)
class Example:
    """One problem of a benchmark."""

    uid: str
    """`<benchmark>/<split>/<number>`, unique and stable: the key of caches, records and random draws."""
    messages: tuple[dict[str, str], ...]
    """Chat turns (`role`, `content`) that the chat template renders into the prompt."""
    gold: dict[str, Any]
    """What the judge needs (answer, tests); JSON data, never shown to the model."""
    solution: str | None = None
    """A worked answer for supervised training, without the end token; None where the benchmark has none."""

    @property
    def benchmark(self) -> str:
        return self.uid.split("/")[0]

    @property
    def split(self) -> str:
        return self.uid.split("/")[1]


@dataclass(frozen=True, slots=True)
class DecodeStats:
    """What one response cost, counted by the decoder's ledger: the only source of every TPF.

    >>> DecodeStats(response_tokens=5, emitted_tokens=6, denoise_forwards=4, commit_forwards=1, prefill_forwards=1).tpf
    1.25
    """

    response_tokens: int
    """L: response token ids up to and including the first stop token."""
    emitted_tokens: int
    """Every revealed position, the tail after the stop token included."""
    denoise_forwards: int
    """Forwards that could reveal a token of this response: those that denoise it, refreshes of a cache included and
    those that found nothing to reveal, and a prefill or a commit that revealed one."""
    commit_forwards: int
    """Separate forwards that only wrote a finished block's clean KV (0 under fused commit)."""
    prefill_forwards: int
    """1 where the prompt's full blocks were written before anything was decoded, in however many pieces, by this row or
    by another one with the same prompt; 0 when the prompt is shorter than a block, or nothing is kept of it."""
    prefill_positions: int | None = None
    """Query positions of that prefill, which revealed nothing. This count and the next three are None where the engine
    does not say. They are those of the response alone: what is computed once for several rows, and what a row that gave
    its memory up computes again, the ledger says (kinds `prefill` and `recompute`), because a response's counts do not
    depend on its neighbours."""
    prefill_keys: int | None = None
    """Keys that the positions of the prefill attended to, summed over the positions."""
    decode_positions: int | None = None
    """Query positions of all other forwards: every position that was computed, every time."""
    decode_keys: int | None = None
    """Keys that those positions attended to, summed over the positions: pairs of a query and a key, of one layer and
    head."""

    @property
    def tpf(self) -> float:
        """Tokens per forward: response tokens over denoise forwards (the primary number)."""
        return self.response_tokens / self.denoise_forwards

    @property
    def tpf_true(self) -> float:
        """Response tokens over every forward the row took part in, but a prefill that revealed nothing."""
        return self.response_tokens / (self.denoise_forwards + self.commit_forwards)


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One response as it really happened: token ids and the forward that revealed each."""

    uid: str
    """The Example's uid."""
    sample: int
    """Which of the uid's responses this is, 0 <= sample < G."""
    prompt_ids: np.ndarray
    """[P] int64, the rendered prompt."""
    token_ids: np.ndarray
    """[S] int64, all decoded positions; what follows the first stop token was visible context and is kept. The mask
    token where nothing was revealed: only behind the stop token, under a rule that stops inside a block."""
    response_len: int
    """L, in tokens."""
    reveal_step: np.ndarray
    """[S] int64, 1-based index of the denoise forward (of this row) that revealed the token; 0: never revealed."""
    behaviour_logp: np.ndarray
    """[S] float32, nats: log-probability of the drawn token in the state before that forward, mask banned."""
    block_size: int
    """K."""
    temperature: float
    """0 means greedy (log-probabilities at temperature 1)."""
    stop: Stop
    policy_version: int
    """The training step in which it was decoded, which also keys its draws (`DecodePolicy.step`); 0: in none."""
    stats: DecodeStats
    origin: int = 0
    """The position at which the grid of blocks begins: 0, or the prompt's end."""
    schedule: str = "FusedCommit"
    """The class of the schedule that decoded it."""
    window: int = 1
    """The most blocks in which one forward may have revealed tokens: the first with a mask and those behind it."""
    exact_cache: bool = True
    """Every forward saw what one without a cache would have seen. Where it did not, `behaviour_logp` is not what the
    model gives for the trajectory's states."""
    entropy: np.ndarray | None = None
    """[S] float32, nats: of the distribution that the token was drawn from; None where the engine does not say."""
    family: str | None = None
    """The `model_type` of the model that decoded it; None where the engine does not say."""
    decision_logp: np.ndarray | None = None
    """[F] float32, nats: the log-probability, given the state before it, of which positions each denoise forward
    revealed; None where that is no draw (the selector has no `decision`)."""
    later_masks: int = 0
    """Positions behind the decoded ones that every forward saw, all of them masked: the rest of a canvas."""

    def __post_init__(self) -> None:
        n_positions = len(self.token_ids)
        if not (len(self.reveal_step) == len(self.behaviour_logp) == n_positions):
            raise ValueError(f"{self.uid}: token_ids, reveal_step and behaviour_logp must have one length")
        if not 0 < self.response_len <= n_positions:
            raise ValueError(f"{self.uid}: response_len {self.response_len} outside 1..{n_positions}")
        begin = len(self.prompt_ids) - self.origin
        if (begin + n_positions) % self.block_size:
            raise ValueError(f"{self.uid}: prompt + response must end on the block grid of {self.block_size}")
        block_S = (begin + np.arange(n_positions)) // self.block_size
        if self.reveal_step[: self.response_len].min() < 1:
            raise ValueError(f"{self.uid}: a response token was never revealed")
        if self.reveal_step.min() < 0 or self.reveal_step.max() > self.stats.denoise_forwards:
            raise ValueError(f"{self.uid}: reveal steps must lie in 1..{self.stats.denoise_forwards}")
        block_starts = np.r_[0, np.flatnonzero(np.diff(block_S)) + 1]
        last_step = np.maximum.reduceat(self.reveal_step, block_starts)
        first_step = np.minimum.reduceat(np.where(self.reveal_step, self.reveal_step, last_step.max()), block_starts)
        if (np.maximum.accumulate(last_step)[: -self.window] >= first_step[self.window :]).any():
            before = "its predecessor was" if self.window == 1 else f"the one {self.window} before it was"
            raise ValueError(f"{self.uid}: a block was revealed before {before} finished")
        if not np.isfinite(self.behaviour_logp).all():
            raise ValueError(f"{self.uid}: behaviour_logp has non-finite values")

    @property
    def response_ids(self) -> np.ndarray:
        """[L] token ids up to and including the first stop token."""
        return self.token_ids[: self.response_len]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's finding. `value` is never read as correctness: `correct` is its own field."""

    correct: bool
    """Whether the answer is right (code: every hidden test passed)."""
    value: float | None
    """0..1 (code: fraction of tests passed); None when it could not be scored (`gold_error`)."""
    status: VerdictStatus
    extracted: str | None = None
    """The answer or program that was judged."""
    detail: str = ""
    """One line for people: what was compared, which test failed."""
    seconds: float = 0.0
    compat: bool | None = None
    """What the published grader's rules make of the same extracted answer; None where they have nothing to say."""
    sandbox: str | None = None
    """The jail level in which a program was judged; None where nothing was run."""


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One JSON line for each (policy, benchmark, decoding, example, sample)."""

    policy: str
    uid: str
    sample: int
    threshold: float
    """The selector's tau; the parameter that is swept."""
    prompt_sha256: str
    """The hash of the prompt's token ids."""
    response: str
    """The response's text up to the first stop token, special tokens removed: what the judge saw."""
    extracted: str | None
    correct: bool
    value: float | None
    status: VerdictStatus
    detail: str
    response_tokens: int
    emitted_tokens: int
    denoise_forwards: int
    commit_forwards: int
    prefill_forwards: int
    stop: Stop
    tokens_by_step: list[int] = field(default_factory=list)
    """Positions revealed at denoise forward 1, 2, ... (all decoded positions; sums to emitted_tokens)."""
    compat: bool | None = None
    """The second judge column: see `Verdict.compat`."""
    sandbox: str | None = None
    """The jail level of a judged program: see `Verdict.sandbox`."""
    visible_tokens: int | None = None
    """Tokens of the emitted text tokenized anew, what follows the stop token included, special tokens left out: what
    the paper's own TPF counts (`tpf_paper`). None where the engine does not say."""
    prefill_positions: int | None = None
    """This and the next three: see `DecodeStats`. None where the engine does not say, and in older records."""
    prefill_keys: int | None = None
    decode_positions: int | None = None
    decode_keys: int | None = None
    family: str | None = None
    """The `model_type` of the model that decoded it; None where the engine does not say, and in older records."""
    reported: dict[str, Any] | None = None
    """What a server says of its answer (`evaluation.reported`): its word, which no other field holds. None of engines
    that are counted here."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(row: dict[str, Any]) -> EvalRecord:
        return EvalRecord(**row)
