"""What holds for every registered benchmark: stable examples, disjoint splits, exact storage."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import given
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
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example
from lightningrl.utils.files import canonical_json

SIZES = {"train": 600, "validation": 100, "test": 150}
GENERATED = [name for name in BENCHMARKS if not get_benchmark(name).sources]
generated = pytest.mark.parametrize("benchmark", [get_benchmark(name) for name in GENERATED], ids=GENERATED)


def example(uid="b/test/0", question="What is 1 + 1?", gold="2"):
    return Example(uid, ({"role": "user", "content": question},), {"answer": gold})


@generated
def test_same_seed_gives_the_same_examples_in_another_process(benchmark):
    """Nothing may depend on Python's per-process hash seed."""
    code = (
        "from lightningrl.benchmarks.registry import get_benchmark; from lightningrl.benchmarks.protocol import "
        "example_to_json; from lightningrl.utils.files import canonical_json\n"
        f"rows = get_benchmark({benchmark.name!r}).load({{'train': 40, 'test': 20}}, 3)\n"
        "print(canonical_json([example_to_json(e) for split in rows.values() for e in split]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = benchmark.load({"train": 40, "test": 20}, 3)
    assert json.loads(other) == [example_to_json(e) for split in here.values() for e in split]


@generated
def test_another_seed_gives_other_examples(benchmark):
    first, second = (benchmark.load(SIZES, seed)["train"] for seed in (0, 1))
    assert sum(a.messages == b.messages for a, b in zip(first, second, strict=True)) < 0.02 * len(first)


@generated
def test_enlarging_a_split_changes_no_other_example(benchmark):
    small = benchmark.load({"train": 50, "test": 40}, seed=0)
    large = benchmark.load({"train": 300, "validation": 30, "test": 100}, seed=0)
    assert large["train"][:50] == small["train"]
    assert large["test"][:40] == small["test"]


@generated
def test_splits_share_no_problem_even_across_seeds(benchmark):
    train = benchmark.load({"train": 2000}, seed=5)["train"]
    held_out = benchmark.load({"validation": 200, "test": 300}, seed=9)
    check_disjoint({"train": train, **held_out}, benchmark.signature)


@generated
def test_uids_are_unique_and_held_out_splits_have_no_problem_twice(benchmark):
    sizes = {"train": 600, "validation": 200, "test": 500}
    for split, examples in benchmark.load(sizes, seed=0).items():
        assert len(examples) == sizes[split] == len({e.uid for e in examples})
        assert {(e.benchmark, e.split) for e in examples} == {(benchmark.name, split)}
        assert split == "train" or len({benchmark.signature(e) for e in examples}) == len(examples)


@generated
def test_planted_overlap_is_found_though_the_wording_differs(benchmark):
    splits = benchmark.load(SIZES, seed=0)
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


def test_unknown_split_and_negative_size_are_errors():
    with pytest.raises(BenchmarkError, match="'dev'; expected one of train, validation, test"):
        get_benchmark("gsm-mini").load({"dev": 3}, 0)
    with pytest.raises(BenchmarkError, match="-1"):
        get_benchmark("gsm-mini").load({"test": -1}, 0)


def test_a_split_larger_than_the_benchmark_is_an_error(monkeypatch):
    monkeypatch.setattr("lightningrl.benchmarks.gsm_mini.START_RANGE", (10, 11))
    monkeypatch.setattr("lightningrl.benchmarks.gsm_mini.N_OPS", (2,))
    monkeypatch.setattr("lightningrl.benchmarks.generated.MAX_DRAWS", 1000)
    with pytest.raises(BenchmarkError, match=r"split 'test' has fewer than 500 different problems \(found \d+\)"):
        get_benchmark("gsm-mini").load({"test": 500}, 0)


def test_held_out_shares_are_a_tenth_each():
    splits = [split_of("b", str(i)) for i in range(20_000)]
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.01  # five standard deviations: 0.0106
    assert abs(splits.count("validation") / 20_000 - 0.1) < 0.01


@given(st.text(max_size=20), st.integers(-50, 50), st.integers(0, 100))
def test_draws_stay_in_range(key, low, width):
    rng = KeyedRandom(key)
    assert all(low <= rng.integer(low, low + width) <= low + width for _ in range(20))
    assert sorted(rng.shuffled(range(width))) == list(range(width))


@generated
def test_json_round_trip_is_exact(benchmark):
    for e in benchmark.load({"test": 50}, 0)["test"]:
        text = canonical_json(example_to_json(e))
        assert example_from_json(json.loads(text)) == e
        assert canonical_json(example_to_json(example_from_json(json.loads(text)))) == text


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "no-slashes"},
        {"messages": "What?"},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"extra": 1},
    ],
)
def test_malformed_row_is_a_benchmark_error(change):
    with pytest.raises(BenchmarkError):
        example_from_json(example_to_json(example()) | change)
    with pytest.raises(BenchmarkError):
        example_from_json([1, 2])


def test_suffix_is_added_to_the_last_user_turn_and_the_example_stays():
    e = Example("b/test/0", ({"role": "system", "content": "s"}, {"role": "user", "content": "q"}), {})
    rendered = render_chat(e, PromptOptions(suffix="Be brief."))
    assert rendered == [{"role": "system", "content": "s"}, {"role": "user", "content": "q\nBe brief."}]
    assert render_chat(e, PromptOptions()) == list(e.messages)
    assert e.messages[1]["content"] == "q"


def test_unknown_names_and_paths_are_benchmark_errors():
    with pytest.raises(BenchmarkError, match="known are gsm-mini, code-mini"):
        get_benchmark("gsm-maxi")
    for path in ("no_such_module:X", "lightningrl.benchmarks.gsm_mini:NONE"):
        with pytest.raises(BenchmarkError, match="cannot be imported"):
            get_benchmark(path)
    with pytest.raises(BenchmarkError, match="is not a benchmark: name, licence"):
        get_benchmark("lightningrl.benchmarks.gsm_mini:NAMES")
    assert get_benchmark("lightningrl.benchmarks.gsm_mini:GSM_MINI").name == "gsm-mini"


@generated
def test_registered_benchmarks_describe_themselves(benchmark):
    assert BENCHMARKS[benchmark.name]
    assert benchmark.licence and benchmark.citation
    module, attribute = benchmark.judge.split(":")
    assert callable(getattr(import_module(module), attribute).judge)


def test_benchmarks_do_not_import_torch():
    code = "import sys; from lightningrl.benchmarks.registry import *; [get_benchmark(n) for n in BENCHMARKS]; "
    code += "import lightningrl.tokenization; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
