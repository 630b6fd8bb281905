"""A teacher's opinion of responses as a reward: whose tokens count, what is computed, in which precision."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.naive import Masked
from fixtures.planning import planned_setup
from fixtures.tiny import answer_of, make_trainer, tiny_model

from lightningrl.errors import ConfigError
from lightningrl.models.checkpoint import save_model
from lightningrl.models.families.protocol import NO_MASK
from lightningrl.rl.groups import Groups
from lightningrl.rl.teacher import Teacher
from lightningrl.tokenization import encode_prompts, encode_texts

DULTRA = Path(__file__).parents[1] / "fixtures" / "dultra_tiny"


@pytest.fixture
def teacher(tmp_path):
    """The folder of a tiny autoregressive model with the tokenizer of `tiny_setup`, and the model."""
    setup = planned_setup(tmp_path)
    shape = {"vocab_size": setup.model.config.vocab_size, "mask_token_id": NO_MASK, "block_size": 1, "qk_norm": False}
    model = tiny_model(8, attention="causal", logit_shift=True, qkv_bias=True, family="qwen2", **shape)
    save_model(model, tmp_path, eos_token_id=setup.tokenizer.eos_token_id, pad_token_id=setup.tokenizer.pad_token_id)
    return tmp_path, model.eval()


def test_a_teachers_reward_is_the_mean_log_probability_of_the_response_behind_its_own_prompt(teacher):
    folder, model = teacher
    setup = planned_setup(folder)
    found = Teacher(dataclasses.replace(setup, checkpoints={"teacher": folder}), microbatch=2)
    texts = ["3 pens", "", "1 cups and 2 figs"]
    answers = [
        dataclasses.replace(answer_of(4, 2), example=example, text=text)
        for example, text in zip(setup.train[:3], texts, strict=True)
    ]
    rewards = found.rewards(Groups([answers, answers[::-1]]))
    expected = []
    for answer in answers:
        prompt = encode_prompts(setup.tokenizer, [answer.example.messages])[0]
        response = list(encode_texts(setup.tokenizer, [answer.text])[0]) or [setup.tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *response]])
        length = ids.shape[1]
        seen = Masked(torch.ones(1, 1, length, length, dtype=torch.bool).tril())
        with torch.no_grad():
            table = model.log_probs(model.hidden(ids, torch.arange(length)[None], seen)[0])
        places = range(len(prompt), length)
        expected.append(np.mean([float(table[place - 1, int(ids[0, place])]) for place in places]))
    np.testing.assert_allclose(rewards, [expected, expected[::-1]], atol=1e-5)


def test_a_run_is_paid_by_its_teacher_and_refuses_one_that_is_not_autoregressive(teacher):
    folder, _ = teacher
    setup = planned_setup(
        folder, method={"teacher": {"checkpoint": str(folder), "weight": 0.5}, "rewards": [{"name": "correct"}]}
    )
    row = make_trainer(setup).step().metrics
    assert row["reward_teacher_mean"] < 0
    assert row["reward_optimised_mean"] == pytest.approx(row["reward_correct_mean"] + 0.5 * row["reward_teacher_mean"])
    with pytest.raises(ConfigError, match=r"runs\.t\.method\.teacher: found a llada model with full attention"):
        make_trainer(dataclasses.replace(setup, checkpoints={"teacher": DULTRA}))


def answers_of(setup, texts, step):
    """Answers of a step to the first problems."""
    found = []
    for example, text in zip(setup.train, texts, strict=False):
        answer = dataclasses.replace(answer_of(4, 2), example=example, text=text)
        trajectory = dataclasses.replace(answer.trajectory, policy_version=step)
        found.append(dataclasses.replace(answer, trajectory=trajectory))
    return found


def test_a_teacher_is_in_the_runs_precision_and_scores_a_steps_responses_once(teacher, monkeypatch):
    """What it knows of the step before is forgotten: a run that is resumed there would not know it either."""
    folder, _ = teacher
    setup = dataclasses.replace(planned_setup(folder), checkpoints={"teacher": folder})
    low = dataclasses.replace(setup, run=setup.run.model_copy(update={"precision": "bfloat16"}))
    assert {weight.dtype for weight in Teacher(low, 2).model.parameters()} == {torch.bfloat16}
    found, scored = Teacher(setup, 2), []
    assert {weight.dtype for weight in found.model.parameters()} == {torch.float32}
    compute = found.mean_log_probs
    monkeypatch.setattr(found, "mean_log_probs", lambda answers: scored.append(len(answers)) or compute(answers))
    for step in (1, 1, 2):
        found.rewards(Groups([answers_of(setup, ["3 pens", "1 cups"], step)]))
    assert scored == [2, 0, 2]


def test_what_a_teacher_has_no_positions_for_is_cut_off(teacher):
    """The beginning of the prompt; and the end of a response that alone is too long."""
    folder, model = teacher
    setup = dataclasses.replace(planned_setup(folder), checkpoints={"teacher": folder})
    found, [answer] = Teacher(setup, 2), answers_of(setup, ["3 pens 1 cups 2 figs 5 pens 6 cups"], 1)
    prompt = encode_prompts(setup.tokenizer, [answer.example.messages])[0]
    response = encode_texts(setup.tokenizer, [answer.text])[0].tolist()
    assert min(len(prompt), len(response)) > 3
    for limit, kept, scored in ((len(response) + 3, 3, len(response)), (4, 1, 3)):
        found.model.config = dataclasses.replace(model.config, max_position_embeddings=limit)
        ids = torch.tensor([[*prompt[-kept:], *response[:scored]]])
        seen = Masked(torch.ones(1, 1, limit, limit, dtype=torch.bool).tril())
        with torch.no_grad():
            table = model.log_probs(model.hidden(ids, torch.arange(limit)[None], seen)[0])
        expected = np.mean([float(table[at - 1, int(ids[0, at])]) for at in range(kept, limit)])
        assert found.mean_log_probs([answer]) == [pytest.approx(expected, abs=1e-5)]
