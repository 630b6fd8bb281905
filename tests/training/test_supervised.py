"""Supervised training: sequences, objectives, phases and learning rates of pre-training, the budget of the control.

The diffusion loss is the any-order mean, the autoregressive one a causal language model's loss.
"""

import copy
import dataclasses
import itertools
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fixtures.naive import dense_log_probs
from fixtures.tiny import MASK_ID, make_trainer, tiny_examples, tiny_model, tiny_setup, twin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Shard, distribute_tensor

from lightningrl.config.model import Pretrain
from lightningrl.errors import BenchmarkError
from lightningrl.tokenization import encode_prompts, encode_texts
from lightningrl.training.shards import full, load_optimiser, load_weights, local_state, shard
from lightningrl.training.supervised.corpus import TrainingSequence, build_corpus
from lightningrl.training.supervised.objective import (
    autoregressive_row,
    diffusion_row,
    supervised_backward,
    weighted_cross_entropy,
)
from lightningrl.training.supervised.objectives.blocks import BlockDiffusion, MaskedNext
from lightningrl.training.supervised.objectives.masked import Masked
from lightningrl.training.supervised.optimiser import ShardedMuon, SupervisedOptimiser
from lightningrl.training.supervised.pretrainer import Pretrainer, split_counts
from lightningrl.training.world import join
from lightningrl.types import Example


def test_sequences_are_prompt_answer_end_and_fewer_pads_than_a_block(tmp_path, caplog):
    tokenizer, examples = tiny_setup(tmp_path).tokenizer, tiny_examples("train", 7)
    prompts = encode_prompts(tokenizer, [e.messages for e in examples])
    answers = encode_texts(tokenizer, [e.solution for e in examples])
    for block_size in (1, 3, 4, 8):
        pad_counts = set()
        corpus = build_corpus(tokenizer, examples, lambda e: e.messages, block_size)
        for found, prompt, answer in zip(corpus, prompts, answers, strict=True):
            np.testing.assert_array_equal(found.prompt_ids, prompt)
            ids = found.response_ids.tolist()
            pads = len(ids) - len(answer) - 1
            assert ids == [*answer.tolist(), tokenizer.eos_token_id, *[tokenizer.pad_token_id] * pads]
            assert 0 <= pads < block_size and (len(prompt) + len(ids)) % block_size == 0
            assert found.response_ids.dtype == np.int64
            pad_counts.add(pads)
        assert block_size == 1 or len(pad_counts) > 1
    lengths = sorted(len(each.prompt_ids) + len(each.response_ids) for each in corpus)
    fitting = build_corpus(tokenizer, examples, lambda e: e.messages, 8, limit=lengths[3])
    assert len(fitting) == sum(length <= lengths[3] for length in lengths) < 7
    assert "worked answers are longer than the model's" in caplog.text
    with pytest.raises(
        BenchmarkError, match=rf"each of the 7 worked answers .* longer than the model's {lengths[0] - 1}"
    ):
        build_corpus(tokenizer, examples, lambda e: e.messages, 8, limit=lengths[0] - 1)
    unsolved = Example("t/train/999", ({"role": "user", "content": "q"},), {})
    with pytest.raises(BenchmarkError, match=r"t/train/999 has no worked answer: its benchmark cannot be trained on"):
        build_corpus(tokenizer, [*tiny_examples("train", 2), unsolved], lambda e: e.messages, 4)


def sequence_of(prompt_len, response_len, seed=0):
    rng = np.random.default_rng(seed)
    return TrainingSequence(rng.integers(0, MASK_ID, prompt_len), rng.integers(0, MASK_ID, response_len))


class FixedDraws:
    """Stands for the generator: every block masks `count` of its `maskable`, in the order of `ranks`."""

    def __init__(self, count, maskable, ranks):
        self.answers = [(count - 0.5) / maskable, np.array(ranks) / 10]

    def random(self, shape):
        answer = self.answers.pop(0)
        return np.full(shape, answer) if np.isscalar(answer) else np.broadcast_to(answer, shape)


