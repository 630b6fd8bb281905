"""What holds for every registered benchmark: stable examples, disjoint splits, exact storage."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.benchmarks.generated import KeyedRandom, split_of
from lightningrl.benchmarks.protocol import (
    PromptOptions,
    check_disjoint,
    example_from_json,
    example_to_json,
    question_text,
    render_chat,
)
from lightningrl.benchmarks.registry import BENCHMARKS, get_benchmark
from lightningrl.errors import BenchmarkError, ConfigError
from lightningrl.types import Example
from lightningrl.utils.files import canonical_json

SIZES = {"train": 600, "validation": 200, "test": 300}
GENERATED = [name for name in BENCHMARKS if not get_benchmark(name).sources]


PROGRAM = """
import json, sys, lightningrl.tokenization
from lightningrl.benchmarks.registry import BENCHMARKS, get_benchmark
from lightningrl.benchmarks.protocol import example_to_json
found = {name: get_benchmark(name) for name in BENCHMARKS}
loaded = [found[name].load({"train": 40, "test": 20}, 3) for name in sys.argv[1:]]
print(json.dumps([example_to_json(e) for each in loaded for split in each.values() for e in split]))
sys.exit("torch" in sys.modules or "transformers" in sys.modules)
"""


@pytest.fixture(scope="module", params=GENERATED)
def benchmark(request):
    return get_benchmark(request.param)


@pytest.fixture(scope="module")
def splits(benchmark):
    return benchmark.load(SIZES, seed=0)


def example(uid="b/test/0", question="What is 1 + 1?", gold="2"):
    return Example(uid, ({"role": "user", "content": question},), {"answer": gold})


def test_another_process_draws_the_same_examples_and_imports_no_torch():
    """Nothing may depend on Python's per-process hash seed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *GENERATED], capture_output=True, text=True, check=True)
    here = [get_benchmark(name).load({"train": 40, "test": 20}, 3) for name in GENERATED]
    assert json.loads(done.stdout) == [example_to_json(e) for each in here for split in each.values() for e in split]


def test_another_seed_gives_other_examples_and_shares_no_problem_with_the_held_out_splits(benchmark, splits):
    other = benchmark.load({"train": 2000}, seed=5)["train"]
    pairs = list(zip(splits["train"], other, strict=False))
    assert sum(a.messages == b.messages for a, b in pairs) < 0.02 * len(pairs)
    check_disjoint(splits | {"train": other}, benchmark.signature)


def test_a_smaller_split_is_the_beginning_of_a_larger_one(benchmark, splits):
    small = benchmark.load({"train": 50, "test": 40}, seed=0)
    assert small == {"train": splits["train"][:50], "test": splits["test"][:40]}


def test_uids_are_unique_and_held_out_splits_have_no_problem_twice(benchmark, splits):
    for split, examples in splits.items():
        assert len(examples) == SIZES[split] == len({e.uid for e in examples})
        assert {(e.benchmark, e.split) for e in examples} == {(benchmark.name, split)}
        assert split == "train" or len({benchmark.signature(e) for e in examples}) == len(examples)


def test_planted_overlap_is_found_though_the_wording_differs(benchmark, splits):
    planted = Example("planted/train/0", splits["test"][17].messages, {}, None)
    with pytest.raises(BenchmarkError, match=r"'train' and 'test' share a question: planted/train/0 and .*/test/00017"):
        check_disjoint({"train": [planted], "test": splits["test"]}, benchmark.signature)


def test_planted_overlap_with_other_names_is_found_by_signature():
    train = example("gsm-mini/train/0", "Ann has 12 pens, buys 5, then doubles them. How many pens now?")
    test = example("gsm-mini/test/0", "Zoe has 12 coins, gets 5, then doubles them. How many coins now?")
    with pytest.raises(BenchmarkError, match="share a problem: gsm-mini/train/0 and gsm-mini/test/0"):
        check_disjoint({"train": [train], "test": [test]}, get_benchmark("gsm-mini").signature)


