r"""Judge mathematics: compare the last complete `\boxed{}` of a response with the gold answer.

`rules` decides whether an answer is the gold answer to the question, which is the example's user turns: they
distinguish a worked-out answer from a copy of the question. Rules alone decide most answers; algebra is left to a
worker process with a deadline and a memory limit (`judges.math.algebra_worker`), which is killed when late. The gold
data is `{"answer": "..."}`. The verdict includes that of the published grader's rules on the same extracted answer
(`compat`).
"""

from __future__ import annotations

import os
import queue
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lightningrl.judges.boxed_answer import NO_GOLD_ANSWER, extract_boxes, gold_answer
from lightningrl.judges.compat import published_equal
from lightningrl.judges.math import delimiters
from lightningrl.judges.math import text as math_text
from lightningrl.judges.math.question import read_question, states_a_problem
from lightningrl.judges.math.rules import equal
from lightningrl.judges.protocol import check_lengths
from lightningrl.judges.worker import Worker, WorkerLate, WorkerLost
from lightningrl.types import Example, Verdict

DEADLINE_S = 3.0
"""The time for one comparison by algebra; the slowest of MATH's gold answers takes 0.1 s."""
PATIENCE = 5
"""The deadline counts processor time, but at most this many times as much wall time."""
START_S = 120.0
"""The time for a worker's start, which imports sympy: 1 s on an idle machine."""
ITEMS_A_WORKER = 5_000
"""A worker is restarted after this many comparisons, since sympy's caches grow."""
MEMO = 65_536


class _Pair(NamedTuple):
    """Everything that a verdict depends on."""

    question: str
    """The user's turns; empty: they state no problem, so the question is unknown."""
    gold: str
    found: str
    """The judged answer: the last box, or as many last boxes as the gold answer has items."""
    last: str
    """The last box, to which the published rules apply."""


class _NeedsAlgebra(Exception):
    """The rules alone cannot decide."""


