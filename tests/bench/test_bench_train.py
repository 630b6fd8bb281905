"""The training benchmark: both ways of building rows give the same numbers, and what it counts is what it says."""

import json

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.naive import naive_action_log_probs
from fixtures.tiny import MASK_ID, requests_of, tiny_model, trajectory_of
from typer.testing import CliRunner

from lightningrl.bench.train import packed_scores, positions_by_formula, row_scores, run_benchmark, step_rows
from lightningrl.bench.trajectories import STEPS_OF_1000_BLOCKS, drawn
from lightningrl.cli.app import app
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock

BASE = 4
"""Prompt tokens before the response: one full block."""


def sets(row, prompt_len):
    """(scored, masked) positions of a row, in response indices."""
    at = row.copy_block[:, None] * row.copy_ids.shape[1] + np.arange(row.copy_ids.shape[1]) - prompt_len
    return set(at[row.scored].tolist()), set(at[row.copy_ids == MASK_ID].tolist())


@pytest.mark.parametrize(
    ("reveal", "length", "expected"),
    [
        ([1, 1, 2, 3, 4, 4, 4, 5], 8, [({0, 1, 4, 5, 6}, set(range(8))), ({2, 7}, {2, 3, 7}), ({3}, {3})]),
        ([3, 1, 2, 1], 4, [({1, 3}, {0, 1, 2, 3}), ({2}, {0, 2}), ({0}, {0})]),
        ([1, 1, 1, 1, 2, 2, 2, 2], 8, [(set(range(8)), set(range(8)))]),
        # [1,2,1,3,4,4,5] and a tail that step 6 revealed: never scored, masked as long as it was.
        ([1, 2, 1, 3, 4, 4, 5, 6], 7, [({0, 2, 4, 5}, set(range(8))), ({1, 6}, {1, 3, 6, 7}), ({3}, {3})]),
    ],
)
def test_rounds_of_worked_examples(reveal, length, expected):
    rows = step_rows(trajectory_of(BASE, reveal, response_len=length), MASK_ID)
    assert [sets(row, BASE) for row in rows] == expected


def test_a_row_is_the_whole_sequence_and_a_copy_of_the_whole_response():
    """Prompt of 6 in blocks of 4: its last two tokens stand in the copy too, unmasked; 12 clean + 8 noisy."""
    trajectory = trajectory_of(6, [1, 2, 3, 3, 4, 3])
    rows = step_rows(trajectory, MASK_ID)
    assert len(rows) == 2 and [row.num_tokens for row in rows] == [20, 20]
    assert rows[0].clean_ids.tolist() == [*trajectory.prompt_ids, *trajectory.token_ids]
    assert rows[0].copy_ids.tolist() == [[4, 5, MASK_ID, MASK_ID], [MASK_ID] * 4]
    assert rows[1].copy_ids.tolist() == [[4, 5, 1, MASK_ID], [3, 4, MASK_ID, 6]]


@pytest.mark.parametrize("stop", [FinishBlock(), InsideBlock()], ids=["finish_block", "inside_block"])
def test_packed_rows_and_rows_a_step_and_naive_forwards_agree_in_values_and_gradients(stop):
    """Float64: prompts shorter than a block, on the grid and off it; tails behind the stop token, seen and unseen."""
    model = tiny_model(4, torch.float64)
    policy = DecodePolicy(Threshold(0.3), 1.0, stop=stop, seed=2, step=1)
    prompts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 17, 3, 8, 13]
    trajectories = BlockDecoder(model, (3, 7)).decode(requests_of(prompts, 18), policy)
    tails = [t for t in trajectories if t.response_len < len(t.token_ids)]
    assert tails and any((t.reveal_step == 0).any() for t in tails) == isinstance(stop, InsideBlock)
    order = [(row, i) for row, t in enumerate(trajectories) for i in range(t.response_len)]
    weight = torch.linspace(-1, 1, len(order), dtype=torch.float64)

    def naive(model):
        for index, trajectory in enumerate(trajectories):
            table = naive_action_log_probs(model, trajectory)
            yield torch.stack(list(table.values())), torch.full((len(table),), index), torch.tensor(list(table))

    results = []
    for scorer in (packed_scores(trajectories, MASK_ID, 60), row_scores(trajectories, MASK_ID, 60), naive):
        model.zero_grad(set_to_none=True)
        found = {}
        for logp_n, number_n, position_n in scorer(model):
            found |= dict(zip(zip(number_n.tolist(), position_n.tolist(), strict=True), logp_n, strict=True))
        assert sorted(found) == order
        logp = torch.stack([found[key] for key in order])
        (weight * logp).sum().backward()
        results.append([logp.detach(), *(p.grad.clone() for p in model.parameters())])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    assert all(gradient.abs().max() > 1e-3 for gradient in results[0])


