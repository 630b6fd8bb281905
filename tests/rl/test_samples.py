"""The readable samples: which group and responses, what is shown of them, and that they are a function of the step."""

import json

import numpy as np
import pytest

from lightningrl.answering import Answer
from lightningrl.rl import rewards as rewards_module
from lightningrl.rl import trainer as trainer_module
from lightningrl.rl.groups import Groups
from lightningrl.rl.samples import marked_text, sample_row, samples_text
from lightningrl.tokenization import build_tokenizer, load_tokenizer
from lightningrl.training.loop import train
from lightningrl.types import DecodeStats, Example, Trajectory, Verdict
from lightningrl.utils import files as io


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    build_tokenizer(["two cups and three pens are five"], folder)
    return load_tokenizer(folder)


def answer_of(tokenizer, text, reveal, sample=0, prompt=3, correct=True, detail="expected 5, found 5"):
    """A response of `text` and the end token, one reveal step a token (the tail's too), blocks of 4."""
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    tail = len(reveal) - len(ids)
    stats = DecodeStats(len(ids), len(reveal), max(reveal), 0, 0)
    trajectory = Trajectory(
        "t/train/0", sample, np.arange(prompt), np.array(ids + [0] * tail), len(ids), np.array(reveal),
        np.zeros(len(reveal), dtype=np.float32), 4, 1.0, "eos", 0, stats,
    )  # fmt: skip
    example = Example("t/train/0", ({"role": "user", "content": "two cups and three pens?"},), {"answer": "5"})
    verdict = Verdict(correct, float(correct), "ok" if correct else "wrong", "5", detail, seconds=1.5)
    return Answer(example, trajectory, text, verdict)


REWARDS = {"accuracy": np.array([[1.0, -1.0, 1.0]]), "speed": np.array([[1.5, 3.0, 2.0]])}


@pytest.fixture
def row_of(tokenizer):
    def row(rewards=REWARDS, step=10):
        """One group: five tokens from position 3 of a block of 4; revealed in 1, then 2 2 3 2."""
        text, reveal = "two cups and three", [1, 2, 2, 3, 2]
        group = [answer_of(tokenizer, text, reveal, sample=i, correct=i != 1) for i in range(3)]
        return sample_row(Groups([group]), rewards, tokenizer, seed=0, step=step)

    return row


def test_a_row_has_the_best_and_the_worst_by_the_sum_of_rewards(row_of):
    """Of equal sums the first is best and the last worst. It is JSON, without what differs from run to run."""
    row = row_of()
    assert (row["step"], row["uid"], row["problem"]) == (10, "t/train/0", "user: two cups and three pens?")
    assert (row["best"]["sample"], row["best"]["reward_sum"]) == (2, 3.0)
    assert (row["worst"]["sample"], row["worst"]["reward_sum"]) == (1, 2.0)
    assert row["worst"]["rewards"] == {"accuracy": -1.0, "speed": 3.0}
    assert row["worst"]["verdict"]["correct"] is False and row["best"]["tpf"] == pytest.approx(5 / 3)
    row = row_of({"accuracy": np.ones((1, 3))})
    assert (row["best"]["sample"], row["worst"]["sample"]) == (0, 2)
    text = io.canonical_json(row := row_of({"speed": np.array([[np.nan, 1.0, np.inf]])}))
    assert json.loads(text) == row and "seconds" not in text


def test_runs_are_what_one_forward_revealed_in_one_block(row_of, tokenizer):
    """The prompt's three tokens fill the first block but for one position; what follows the stop token is not shown."""
    found = row_of()["best"]
    assert found["runs"] == [["two", 1, 1], [" cups and", 2, 2], [" three", 3, 2], ["<|im_end|>", 2, 2]]
    assert marked_text(found["runs"]) == "two₁│ cups and₂ three₃<|im_end|>₂"
    assert found["text"] == "two cups and three"
    assert marked_text([["a", 10, 1], ["b", 12, 3]]) == "a₁₀││b₁₂" and marked_text([]) == ""
    one = answer_of(tokenizer, "two cups", [1, 2, 2, 2, 2])
    row = sample_row(Groups([[one, one]]), {"speed": np.zeros((1, 2))}, tokenizer, seed=0, step=1)
    assert "".join(text for text, *_ in row["best"]["runs"]) == "two cups<|im_end|>"


