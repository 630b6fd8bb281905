"""dParallel, d3LLM and D2F as trainings: states, exact means, adapters, rates, what is refused, what is skipped."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from fixtures.naive import Masked, dense_log_probs
from fixtures.tiny import FAMILIES, make_trainer, tiny_model, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.models.adapters import (
    adapted,
    adapters_off,
    add_adapters,
    merged_weights,
    split_factors,
    start_adapters,
    write_adapter,
)
from lightningrl.models.canvas import CanvasRow, block_limits
from lightningrl.models.checkpoint import save_model
from lightningrl.models.lora import CONFIG, load_merged
from lightningrl.models.packing import pack_canvases, scored_hidden
from lightningrl.training.distillation.answers import Target, targets_of
from lightningrl.training.distillation.d2f import D2F, mask_rates
from lightningrl.training.distillation.d3llm import D3LLM, block_size_at, visible_in
from lightningrl.training.distillation.dparallel import DParallel
from lightningrl.training.distillation.states import block_views
from lightningrl.training.sharded_loading import own_part
from lightningrl.training.shards import full, full_weights

PAIRS = [
    ("dparallel", "sdar"), ("dparallel", "llada"), ("dparallel", "dream"), ("d3llm", "sdar"), ("d3llm", "llada"),
    ("d3llm", "dream"), ("d2f", "llada"), ("d2f", "dream"),
]  # fmt: skip
"""Which algorithm trains which family."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tokenizer of `tiny_setup`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_setup(folder)
    return folder


def keys_of(algorithm, **more):
    return ({"block_sizes": [4, 8]} if algorithm == "d3llm" else {"block_size": 4}) | more


def trainer_of(folder, algorithm="dparallel", family="llada", method=None, **run):
    keys = {"sequences": 5, "microbatch": 2, "algorithm": algorithm, "method": keys_of(algorithm, **(method or {}))}
    return make_trainer(tiny_setup(folder, family=family, **keys | run))


def gradients(trainer):
    sums = trainer._backward(trainer._units())
    found = {name: weight.grad for name, weight in trainer.trained.items()}
    trainer.optimiser.zero_grad()
    return sums, found


@pytest.mark.parametrize(("algorithm", "family"), PAIRS)
def test_loss_and_gradient_are_the_whole_steps_mean_whatever_the_micro_batch(algorithm, family, folder):
    """Units of one answer and of two; 1e-10 in float64."""
    for mean_over in (1, 2):
        found = []
        for limits in ({"microbatch": 1}, {"microbatch": 9}, {"microbatch_positions": 60}):
            trainer = trainer_of(folder, algorithm, family, {"mean_over": mean_over}, dtype=torch.float64, **limits)
            found.append(gradients(trainer))
        for sums, gradient in found[1:]:
            assert sums == pytest.approx(found[0][0], abs=1e-9)
            torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-10)


