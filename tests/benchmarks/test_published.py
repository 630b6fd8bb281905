"""Published problems: complete, in order, joined correctly, each in one split. `-m mirror` tests the whole files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixtures.small_benchmarks import ALL, MIRROR, NAMES, SMALL, load

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.mbpp import entry_point
from lightningrl.benchmarks.protocol import check_disjoint, example_from_json, example_to_json, question_text
from lightningrl.benchmarks.published import Splits, drop_duplicates, is_validation, split_validation
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

FULL = {
    "gsm8k": {"test": 1319, "train": 7473},
    "math500": {"test": 500, "train": 8519},
    "mbpp": {"test": 500, "train": 461},
    "humaneval": {"test": 164, "train": 0},
}
"""The numbers of problems; train includes validation. Of MATH's 8,523 training problems two come twice and two have no
answer; of MBPP's 464 (its own validation split included) three (602, 704, 872) describe a test problem."""


def small_rows(name: str):
    origins = Origins(MIRROR, Path("none"))
    return {source.key: obtain(source, origins).rows for source in SMALL[name].sources}


def example(number: int, question: str, split: str = "train") -> Example:
    return Example(f"b/{split}/{number:05d}", ({"role": "user", "content": question},), {"answer": "1"})


@pytest.mark.parametrize("name", NAMES)
def test_problems_survive_their_storage_and_have_the_judges_data(name):
    splits = load(name)
    assert sum(map(len, splits.values())) >= 2
    for split, examples in splits.items():
        for each in examples:
            assert each.uid.startswith(f"{name}/{split}/") and each.gold
            assert example_from_json(example_to_json(each)) == each
    check_disjoint(splits, SMALL[name].signature)


def test_numbers_in_uids_are_places_in_the_file_and_worked_answers_lose_their_calculator_marks():
    splits = load("gsm8k")
    assert [e.uid for e in splits["test"]] == [f"gsm8k/test/{n:05d}" for n in range(5)]
    every = {int(e.uid[-5:]): e for split in ("train", "validation") for e in splits[split]}
    assert sorted(every) == list(range(12))
    first = every[0]
    assert first.gold == {"answer": "72"} and "<<" not in first.solution
    assert first.solution.startswith("Natalia sold 48/2 = 24 clips in May.") and first.solution.endswith("\\boxed{72}.")


def test_a_size_takes_the_first_and_changes_no_other_split():
    few, every = load("gsm8k", {"train": 2, "validation": 0, "test": 3}), load("gsm8k")
    assert few["train"] == every["train"][:2] and few["validation"] == [] and few["test"] == every["test"][:3]
    with pytest.raises(BenchmarkError, match="split 'test' has 5 problems, 6"):
        load("gsm8k", ALL | {"test": 6})


def test_validation_depends_on_the_question_alone():
    problems = [example(n, f"What is {n} + {n}?") for n in range(2000)]
    train, validation = split_validation(problems)
    assert 150 < len(validation) < 250 and len(train) + len(validation) == 2000
    assert [e.uid for e in validation] == [e.uid.replace("train", "validation") for e in problems if is_validation(e)]
    again = split_validation(list(reversed(problems)))[1]
    assert {e.uid for e in again} == {e.uid for e in validation}


def test_doubles_are_dropped_from_training_and_counted():
    splits = Splits({
        "test": [example(0, "What is 1 + 1?", "test")],
        "validation": [example(5, "b", "validation"), example(6, "what  is 1 + 1?", "validation")],
        "train": [example(1, "WHAT is 1 + 1?"), example(2, "a"), example(3, "a"), example(4, "b"), example(7, "c")],
    })  # fmt: skip
    kept = drop_duplicates(splits)
    assert {split: [e.uid[-1] for e in examples] for split, examples in kept.items()} == {
        "test": ["0"], "validation": ["5"], "train": ["2", "7"],
    }  # fmt: skip
    assert kept.dropped == {
        "validation problems that are in test": 1,
        "train problems that are in test": 1,
        "train problems that come twice": 1,
        "train problems that are in validation": 1,
    }


