"""Multiple choice by likelihood: the log-likelihoods of each problem's choices, and the record that follows from them.

Problems are scored in shards, and each problem's row goes to a journal, so that an interrupted evaluation goes on. A
row has the numbers of all choices: log-likelihoods in nats, tokens, and characters. Nothing is decoded, so a record has
no counts of tokens and forwards, and its `response` is the text of the choice that was taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.choices import CHAT, ChoiceBenchmark
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.config.tasks import Likelihood
from lightningrl.errors import Interrupted
from lightningrl.evaluation.metrics import summarise
from lightningrl.inference.likelihood import Continuation, encode_continuation, log_likelihoods
from lightningrl.models.transformer import Transformer
from lightningrl.tokenization import prompt_text
from lightningrl.types import EvalRecord, Example
from lightningrl.utils import files, journal

Row = dict[str, Any]


@dataclass(slots=True)
class ChoiceEvaluation:
    """One model on one benchmark of choices."""

    name: str
    """The system's name in the records."""
    benchmark: ChoiceBenchmark
    prompt: PromptOptions
    examples: Sequence[Example]
    likelihood: Likelihood
    seed: int
    shard: int
    """Problems that are scored together."""
    cache: Path
    """The journal's folder."""
    load: Callable[[], tuple[Transformer, Any]]
    """Returns the model and its tokenizer; called where something is not scored yet."""
    report: Callable[[str], None]
    timing: Callable[..., None]
    should_stop: Callable[[], bool]
    _loaded: tuple[Transformer, Any] | None = field(default=None, init=False)

    def rows(self) -> list[Row]:
        """Returns a row per problem, in order: uid, answer, logp, tokens, characters, prompt_sha256, family.

        Raises Interrupted, between two shards, when `should_stop` says so.
        """
        path = self.cache / "choices.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        found: dict[str, Row] = {row["uid"]: row for line in lines if (row := journal.hashed_row(line)) is not None}
        missing = [example for example in self.examples if example.uid not in found]
        if found and missing:
            self.report(f"{len(self.examples) - len(missing)} of {len(self.examples)} problems are there already")
        for start in range(0, len(missing), self.shard):
            if self.should_stop():
                raise Interrupted("stopped between two shards; run the same command again to resume from there")
            rows = self._score(missing[start : start + self.shard])
            path.parent.mkdir(parents=True, exist_ok=True)
            with journal.open_locked(path) as file:
                torn = b"\n" * bool(lines and not path.read_bytes().endswith(b"\n"))
                journal.append(file, torn + "".join(map(journal.hashed_line, rows)).encode(), path)
            found |= {row["uid"]: row for row in rows}
        return [found[example.uid] for example in self.examples]

    def _score(self, examples: Sequence[Example]) -> list[Row]:
        if self._loaded is None:
            self._loaded = self.load()
        (model, tokenizer), began = self._loaded, time.monotonic()
        pairs = [self._pairs(tokenizer, example) for example in examples]
        flat = [pair for each in pairs for pair in each]
        scores = iter(log_likelihoods(model, flat, self.likelihood.method, self.likelihood.samples, self.seed))
        rows: list[Row] = []
        for example, each in zip(examples, pairs, strict=True):
            shown = " ".join(str(token) for pair in each for token in (*pair.context_ids, "|", *pair.target_ids, "|"))
            rows.append({
                "uid": example.uid, "answer": example.gold["answer"], "logp": [next(scores).logp for _ in each],
                "tokens": [len(pair.target_ids) for pair in each],
                "characters": [len(choice) for choice in example.gold["choices"]],
                "prompt_sha256": files.sha256_text(shown), "family": model.config.family,
            })  # fmt: skip
        seconds = time.monotonic() - began
        self.timing(
            event="shard", problems=len(rows), continuations=len(flat), seconds=seconds, device=str(model.device)
        )
        return rows

    def _pairs(self, tokenizer: Any, example: Example) -> list[Continuation]:
        found = []
        for context, continuation in self.benchmark.pairs(example, self.prompt):
            if self.prompt.style == CHAT:
                text = prompt_text(tokenizer, [{"role": "user", "content": context}], self.prompt.compat)
                # a turn begins without the blank that separates words in plain text
                found.append(encode_continuation(tokenizer, text, continuation.lstrip(), keep_blanks=True))
            else:
                found.append(encode_continuation(tokenizer, context, continuation))
        return found


def chosen(row: Row, per_character: bool) -> int:
    """Returns the number of the likeliest choice, the first of equal ones.

    >>> row = {"logp": [-4.0, -6.0], "characters": [2, 6]}
    >>> chosen(row, False), chosen(row, True)
    (0, 1)
    """
    scores = [
        logp / (count if per_character else 1) for logp, count in zip(row["logp"], row["characters"], strict=True)
    ]
    return max(range(len(scores)), key=scores.__getitem__)


def record_of(policy: str, threshold: float, example: Example, row: Row, per_character: bool) -> EvalRecord:
    """Returns what was chosen as a record; threshold: the system's primary one, which nothing here depends on."""
    best, answer, choices = chosen(row, per_character), example.gold["answer"], example.gold["choices"]
    right, told = best == answer, ", ".join(f"{value:.2f}" for value in row["logp"])
    none: dict[str, Any] = dict.fromkeys(
        ("response_tokens", "emitted_tokens", "denoise_forwards", "commit_forwards", "prefill_forwards", "stop")
    )
    return EvalRecord(
        policy=policy, uid=example.uid, sample=0, threshold=threshold, prompt_sha256=row["prompt_sha256"],
        response=choices[best], extracted=choices[best], correct=right, value=float(right),
        status="ok" if right else "wrong", detail=f"choice {best + 1}, expected {answer + 1}; {told} nats",
        family=row["family"], **none,
    )  # fmt: skip


def summary_of(records: Sequence[EvalRecord], rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the summary: what needs counts is None, and accuracy by both ways to compare choices."""
    row = summarise(records, require_counts=False).to_json()
    known = {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
    return known | {
        name: 100 * sum(chosen(each, by) == each["answer"] for each in rows) / len(rows)
        for name, by in (("accuracy_by_sum_pct", False), ("accuracy_by_character_pct", True))
    }
