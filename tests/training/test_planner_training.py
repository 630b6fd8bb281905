"""Planner pre-training against the official one (fixtures/dultra_tiny): targets, losses, gradients; draws and runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.planning import on_canvases, planner_setup
from fixtures.tiny import make_trainer, tiny_model
from safetensors.torch import load_file

from lightningrl.errors import ConfigError, TrainingError
from lightningrl.models.canvas import CanvasAttention, CanvasLayout
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.config_file import family_named
from lightningrl.training.supervised.corpus import TrainingSequence
from lightningrl.training.supervised.planner_trainer import (
    planner_canvas,
    planner_loss,
    planner_targets,
    positive_weight,
)

FOLDER = Path(__file__).parents[1] / "fixtures" / "dultra_tiny"
GOLDEN = json.loads((FOLDER / "golden_planner_loss.json").read_text())
TENSORS = load_file(FOLDER / "golden_loss.safetensors")


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["index"]))
def test_targets_loss_and_gradients_are_the_official_ones(case):
    model, index = load_model(FOLDER, dtype=torch.float64), case["index"]
    ids_BL = TENSORS[f"planner_input_ids_{index}"]
    asked_BL = TENSORS[f"planner_block_index_{index}"].bool()
    rows, length = ids_BL.shape
    with torch.no_grad():
        attend, at = CanvasAttention(CanvasLayout((length,) * rows)), torch.arange(length).repeat(rows)[None]
        hidden_BLH = model.hidden(ids_BL.reshape(1, -1), at, attend)[0].view(rows, length, -1)
    target_BL = planner_targets(model, hidden_BLH, asked_BL, compat=True)
    assert torch.equal(target_BL, TENSORS[f"planner_target_{index}"].bool())
    weight = positive_weight(case["positives"], case["positions"])
    assert weight == pytest.approx(case["pos_weight"]) and int(asked_BL.sum()) == case["positions"]
    timestep_B = 1 - (ids_BL == model.config.mask_token_id).sum(1).double() / length
    loss = planner_loss(model.plan(hidden_BLH, timestep_B, asked_BL), target_BL, asked_BL, weight, case["positions"])
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=1e-5)
    loss.backward()
    family = family_named("llada")
    norms = {
        family.stored_name(name): float(weight.grad.norm())
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    assert norms.keys() == case["grad_norm"].keys()
    for name, norm in case["grad_norm"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-3), name


def test_the_loss_of_the_worked_example():
    """z = (1.2, -.4, .3, -2), y = (1, 0, 0, 0), w = 3: (.789847 + .513015 + .854355 + .126928) / 4."""
    z, y = torch.tensor([[1.2, -0.4, 0.3, -2.0]]), torch.tensor([[True, False, False, False]])
    asked = torch.ones(1, 4, dtype=torch.bool)
    assert float(planner_loss(z, y, asked, positive_weight(1, 4), 4)) == pytest.approx(0.571036, abs=1e-6)


def test_canvases_are_known_then_partly_masked_then_masked():
    rng, reached = np.random.default_rng(0), set()
    for prompt in (3, 20, 37, 39, 50):
        sequence = TrainingSequence(np.arange(prompt), np.arange(100, 125))
        whole = np.concatenate([sequence.prompt_ids, sequence.response_ids, np.full(40, 7)])[:40]
        for compat in (False, True):
            for _ in range(60):
                ids_L, asked_L = planner_canvas(sequence, 40, 8, 99, 7, rng, compat)
                masked_L = ids_L == 99
                assert (ids_L == np.where(masked_L, 99, whole)).all() and (asked_L <= masked_L).all()
                if prompt >= 38:
                    assert not masked_L.any(), "nothing to ask about"
                    continue
                tail = int(masked_L[::-1].argmin()) if not masked_L.all() else 40
                assert asked_L.any() and masked_L[~asked_L].sum() <= tail
                reached.add((compat, prompt > 32, bool(asked_L[:prompt].any())))
    assert reached == {
        (False, False, False),
        (False, True, False),
        (True, False, False),
        (True, True, True),
        (True, True, False),
    }


def test_a_run_trains_the_planner_alone_and_its_loss_falls(tmp_path):
    setup = planner_setup(tmp_path, steps=12, learning_rate=1e-2, sequences=6, validate_every=12)
    before = {name: weight.detach().clone() for name, weight in setup.model.named_parameters()}
    trainer = make_trainer(setup)
    rows = []
    while not trainer.done:
        rows.append(trainer.step().metrics)
    assert np.mean([row["loss"] for row in rows[-3:]]) < 0.9 * np.mean([row["loss"] for row in rows[:3]])
    assert all(torch.equal(before[name], weight) for name, weight in setup.model.named_parameters() if name in before)
    assert all(weight.grad is None for name, weight in setup.model.named_parameters() if name in before)
    assert rows[-1]["token_forwards"] == 12 * 6 * 24 and trainer.selection.chosen["step"] == 12
    assert any(name.startswith("planner.") for name in trainer.selection.weights)


def test_micro_batches_are_exact(tmp_path):
    weights = []
    for size in (6, 2, 1):
        trainer = make_trainer(planner_setup(tmp_path, dtype=torch.float64, sequences=6, microbatch=size))
        trainer.step()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.weights]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=1e-10)


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    trainer = make_trainer(planner_setup(tmp_path))
    with torch.no_grad():
        trainer.model.planner.mask_linear.bias.fill_(float("nan"))
    before = [weight.detach().clone() for weight in trainer.weights]
    trainer.steps_done = 1  # no validation of the broken model
    row = trainer._update(
        [planner_canvas(trainer.corpus[0], 24, 6, trainer.model.config.mask_token_id, 0, np.random.default_rng(1))]
    )
    assert row["skipped"] == 1 and row["loss"] is None
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, trainer.weights, strict=True))


def test_a_model_that_plans_no_canvas_is_refused(tmp_path):
    setup = planner_setup(tmp_path)
    setup.model = tiny_model(1)
    with pytest.raises(
        ConfigError, match=r"runs\.t: .* this sdar model has block_causal attention and unshifted logits"
    ):
        make_trainer(setup)
    with pytest.raises(ConfigError, match=r"runs\.t\.method\.length: found 129, the model has 128 positions"):
        make_trainer(planner_setup(tmp_path, method={"length": 129}))


def test_a_planner_that_is_there_is_trained_in_float32_whatever_the_model_computes_in(tmp_path):
    """In bfloat16 a step of 1e-5 would be lost in most weights: eight bits hold no change below a 256th."""
    setup = planner_setup(tmp_path, learning_rate=1e-5, method={"min_learning_rate": 1e-5})
    setup = on_canvases(setup, 7, 14, has_planner=True)
    setup.model.bfloat16()
    before = {name: weight.detach().clone() for name, weight in setup.model.named_parameters()}
    trainer = make_trainer(setup)
    assert {weight.dtype for weight in trainer.weights} == {torch.float32}
    trainer.step()
    for name, weight in setup.model.named_parameters():
        if name.startswith("planner."):
            assert (weight != before[name].float()).any(), name
        else:
            assert torch.equal(weight, before[name]) and weight.dtype == torch.bfloat16


def test_by_default_the_targets_are_the_factor_rules_on_confidences_without_the_mask_token(tmp_path):
    """Of each canvas the longest prefix of falling confidences c_1, c_2, ... with (n + 1) (1 - c_n) <= factor, one
    at least. The defects that `compat` repeats, the mask token's share and the off-by-one, give others."""
    setup = planner_setup(tmp_path, dtype=torch.float64, sequences=4, microbatch=4)
    model, seen = setup.model, []
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    trainer = make_trainer(setup)
    mask_id = model.config.mask_token_id
    for draw in range(30):
        rng = np.random.default_rng(draw)
        canvases = [planner_canvas(each, 24, 6, mask_id, 0, rng) for each in trainer.corpus[:4]]
        ids_BL, asked_BL = (torch.from_numpy(np.stack(each)) for each in zip(*canvases, strict=True))
        hidden_BLH = trainer._hidden(ids_BL)
        targets = planner_targets(model, hidden_BLH, asked_BL, trainer.config.factor, trainer.config.compat)
        for hidden_LH, asked_L, target_L in zip(hidden_BLH, asked_BL, targets, strict=True):
            logits_nV = model.logits(hidden_LH[asked_L])[:, : model.usable_vocab].clone()
            logits_nV[:, mask_id] = -torch.inf
            confidence_n = logits_nV.softmax(-1).amax(-1)
            order = confidence_n.argsort(descending=True).tolist()
            count = 1
            while count < len(order) and (count + 2) * (1 - confidence_n[order[count]]) <= 1:
                count += 1
            expected = torch.zeros(len(order), dtype=torch.bool)
            expected[order[:count]] = True
            assert torch.equal(target_L[asked_L], expected) and not target_L[~asked_L].any()
            seen.append((count, len(order)))
        published = planner_targets(model, hidden_BLH, asked_BL, compat=True)
        seen.append(bool((published != targets).any()))
    assert True in seen and any(1 < count < most for count, most in (each for each in seen if type(each) is tuple))


def test_steps_that_are_never_finite_end_the_run(tmp_path):
    trainer = make_trainer(planner_setup(tmp_path, steps=99, validate_every=50))
    trainer.selection.start(trainer.setup.validate())
    trainer.steps_done = 1
    with torch.no_grad():
        trainer.model.planner.mask_linear.bias.fill_(float("nan"))
    for _ in range(4):
        assert trainer.step().metrics["skipped"] == 1
    with pytest.raises(TrainingError, match="no update could be taken in 5 steps running"):
        trainer.step()


def test_what_pre_training_made_is_saved_and_loaded_as_a_dultra_checkpoint(tmp_path):
    source = load_model(FOLDER.parent / "llada_tiny")
    source.add_planner(torch.Generator().manual_seed(1))
    save_model(source, tmp_path, eos_token_id=113, pad_token_id=113)
    again = load_model(tmp_path)
    assert again.config == source.config and again.config.has_planner
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), again.parameters(), strict=True))
