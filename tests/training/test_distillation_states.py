"""What distillations train on: answers as sequences, and the states that each algorithm puts them in."""

import math

import numpy as np
import pytest
import torch
from fixtures.distilling import gradients, trainer_of
from fixtures.naive import Masked, dense_log_probs
from fixtures.tiny import FAMILIES, tiny_model, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.errors import ConfigError
from lightningrl.models.canvas import CanvasRow, block_limits, causal_limits
from lightningrl.models.packing import pack_canvases, scored_hidden
from lightningrl.training.distillation.answers import LeftOut, Target, targets_of
from lightningrl.training.distillation.d2f import D2F, mask_rates
from lightningrl.training.distillation.d3llm import block_size_at, visible_in
from lightningrl.training.distillation.states import block_views


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tokenizer of `tiny_setup`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_setup(folder)
    return folder


def test_a_canvas_row_is_computed_like_a_dense_mask_and_does_not_depend_on_its_neighbours():
    """Rows of unequal length, full, causal, and block by block behind a prompt; values and gradients."""
    model, rng = tiny_model(1, torch.float64, **FAMILIES["llada"]), np.random.default_rng(0)
    lengths, prompts = (11, 7, 14, 9), (None, 3, 5, "causal")
    rows, expected = [], []
    for length, prompt in zip(lengths, prompts, strict=True):
        ids, scored = rng.integers(0, 23, length), rng.random(length) < 0.6
        block = [0 if prompt is None or i < prompt else 1 + (i - prompt) // 4 for i in range(length)] if (
            prompt != "causal") else list(range(length))  # fmt: skip
        limits = causal_limits(length) if prompt == "causal" else prompt and block_limits(prompt, length, 4)
        rows.append(CanvasRow(ids, ids, scored, limits))
        mask = torch.tensor([[block[k] <= block[q] for k in range(length)] for q in range(length)])
        hidden = model.hidden(torch.tensor(ids[None]), torch.arange(length)[None], Masked(mask[None, None]))
        expected.append(hidden[0, torch.from_numpy(scored)])
    packed = pack_canvases(rows)
    found, expected = scored_hidden(model, packed), torch.cat(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    both = [torch.autograd.grad(each.sin().sum(), list(model.model.layers.parameters())) for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-10)
    alone = torch.cat([scored_hidden(model, pack_canvases([row])) for row in rows])
    torch.testing.assert_close(alone, found, rtol=0, atol=1e-12)
    assert packed.layout.intervals.past_to[: lengths[0]].tolist() == [11] * 11


def test_on_a_block_causal_model_every_block_has_two_complementary_states_behind_its_clean_past(folder):
    """The loss is that of dense forwards, one a state: the clean past, and the block half masked."""
    trainer = trainer_of(folder, "dparallel", "sdar", {"mean_over": 7}, dtype=torch.float64, sequences=7)
    [unit], model = trainer._units(), trainer.model
    cross, entropy = ([[], []] for _ in range(2))
    for row, index in zip(unit.rows, trainer.order.look(7), strict=True):
        target = trainer.targets[index]
        ids, blocks = target.ids, range(target.prompt_len // 4, target.length // 4)
        assert target.length % 4 == 0 and row.copy_block.tolist() == sorted([*blocks, *blocks])
        for copy, block in enumerate(row.copy_block.tolist()):
            state = [*ids[: 4 * block], *row.copy_ids[copy]]
            log_p, sharp = dense_log_probs(model, state), dense_log_probs(model, state, 0.5)
            for column in np.flatnonzero(row.scored[copy]):
                at, token = 4 * block + column, ids[4 * block + column]
                assert at >= target.prompt_len and state[at] == model.config.mask_token_id
                cross[copy % 2].append(-log_p[at, token])
                if log_p[at].argmax() == token:
                    entropy[copy % 2].append(-(sharp[at].exp() * sharp[at].clamp(min=-1e4)).sum())
        scored = row.scored[0::2].astype(int) + row.scored[1::2]
        assert scored.sum() == len(target.response_ids) and scored.max() == 1, "each response token once"
    assert any(entropy), "some predictions are right"
    expected = sum(torch.stack(terms).mean() for terms in cross)
    expected = expected + 2.0 * sum(torch.stack(terms).mean() for terms in entropy if terms)
    expected_gradient = torch.autograd.grad(expected, list(model.parameters()))
    sums, gradient = gradients(trainer)
    assert sums["loss"] == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(list(gradient.values()), list(expected_gradient), rtol=0, atol=1e-9)


def test_what_dparallel_masks_of_a_canvas_is_a_block_and_all_behind_it_or_where_logits_are_shifted_half_of_all(folder):
    for family, shift in (("llada", 0), ("dream", 1)):
        trainer = trainer_of(folder, "dparallel", family)
        mask_id = trainer.model.config.mask_token_id
        target = trainer.targets[0]
        starts = set()
        for draw in range(40):
            views = trainer.algorithm.views([target], trainer.model.config, np.random.default_rng(draw), 0.0)
            one, other = views.rows
            assert not (one.scored & other.scored).any()
            at = np.flatnonzero(one.scored | other.scored)
            starts.add(int(at[0]))
            assert (np.diff(at) == 1).all() and len(at) == (len(target.response_ids) if shift else min(4, len(at)))
            for row in views.rows:
                hidden = row.ids == mask_id
                assert (hidden == (row.scored | (np.arange(target.length) > at[-1]))).all()
                assert (row.ids[~hidden] == target.ids[~hidden]).all() and (row.target_ids == target.ids).all()
            packed = pack_canvases(views.rows, logit_shift=trainer.model.config.logit_shift)
            assert (packed.position_n - shift == packed.at_n % target.length).all()
        blocks = range(target.prompt_len, target.length, 4)
        assert starts == ({target.prompt_len} if shift else set(blocks)), "all segments are drawn, none is empty"


ROWS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 12)).map(
        lambda size: {"prompt_ids": [1] * size[0], "response_ids": [2] * size[1], "order": list(range(1, size[1] + 1))}
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=ROWS, length=st.sampled_from([None, 7, 12, 16]), grid=st.sampled_from([None, 4]), new=st.integers(1, 10))
def test_answers_are_filled_or_cut_to_their_length_and_end_on_a_grid(rows, length, grid, new):
    """Canvases all to one end; those of block-causal models to the end of their last block, within the same bound."""
    cap = lambda row: length or len(row["prompt_ids"]) + new  # noqa: E731
    if grid and length is None:
        cap = lambda row: -(-(len(row["prompt_ids"]) + new) // grid) * grid  # noqa: E731
    fits = [row for row in rows if (cap(row) // (grid or 1)) * (grid or 1) > len(row["prompt_ids"])]
    keys = {"length": length, "new_tokens": new, "grid": grid, "limit": 99, "where": "runs.t"}
    if not fits:
        with pytest.raises(ConfigError, match=rf"runs\.t\.method\.data: .* The prompts of {len(rows)} leave no room"):
            targets_of(rows, 9, **keys)
        return
    found, left_out = targets_of(rows, 9, **keys)
    assert len(found) == len(fits) and left_out == LeftOut(len(rows) - len(fits), 0)
    for row, target in zip(fits, found, strict=True):
        most, prompt, answer = cap(row), row["prompt_ids"], row["response_ids"]
        if grid:
            most = min(most // grid * grid, -(-(len(prompt) + len(answer)) // grid) * grid)
            assert target.length % grid == 0
        assert target.length == most and target.prompt_ids.tolist() == prompt
        assert target.response_ids.tolist() == (answer + [9] * most)[: most - len(prompt)]
        assert len(target.order) == len(target.response_ids) and (np.diff(target.order) > 0).all()


def test_answers_longer_than_the_models_context_are_left_out_and_counted():
    """Of a canvas the whole counts, of a block-causal model's answer its blocks alone."""
    rows = [{"prompt_ids": [1] * prompt, "response_ids": [2] * 3} for prompt in (4, 9, 14)]
    keys = {"new_tokens": 8, "where": "runs.t"}
    for length, grid, limit, expected in (
        (None, None, 17, [12, 17]), (None, None, 16, [12]), (None, 4, 16, [8, 12]), (10, None, 99, [10, 10]),
    ):  # fmt: skip
        found, left_out = targets_of(rows, 9, length=length, grid=grid, limit=limit, **keys)
        assert [target.length for target in found] == expected
        without = 1 if length else 0
        assert left_out == LeftOut(without, 3 - len(expected) - without)
    with pytest.raises(ConfigError, match=r"none of 3 answers .* 3 need more than the model's 8 positions"):
        targets_of(rows, 9, length=None, grid=None, limit=8, **keys)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(1, 9), more=st.integers(0, 5), seed=st.integers(0, 999))
def test_rates_of_d2f_never_fall_and_stay_within_their_bounds(count, more, seed):
    rates = mask_rates(count, count + more, 0.2, 0.7, np.random.default_rng(seed))
    assert len(rates) == count and (np.diff(rates) >= 0).all() and rates[0] >= 0.2 and rates[-1] <= 0.7 + 1e-12


def test_rates_of_d2f_have_the_published_means():
    """p1 is uniform in 0.2 to 0.7; each step is on average half of (0.7 - p1) / (J - 1). 5,000 draws, 5 sd."""
    rates = np.array([mask_rates(5, 9, 0.2, 0.7, np.random.default_rng(seed)) for seed in range(5_000)])
    assert rates[:, 0].mean() == pytest.approx(0.45, abs=5 * 0.1444 / math.sqrt(5_000))
    assert np.diff(rates, axis=1).mean() == pytest.approx(0.25 / 16, abs=1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.integers(1, 8), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_state_of_a_trajectory_shows_what_was_revealed_first_of_its_segment(size, ratio, seed):
    order = np.random.default_rng(seed).permutation(16) + 1
    for start in range(0, 16, size):
        end = min(start + size, 16)
        seen = visible_in(order, start, end, ratio)
        assert seen.sum() == int((1 - ratio) * (end - start))
        if seen.any() and not seen.all():
            assert order[start:end][seen].max() < order[start:end][~seen].min()


def test_segments_of_d3llm_grow_and_its_least_share_of_masks_rises(folder):
    assert [block_size_at([16, 16, 24, 24, 32, 32], step / 12) for step in range(12)] == [
        16, 16, 16, 20, 24, 24, 24, 28, 32, 32, 32, 32,
    ]  # fmt: skip
    trainer = trainer_of(folder, "d3llm", "llada", {"block_sizes": [4, 12], "min_ratio": 0.0, "max_ratio": 1.0})
    lengths, shares = {}, {}
    for progress in (0.0, 0.99):
        found = [
            trainer.algorithm.views(trainer.targets[:1], trainer.model.config, np.random.default_rng(draw), progress)
            for draw in range(60)
        ]
        sizes = [sum(row.num_scored for row in views.rows) for views in found]
        lengths[progress] = max(sizes)
        shares[progress] = min(views.rows[0].num_scored / size for views, size in zip(found, sizes, strict=True))
    assert lengths == {0.0: 4, 0.99: 12} and shares[0.0] < 0.3 and shares[0.99] > 0.95


def test_a_block_that_begins_in_the_prompt_has_no_target_there():
    views = block_views(np.arange(8), np.ones(8, dtype=bool), 2, 4, 23)
    [row] = views.rows
    assert row.copy_ids.tolist() == [[0, 1, 23, 23], [0, 1, 2, 3], [23] * 4, [4, 5, 6, 7]]
    assert row.scored.sum(axis=1).tolist() == [2, 0, 4, 0] and views.view_n.tolist() == [0] * 6
    assert isinstance(Target(np.arange(2), np.arange(6), None).ids, np.ndarray) and D2F.rolls_out is False
