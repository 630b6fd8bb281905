"""Phases, learning-rate factors and mixtures of pre-training; the budget of the supervised control."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fixtures.tiny import make_trainer, tiny_model, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.config.model import Phase, Pretrain
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.objective import diffusion_row, supervised_backward
from lightningrl.training.supervised.optimiser import SupervisedOptimiser
from lightningrl.training.supervised.pretrainer import Pretrainer, split_counts


def sequences(token, count=3):
    return [TrainingSequence(np.array([1, 2, 3]), np.array([token] * 5)) for _ in range(count)]


def premake_trainer(
    accuracies,
    *,
    autoregressive=2,
    diffusion=6,
    rate=1.0,
    averaging=0.9,
    every=1,
    warmup=0,
    decay=0.0,
    **corpora,
):
    config = Pretrain(
        autoregressive=Phase(steps=autoregressive, sequences=4),
        diffusion=Phase(steps=diffusion, sequences=4, rate=rate, decay=decay), averaging=averaging,
        validate_every=every, warmup_steps=warmup,
        mixture={name: share for name, (share, _) in corpora.items()},
    )  # fmt: skip
    figures = iter(accuracies)
    return Pretrainer(
        config, 0, tiny_model(), {n: c for n, (_, c) in corpora.items()} or {"one": sequences(4)},
        lambda model: {"accuracy_pct": next(figures)},
    )  # fmt: skip


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows_of(trainer):
    rows = []
    while not trainer.done:
        rows.append(dict(trainer.step().metrics))
    return rows


def test_phases_follow_each_other_and_take_their_steps():
    rows = rows_of(premake_trainer([10, 20, 30, 40, 50, 60]))
    assert [row["phase"] for row in rows] == ["autoregressive"] * 2 + ["diffusion"] * 6
    assert [row["step"] for row in rows] == list(range(1, 9))


def test_validation_happens_every_so_many_diffusion_steps_and_at_their_end():
    rows = rows_of(premake_trainer([10, 20, 30], diffusion=5, every=2))
    validated = [row["step"] for row in rows if "accuracy_pct" in row]
    assert validated == [2 + 2, 2 + 4, 2 + 5]


def test_learning_rate_warms_up_and_then_is_its_phases():
    rows = rows_of(premake_trainer([10, 20, 30, 40, 50, 60], autoregressive=5, diffusion=2, warmup=4, rate=0.3))
    assert [row["rate"] for row in rows] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.3, 0.3])


def test_learning_rate_falls_linearly_over_the_last_share_of_a_phase():
    """Half of four steps: 2 / 2, 1 / 2 of the phase's rate; the step after the last one would have 0."""
    rows = rows_of(premake_trainer([0] * 4, autoregressive=2, diffusion=4, rate=0.8, decay=0.5))
    assert [row["rate"] for row in rows] == pytest.approx([1, 1, 0.8, 0.8, 0.8, 0.4])


@pytest.mark.parametrize("threads", [1, 3])
def test_micro_batches_side_by_side_give_the_bits_of_one_after_the_other(threads):
    """Six micro-batches on so many threads, gradients added to some that are there already."""
    model, rng = tiny_model(), np.random.default_rng(0)
    size, mask_id = model.config.block_size, model.config.mask_token_id
    rows = [diffusion_row(sequence, size, 2, mask_id, rng) for sequence in sequences(4, 4) + sequences(9, 7)]
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for workers in (None, pool):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.5)
            loss = supervised_backward(model, rows, 2, workers)
            found.append((loss, [parameter.grad for parameter in model.parameters()]))
    (loss, gradients), (other_loss, other_gradients) = found
    assert loss == other_loss
    assert all(torch.equal(*pair) for pair in zip(gradients, other_gradients, strict=True))


def test_what_is_validated_is_the_moving_average_of_the_weights_after_each_diffusion_step():
    """The first step's weights start the average; each later step moves it by 1 - 0.9 towards its own."""
    trainer, validated = premake_trainer([], diffusion=3), []
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
    muon, adam = (part for part, _ in optimiser.parts)
    assert isinstance(muon, torch.optim.Muon) and isinstance(adam, torch.optim.AdamW)
    groups = [{id(p) for g in part.param_groups for p in g["params"]} for part in (muon, adam)]
    assert not groups[0] & groups[1] and groups[0] | groups[1] == {id(p) for p in model.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in groups[1]}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= names
    assert not any("proj" in name for name in names)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step(0.5)
    assert [part.param_groups[0]["lr"] for part, _ in optimiser.parts] == [0.1, 0.05]
    assert all(p.grad is None for p in model.parameters())


def test_training_on_one_answer_learns_it():
    """The loss falls below half of where it was within 30 steps: gradient, optimiser and objective belong together."""
    rows = rows_of(premake_trainer([0] * 99, autoregressive=1, diffusion=30, every=99))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_a_batch_has_each_corpus_in_its_share():
    trainer = premake_trainer([], one=(3.0, sequences(4)), two=(1.0, sequences(9)))
    targets = [int(row.target_ids[-1, -1]) for row, _ in trainer._rows("diffusion", trainer.config.diffusion)]
    assert sorted(targets) == [4, 4, 4, 9]


def test_equal_shares_without_a_mixture():
    trainer = premake_trainer([])
    trainer = Pretrainer(trainer.config, 0, trainer.model, {"a": sequences(4), "b": sequences(9)}, dict)
    assert trainer.shares == {"a": 0.5, "b": 0.5}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(shares=st.lists(st.integers(1, 9), min_size=1, max_size=5), total=st.integers(0, 60))
def test_split_counts_add_up_and_are_within_one_of_exact(shares, total):
    exact = {str(i): share / sum(shares) for i, share in enumerate(shares)}
    counts = split_counts(exact, total)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - share * total) < 1 + 1e-9 for name, share in exact.items())


def test_split_counts_gives_the_largest_remainder_first():
    assert split_counts({"a": 0.75, "b": 0.25}, 5) == {"a": 4, "b": 1}
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


def test_supervised_control_without_a_budget_takes_its_steps(tmp_path):
    trainer = make_trainer(tiny_setup(tmp_path, algorithm="supervised", steps=3))
    while not trainer.done:
        trainer.step()
    assert trainer.steps_done == 3
