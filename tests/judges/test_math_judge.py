"""The judge of mathematics: statuses, hostile answers, killed helpers, the same verdict whatever the batch."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from lightningrl.judges.math.judge import MathJudge
from lightningrl.types import Example


def example(gold="4"):
    return Example("math500/test/00000", (), {"answer": gold})


def boxed(answer):
    return f"so it is \\boxed{{{answer}}}"


def test_statuses(judge):
    asked = [
        ("4", boxed("4"), "ok", 1.0), ("4", boxed("5"), "wrong", 0.0), ("4", "four", "unparsable", 0.0),
        ("4", r"\boxed{4", "unparsable", 0.0), ("4", boxed(""), "unparsable", 0.0),
        ("", boxed("4"), "gold_error", None),
        ("4", boxed(r"\frac{1"), "unparsable", 0.0), ("4", boxed("3 +* 1"), "unparsable", 0.0),
        (r"\frac{x}{", boxed("y+1"), "gold_error", None), ("4", r"\boxed{5} then \boxed{4}", "ok", 1.0),
        ("4", r"\boxed{4} then \boxed{5", "ok", 1.0),
    ]  # fmt: skip
    found = judge.judge([example(gold) for gold, *_ in asked], [response for _, response, *_ in asked])
    assert [(v.status, v.value, v.correct) for v in found] == [(s, value, s == "ok") for *_, s, value in asked]
    assert all(v.detail and v.sandbox is None for v in found)


HOSTILE = {
    "power tower": r"9^{9^{9^{9}}}",
    "factorial of a power": r"(10^{10^{10}})!",
    "power of a power": r"((((9^9)^9)^9)^9)^9^9",
    "a megabyte of braces": "{" * 500_000 + "}" * 500_000,
    "deep nesting": r"\sqrt{" * 300 + "2" + "}" * 300,
    "deep fractions": r"\frac{1}{1+" * 19 + "1" + "}" * 19,
    "NUL": "4\0",
    "half a surrogate pair": "4\ud800",
    "a hundred thousand digits": "7" * 100_000,
    "a thousand digits": "7" * 900,
    "a long product": "*".join(["(x+1)"] * 150),
    "a long sum of powers": "+".join(f"x^{{{n}}}" for n in range(60)),
    "text that is code": r"\text{__import__('os').system('true')}",
    "code": "__import__('os').system('true')",
    "every symbol": "".join(chr(c) for c in range(32, 127) if chr(c) not in "{}\\"),
    "a sum without end": r"\sum_{n=1}^{10^{100}} \frac{1}{n!}",
    "an integral": r"\int_0^1 e^{e^{x^x}} dx",
    "binomial": r"\binom{10^{50}}{10^{25}}",
}


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_answer_ends_in_time_and_the_next_is_judged(judge, title):
    honest_answer = f"2+{len(title)}-{len(title) - 3}"
    verdict, honest = judge.judge([example("5")] * 2, [boxed(HOSTILE[title]), boxed(honest_answer)])
    assert verdict.status in ("timeout", "unparsable", "wrong", "crashed") and not verdict.correct, verdict
    assert honest.correct and isinstance(verdict.compat, bool)


def test_helpers_killed_in_the_middle_are_started_anew():
    judge = MathJudge(workers=2)
    answers = [f"{n}+1-{n}+{n}" for n in range(120)]
    stop = threading.Event()
    kills = []

    def killer():
        draw = random.Random(0)
        while len(kills) < 8 and not stop.wait(draw.uniform(0.3, 0.6)):
            for worker in judge._workers:
                if worker.pid is not None and draw.random() < 0.5:
                    os.kill(worker.pid, signal.SIGKILL)
                    kills.append(worker.pid)

    judge.judge([example("1")] * 2, [boxed("2-1"), boxed("3-2")])
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        found = judge.judge([example(str(n + 1)) for n in range(120)], [boxed(answer) for answer in answers])
    finally:
        stop.set()
        thread.join()
    assert all(v.status in ("ok", "crashed") for v in found), [v for v in found if v.status not in ("ok", "crashed")]
    assert sum(v.correct for v in found) >= 110
    os.kill(judge._workers[0].pid or judge._workers[1].pid, signal.SIGKILL)
    assert judge.judge([example("7")] * 2, [boxed("3+4"), boxed("4+3")])[0].correct
    judge.close()


def test_verdicts_do_not_depend_on_batch_order_or_workers(judge):
    golds = ["4", r"2\sqrt2", "p-q", "x^2", "(1,2)", "5"] * 3
    answers = ["2+2", r"\sqrt8", "q-p", "x*x", "(1,1+1)", "x"] + ["4", "3", "p-q", "x", "(2,1)", "5.0"] + ["?"] * 6
    examples, responses = [example(g) for g in golds], [boxed(a) for a in answers]
    facts = [(v.status, v.correct, v.compat, v.detail) for v in judge.judge(examples, responses)]
    alone = MathJudge(workers=1)
    order = random.Random(3).sample(range(len(golds)), len(golds))
    one_by_one = {n: alone.judge([examples[n]], [responses[n]])[0] for n in order}
    assert [(v.status, v.correct, v.compat, v.detail) for _, v in sorted(one_by_one.items())] == facts
    alone.close()


REFUSED = [
    ("How many maps are there?", "27", "3^3", "3^3 is not worked out"),
    ("How many maps are there?", "27", "28", ""),
    ("How many maps are there?", "27", "27", ""),
    (r"Express $\frac{3}{20}$ as a decimal.", "0.15", r"\frac{3}{20}", r"\frac{3}{20} is copied from the question"),
    ("Expand $(x+1)(x+2)$.", "x^2+3x+2", "(x+1)(x+2)", "is copied from the question"),
    (r"Reduce $\frac{24}{36}$.", r"\frac23", r"\frac{12}{18}", "is not in the form that the question asks for"),
    ("What is the point of it?", "(1,8)", "(1,2^3)", "2^3 is not worked out"),
    ("What are the roots?", "1,4^{49}", "4^{49},2", ""),  # 4^{49} is compared with 1 and is another item's equal
    *((None, *pair, "") for pair in (
        ("0.5", "1/2"), ("(1,2)", "(2,1)"), (r"\text{even}", "even"), ("x=5", "5"), (r"10\%", "10"), ("3", "3.0"),
    )),
]  # fmt: skip


def test_rules_alone_and_a_helper_agree_and_say_why_an_answer_is_refused_whatever_its_value():
    """What the rules decide here they decide in the helper as well: one code, two places."""
    by_helper, by_rules = MathJudge(workers=2, by_rules=False), MathJudge(workers=2)
    examples = [
        Example("m/test/0", ({"role": "user", "content": question},) if question else (), {"answer": gold})
        for question, gold, *_ in REFUSED
    ]
    responses = [boxed(found) for _, _, found, _ in REFUSED]
    facts = [[(v.correct, v.detail) for v in judge.judge(examples, responses)] for judge in (by_helper, by_rules)]
    assert facts[0] == facts[1]
    for (correct, detail), (_, gold, found, reason) in zip(facts[0], REFUSED, strict=True):
        shown = f"expected {gold}, found {found}"
        assert (
            detail.startswith(f"{shown}; refused whatever its value: ") and not correct if reason else detail == shown
        )
        assert detail.endswith(reason)
    assert by_helper._workers[0].pid is not None
    by_helper.close()
    by_rules.close()


def test_no_helper_is_started_where_rules_decide():
    judge = MathJudge(workers=2)
    assert judge.judge([example("0.5"), example("(1,2)")], [boxed("1/2"), boxed("(2,1)")])[0].correct
    assert [worker.pid for worker in judge._workers] == [None, None]
    judge.close()


def test_equal_pairs_are_judged_once(judge, monkeypatch):
    asked = []
    decide = MathJudge._decide
    monkeypatch.setattr(MathJudge, "_decide", lambda self, pair: asked.append(pair.found) or decide(self, pair))
    found = judge.judge([example("31")] * 5, [boxed("30+1")] * 5)
    assert asked == ["30+1"] and all(v.correct for v in found)
    judge.judge([example("31")], [boxed("30+1")])
    assert asked == ["30+1"]


def test_uneven_batches_and_no_workers_are_refused(judge):
    with pytest.raises(ValueError, match="1 examples and 0 responses"):
        judge.judge([example()], [])
    with pytest.raises(ValueError, match="found 0 workers"):
        MathJudge(workers=0)


def test_nothing_stays_behind():
    judge = MathJudge(workers=1)
    judge.judge([example()], [boxed("2+2")])
    pid = judge._workers[0].pid
    judge.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.mirror
@pytest.mark.parametrize(("name", "count"), [("MATH500", 500), ("GSM8K", 1319), ("MATH_train", 8523)])
def test_gold_against_gold(name, count):
    """MATH_train has two problems without an answer; the benchmark drops them."""
    path = Path(os.environ["LIGHTNINGRL_DATA_MIRROR"]) / "protocol" / f"{name}.json"
    golds = [row["ground_truth_answer"] for row in json.loads(path.read_text())]
    judge = MathJudge(workers=2)
    found = judge.judge([example(gold) for gold in golds], [boxed(gold) for gold in golds])
    judge.close()
    without = sum(not gold.strip() for gold in golds)
    assert len(golds) == count and without == (2 if name == "MATH_train" else 0)
    assert sum(v.correct for v in found) == count - without
    assert sum(bool(v.compat) for v in found) >= count - without