class MathJudge:
    """A judge of boxed mathematical answers; see `lightningrl.judges.protocol.Judge`."""

    graded = False
    needs_jail = False

    def __init__(self, workers: int = 1, deadline_s: float = DEADLINE_S, by_rules: bool = True) -> None:
        """Uses at most `workers` worker processes, and none (`by_rules`) where the rules alone decide."""
        if workers < 1:
            raise ValueError(f"found {workers} workers: expected 1 or more")
        self._deadline_s, self._by_rules = deadline_s, by_rules
        self._idle_workers: queue.SimpleQueue[_AlgebraWorker] = queue.SimpleQueue()
        self._workers = [_AlgebraWorker() for _ in range(workers)]
        for worker in self._workers:
            self._idle_workers.put(worker)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="math-judge")
        self._memo: OrderedDict[_Pair, Verdict] = OrderedDict()

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Returns verdicts in order, 1.0 or 0.0; equal (question, gold, answer) are judged once.

        `unparsable`: no complete box, or its content is not an answer; `timeout`: algebra did not end in time;
        `gold_error` (value None): the gold answer cannot be read; `crashed`: the worker died twice.
        """
        check_lengths(examples, responses)
        pairs = [_pair(example, response) for example, response in zip(examples, responses, strict=True)]
        pending: dict[_Pair, Future[Verdict]] = {}
        for pair in pairs:
            if not isinstance(pair, _Pair) or pair in self._memo or pair in pending:
                continue
            decided = self._decide_by_rules(pair)
            if decided is not None:
                self._remember(pair, decided)
            else:
                pending[pair] = self._pool.submit(self._ask, pair)
        try:
            for pair, future in pending.items():
                self._remember(pair, future.result())
        finally:
            for future in pending.values():
                future.cancel()
        verdicts = [self._memo[pair] if isinstance(pair, _Pair) else pair for pair in pairs]
        for pair in pending:  # a loaded machine may have caused these: judge them again next time
            if pair in self._memo and self._memo[pair].status in ("timeout", "crashed"):
                del self._memo[pair]
        while len(self._memo) > MEMO:
            self._memo.popitem(last=False)
        return verdicts

    def close(self) -> None:
        """Ends the worker processes."""
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.process.close()

    def _remember(self, pair: _Pair, verdict: Verdict) -> None:
        short = f"expected {pair.gold[:80]}, found {pair.found[:80]}"
        detail = f"{short}; {verdict.detail}" if verdict.detail else short
        compat = published_equal(pair.gold, pair.last)
        self._memo[pair] = replace(verdict, extracted=pair.found, detail=detail, compat=compat)

    def _decide_by_rules(self, pair: _Pair) -> Verdict | None:
        """Returns the verdict of the rules alone; None: they need algebra."""
        start = time.monotonic()
        try:
            math_text.check(pair.gold)
        except math_text.Unreadable as error:
            return Verdict(False, None, "gold_error", detail=f"gold: {error}")
        try:
            math_text.check(pair.found)
            if not self._by_rules:
                return None
            reasons: list[str] = []
            is_equal = equal(pair.gold, pair.found, _needs_algebra, read_question(pair.question), reasons)
        except _NeedsAlgebra:
            return None
        except math_text.Unreadable as error:
            return Verdict(False, 0.0, "unparsable", detail=str(error), seconds=time.monotonic() - start)
        return _verdict(is_equal, time.monotonic() - start, reasons)

    def _ask(self, pair: _Pair) -> Verdict:
        request = {"gold": pair.gold, "found": pair.found, "question": pair.question}
        worker, start = self._idle_workers.get(), time.monotonic()
        try:
            for attempt in (0, 1):
                try:
                    answer = worker.ask(request, self._deadline_s)
                    break
                except WorkerLate:
                    detail = f"not decided within {self._deadline_s:g} s"
                    return Verdict(False, 0.0, "timeout", detail=detail, seconds=time.monotonic() - start)
                except WorkerLost as error:  # killed from outside, or by this answer: try once more
                    if attempt:
                        return Verdict(False, 0.0, "crashed", detail=str(error), seconds=time.monotonic() - start)
        finally:
            self._idle_workers.put(worker)
        seconds = time.monotonic() - start
        if "unreadable" not in answer:
            return _verdict(answer["equal"], seconds, answer["reasons"])
        if answer["gold"]:
            return Verdict(False, None, "gold_error", detail=f"gold: {answer['unreadable']}", seconds=seconds)
        return Verdict(False, 0.0, "unparsable", detail=answer["unreadable"], seconds=seconds)


class _AlgebraWorker:
    """A worker process and the number of its comparisons."""

    def __init__(self) -> None:
        here = Path(__file__).resolve().parent
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
        self.process = Worker(
            (sys.executable, "-P", str(here / "algebra_worker.py"), str(here.parents[2])), environment
        )
        self._done = 0

    def ask(self, question: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Returns the answer, or raises WorkerLate or WorkerLost. The start of a fresh process does not count."""
        if self._done >= ITEMS_A_WORKER:
            self.process.close()
        if self.process.pid is None:
            self._done = 0
            self.process.start()
            self.process.receive(time.monotonic() + START_S)
        self._done += 1
        start, used = time.monotonic(), self.process.cpu_seconds()

        def is_over() -> bool:  # a busy machine does not shorten the processor time
            waited = time.monotonic() - start
            return self.process.cpu_seconds() - used >= deadline_s or waited >= deadline_s * PATIENCE

        self.process.send(question, start + deadline_s * PATIENCE)
        return self.process.receive(start + deadline_s, is_over)


def _verdict(is_equal: bool, seconds: float, reasons: Sequence[str]) -> Verdict:
    detail = "" if is_equal else "".join(reasons[:1])
    return Verdict(is_equal, float(is_equal), "ok" if is_equal else "wrong", detail=detail, seconds=seconds)


def _pair(example: Example, response: str) -> _Pair | Verdict:
    """Returns what is to be judged, or the verdict if there is nothing to judge."""
    gold, boxes = gold_answer(example), extract_boxes(response)
    if gold is None:
        return Verdict(False, None, "gold_error", boxes[-1] if boxes else None, NO_GOLD_ANSWER)
    if not boxes:
        return Verdict(False, 0.0, "unparsable", None, "no complete \\boxed{...} with an answer in it", compat=False)
    turns = [turn["content"] for turn in example.messages if turn.get("role") == "user"]
    question = "\n".join(turns)
    return _Pair(question if states_a_problem(question) else "", gold, _joined(gold, boxes), boxes[-1])


def _joined(gold: str, boxes: Sequence[str]) -> str:
    """Returns the last box, or as many last boxes as the gold answer has items if each box has one item."""
    count = _items(gold) if len(boxes) > 1 else 1
    last = boxes[-count:]
    if count == 1 or len(last) < count or any(_items(box) > 1 for box in last):
        return boxes[-1]
    return ", ".join(last)


@lru_cache(maxsize=4096)
def _items(answer: str) -> int:
    try:
        text = math_text.clean(answer)
    except math_text.Unreadable:
        return 1
    text = re.sub(r"^[A-Za-z]\\in(?![A-Za-z])\s*", "", text)
    inside = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    return len(delimiters.items(inside))


def _needs_algebra(one: str, other: str) -> bool:
    raise _NeedsAlgebra