def any_order_nll(model, sequence, start, end):
    """Mean over all orders of revealing positions start..end of -log p(the tokens, one by one, rest masked)."""
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids]).tolist()[:end]
    free = range(max(start, len(sequence.prompt_ids)), end)
    totals = []
    for order in itertools.permutations(free):
        state, total = [MASK_ID if p in free else t for p, t in enumerate(ids)], 0.0
        for position in order:
            total -= dense_log_probs(model, state)[position, ids[position]].item()
            state[position] = ids[position]
        totals.append(total)
    return sum(totals) / len(totals)


@torch.no_grad()
@pytest.mark.parametrize(("prompt_len", "block", "maskable"), [(4, 1, 4), (5, 1, 3), (2, 0, 2)])
def test_expected_diffusion_loss_of_a_block_is_its_any_order_mean(prompt_len, block, maskable):
    """By enumeration of the draws: counts n = 1..m equally likely, then every order of the m positions."""
    model = tiny_model(2, torch.float64)
    sequence = sequence_of(prompt_len, 4 * (block + 1) - prompt_len)
    first = 4 - maskable
    losses = []
    for count in range(1, maskable + 1):
        for order in itertools.permutations(range(maskable)):
            ranks = [9] * first + list(order)
            row, weight = diffusion_row(sequence, 4, 1, MASK_ID, FixedDraws(count, maskable, [ranks]))
            assert row.scored.sum() == count and weight.tolist() == [maskable / count] * count
            losses.append(weighted_cross_entropy(model, [(row, weight)]).item())
    assert len(losses) == maskable * math.factorial(maskable)
    expected = any_order_nll(model, sequence, 4 * block, 4 * block + 4)
    assert np.mean(losses) == pytest.approx(expected, abs=1e-10)
    assert np.std(losses) > 0.01