def test_question_text_forgives_white_space_and_case_but_not_signs():
    assert question_text(example(question="What  is\n1 + 1?")) == question_text(example(question="what is 1 + 1? "))
    assert question_text(example(question="1 - 1")) != question_text(example(question="1 + 1"))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dev": 3}, "'dev'; expected one of train, validation, test"),
        ({"test": -1}, "-1"),
        ({"test": 500}, r"split 'test' has fewer than 500 different problems \(found \d+\)"),
    ],
)
def test_sizes_that_there_are_not_are_errors(monkeypatch, sizes, message):
    monkeypatch.setattr("lightningrl.benchmarks.gsm_mini.VALUE_RANGE", (10, 12))
    monkeypatch.setattr("lightningrl.benchmarks.gsm_mini.N_OPS", 2)
    monkeypatch.setattr("lightningrl.benchmarks.generated.MAX_DRAWS", 1000)
    with pytest.raises(BenchmarkError, match=message):
        get_benchmark("gsm-mini").load(sizes, 0)


def test_held_out_shares_are_a_tenth_each():
    splits = [split_of("b", str(i)) for i in range(20_000)]
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.01  # five standard deviations: 0.0106
    assert abs(splits.count("validation") / 20_000 - 0.1) < 0.01


@settings(max_examples=30)
@given(st.text(max_size=20), st.integers(-50, 50), st.integers(0, 100))
def test_draws_stay_in_range(key, low, width):
    rng = KeyedRandom(key)
    assert all(low <= rng.integer(low, low + width) <= low + width for _ in range(20))
    assert sorted(rng.shuffled(range(width))) == list(range(width))


def test_json_round_trip_is_exact(splits):
    for e in splits["test"][:50]:
        text = canonical_json(example_to_json(e))
        assert example_from_json(json.loads(text)) == e
        assert canonical_json(example_to_json(example_from_json(json.loads(text)))) == text


@pytest.mark.parametrize(
    "row",
    [
        [1, 2], {}, *(example_to_json(example()) | change for change in (
            {"uid": "no-slashes"}, {"messages": "What?"}, {"messages": []}, {"messages": [{"role": "user"}]},
            {"messages": [{"role": "user", "content": 1}]}, {"messages": None}, {"extra": 1},
        ))
    ],
)  # fmt: skip
def test_malformed_row_is_a_benchmark_error(row):
    with pytest.raises(BenchmarkError, match="malformed example"):
        example_from_json(row)


def test_suffix_is_added_to_the_last_user_turn_and_the_example_stays():
    e = Example("b/test/0", ({"role": "system", "content": "s"}, {"role": "user", "content": "q"}), {})
    rendered = render_chat(e, PromptOptions(suffix="Be brief."))
    assert rendered == [{"role": "system", "content": "s"}, {"role": "user", "content": "q\nBe brief."}]
    assert render_chat(e, PromptOptions()) == list(e.messages)
    assert e.messages[1]["content"] == "q"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gsm-maxi", ConfigError, "there is no benchmark 'gsm-maxi'. Did you mean `gsm-mini`"),
        ("no_such_module:X", ConfigError, "no module 'no_such_module'"),
        ("lightningrl.benchmarks.gsm_mini:NONE", ConfigError, "has no attribute 'NONE'"),
        (
            "lightningrl.benchmarks.gsm_mini:NAMES",
            BenchmarkError,
            "is not a benchmark: `name` is missing, expected a text",
        ),
    ],
)
def test_names_and_paths_of_no_benchmark_are_errors(name, error, message):
    with pytest.raises(error, match=message):
        get_benchmark(name)


def test_registered_benchmarks_describe_themselves(benchmark):
    assert get_benchmark(BENCHMARKS[benchmark.name]) is benchmark
    assert benchmark.licence and benchmark.citation
    module, attribute = benchmark.judge.split(":")
    assert callable(getattr(import_module(module), attribute).judge)