def test_the_group_is_drawn_by_seed_and_step_and_each_comes_up(tokenizer):
    many = Groups([
        [answer_of(tokenizer, "two", [1, 2, 2, 2, 2], sample=10 * n + i) for i in range(2)] for n in range(5)
    ])  # fmt: skip

    def chosen(seed):
        rows = [sample_row(many, {"speed": np.zeros((5, 2))}, tokenizer, seed=seed, step=step) for step in range(40)]
        return [row["best"]["sample"] // 10 for row in rows]

    assert set(chosen(1)) == set(range(5)) and chosen(1) == chosen(1) != chosen(2)


def test_the_text_has_problem_rewards_verdict_and_marked_responses(row_of):
    text = samples_text([row_of()])
    assert "## Step 10: t/train/0" in text and "two cups and three pens?" in text
    assert "**best**: 3.00 = accuracy 1.00 + speed 2.00; right (ok); 1.67 tokens per forward (5" in text
    assert "**worst**: 2.00 = accuracy -1.00 + speed 3.00; not right (wrong)" in text
    assert text.count("two₁│ cups and₂ three₃<|im_end|>₂") == 2 and text.count("expected 5, found 5") == 2
    assert "There are none." in samples_text([])


def test_a_response_cannot_leave_its_code_block_or_reach_the_terminal(row_of):
    row = row_of()
    row["best"]["runs"] = [["\n~~~~\n# gone\x1b[31m\u202e", 1, 1]]
    text = samples_text([row])
    assert "\n~~~~~text\n\n~~~~\n# gone<U+001B>[31m<U+202E>₁\n~~~~~\n" in text and "\x1b" not in text


def test_a_resumed_run_has_the_same_samples_and_they_are_saved_with_its_state(trainer_of, tmp_path, monkeypatch):
    """The trainer hands its sample to the loop, which keeps it as it keeps the metrics. Of two rewards of one name both
    are shown."""
    monkeypatch.setattr(trainer_module, "SAMPLE_EVERY", 1)
    method = {"rewards": [{"name": "tpf"}, {"name": "tpf", "only_correct": True}]}

    def run(name, stop_after=99):
        trainer = trainer_of(steps=3, method=method)
        return train(
            trainer, tmp_path / name, save_every=1, fingerprint={}, report=lambda text: None,
            timing=lambda **row: None, should_stop=lambda: trainer.steps_done >= stop_after,
        )  # fmt: skip

    whole = run("whole")
    assert len(whole.samples) == 3 and list(whole.samples[0]["best"]["rewards"]) == ["tpf", "tpf (2)"]
    with pytest.raises(Exception, match="stopped after step 2"):
        run("parts", stop_after=2)
    assert run("parts").samples == whole.samples
    files = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1] and files[0].count(b"\n") == 3
    assert samples_text(whole.samples) == samples_text([json.loads(line) for line in files[0].splitlines()])


def test_samples_are_of_the_first_step_and_every_tenth_after_it(trainer_of):
    trainer = trainer_of(steps=11, prompts=1, updates=1, validate_every=11)
    assert [step for step in range(1, 12) if trainer.step().sample is not None] == [1, 11]


def test_a_step_without_a_kept_group_has_no_sample_and_asks_no_reward_for_it(trainer_of, monkeypatch):
    """A reward of somebody's own may not bear no groups at all."""
    monkeypatch.setattr(rewards_module, "resolve", lambda name: lambda groups: groups.tpf_NG / groups.tpf_NG.shape[1])
    method = {"rewards": [{"name": "mine:reward"}], "filter_tpf_range": 1e6}
    assert trainer_of(method=method).step().sample is None
