"""Benchmarks of choices: the wordings are the harness's, rows without an answer are refused, judges agree."""

import pytest
from fixtures.small_choices import ARC_EASY, HELLASWAG, MMLU, NAMES, PIQA, ROWS, WINOGRANDE, unpinned, write_mirror

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.errors import BenchmarkError
from lightningrl.evaluation.selfcheck import self_check
from lightningrl.judges.choice import ChoiceJudge

PLAIN = PromptOptions()


def problems(benchmark, folder):
    write_mirror(folder)
    rows = {source.key: obtain(source, Origins(folder, folder / "lock.json")).rows for source in benchmark.sources}
    return benchmark.load({"test": None}, 0, rows)["test"]


@pytest.mark.parametrize(
    ("benchmark", "pairs", "answer"),
    [
        (PIQA, [("Question: Cool a cup of tea.\nAnswer:", " Put it outside."),
                ("Question: Cool a cup of tea.\nAnswer:", " Put it on the stove for long.")], 0),
        (WINOGRANDE, [("Ann passed the pot to Eva, for Ann", " was hungry."),
                      ("Ann passed the pot to Eva, for Eva", " was hungry.")], 1),
        (ARC_EASY, [("Question: What is ice?\nAnswer:", f" {text}") for text in ("rock", "water", "air")], 1),
        (HELLASWAG, [("Baking: A man mixes dough. He", f" {text}")
                     for text in ("flies off.", "bakes it now.", "reads it.", "is dough.")], 1),
    ],
    ids=["piqa", "winogrande", "arc-easy", "hellaswag"],
)  # fmt: skip
def test_wordings_of_worked_examples(benchmark, pairs, answer, tmp_path):
    example = problems(benchmark, tmp_path)[0]
    assert benchmark.pairs(example, PLAIN) == pairs and example.gold["answer"] == answer


def test_mmlu_has_a_heading_and_five_examples_of_the_subject(tmp_path):
    example = problems(MMLU, tmp_path)[0]
    heading = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    asked = "1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert MMLU.pairs(example, PLAIN) == [(heading + asked, f" {letter}") for letter in "ABCD"]
    context, _ = MMLU.pairs(example, PromptOptions(shots=5))[0]
    assert context.startswith(f"{heading}0 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\n0 + 2?") and context.endswith(
        asked
    )
    assert context.count("Answer:") == 6


@pytest.mark.parametrize("name", NAMES)
def test_judges_pass_their_self_check_on_every_benchmark(name, tmp_path):
    found = problems(unpinned(name), tmp_path)
    told = self_check(name, found, ChoiceJudge())
    assert told["official"] == {"judged": len(found), "correct": len(found), "pct": 100.0}
    verdicts = ChoiceJudge().judge(found, [example.gold["choices"][example.gold["answer"] - 1] for example in found])
    assert {verdict.status for verdict in verdicts} == {"wrong"}


@pytest.mark.parametrize(
    ("benchmark", "change"),
    [(PIQA, {"label": -1}), (WINOGRANDE, {"sentence": "No gap."}), (ARC_EASY, {"answerKey": "E"}),
     (HELLASWAG, {"label": "4"}), (MMLU, {"answer": 4})],
)  # fmt: skip
def test_rows_without_a_right_answer_are_refused(benchmark, change):
    rows = {source.key: ROWS[source.mirror] for source in benchmark.sources}
    wrong = rows["test"][0] | change
    with pytest.raises(BenchmarkError):
        benchmark.read(rows | {"test": [wrong]})
