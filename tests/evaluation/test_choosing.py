"""Evaluations by likelihood: they go on after a stop, a torn line is scored again, chats are worded, records follow."""

import json

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.small_choices import PIQA, ROWS

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.config.tasks import Likelihood
from lightningrl.errors import Interrupted
from lightningrl.evaluation.choosing import ChoiceEvaluation, chosen, record_of, summary_of
from lightningrl.inference.likelihood import Continuation, log_likelihoods
from lightningrl.inference.llm import LLM
from lightningrl.tokenization import encode_prompt, encode_texts

EXAMPLES = PIQA.read({"test": ROWS["piqa/validation.jsonl"]})["test"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return LLM(save_byte_checkpoint(tmp_path_factory.mktemp("choosing") / "model"))


def evaluation(llm, cache, stop_after=99, style="default"):
    loads, asked = [], []

    def load():
        loads.append(1)
        return llm.model, llm.tokenizer

    def should_stop():
        asked.append(1)
        return len(asked) > stop_after

    found = ChoiceEvaluation(
        name="p", benchmark=PIQA, prompt=PromptOptions(style=style), examples=EXAMPLES,
        likelihood=Likelihood(samples=3), seed=0, shard=1, cache=cache, load=load, report=lambda line: None,
        timing=lambda **row: None, should_stop=should_stop,
    )  # fmt: skip
    return found, loads


def test_a_stopped_evaluation_goes_on_and_equals_an_undisturbed_one(llm, tmp_path):
    whole = evaluation(llm, tmp_path / "a")[0].rows()
    with pytest.raises(Interrupted):
        evaluation(llm, tmp_path / "b", stop_after=1)[0].rows()
    journal = tmp_path / "b" / "choices.jsonl"
    assert len(journal.read_text().splitlines()) == 1
    journal.write_text(journal.read_text() + "0123 {torn")
    assert evaluation(llm, tmp_path / "b")[0].rows() == whole
    again, loads = evaluation(llm, tmp_path / "b")
    assert again.rows() == whole and not loads, "what is all there needs no model"


def test_a_chat_puts_the_context_into_the_users_turn(llm, tmp_path):
    row = evaluation(llm, tmp_path, style="chat")[0].rows()[0]
    context = encode_prompt(llm.tokenizer, [{"role": "user", "content": "Question: Cool a cup of tea.\nAnswer:"}])
    pairs = [Continuation(context, encode_texts(llm.tokenizer, [choice])[0]) for choice in EXAMPLES[0].gold["choices"]]
    assert row["logp"] == pytest.approx([each.logp for each in log_likelihoods(llm.model, pairs, samples=3)], abs=1e-3)


def test_records_and_summaries_follow_from_the_rows():
    rows = [{"uid": e.uid, "answer": e.gold["answer"], "logp": [-15.0, -16.0], "tokens": [9, 9], "characters": [15, 30],
             "prompt_sha256": "h", "family": "sdar"} for e in EXAMPLES]  # fmt: skip
    assert [chosen(rows[0], by) for by in (False, True)] == [0, 1]
    records = [record_of("p", 0.9, e, row, True) for e, row in zip(EXAMPLES, rows, strict=True)]
    assert [(r.status, r.response) for r in records] == [
        ("wrong", "Put it on the stove for long."), ("ok", "Fill it with paper."),
    ]  # fmt: skip
    summary = json.loads(json.dumps(summary_of(records, rows), allow_nan=False))
    assert (summary["accuracy_pct"], summary["accuracy_by_sum_pct"], summary["accuracy_by_character_pct"]) == (
        50,
        50,
        50,
    )
    assert summary["tpf"] is None and summary["n_problems"] == 2