def test_mask_counts_are_uniform_and_every_set_of_a_count_equally_likely():
    """48,000 copies of a block of 4: each count 12,000 times (sd 95), each of its C(4, n) sets alike; bounds 5 sd."""
    sequence = sequence_of(4, 4)
    row, weight = diffusion_row(sequence, 4, 48_000, MASK_ID, np.random.default_rng(0))
    sets = Counter(tuple(np.flatnonzero(line)) for line in row.scored)
    for count in range(1, 5):
        sizes = [sets[chosen] for chosen in itertools.combinations(range(4), count)]
        assert abs(sum(sizes) - 12_000) < 475
        expected = 12_000 / len(sizes)
        assert all(abs(size - expected) < 5 * math.sqrt(expected) for size in sizes)
    assert weight.sum() == pytest.approx(4 * 48_000)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    prompt_len=st.integers(1, 9),
    blocks=st.integers(1, 3),
    size=st.integers(1, 5),
    copies=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_diffusion_rows_mask_response_tokens_only_and_show_the_rest(prompt_len, blocks, size, copies, seed):
    total = (prompt_len // size + blocks) * size
    sequence = sequence_of(prompt_len, total - prompt_len)
    row, weight = diffusion_row(sequence, size, copies, MASK_ID, np.random.default_rng(seed))
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    assert row.copy_block.tolist() == [b for b in range(prompt_len // size, total // size) for _ in range(copies)]
    at = row.copy_block[:, None] * size + np.arange(size)
    assert (row.target_ids == ids[at]).all() and (row.copy_ids == np.where(row.scored, MASK_ID, ids[at])).all()
    assert (at[row.scored] >= prompt_len).all() and row.scored.any(axis=1).all()
    assert row.clean_ids.tolist() == ids[: total - size].tolist()
    maskable = (at >= prompt_len).sum(axis=1)
    expected = [m / n for m, n in zip(maskable, row.scored.sum(axis=1), strict=True) for _ in range(n)]
    assert weight.tolist() == pytest.approx(expected)
    assert weight.sum() == pytest.approx(copies * len(sequence.response_ids)), "a copy weighs what it could mask"


def test_autoregressive_row_is_a_causal_language_models_loss():
    """Each response token from the clean past and a mask in its own place: one dense forward a token, block size 1."""
    model, sequence = tiny_model(2, torch.float64), sequence_of(5, 7)
    row, weight = autoregressive_row(sequence, MASK_ID)
    found = weighted_cross_entropy(model, [(row, weight)])
    causal = twin(model)
    causal.config = dataclasses.replace(model.config, block_size=1)
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids]).tolist()
    terms = [-dense_log_probs(causal, [*ids[:p], MASK_ID])[p, ids[p]] for p in range(5, 12)]
    expected = torch.stack(terms).sum()
    assert found.item() == pytest.approx(expected.item(), abs=1e-10) and weight.tolist() == [1.0] * 7
    gradients = [torch.autograd.grad(loss, list(m.parameters())) for loss, m in ((found, model), (expected, causal))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(4, 4), (5, 7), (2, 14), (9, 3), (3, 9), (6, 6), (4, 12)]
    return [diffusion_row(sequence_of(*shape, seed=i), 4, 2, MASK_ID, rng) for i, shape in enumerate(shapes)]


def test_loss_and_gradient_are_the_whole_batchs_mean_whatever_the_micro_batch():
    """Per maskable token: a model that answers uniformly over its 23 tokens has loss log 23 whatever is masked."""
    model, rows = tiny_model(2, torch.float64), batch()
    mean = weighted_cross_entropy(model, rows) / sum(weight.sum() for _, weight in rows)
    expected = torch.autograd.grad(mean, list(model.parameters()))
    for size in (1, 3):
        model.zero_grad()
        assert supervised_backward(model, rows, size) == pytest.approx(mean.item(), abs=1e-12)
        torch.testing.assert_close([p.grad for p in model.parameters()], list(expected), rtol=0, atol=1e-10)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert supervised_backward(model, rows, 3) == pytest.approx(math.log(23), abs=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_micro_batches_side_by_side_give_the_bits_of_one_after_the_other(threads):
    """Four micro-batches on so many threads, gradients added to some that are there already."""
    model, found = tiny_model(), []
    with ThreadPoolExecutor(threads) as pool:
        for workers in (None, pool):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.5)
            loss = supervised_backward(model, batch(), 2, workers)
            found.append((loss, [parameter.grad for parameter in model.parameters()]))
    (loss, gradients), (other_loss, other_gradients) = found
    assert loss == other_loss
    assert all(torch.equal(*pair) for pair in zip(gradients, other_gradients, strict=True))


def sequences(token, count=3):
    return [TrainingSequence(np.array([1, 2, 3]), np.array([token] * 5)) for _ in range(count)]


def pretrainer_of(
    accuracies, *, autoregressive=2, diffusion=6, rate=1.0, averaging=0.9, every=1, warmup=0, decay=0.0, **corpora
):
    config = Pretrain(
        autoregressive={"steps": autoregressive, "sequences": 4},
        diffusion={"steps": diffusion, "sequences": 4, "rate": rate, "decay": decay}, averaging=averaging,
        validate_every=every, warmup_steps=warmup,
        mixture={name: share for name, (share, _) in corpora.items()},
    )  # fmt: skip
    figures, model = iter(accuracies), tiny_model()
    return Pretrainer(
        config, 0, model, {n: c for n, (_, c) in corpora.items()} or {"one": sequences(4)},
        {"autoregressive": MaskedNext(model.config, config.autoregressive),
         "diffusion": BlockDiffusion(model.config, config.diffusion)},
        lambda model: {"accuracy_pct": next(figures)},
    )  # fmt: skip


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows_of(trainer):
    rows = []
    while not trainer.done:
        rows.append(dict(trainer.step().metrics))
    return rows


def test_phases_follow_each_other_and_validation_happens_every_so_many_diffusion_steps_and_at_their_end():
    rows = rows_of(pretrainer_of([10, 20, 30], diffusion=5, every=2))
    assert [row["phase"] for row in rows] == ["autoregressive"] * 2 + ["diffusion"] * 5
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert [row["step"] for row in rows if "accuracy_pct" in row] == [2 + 2, 2 + 4, 2 + 5]


@pytest.mark.parametrize(
    ("plan", "rates"),
    [
        ({"autoregressive": 5, "diffusion": 2, "warmup": 4, "rate": 0.3}, [0.25, 0.5, 0.75, 1, 1, 0.3, 0.3]),
        # Half of four steps: 2 / 2, 1 / 2 of the phase's rate; the step after the last one would have 0.
        ({"autoregressive": 2, "diffusion": 4, "rate": 0.8, "decay": 0.5}, [1, 1, 0.8, 0.8, 0.8, 0.4]),
    ],
)
def test_learning_rate_warms_up_is_its_phases_and_falls_linearly_over_its_last_share(plan, rates):
    assert [row["rate"] for row in rows_of(pretrainer_of([0] * 9, **plan))] == pytest.approx(rates)


def test_what_is_validated_is_the_moving_average_of_the_weights_after_each_diffusion_step():
    """The first step's weights start the average; each later step moves it by 1 - 0.9 towards its own."""
    trainer, validated = pretrainer_of([], diffusion=3), []
    trainer.validate = lambda model: validated.append(weights_of(model)) or {"accuracy_pct": 10.0 * len(validated)}
    averages = []
    while not trainer.done:
        if trainer.step().metrics["phase"] == "diffusion":
            now = weights_of(trainer.model)
            averages.append(0.9 * averages[-1] + 0.1 * now if averages else now)
    for model, average in zip(validated, averages, strict=True):
        torch.testing.assert_close(model, average)
    assert torch.equal(weights_of(trainer.averaged), validated[-1])
    assert not torch.allclose(weights_of(trainer.model), validated[-1])


def test_both_optimisers_follow_the_factor_and_every_weight_is_in_one_of_them():
    model = tiny_model()
    optimiser = SupervisedOptimiser(model, 0.1, 0.2)
    *muons, adam = optimiser.parts
    assert all(isinstance(part, torch.optim.Muon) for part in muons) and isinstance(adam, torch.optim.AdamW)
    groups = [[id(p) for g in part.param_groups for p in g["params"]] for part in optimiser.parts]
    assert sorted(itertools.chain(*groups)) == sorted(id(p) for p in model.parameters())
    names = {name for name, p in model.named_parameters() if id(p) in groups[-1]}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= names
    assert not any("proj" in name for name in names)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step(0.5)
    assert [part.param_groups[0]["lr"] for part in optimiser.parts] == [0.1] * len(muons) + [0.05]
    assert all(p.grad is None for p in model.parameters())


def test_muon_over_shards_takes_the_steps_of_muon_and_goes_on_from_a_saved_state():
    """Two steps in one process; the second one by a new optimiser with the first one's state."""
    plain, sharded, resumed = (tiny_model(0, torch.float64) for _ in range(3))
    whole = SupervisedOptimiser(plain, 0.1, 0.2)
    gradients = [
        {name: torch.randn(weight.shape, dtype=torch.float64) for name, weight in plain.named_parameters()}
        for _ in range(2)
    ]
    with join(is_sharded=True):
        shard(sharded), shard(resumed)
        parted, again = SupervisedOptimiser(sharded, 0.1, 0.2), SupervisedOptimiser(resumed, 0.1, 0.2)
        assert isinstance(parted.parts[0], ShardedMuon) and not isinstance(whole.parts[0], ShardedMuon)

        def take(model, optimiser, gradient):
            for name, weight in model.named_parameters():
                weight.grad = gradient[name].clone()
                if model is not plain:
                    weight.grad = distribute_tensor(weight.grad, weight.device_mesh, [Shard(0)])
            optimiser.step(0.5)

        take(plain, whole, gradients[0]), take(sharded, parted, gradients[0])
        load_weights(dict(resumed.named_parameters()), local_state(dict(sharded.named_parameters())))
        load_optimiser(again, copy.deepcopy(local_state(parted.state_dict())))
        take(plain, whole, gradients[1]), take(sharded, parted, gradients[1]), take(resumed, again, gradients[1])
        for name, weight in plain.named_parameters():
            for model in (sharded, resumed):
                torch.testing.assert_close(full(model.get_parameter(name)), weight, rtol=0, atol=1e-12)


def test_optimisers_side_by_side_change_no_bit():
    models = [tiny_model(), tiny_model()]
    with ThreadPoolExecutor(3) as pool:
        for model, workers in zip(models, (None, pool), strict=True):
            torch.manual_seed(0)
            for parameter in model.parameters():
                parameter.data, parameter.grad = torch.randn_like(parameter), torch.randn_like(parameter)
            SupervisedOptimiser(model, 0.1, 0.2).step(0.5, workers)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_training_on_one_answer_learns_it():
    """The loss falls below half of where it was within 30 steps: gradient, optimiser and objective belong together."""
    rows = rows_of(pretrainer_of([0] * 99, autoregressive=1, diffusion=30, every=99))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_a_batch_has_each_corpus_in_its_share_which_are_equal_without_a_mixture():
    trainer = pretrainer_of([], one=(3.0, sequences(4)), two=(1.0, sequences(9)))
    rows = trainer._rows(trainer.objectives["diffusion"], trainer.config.diffusion, 0)
    targets = [int(row.target_ids[-1, -1]) for row, _ in rows]
    assert sorted(targets) == [4, 4, 4, 9]
    config, corpora = pretrainer_of([]).config, {"a": sequences(4), "b": sequences(9)}
    trainer = Pretrainer(config, 0, trainer.model, corpora, trainer.objectives, dict)
    assert trainer.shares == {"a": 0.5, "b": 0.5}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shares=st.lists(st.integers(1, 9), min_size=1, max_size=5), total=st.integers(0, 60))
