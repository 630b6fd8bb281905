"""gsm-mini: the question, gold and worked answers agree, by an evaluator that shares no code with the generator."""

import re
from collections import Counter
from itertools import accumulate, pairwise

import pytest

from lightningrl.benchmarks.generated import KeyedRandom
from lightningrl.benchmarks.gsm_mini import GSM_MINI, SENTENCES, WordProblem, problem_of, worked_answer
from lightningrl.errors import BenchmarkError
from lightningrl.judges.boxed_answer import BoxedJudge
from lightningrl.types import Example

GAINS, LOSSES = {"buys", "finds", "gets"}, {"drops", "loses", "sells"}


@pytest.fixture(scope="module")
def examples():
    splits = GSM_MINI.load({"train": 1500, "validation": 200, "test": 300}, seed=0)
    return [example for split in splits.values() for example in split]


def values_of(question: str) -> list[int]:
    """Every value along the way, read from the question's words alone."""
    words = re.findall(r"\w+", question)
    values = [int(words[2])]
    for verb, what in pairwise(words):
        if verb in GAINS:
            values.append(values[-1] + int(what))
        elif verb in LOSSES:
            values.append(values[-1] - int(what))
        elif verb in ("doubles", "triples"):
            values.append(values[-1] * {"doubles": 2, "triples": 3}[verb])
    return values


def test_gold_and_worked_answer_are_right_in_every_step_and_values_stay_in_range(examples):
    """One sentence a step: its last number is that step's value, and every written equation holds."""
    for example in examples:
        values = values_of(example.messages[0]["content"])
        assert example.gold == {"answer": str(values[-1])}, example
        assert len(values) == 4 and all(10 <= value <= 39 for value in values), example
        *sentences, closing = re.split(r"(?<=[.!]) ", example.solution)
        assert [int(re.findall(r"\d+", sentence)[-1]) for sentence in sentences] == values[1:], example
        assert re.findall(r"\\boxed\{(\d+)\}", closing) == [example.gold["answer"]], example
        for sentence, before in zip(sentences, values, strict=False):
            assert str(before) in re.findall(r"\d+", sentence), example
            for left, right in re.findall(r"([\d +*-]*\d) = (\d+)", sentence):
                assert eval(left) == int(right), example  # digits, blanks and + - * only


def test_whichever_templates_are_drawn_a_place_holds_a_first_digit_of_a_result_or_a_second_one(examples):
    """Tokens: of each sentence, where its result begins is even or odd by the sentence's number alone; the box too."""
    parities = {}
    for example in examples:
        sentences = re.split(r"(?<=[.!]) ", example.solution)
        tokens = [re.findall(r"\\boxed\{|[A-Za-z]+|\d|[^\w\s]", sentence) for sentence in sentences]
        starts = accumulate(map(len, tokens), initial=0)
        for number, (start, sentence) in enumerate(zip(starts, tokens, strict=False)):
            last = max(place for place, token in enumerate(sentence) if token.isdigit())
            parities.setdefault((number, len(tokens)), set()).add((start + last) % 2)
    assert len(parities) == 4 and all(len(found) == 1 for found in parities.values())


def test_a_held_out_split_has_the_same_kinds_of_problems_as_train():
    """Of 4,000 test problems no two are equal, and yet the shares of the kinds of steps are those of train."""
    splits = GSM_MINI.load({"train": 3000, "test": 4000}, seed=0)
    assert len({GSM_MINI.signature(example) for example in splits["test"]}) == 4000
    shares = {}
    for split, chosen in splits.items():
        kinds = Counter(op for example in chosen for op, _ in problem_of(example).ops)
        shares[split] = {op: kinds[op] / kinds.total() for op in SENTENCES}
    assert shares["test"] == pytest.approx(shares["train"], abs=0.04)


def test_the_kth_wording_is_drawn_k_times_less_often_than_the_first():
    problem = WordProblem(12, (("plus", 5), ("minus", 3), ("plus", 4)))
    answers = [worked_answer(problem, "Ann", "pens", KeyedRandom(f"frequency {i}")) for i in range(6000)]
    seen = Counter(re.match(r"\w+ (?:.*?) (now|altogether|here|overall)[.!] ", answer)[1] for answer in answers)
    for place, word in enumerate(("now", "altogether", "here", "overall"), start=1):
        expected = 6000 / place / (1 + 1 / 2 + 1 / 3 + 1 / 4)
        assert abs(seen[word] - expected) < 5 * expected**0.5  # five standard deviations or more
    openers = Counter(answer.split()[0] for answer in answers)
    assert [word for word, _ in openers.most_common()] == ["First", "Well", "So", "Here"]


def test_the_named_judge_finds_worked_answers_right_and_others_wrong(examples):
    judge = BoxedJudge()
    assert all(verdict.correct for verdict in judge.judge(examples, [e.solution for e in examples]))
    shifted = [e.solution for e in examples[1:]]
    by_chance = sum(a.gold == b.gold for a, b in pairwise(examples))
    assert sum(verdict.correct for verdict in judge.judge(examples[:-1], shifted)) == by_chance < 0.1 * len(examples)


def test_every_phrasing_of_a_problem_is_drawn_and_ends_in_the_same_answer():
    problem = WordProblem(12, (("plus", 5), ("minus", 3)))
    answers = {worked_answer(problem, "Ann", "pens", KeyedRandom(f"phrasing {i}")) for i in range(400)}
    assert len(answers) > 250
    assert all(re.search(r"\\boxed\{14\}", answer) for answer in answers)
    for op, x, y, z in (("plus", 12, 5, 17), ("minus", 17, 3, 14)):
        for template in SENTENCES[op]:
            sentence = template.format(x=x, y=y, z=z, name="Ann", item="pens")
            assert any(sentence[1:] in answer for answer in answers), sentence


def test_signature_ignores_names_items_and_verbs():
    def signature(question):
        return GSM_MINI.signature(Example("gsm-mini/test/0", ({"role": "user", "content": question},), {}))

    first = signature("Ann has 12 pens, buys 5, then doubles them. How many pens now?")
    assert first == signature("Zoe has 12 coins, finds 5, then doubles them. How many coins now?") == "12:plus5,double2"
    assert first != signature("Ann has 12 pens, sells 5, then doubles them. How many pens now?")


@pytest.mark.parametrize(
    "question",
    [
        "What is 2 + 2?",
        "Ann has 12 pens, paints 5, then doubles them. How many pens now?",
        "Ann has 12 pens, buys 5 red ones, then doubles them. How many pens now?",
        "",
    ],
)
def test_foreign_question_is_a_benchmark_error(question):
    with pytest.raises(BenchmarkError, match="gsm-mini/test/7"):
        GSM_MINI.signature(Example("gsm-mini/test/7", ({"role": "user", "content": question},), {}))