def test_a_canvas_row_is_computed_like_a_dense_mask_and_does_not_depend_on_its_neighbours():
    """Rows of unequal length, full and block by block behind a prompt; values and gradients."""
    model, rng = tiny_model(1, torch.float64, **FAMILIES["llada"]), np.random.default_rng(0)
    lengths, prompts = (11, 7, 14), (None, 3, 5)
    rows, expected = [], []
    for length, prompt in zip(lengths, prompts, strict=True):
        ids, scored = rng.integers(0, 23, length), rng.random(length) < 0.6
        limits = None if prompt is None else block_limits(prompt, length, 4)
        rows.append(CanvasRow(ids, ids, scored, limits))
        block = [0 if prompt is None or i < prompt else 1 + (i - prompt) // 4 for i in range(length)]
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


def test_d2f_teaches_from_the_weights_as_they_were_with_adapters_or_without(folder):
    """After steps that moved the student the teacher's numbers are those of before; none of its weights has a
    gradient."""
    for method in ({"adapter": {"rank": 2}}, {}):
        trainer = trainer_of(folder, "d2f", "dream", method, learning_rate=0.05)
        before = {name: weight.clone() for name, weight in merged_weights(trainer.model, full)}
        for _ in range(2):
            trainer.step()
        after = dict(merged_weights(trainer.model, full))
        assert any(not torch.equal(before[name], after[name]) for name in before)
        teacher = trainer.model if method else trainer.setup.reference
        with adapters_off(teacher):
            for name, weight in teacher.named_parameters():
                assert name.endswith(("lora_A", "lora_B")) or torch.equal(weight, before[name])
        assert bool(method) != trainer.algorithm.needs_reference
        if not method:
            assert all(weight.grad is None for weight in teacher.parameters())


def test_adapters_begin_at_the_base_and_are_trained_alone_and_decoded_merged(folder, tmp_path):
    """The decoder has a plain model; what is chosen for shipping are its weights, and the factors beside them."""
    trainer = trainer_of(folder, "dparallel", "sdar", {"adapter": {"rank": 3, "alpha": 6}}, steps=2, learning_rate=0.05)
    model, plain = trainer.model, trainer.setup.decoder.model
    assert len(trainer.trained) == 2 * 7 * 2 and all(name.endswith(("lora_A", "lora_B")) for name in trainer.trained)
    start = {name: weight.clone() for name, weight in plain.named_parameters()}
    assert all(torch.equal(start[name], weight) for name, weight in merged_weights(model, full))
    first, again = (add_and_start(seed) for seed in (5, 5))
    assert all(torch.equal(a.lora_A, b.lora_A) for (_, a), (_, b) in zip(first, again, strict=True))
    assert not torch.equal(first[0][1].lora_A, add_and_start(6)[0][1].lora_A)
    trainer.step(), trainer.step()
    ids, at = torch.arange(8)[None], torch.arange(8)[None]
    seen = Masked(torch.ones(1, 1, 8, 8, dtype=torch.bool))
    hidden = [each.hidden(ids, at, seen) for each in (model, plain)]
    torch.testing.assert_close(*hidden, rtol=0, atol=1e-5)
    with adapters_off(model):
        assert not torch.allclose(model.hidden(ids, at, seen), hidden[0], atol=1e-3)
    assert any(not torch.equal(start[name], weight) for name, weight in plain.named_parameters())
    weights, factors = split_factors(trainer.selection.weights)
    assert weights.keys() == start.keys() and factors.keys() == trainer.trained.keys()


def add_and_start(seed):
    model = tiny_model()
    add_adapters(model, 2, 2.0)
    start_adapters(model, seed, own_part)
    return adapted(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_adapter_is_read_and_merged_to_the_shipped_weights(family, tmp_path):
    """By our own strict reader, whose merge is compared with peft's elsewhere. LLaDA's `ff_out` is also its head's
    name, so its config has a pattern."""
    base, model = tiny_model(0, torch.float64, **FAMILIES[family]), tiny_model(0, torch.float64, **FAMILIES[family])
    add_adapters(model, 2, 6.0)
    start_adapters(model, 1, own_part)
    with torch.no_grad():
        for _, layer in adapted(model):
            layer.lora_B.normal_(std=0.1)
    (tmp_path / "base").mkdir(), (tmp_path / "adapter").mkdir()
    save_model(base, tmp_path / "base", eos_token_id=1, pad_token_id=0)
    weights, factors = split_factors(full_weights(model, True))
    write_adapter(tmp_path / "adapter", model.config.family, factors, 6.0)
    targets = json.loads((tmp_path / "adapter" / CONFIG).read_text())["target_modules"]
    assert isinstance(targets, str) == (family == "llada")
    options = {"block_size": 4, "mask_token_id": 23} if family == "sdar" else {}
    found = load_merged(tmp_path / "base", tmp_path / "adapter", dtype=torch.float64, **options)
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-12)


def test_peft_merges_a_written_adapter_to_the_shipped_weights(tmp_path):
    """Into transformers' own class, whose modules have the names of SDAR's; bit for bit in float64."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model, shape = tiny_model(0, torch.float64), tiny_model().config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings")  # fmt: skip
    config = transformers.Qwen3Config(**{name: getattr(shape, name) for name in names}, tie_word_embeddings=False)
    base = transformers.Qwen3ForCausalLM(config).double()
    base.load_state_dict(model.state_dict())
    add_adapters(model, 3, 6.0)
    start_adapters(model, 1, own_part)
    with torch.no_grad():
        for _, layer in adapted(model):
            layer.lora_B.normal_(std=0.1)
    weights, factors = split_factors(full_weights(model, True))
    write_adapter(tmp_path, "sdar", factors, 6.0)
    merged = peft.PeftModel.from_pretrained(base, str(tmp_path)).double().merge_and_unload().state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())


def test_targets_that_reach_nothing_or_the_head_are_refused():
    for targets, told in ((["query"], r"found \['query'\], which are no modules"), (["ff_out"], "is the head")):
        with pytest.raises(ConfigError, match=told):
            add_adapters(tiny_model(**FAMILIES["llada"]), 2, 2.0, targets)


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
    if not fits:
        with pytest.raises(ConfigError, match="their prompts leave no room"):
            targets_of(rows, 9, length=length, new_tokens=new, grid=grid)
        return
    found = targets_of(rows, 9, length=length, new_tokens=new, grid=grid)
    assert len(found) == len(fits)
    for row, target in zip(fits, found, strict=True):
        most, prompt, answer = cap(row), row["prompt_ids"], row["response_ids"]
        if grid:
            most = min(most // grid * grid, -(-(len(prompt) + len(answer)) // grid) * grid)
            assert target.length % grid == 0
        assert target.length == most and target.prompt_ids.tolist() == prompt
        assert target.response_ids.tolist() == (answer + [9] * most)[: most - len(prompt)]
        assert len(target.order) == len(target.response_ids) and (np.diff(target.order) > 0).all()


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


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 0.75, 0.5, 0.25]),
     ("cosine", [0.5, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])],
)  # fmt: skip
def test_the_rate_warms_up_and_follows_its_schedule(schedule, rates, folder):
    trainer = trainer_of(folder, method={"schedule": schedule}, warmup_updates=2, steps=4)
    assert [trainer.step().metrics["rate"] for _ in range(4)] == pytest.approx(rates)


def test_a_step_that_is_not_finite_changes_nothing_and_is_logged(folder):
    trainer = trainer_of(folder, steps=3)
    trainer.step()
    before = {name: weight.clone() for name, weight in trainer.trained.items()}
    backward = trainer._backward
    trainer._backward = lambda units: backward(units) | {"loss": float("nan")}
    row = trainer.step().metrics
    assert (row["skipped"], row["loss"], row["grad_norm"]) == (1.0, None, None)
    assert all(torch.equal(before[name], weight) for name, weight in trainer.trained.items())
    trainer._backward = backward
    assert trainer.step().metrics["skipped"] == 0.0 and trainer.done
    with torch.no_grad():
        trainer.model.lm_head.weight[3, 0] = float("inf")
    trainer.steps_done = 1
    assert trainer.step().metrics["skipped"] == 1.0, "a loss that really is not finite"


def test_every_answer_comes_once_a_pass_and_costs_are_counted_with_those_of_the_data(folder):
    trainer = trainer_of(folder, "d2f", "llada", sequences=7, steps=2)
    assert trainer.token_forwards == 100
    drawn = []
    views = trainer.algorithm.views
    trainer.algorithm.views = lambda unit, *rest: drawn.extend(unit) or views(unit, *rest)
    rows = [trainer.step().metrics for _ in range(2)]
    for half in (drawn[:7], drawn[7:]):
        assert {id(target) for target in half} == {id(target) for target in trainer.targets}
    positions = sum(target.length for target in trainer.targets)
    assert [row["trained_positions"] for row in rows] == [positions, positions]
    assert rows[-1]["token_forwards"] == 100 + 2 * 4 * positions, "a backward counts as two, the teacher as one"


def test_a_distillation_may_spend_the_compute_of_another_run(folder):
    trainer = trainer_of(folder, budget=1500, steps=99, validate_every=50)
    rows = []
    while not trainer.done:
        rows.append(trainer.step().metrics)
    assert rows[-2]["token_forwards"] < 1500 <= rows[-1]["token_forwards"] and "validation_tpf" in rows[-1]


def test_what_cannot_be_trained_is_refused_with_what_to_do(folder):
    for run, told in (
        ({"algorithm": "d2f", "family": "sdar"}, "sees its whole canvas to see block by block, and a sdar model"),
        ({"method": {"length": 3}}, "their prompts leave no room within `length` "),
    ):
        with pytest.raises(ConfigError, match=told):
            trainer_of(folder, **run)
    setup = tiny_setup(folder, algorithm="dparallel")
    with pytest.raises(ConfigError, match=r"runs\.t\.method\.data: no answer is left to train on \(keep: correct\)"):
        make_trainer(dataclasses.replace(setup, distilled=()))
    with pytest.raises(ConfigError, match="has no mask token"):
        DParallel(DParallel.Config()).check(dataclasses.replace(setup.model.config, attention="causal"), "runs.t")
    run = {"name": "r", "role": "rival", "algorithm": "d3llm", "benchmark": "b", "steps": 1}
    for method, told in (
        ({"min_ratio": 0.9}, "min_ratio: found 0.9, allowed: at most max_ratio"),
        ({"data": {"source": "dataset"}}, "`dataset` goes with `source: dataset`"),
    ):
        with pytest.raises(ValueError, match=told):
            Run.model_validate(run | {"method": method})


def test_training_on_one_answer_makes_the_model_sure_of_it(folder):
    """The entropy at correct predictions falls below half a nat within 30 steps, and most become correct: the
    objective, its gradient and the optimiser belong together."""
    for algorithm in (DParallel, D3LLM):
        name = {DParallel: "dparallel", D3LLM: "d3llm"}[algorithm]
        trainer = trainer_of(folder, name, "llada", steps=30, validate_every=30, sequences=2, learning_rate=0.02)
        trainer.targets = trainer.targets[:1]
        trainer.order.size = 1
        rows = [trainer.step().metrics for _ in range(30)]
        assert np.mean([row["correct_share"] for row in rows[-5:]]) > 0.8, name
        assert rows[-1]["cross_entropy"] < 0.5 * rows[0]["cross_entropy"], name
        assert np.mean([row["correct_entropy"] for row in rows[-5:]]) < 0.5, name


def test_a_block_that_begins_in_the_prompt_has_no_target_there():
    views = block_views(np.arange(8), np.ones(8, dtype=bool), 2, 4, 23)
    [row] = views.rows
    assert row.copy_ids.tolist() == [[0, 1, 23, 23], [0, 1, 2, 3], [23] * 4, [4, 5, 6, 7]]
    assert row.scored.sum(axis=1).tolist() == [2, 0, 4, 0] and views.view_n.tolist() == [0] * 6
    assert isinstance(Target(np.arange(2), np.arange(6), None).ids, np.ndarray) and D2F.rolls_out is False
