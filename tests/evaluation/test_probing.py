"""Probes: reliability of known confidence, classes of tokens, company, phrasings."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.tiny import trajectory_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.benchmarks.gsm_mini import CLOSINGS, ENDINGS, GSM_MINI, MARKS, SENTENCES
from lightningrl.benchmarks.gsm_phrasing import phrases
from lightningrl.benchmarks.protocol import NO_ROWS
from lightningrl.evaluation.probing import (
    BINS,
    Reliability,
    calibration_error,
    entropy_nats,
    reliability,
    together,
    token_classes,
)


def test_honest_confidence_has_no_calibration_error_and_bold_confidence_its_size():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.05, 1.0, 200_000)
    honest = reliability(confidence, rng.random(len(confidence)) < confidence)
    assert sum(each.count for each in honest) == len(confidence) and len(honest) == len(BINS) - 1
    assert calibration_error(honest) < 0.005
    bold = reliability(confidence, rng.random(len(confidence)) < confidence - 0.05)
    assert calibration_error(bold) == pytest.approx(0.05, abs=0.006)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_every_confidence_has_its_bin(values):
    bins = reliability(np.array(values), np.ones(len(values)))
    assert sum(each.count for each in bins) == len(values)
    assert all(each.low - 1e-12 <= each.confidence <= each.high + 1e-12 for each in bins)


def test_what_was_left_masked_is_compared_with_what_ended_there():
    """A prompt of one token, a response of three and a tail; three forwards reveal one position each."""
    trajectory = SimpleNamespace(prompt_ids=np.array([9]), response_ids=np.array([5, 6, 7]), response_len=3)

    def forward(positions, tokens, probabilities, chosen):
        arrays = (np.zeros(len(positions), int), np.array(positions), np.array(tokens), np.log(probabilities))
        return SimpleNamespace(**dict(zip(("index_n", "position_n", "token_n", "logp_n"), arrays, strict=True)),
                               chosen_n=np.array(chosen))  # fmt: skip

    observer = Reliability()
    observer.observe(forward([1, 2, 3, 4], [5, 6, 1, 1], [0.97, 0.62, 0.65, 0.61], [True, False, False, False]))
    observer.observe(forward([2, 3, 4], [6, 7, 1], [0.97, 0.93, 0.68], [True, False, False]))
    bins = {each.low: each for each in observer.bins([trajectory])}
    assert {low: (each.count, each.agreement) for low, each in bins.items()} == {0.6: (2, 0.5), 0.9: (1, 1.0)}
    assert bins[0.6].confidence == pytest.approx((0.62 + 0.65) / 2)  # position 4 is behind the response
    assert Reliability().bins([]) == []


def test_classes_follow_the_prompt():
    prompt = "Ann has 12 books, buys 5. How many books now?"
    pieces = [
        "Ann", " now", " has", " 1", "2", " +", " 5", " =", " 1", "7", " bo", "oks", ".", " \\", "boxed", "{", "<e>",
    ]  # fmt: skip
    assert token_classes(prompt, pieces, [False] * 16 + [True]) == [
        "copied word", "copied word", "copied word", "copied number", "copied number", "symbol", "copied number",
        "symbol", "computed number", "computed number", "copied word", "copied word", "symbol", "symbol", "symbol",
        "symbol", "end",
    ]  # fmt: skip


def test_company_counts_all_that_a_forward_revealed_and_entropy_of_even_shares_is_their_logarithm():
    assert together(trajectory_of(4, [1, 2, 1, 2], response_len=3)).tolist() == [2, 2, 2]
    assert entropy_nats(range(8)) == pytest.approx(np.log(8)) and entropy_nats("aaa") == 0


def test_every_worked_answer_is_found_in_its_own_phrases():
    """2,000 answers as the generator writes them: nothing is left over, and all templates occur."""
    seen: dict[str, set[str]] = {}
    for example in GSM_MINI.load({"train": 2000, "validation": 0, "test": 0}, 5, NO_ROWS)["train"]:
        steps = example.messages[-1]["content"].count(",")
        found = phrases(example, example.solution)
        assert found[0][0] == "opener" and found[-1][0] == "closing" and len(found) == 4 * steps + 1
        for role, words in found:
            seen.setdefault(role, set()).add(words)
    assert seen["closing"] == set(CLOSINGS) and seen["ending"] == set(ENDINGS) and seen["mark"] == set(MARKS)
    assert {op: seen[op] for op in SENTENCES} == {op: set(templates) for op, templates in SENTENCES.items()}


def test_what_no_template_fits_is_a_phrase_of_its_own():
    some = GSM_MINI.load({"train": 9, "validation": 0, "test": 0}, 5, NO_ROWS)["train"]
    example = next(each for each in some if "them" not in each.messages[-1]["content"])  # no factor, which is a word
    name, item = example.messages[-1]["content"].split()[0], example.messages[-1]["content"].split()[3].rstrip(",")
    found = phrases(example, f"{name} 10 {item} 7 7. \\boxed{{12}}.")
    assert [words for _, words in found] == ["NAME # ITEM # #", "\\boxed{#}."]
    assert phrases(example, "") == []
    # a wrong sum in known words is no new phrase
    results = r"\d(?= (now|altogether|here|overall)|})"
    wrong = re.sub(results, lambda digit: str((int(digit[0]) + 1) % 10), example.solution)
    assert wrong != example.solution and phrases(example, wrong) == phrases(example, example.solution)
