"""dParallel, d3LLM and D2F as trainings: exact means, rates, budgets, what is refused, what is skipped."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fixtures.distilling import gradients, trainer_of
from fixtures.tiny import make_trainer, tiny_setup

from lightningrl.config.train import Run
from lightningrl.errors import ConfigError, TrainingError
from lightningrl.models.adapters import adapters_off, merged_weights
from lightningrl.training.distillation.d3llm import D3LLM
from lightningrl.training.distillation.dparallel import DParallel
from lightningrl.training.shards import full

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


def test_five_steps_running_without_an_update_end_the_run(folder):
    """Counted over a resumption, and from the beginning again after an update."""
    trainer = trainer_of(folder, steps=99, validate_every=50)
    backward, broken = trainer._backward, lambda units: backward(units) | {"loss": float("nan")}
    trainer._backward = broken
    for _ in range(4):
        trainer.step()
    trainer._backward = backward
    trainer.step()
    trainer._backward = broken
    for _ in range(3):
        trainer.step()
    again = trainer_of(folder, steps=99, validate_every=50)
    again.load_state_dict(trainer.state_dict())
    again._backward = broken
    again.step()
    with pytest.raises(TrainingError, match="no update could be taken in 5 steps running"):
        again.step()


def test_answers_that_are_left_out_are_counted_in_the_first_steps_row(folder):
    setup = tiny_setup(folder, algorithm="dparallel", family="llada", method={"block_size": 4}, sequences=2)
    lengths = sorted(len(row["prompt_ids"]) for row in setup.distilled)
    setup.model.config = dataclasses.replace(setup.model.config, max_position_embeddings=lengths[3] + 14)
    longer = sum(length > lengths[3] for length in lengths)
    both = zip(setup.train, setup.distilled, strict=True)
    setup.validation = [example for example, row in both if len(row["prompt_ids"]) <= lengths[3]]
    trainer = make_trainer(setup)
    first, second = trainer.step().metrics, trainer.step().metrics
    assert 0 < longer < 7 and len(trainer.targets) == 7 - longer
    assert (first["answers_too_long"], first["answers_without_room"]) == (longer, 0)
    assert "answers_too_long" not in second
    cut = setup.run.method.model_copy(update={"length": lengths[3] + 1})
    trainer = make_trainer(dataclasses.replace(setup, run=setup.run.model_copy(update={"method": cut})))
    assert trainer.left_out == (longer, 0) and len(trainer.targets) == 7 - longer


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


def test_what_the_answers_took_is_no_progress_and_must_leave_something_of_the_budget(folder):
    """They took 100 token-forwards: the rate falls from 1 over the 1,400 others, and d3LLM's curriculum begins."""
    trainer, seen = (
        trainer_of(folder, budget=1500, steps=99, validate_every=50, method={"schedule": "linear"}, warmup_updates=0),
        [],
    )
    views = trainer.algorithm.views
    trainer.algorithm.views = lambda unit, model, rng, progress: (
        seen.append(progress) or views(unit, model, rng, progress)
    )
    spent, rates = [100], []
    while not trainer.done:
        row = trainer.step().metrics
        spent.append(row["token_forwards"])
        rates.append(row["rate"])
    expected = [(before - 100) / 1400 for before in spent[:-1]]
    assert expected[0] == 0 and len(rates) > 1
    assert rates == pytest.approx([1 - each for each in expected]) and sorted(set(seen)) == pytest.approx(expected)
    for budget in (100, 60):
        with pytest.raises(ConfigError, match=rf"runs\.t\.match_compute: .* spent {budget} token-forwards, and .* 100"):
            trainer_of(folder, budget=budget)


def test_what_cannot_be_trained_is_refused_with_what_to_do(folder):
    for run, told in (
        ({"algorithm": "d2f", "family": "sdar"}, "sees its whole canvas to see block by block, and a sdar model"),
        ({"method": {"length": 3}}, r"The prompts of 7 leave no room within `length` \(3\)"),
        ({"method": {"length": 129}}, r"runs\.t\.method\.length: found 129, the model has 128 positions"),
    ):
        with pytest.raises(ConfigError, match=told):
            trainer_of(folder, **run)
    setup = tiny_setup(folder, algorithm="dparallel")
    with pytest.raises(ConfigError, match=r"runs\.t\.method\.data: no answer is left to train on \(keep: correct\)"):
        make_trainer(dataclasses.replace(setup, distilled=()))
    with pytest.raises(ConfigError, match="has no mask token"):
        DParallel(DParallel.Config()).check(dataclasses.replace(setup.model.config, attention="causal"), "runs.t")
    run = {"name": "r", "role": "rival", "benchmark": "b", "steps": 1}
    for algorithm, method, told in (
        ("d3llm", {"min_ratio": 0.9}, "min_ratio: found 0.9, allowed: at most max_ratio"),
        ("d2f", {"min_rate": 0.8}, r"min_rate: found 0.8, allowed: at most max_rate \(0.7\)"),
        ("d3llm", {"data": {"source": "dataset"}}, "`dataset` goes with `source: dataset`"),
        ("d3llm", {"data": {"content_sha256": "0" * 64}}, "`content_sha256` is given, and no `dataset`"),
    ):
        with pytest.raises(ValueError, match=told):
            Run.model_validate(run | {"algorithm": algorithm, "method": method})


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
