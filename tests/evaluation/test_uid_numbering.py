"""Answers whose ids are bare numbers: refused where two orders differ, found where an order is said or there is one."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightningrl.benchmarks.fetch import Origins
from lightningrl.benchmarks.mbpp import MBPP
from lightningrl.benchmarks.protocol import example_to_json
from lightningrl.cli.app import app
from lightningrl.errors import BenchmarkError, ConfigError
from lightningrl.evaluation import uid_numbering
from lightningrl.evaluation.external import ExternalResponse
from lightningrl.evaluation.scoring import check_uids
from lightningrl.types import Example
from lightningrl.utils import files


def gsm8k(number):
    question = {"role": "user", "content": f"How many are {number} and {number}?\n"}
    return Example(f"gsm8k/test/{number:05d}", (question,), {"answer": str(2 * number)}, f"\\boxed{{{2 * number}}}")


PROBLEMS = [gsm8k(number) for number in range(25)]
OFFICIAL = random.Random(0).sample(range(25), 25)
"""Place in the authors' file -> number of the uid."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Problems as a data stage has them, and a mirror with the authors' file, in another order."""
    monkeypatch.chdir(tmp_path)
    files.write_jsonl(tmp_path / "test.jsonl", map(example_to_json, PROBLEMS))
    rows = [
        {"question": f" {PROBLEMS[number].messages[0]['content'].strip()}  ", "answer": "#### 1"} for number in OFFICIAL
    ]
    files.write_jsonl(tmp_path / "mirror" / "gsm8k" / "test.jsonl", rows)
    small = replace(uid_numbering.GSM8K_OFFICIAL, rows=25, mirror_sha256=None, content_sha256=None)
    monkeypatch.setattr(uid_numbering, "GSM8K_OFFICIAL", small)
    monkeypatch.delenv("LIGHTNINGRL_DATA_MIRROR", raising=False)
    return tmp_path


def score(rows, *arguments):
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", "answers.jsonl", "--benchmark", "gsm8k", "--data", "test.jsonl", "--mirror", "mirror"]
    return CliRunner().invoke(app, [*command, "--out", "r.jsonl", "--overwrite", *arguments])


def numbered(answers, kind=int):
    return [{"uid": kind(place), "response": f"\\boxed{{{answer}}}"} for place, answer in enumerate(answers)]


IN_OFFICIAL_ORDER = [2 * number for number in OFFICIAL]
IN_PAPERS_ORDER = [2 * number for number in range(25)]


@pytest.mark.parametrize("kind", [int, str])
def test_a_bare_number_is_refused_until_the_order_is_said_and_both_orders_find_their_problems(folder, kind):
    done = score(numbered(IN_OFFICIAL_ORDER, kind))
    assert done.exit_code == 2 and not Path("r.jsonl").exists()
    for words in ("line 1: the id is the bare number 0", "--order official", "--order paper", "gsm8k", "count from 0"):
        assert words in done.stderr, done.stderr
    for order, answers in (("official", IN_OFFICIAL_ORDER), ("paper", IN_PAPERS_ORDER)):
        done = score(numbered(answers, kind), "--order", order)
        assert done.exit_code == 0 and "accuracy 100.0 %" in done.stdout, done.output
        rows = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
        assert all(row["correct"] for row in rows) and {row["uid"] for row in rows} == {e.uid for e in PROBLEMS}


def test_uids_mean_themselves_whatever_the_order(folder):
    rows = [{"uid": e.uid, "response": e.solution} for e in PROBLEMS]
    for arguments in ((), ("--order", "official"), ("--order", "paper")):
        done = score(rows, *arguments)
        assert "accuracy 100.0 %" in done.stdout and "note: hardly" not in done.stdout


def test_uids_that_were_made_of_the_other_orders_numbers_are_doubted(folder):
    answers = IN_PAPERS_ORDER[1:] + IN_PAPERS_ORDER[:1]
    rows = [{"uid": e.uid, "response": f"\\boxed{{{a}}}"} for e, a in zip(PROBLEMS, answers, strict=True)]
    done = score(rows)
    assert done.exit_code == 0 and "hardly an answer is right" in done.stdout and "--order official" in done.stdout


def test_what_cannot_be_placed_is_named(folder):
    assert "found 'theirs', expected one of official, paper" in score(numbered([1]), "--order", "theirs").stderr
    for order in ("official", "paper"):
        said = score([{"id": 25, "text": "1"}], "--order", order).stderr
        assert "line 1: the number 25 is none of gsm8k's" in said and f"`--order {order}`, which has 0 to 24" in said
    done = score(numbered(IN_OFFICIAL_ORDER), "--order", "official", "--limit", "5")
    assert "20 responses to other problems than the 5 problems of gsm8k/test" in done.stderr
    twice = [{"id": 3, "text": "1"}, {"id": "gsm8k/test/00003", "text": "1"}]
    assert "is in line 1 already" in score(twice, "--order", "paper").stderr
    files.write_jsonl(Path("mirror/gsm8k/test.jsonl"), [{"question": str(n), "answer": ""} for n in range(25)])
    assert "has other questions" in score(numbered([1]), "--order", "official").stderr


def place(benchmark, split, order, number, examples=()):
    return uid_numbering.uid_of_number(benchmark, split, list(examples), order, Origins(None, Path("lock")))(number)


def test_mbpp_has_task_ids_and_places():
    assert place("mbpp", "test", "official", 11) == place("mbpp", "test", "paper", 0) == "mbpp/test/00011"
    assert place("mbpp", "test", "paper", 499) == "mbpp/test/00510"
    for order, number, message in (
        (None, 17, r"task id \(11 to 510, as in the uids\)"),
        ("paper", 974, "the number 974 is none of mbpp's .* 0 to 499"),
        ("official", 10, "the number 10 is none of mbpp's .* 11 to 510"),
        ("official", 511, "the number 511 is none"),
    ):
        with pytest.raises(ConfigError, match=message):
            place("mbpp", "test", order, number)


def test_an_order_that_changes_nothing_gets_a_note_and_the_authors_names_of_humaneval_are_explained():
    note = uid_numbering.unused_order_note
    assert "math500 has one numbering" in note("math500", "test", "official")
    assert "gsm8k (train) has one numbering" in note("gsm8k", "train", "paper")
    assert note("gsm8k", "test", "paper") is note("math500", "test", None) is None
    problems = [Example(f"humaneval/test/{number:05d}", (), {}) for number in range(2)]
    with pytest.raises(BenchmarkError, match=r"other problems .* HumanEval/0 is humaneval/test/00000 here"):
        check_uids([ExternalResponse("p", None, "HumanEval/0", 0, "", {})], problems)


@pytest.mark.parametrize("order", [None, "official", "paper"])
def test_where_there_is_one_order_nothing_has_to_be_said(order):
    for benchmark, split in (("humaneval", "test"), ("math500", "test"), ("gsm8k", "train"), ("mbpp", "train")):
        assert place(benchmark, split, order, 17) == f"{benchmark}/{split}/00017"
    own = Example("own/test/p/7", (), {})
    assert place("own", "test", order, 7, [own]) == "own/test/p/7"


@pytest.mark.mirror
def test_the_published_files_are_numbered_as_is_said_here():
    origins = Origins(None, Path("unused.lock.json"))
    from lightningrl.benchmarks.gsm8k import GSM8K
    from lightningrl.benchmarks.humaneval import HUMANEVAL
    from lightningrl.evaluation.problems import load_problems

    tests = {b.name: load_problems(b, "test", None, origins, None) for b in (GSM8K, MBPP, HUMANEVAL)}
    official = uid_numbering.uid_of_number("gsm8k", "test", tests["gsm8k"], "official", origins)
    assert {official(number) for number in range(1319)} == {e.uid for e in tests["gsm8k"]}
    assert sum(official(n) == f"gsm8k/test/{n:05d}" for n in range(1319)) == 2  # the orders differ nearly everywhere
    assert [e.uid for e in tests["mbpp"]] == [place("mbpp", "test", "paper", n) for n in range(500)]
    rows = [row["task_id"] for row in load_tasks(HUMANEVAL, origins)]
    assert rows == [f"HumanEval/{n}" for n in range(164)]


def load_tasks(benchmark, origins):
    from lightningrl.benchmarks.fetch import obtain

    return obtain(next(source for source in benchmark.sources if source.key == "tasks"), origins).rows