def test_formula_of_a_worked_example():
    """Prompt of 4, blocks of 4 with 3 and 2 steps: packed 8 clean + 5 copies of 4; rows 3 times 4 + 2 * 8."""
    assert positions_by_formula([trajectory_of(BASE, [1, 1, 2, 3, 4, 4, 4, 5])]) == (28, 60, [3, 2])
    tail = positions_by_formula([trajectory_of(6, [1, 2, 3, 3, 3, 4], response_len=1)])
    assert tail == (4 + 4, 1 * (4 + 16), [1]), "what nobody trains on costs rows too"


def test_what_is_counted_is_what_the_formula_says_and_both_give_the_same_numbers():
    model = tiny_model(3, torch.float64, block_size=8)
    trajectories = drawn(5, prompt_tokens=11, new_tokens=30, block_size=8, vocab=MASK_ID)
    found = run_benchmark(model, trajectories, positions=200, repeats=1)
    [packed, rows] = found["lines"]
    assert (packed["token_forwards"], rows["token_forwards"]) == positions_by_formula(trajectories)[:2]
    assert found["of_bound_pct"] == pytest.approx(100) and found["token_ratio"] > 1.5
    assert 1 < packed["forwards"] < rows["forwards"] and found["actions"] == sum(t.response_len for t in trajectories)
    assert found["logp_gap"] < 1e-10 and found["gradient_gap"] < 1e-10
    assert "hidden" not in model.__dict__ and all(p.grad is None for p in model.parameters())


def test_the_histogram_is_the_law_it_names():
    """1 + Poisson(7), of 1,000 blocks, rounded; mean 8 to 0.01: 4 tokens per forward at block 32."""
    assert STEPS_OF_1000_BLOCKS == (1, 6, 22, 52, 91, 128, 149, 149, 130, 101, 71, 45, 26, 14, 7, 3, 1, 1)
    mean = sum(n * (k + 1) for k, n in enumerate(STEPS_OF_1000_BLOCKS)) / sum(STEPS_OF_1000_BLOCKS)
    assert 32 / mean == pytest.approx(4, abs=0.01)


def test_drawn_trajectories_follow_the_histogram_and_are_the_same_for_the_same_seed():
    drawing = {"prompt_tokens": 40, "new_tokens": 100, "block_size": 16, "vocab": 50}
    one, two = (drawn(3, **drawing, histogram=[0, 0, 1]) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert (a.token_ids == b.token_ids).all() and (a.reveal_step == b.reveal_step).all()
        assert len(a.prompt_ids) == 40 and len(a.token_ids) == 104 and a.token_ids.max() < 50
    assert positions_by_formula(one)[2] == [3] * 3 * 7
    few = drawn(1, prompt_tokens=31, new_tokens=1, block_size=16, vocab=50, histogram=[0, 0, 1])
    assert positions_by_formula(few)[2] == [1], "one position has one step"


COMMAND = ["bench", "train", "--size", "miniature", "--block-size", "8", "--prompt-tokens", "16", "--new-tokens", "24",
           "--threads", "1"]  # fmt: skip


def test_command_prints_both_ways_and_the_percentages_and_writes_the_figures(tmp_path):
    out = tmp_path / "figures.json"
    words = ["--count", "2", "--repeats", "1", "--recompute", "--out", str(out)]
    done = CliRunner().invoke(app, [*COMMAND, *words])
    assert done.exit_code == 0, done.output
    assert "one per step" in done.stdout and "100.0 % of the bound" in done.stdout and "say (77 %" in done.stdout
    found = json.loads(out.read_text())
    assert [line["rows"] for line in found["lines"]] == ["packed", "one per step"] and found["logp_gap"] < 1e-4


def test_command_trains_on_a_checkpoints_own_responses(tmp_path):
    folder = save_byte_checkpoint(tmp_path / "model")
    words = ["--checkpoint", str(folder), "--prompts", "2", "--new-tokens", "12", "--threshold", "0.1"]
    done = CliRunner().invoke(app, ["bench", "train", *words, "--repeats", "1", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "2 trajectories" in done.stdout and "block 4" in done.stdout and "100.0 % of the bound" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "0"], ["--dtype", "int8"], ["--histogram", "[0]"], ["--histogram", "x"], ["--device", "mps"],
        ["--out", "."],
    ],
)  # fmt: skip
def test_words_of_no_use_are_refused_before_anything_is_measured(words):
    done = CliRunner().invoke(app, [*COMMAND, *words])
    assert done.exit_code == 2 and words[0] in done.stderr


def test_a_part_of_the_states_costs_fewer_positions_and_is_noisier(tmp_path):
    """`bench states`: all states have no noise of draws; fewer have more, and the clean positions stay."""
    out = tmp_path / "states.json"
    words = ["bench", "states", "--count", "6", "--batches", "2", "--draws", "2", "--new-tokens", "16"]
    words += ["--out", str(out)]
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(app, words)
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    whole, half, third = json.loads(out.read_text())["lines"]
    assert whole["over_draws"] == 0 and whole["together"] == 1 and 0 < half["over_draws"] < third["over_draws"]
    assert whole["positions"] > half["positions"] > third["positions"] > whole["positions"] / 3
    refused = CliRunner().invoke(app, [*words[:3], "2", "--batches", "3"])
    assert refused.exit_code == 2 and "expected at least 2 of both" in refused.output
