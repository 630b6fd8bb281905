r"""Judge mathematics: compare the last complete `\boxed{}` of a response with the gold answer.

`rules` decides whether an answer is the gold answer to the question, which is the example's user turns: they
distinguish a worked-out answer from a copy of the question. Rules alone decide most answers; algebra is left to a
worker process with a deadline and a memory limit (`judges.math.algebra`), which is killed when late. The gold
data is `{"answer": "..."}`. The verdict includes that of the published grader's rules on the same extracted answer
(`compat`).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lightningrl.judges.boxed_answer import NO_GOLD_ANSWER, extract_boxes, gold_answer
from lightningrl.judges.compat import published_equal
from lightningrl.judges.math import delimiters
from lightningrl.judges.math.question import Ratio, read_question, states_a_problem
from lightningrl.judges.math.rules import equal
from lightningrl.judges.math.text import Unreadable, check, clean
from lightningrl.judges.protocol import PooledJudge
from lightningrl.judges.worker import Worker, WorkerLate, WorkerLost
from lightningrl.types import Example, Verdict

DEADLINE_S = 3.0
"""The time for one comparison by algebra; the slowest of MATH's gold answers takes 0.1 s."""
PATIENCE = 5
"""The deadline counts processor time, but at most this many times as much wall time."""
START_S = 120.0
"""The time for a worker's start, which imports sympy: 1 s on an idle machine."""
MEMORY_BYTES = 2 * 2**30
"""A worker's address space, of which sympy and its parser take 0.3 GB."""
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

    @property
    def key(self) -> _Pair:
        return self


class _NeedsAlgebra(Exception):
    """The rules alone cannot decide."""


class MathJudge(PooledJudge):
    """A judge of boxed mathematical answers; see `lightningrl.judges.protocol.Judge`.

    A verdict's value is 1.0 or 0.0. Statuses are `unparsable`: no complete box, or its content is not an answer;
    `timeout`: algebra did not end in time; `gold_error` (value None): the gold answer cannot be read; `crashed`: the
    worker died twice.
    """

    graded = False
    needs_jail = False
    forgotten = ("timeout", "crashed")

    def __init__(self, workers: int = 1, deadline_s: float = DEADLINE_S, by_rules: bool = True) -> None:
        """Uses at most `workers` worker processes, and none (`by_rules`) where the rules alone decide."""
        super().__init__(workers, MEMO, _AlgebraWorker)
        self._deadline_s, self._by_rules = deadline_s, by_rules

    def _read(self, example: Example, response: str) -> _Pair | Verdict:
        gold, boxes = gold_answer(example), extract_boxes(response)
        if gold is None:
            return Verdict(False, None, "gold_error", boxes[-1] if boxes else None, NO_GOLD_ANSWER)
        if not boxes:
            return Verdict(
                False, 0.0, "unparsable", None, "no complete \\boxed{...} with an answer in it", compat=False
            )
        question = "\n".join(turn["content"] for turn in example.messages if turn.get("role") == "user")
        return _Pair(question if states_a_problem(question) else "", gold, _joined(gold, boxes), boxes[-1])

    def _decide_at_once(self, job: _Pair) -> Verdict | None:
        """Returns the verdict of the rules alone; None: they need algebra."""
        start = time.monotonic()
        reasons: list[str] = []
        answer: dict[str, Any] = {"reasons": reasons, "gold": True}
        try:
            check(job.gold)
            answer["gold"] = False
            check(job.found)
            if not self._by_rules:
                return None
            answer["equal"] = equal(job.gold, job.found, _needs_algebra, read_question(job.question), reasons)
        except _NeedsAlgebra:
            return None
        except Unreadable as error:
            answer["unreadable"] = str(error)
        return _verdict(job, answer, start)

    def _decide(self, job: _Pair) -> Verdict:
        """Returns the verdict of a worker process, which applies the rules with algebra."""
        start = time.monotonic()
        request = {"gold": job.gold, "found": job.found, "question": job.question}
        try:
            with self._worker() as worker:
                try:
                    answer = worker.ask(request, self._deadline_s)
                except WorkerLost:  # killed from outside, or by this answer: try once more
                    answer = worker.ask(request, self._deadline_s)
        except WorkerLate:
            answer = {"status": "timeout", "unreadable": f"not decided within {self._deadline_s:g} s"}
        except WorkerLost as error:
            answer = {"status": "crashed", "unreadable": str(error)}
        return _verdict(job, answer, start)


class _AlgebraWorker(Worker):
    """A worker process that is replaced after some comparisons."""

    def __init__(self) -> None:
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
        argv = (sys.executable, "-P", "-m", "lightningrl.judges.worker", "lightningrl.judges.math.algebra")
        super().__init__((*argv, str(MEMORY_BYTES)), environment)
        self._done = 0

    def ask(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Returns the answer, or raises WorkerLate or WorkerLost. The start of a fresh process does not count."""
        if self._done >= ITEMS_A_WORKER:
            self.close()
        if self.pid is None:
            self._done = 0
            self.start()
            self.receive(time.monotonic() + START_S)
        self._done += 1
        start, used = time.monotonic(), self.cpu_seconds()

        def is_over() -> bool:  # a busy machine does not shorten the processor time
            waited = time.monotonic() - start
            return self.cpu_seconds() - used >= deadline_s or waited >= deadline_s * PATIENCE

        self.send(request, start + deadline_s * PATIENCE)
        return self.receive(start + deadline_s, is_over)


def _verdict(pair: _Pair, answer: dict[str, Any], start: float) -> Verdict:
    """Returns the verdict of an answer like a worker's; see `algebra.main`."""
    is_equal, is_gold_error = answer.get("equal", False), answer.get("gold", False)
    status, reason = "ok" if is_equal else "wrong", "" if is_equal else "".join(answer.get("reasons", ())[:1])
    if "unreadable" in answer:
        reason = f"gold: {answer['unreadable']}" if is_gold_error else answer["unreadable"]
        status = "gold_error" if is_gold_error else answer.get("status", "unparsable")
    return Verdict(
        correct=is_equal,
        value=None if is_gold_error else float(is_equal),
        status=status,
        extracted=pair.found,
        detail=f"expected {pair.gold[:80]}, found {pair.found[:80]}" + (f"; {reason}" if reason else ""),
        seconds=time.monotonic() - start,
        compat=published_equal(pair.gold, pair.last),
    )


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
        text = clean(answer)
    except Unreadable:
        return 1
    text = re.sub(r"^[A-Za-z]\\in(?![A-Za-z])\s*", "", text)
    inside = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    return len(delimiters.items(inside))


def _needs_algebra(one: str, other: str, ratio: Ratio | None = None) -> bool:
    raise _NeedsAlgebra