def test_math_train_drops_its_doubles_and_what_has_no_answer():
    rows = small_rows("math500")
    rows["train"].append({"question": "What?", "ground_truth_answer": " "})
    splits = SMALL["math500"].load(ALL, 0, rows)
    assert sum(splits.dropped.values()) == 2 and splits.dropped["train problems without an answer"] == 1
    assert any(reason.endswith("problems that come twice") for reason in splits.dropped)
    assert len(splits["train"]) + len(splits["validation"]) == 11


def test_mbpp_joins_wording_and_programs():
    splits = load("mbpp")
    assert [e.uid for e in splits["test"]] == ["mbpp/test/00011", "mbpp/test/00012", "mbpp/test/00118"]
    assert "a function to convert a string to a list." in splits["test"][2].messages[0]["content"]
    first = splits["test"][0]
    assert first.gold["entry_point"] == "remove_Occ" and len(first.gold["tests"]) == 3
    assert first.messages[1] == {"role": "assistant", "content": "Here is the completed code:\n```python"}
    assert "\r" not in first.solution and first.solution.startswith("\ndef remove_Occ")
    assert [e.uid for e in splits["validation"]] == ["mbpp/validation/00511", "mbpp/validation/00512"]


def test_mbpp_drops_a_training_task_that_describes_a_test_task():
    rows = small_rows("mbpp")
    texts = {row["task_id"]: row for row in rows["tasks"]}
    texts[601]["text"] = texts[12]["text"].upper()
    splits = SMALL["mbpp"].load(ALL, 0, rows)
    assert "mbpp/train/00601" not in {e.uid for e in splits["train"]}
    assert splits.dropped["train problems that describe a test problem"] == 1


def test_rows_of_two_files_that_do_not_match_are_refused():
    rows = small_rows("mbpp")
    rows["test"][0]["question"] += " "
    with pytest.raises(BenchmarkError, match="mbpp: the two files do not match"):
        SMALL["mbpp"].load(ALL, 0, rows)
    rows = small_rows("humaneval")
    rows["tasks"].reverse()
    with pytest.raises(BenchmarkError, match=r"row 0 .* HumanEval/38"):
        SMALL["humaneval"].load(ALL, 0, rows)


def test_the_entry_point_is_what_test_and_program_share():
    assert entry_point("assert sum(10,15) == 6", "def sum(a,b): ...") == "sum"
    assert entry_point("assert sorted(g(f(1)))==[1]", "def f(x): ...\ndef g(x): ...") == "g"
    with pytest.raises(BenchmarkError, match="reference program"):
        entry_point("assert f(1)", "def g(x): ...")


@pytest.mark.mirror
@pytest.mark.parametrize("name", FULL)
def test_the_whole_files(name):
    mirror = os.environ.get("LIGHTNINGRL_DATA_MIRROR")
    assert mirror, "set LIGHTNINGRL_DATA_MIRROR to a folder that has the files"
    benchmark = get_benchmark(name)
    obtained = {s.key: obtain(s, Origins(None, Path("none"), require_pins=True)) for s in benchmark.sources}
    splits = benchmark.load(ALL, 0, {key: found.rows for key, found in obtained.items()})
    assert len(splits["test"]) == FULL[name]["test"]
    assert len(splits["train"]) + len(splits["validation"]) == FULL[name]["train"]
    check_disjoint(splits, benchmark.signature)
    for examples in splits.values():
        assert all(e.solution and question_text(e) for e in examples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_method": "function"}, "found 'function'"),
        ({"test_output": ["3\n"]}, "two lists of equally many texts"),
        ({"test_input": "12", "test_output": "33"}, "two lists of equally many texts"),
        ({"test_input": [], "test_output": []}, "two lists of equally many texts"),
        ({"test_time_limit": "1"}, "test_time_limit: found '1'"),
    ],
)
def test_a_script_has_the_time_its_row_gives_and_a_row_that_is_otherwise_is_named(change, message):
    rows = [row | {"test_time_limit": 2.5} for row in small_rows("primeintellect")["train"]]
    splits = SMALL["primeintellect"].load(ALL, 0, {"train": rows})
    assert {e.gold["time_limit_s"] for split in splits.values() for e in split} == {2.5}
    with pytest.raises(BenchmarkError, match=f"primeintellect/train/00000: .*{message}"):
        SMALL["primeintellect"].load(ALL, 0, {"train": [rows[0] | change]})
