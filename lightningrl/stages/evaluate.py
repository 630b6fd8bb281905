"""Decode a benchmark's test split at every threshold of the sweep; one record a problem and sample. Resumable.

A threshold is done in shards of fixed problems, each cached whole: an interrupted sweep goes on at the next shard, and
a sweep with one more threshold pays only for that one. Shards are decoded as one batch, always the same, so that
resumed and undisturbed results are equal to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightningrl import io
from lightningrl.answering import Answer, Task, answer
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import Interrupted, StageError
from lightningrl.evaluation.metrics import summarise
from lightningrl.resolve import resolve
from lightningrl.stages.context import StageContext
from lightningrl.stages.decoder import make_decoder, make_policy
from lightningrl.stages.loading import load_policy, make_judge, read_examples, use_threads
from lightningrl.types import EvalRecord, Example


def run(context: StageContext) -> None:
    """Write records.jsonl (thresholds in order) and summary.json (one entry a threshold)."""
    use_threads(context.threads)
    config = context.config
    examples = read_examples(context.inputs["data"] / "test.jsonl")
    sweep = _Sweep(context, examples)
    try:
        by_threshold = {threshold: sweep.records(threshold) for threshold in config["sweep"]["thresholds"]}
    finally:
        sweep.close()
    records = [record for rows in by_threshold.values() for record in rows]
    io.write_jsonl(context.folder / "records.jsonl", (record.to_json() for record in records))
    summaries = [summarise(rows).to_json() | {"threshold": threshold} for threshold, rows in by_threshold.items()]
    io.write_json(context.folder / "summary.json", summaries)


class _Sweep:
    def __init__(self, context: StageContext, examples: list[Example]):
        self.context, self.examples = context, examples
        self.loaded: tuple[BlockDecoder, Any, Task] | None = None

    def records(self, threshold: float) -> list[EvalRecord]:
        """All records of one threshold, from the cache where it has them."""
        shard = self.context.config["evaluation"]["shard"]
        starts = range(0, len(self.examples), shard)
        rows = [row for start in starts for row in self._shard(threshold, start, self.examples[start : start + shard])]
        correct, tokens = sum(row.correct for row in rows), sum(row.response_tokens for row in rows)
        forwards = sum(row.denoise_forwards for row in rows)
        self.context.report(
            f"threshold {threshold:g}: accuracy {100 * correct / len(rows):.1f} %  tpf {tokens / forwards:.2f}  "
            f"({len(rows)} responses)"
        )
        return rows

    def _shard(self, threshold: float, start: int, examples: list[Example]) -> list[EvalRecord]:
        path = self.context.cache / f"threshold-{threshold!r}" / f"from-{start:06d}.json"
        found = read_shard(path)
        if found is None:
            if path.exists():
                self.context.report(f"{path} is damaged: decoding its problems again")
            if self.context.should_stop():
                raise Interrupted("stopped between two shards; run the same command again to go on from there")
            found = self._decode(threshold, examples)
            write_shard(path, found)
        return found

    def _decode(self, threshold: float, examples: list[Example]) -> list[EvalRecord]:
        config = self.context.config
        decoder, tokenizer, task = self._load()
        policy = make_policy(config, threshold, config["evaluation"]["temperature"], config["seed"])
        asked = [(example, sample) for example in examples for sample in range(config["evaluation"]["samples"])]
        answers = answer(decoder, tokenizer, task, asked, policy)
        decoder.ledger.clear()
        return [to_record(config["policy"], threshold, each) for each in answers]

    def _load(self) -> tuple[BlockDecoder, Any, Task]:
        if self.loaded is None:
            config = self.context.config
            model, tokenizer = load_policy(self.context.inputs["policy"])
            benchmark = resolve(config["members"]["benchmark"])
            judge = make_judge(config["members"]["judge"], self.context.judge_workers)
            task = Task(lambda example: benchmark.render(example, config["prompt"]), judge, config["max_new_tokens"])
            decoder = make_decoder(config, model, tokenizer)
            self.loaded = decoder, tokenizer, task
        return self.loaded

    def close(self) -> None:
        if self.loaded is not None:
            self.loaded[2].judge.close()


def writable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_shard(path: Path, records: list[EvalRecord]) -> None:
    """Cache a shard with its own hash."""
    rows = [record.to_json() for record in records]
    io.write_json(path, {"records": rows, "sha256": io.sha256_text(io.canonical_json(rows))})


def read_shard(path: Path) -> list[EvalRecord] | None:
    """A cached shard; None when there is none, or it is not what was written."""
    if not path.exists():
        return None
    try:
        shard = io.read_json(path)
        whole = shard["sha256"] == io.sha256_text(io.canonical_json(shard["records"]))
        return [EvalRecord.from_json(row) for row in shard["records"]] if whole else None
    except (StageError, KeyError, TypeError):
        return None


def to_record(policy: str, threshold: float, answer: Answer) -> EvalRecord:
    """One answer as a line of the records."""
    trajectory, stats, verdict = answer.trajectory, answer.trajectory.stats, answer.verdict
    by_step = np.bincount(trajectory.reveal_step, minlength=stats.denoise_forwards + 1)[1:]
    return EvalRecord(
        policy=policy,
        uid=trajectory.uid,
        sample=trajectory.sample,
        threshold=threshold,
        prompt_sha256=io.sha256_text(" ".join(map(str, trajectory.prompt_ids.tolist()))),
        response=writable(answer.text),
        extracted=None if verdict.extracted is None else writable(verdict.extracted),
        correct=verdict.correct,
        value=verdict.value,
        status=verdict.status,
        detail=verdict.detail,
        response_tokens=stats.response_tokens,
        emitted_tokens=stats.emitted_tokens,
        denoise_forwards=stats.denoise_forwards,
        commit_forwards=stats.commit_forwards,
        prefill_forwards=stats.prefill_forwards,
        stop=trajectory.stop,
        tokens_by_step=by_step.tolist(),
        compat=verdict.compat,
        sandbox=verdict.sandbox,
    )
