"""The resumable sweep: a benchmark's problems, decoded and judged at one threshold after another, a record per sample.

Problems are decoded in shards, always the same, each as one batch: an interrupted sweep resumes at the first shard that
is not complete, and its records equal those of an undisturbed one to the last bit. A threshold's records gather in a
file of their own, so one more threshold costs only itself. Several processes may each take a part of the shards, in
files of their own, which whoever gathers reads together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightningrl.answering import Task, answer
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.ledger import Ledger
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import Interrupted
from lightningrl.evaluation.records import RecordFile, to_records
from lightningrl.types import EvalRecord, Example
from lightningrl.utils.numbers import shortest


@dataclass(frozen=True, slots=True)
class Loaded:
    """The decoder, tokenizer and task that a shard is decoded with."""

    decoder: BlockDecoder
    tokenizer: Any
    task: Task


@dataclass(slots=True)
class Sweep:
    """One (model, benchmark, policy, seed) at several thresholds."""

    name: str
    """The policy's name in the records."""
    examples: Sequence[Example]
    samples: int
    """Responses per problem."""
    shard: int
    """Problems per batch."""
    cache: Path
    """The folder of the gathering files."""
    load: Callable[[], Loaded]
    policy: Callable[[float], DecodePolicy]
    """The decoding policy at a threshold."""
    report: Callable[[str], None]
    timing: Callable[..., None]
    should_stop: Callable[[], bool]
    part: tuple[int, int] = (1, 1)
    """Which part of the shards this process decodes, counted from 1, and how many parts there are."""
    _loaded: Loaded | None = field(default=None, init=False)

    def at(self, threshold: float) -> tuple[list[EvalRecord], dict[str, Any]]:
        """Returns all records of a threshold, by problem and sample, and the sums of the engine's figures.

        Only a sweep that is not divided into parts can return them. Raises Interrupted, between two shards, when
        `should_stop` says so.
        """
        file = self.decode(threshold)
        records = [file.records[key] for key in self._keys(0, len(self.examples))]
        engine = Counter[str]()
        for start in range(0, len(self.examples), self.shard):
            engine.update(file.engine[str(start)])
        correct, tokens = sum(row.correct for row in records), sum(row.response_tokens for row in records)
        tpf = tokens / sum(row.denoise_forwards for row in records)
        accuracy = f"accuracy {100 * correct / len(records):.1f} %"
        self.report(f"threshold {shortest(threshold)}: {accuracy}  tpf {tpf:.2f}  ({len(records)} responses)")
        return records, dict(sorted(engine.items()))

    def decode(self, threshold: float) -> RecordFile:
        """Decodes this process's part of a threshold's shards and returns all records that have gathered.

        Raises Interrupted, between two shards, when `should_stop` says so.
        """
        file = self._file(threshold)
        if file.damaged:
            self.report(
                f"{self.cache}: {file.damaged} damaged lines of threshold {shortest(threshold)}; they are decoded again"
            )
        missing = self._missing(file)
        if missing and (there := len({uid for uid, _ in file.records})):
            self.report(f"threshold {shortest(threshold)}: {there} of {len(self.examples)} problems are there already")
        for start in missing:
            if self.should_stop():
                raise Interrupted("stopped between two shards; run the same command again to resume from there")
            self._decode(file, threshold, start)
        return file

    def complete(self) -> list[float]:
        """Returns the thresholds whose records have all gathered."""
        names = [path.name for path in self.cache.glob("threshold-*.jsonl")]
        thresholds = [float(name.removeprefix("threshold-").removesuffix(".jsonl")) for name in names]
        return sorted(threshold for threshold in thresholds if not self._missing(self._file(threshold)))

    def close(self) -> None:
        """Closes the judge."""
        if self._loaded is not None:
            self._loaded.task.judge.close()

    def _file(self, threshold: float) -> RecordFile:
        name, (index, count) = f"threshold-{threshold!r}.jsonl", self.part
        own = self.cache / name if count == 1 else self.cache / f"part-{index}-of-{count}" / name
        there = [self.cache / name, *sorted(self.cache.glob(f"part-*/{name}"))]
        return RecordFile(own, [path for path in there if path != own])

    def _keys(self, start: int, count: int) -> list[tuple[str, int]]:
        return [(e.uid, s) for e in self.examples[start : start + count] for s in range(self.samples)]

    def _missing(self, file: RecordFile) -> list[int]:
        """Returns the first problems of those shards of this part that are not whole."""
        index, count = self.part
        return [
            start
            for start in range((index - 1) * self.shard, len(self.examples), count * self.shard)
            if str(start) not in file.engine or not file.records.keys() >= {*self._keys(start, self.shard)}
        ]

    def _decode(self, file: RecordFile, threshold: float, start: int) -> None:
        if self._loaded is None:
            self._loaded = self.load()
        loaded, began = self._loaded, time.monotonic()
        samples = [(e, s) for e in self.examples[start : start + self.shard] for s in range(self.samples)]
        answers = answer(loaded.decoder, loaded.tokenizer, loaded.task, samples, self.policy(threshold))
        ledger = loaded.decoder.ledger
        self.timing(
            event="shard", threshold=threshold, start=start, responses=len(samples), seconds=time.monotonic() - began,
            decode_seconds=sum(forward.seconds for forward in ledger.forwards),
            response_tokens=sum(a.trajectory.stats.response_tokens for a in answers),
            judge_seconds=sum(a.verdict.seconds for a in answers), rows=loaded.decoder.rows,
            device=str(next(loaded.decoder.model.parameters()).device),
        )  # fmt: skip
        figures = engine_figures(ledger)
        ledger.clear()
        file.append(to_records(self.name, threshold, answers, loaded.tokenizer), str(start), figures)


def engine_figures(ledger: Ledger) -> dict[str, int]:
    """Returns what the engine ran, in numbers that add up: forwards (shared by rows), their rows, and by kind their
    positions and the keys that these attended to."""
    parts = [part for forward in ledger.forwards for part in forward.parts]
    work = Counter[str]()
    for part in parts:
        work[f"{part.kind}_positions"] += part.positions
        work[f"{part.kind}_keys"] += part.keys
    rows = sum(part.rows for part in parts)
    counts = {"engine_forwards": len(ledger.forwards), "row_forwards": rows, "preemptions": ledger.preemptions}
    return {**counts, **work}