def test_split_counts_add_up_and_give_the_largest_remainder_first(shares, total):
    exact = {str(i): share / sum(shares) for i, share in enumerate(shares)}
    counts = split_counts(exact, total)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - share * total) < 1 + 1e-9 for name, share in exact.items())
    assert split_counts({"a": 0.5, "b": 0.3, "c": 0.2}, 7) == {"a": 4, "b": 2, "c": 1}


def test_supervised_control_spends_the_other_runs_compute_and_its_rate_falls_with_it(tmp_path):
    """Three token-forwards a trained position; it stops at the first step that reaches the budget."""
    setup = tiny_setup(
        tmp_path, algorithm="supervised", budget=1500, steps=1000, learning_rate=1e-3, validate_every=1000
    )
    trainer, factors = make_trainer(setup), []
    original = trainer.optimiser.step
    trainer.optimiser.step = lambda factor: factors.append(factor) or original(factor)
    spent = [0]
    while not trainer.done:
        spent.append(trainer.step().metrics["token_forwards"])
    assert spent[-2] < 1500 <= spent[-1]
    assert factors == pytest.approx([1 - before / 1500 for before in spent[:-1]])
    assert "validation_tpf" in trainer.selection.candidates[-1], "the last step is validated"
    trainer = make_trainer(tiny_setup(tmp_path, algorithm="supervised", steps=2))
    assert [trainer.step().metrics["step"], trainer.done, trainer.step().metrics["step"], trainer.done] == [
        1, False, 2, True
    ], "without a budget it takes its steps"  # fmt: skip


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_the_control_of_a_model_of_canvases_learns_canvases(tmp_path, family):
    """Its first step takes the gradient of the masked objective on answers filled up to the canvas, and it learns."""
    setup = tiny_setup(
        tmp_path, algorithm="supervised", steps=40, learning_rate=3e-3, sequences=4, copies=1, validate_every=40,
        family=family,
    )  # fmt: skip
    trainer, before = make_trainer(setup), copy.deepcopy(setup.model)
    lengths = {len(each.response_ids) for each in trainer.corpus}
    assert min(lengths) == setup.task.max_new_tokens, "pads are learnt up to the canvas"
    rng = np.random.default_rng([setup.seed, 0])
    chosen = rng.integers(0, len(trainer.corpus), 4)
    rows = [row for i in chosen for row in Masked(before.config, setup.run).rows(trainer.corpus[i], rng)]
    expected = supervised_backward(before, rows, 4, cross_entropy=Masked(before.config, setup.run).loss)
    losses = [trainer.step().metrics["loss"] for _ in range(40)]
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
