"""The losses of dParallel, d3LLM and D2F are the published codes', with their gradients, on the same masks.

Expected numbers were made by running the authors' code in float32 (fixtures/llada_tiny/dparallel_loss.json, d3llm_tiny
and d2f_tiny golden_train.safetensors; weights of llada_tiny and dream_tiny). `compat` is what is compared: the
published softmax has the mask token in it.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.naive import Masked
from safetensors.torch import load_file

from lightningrl.models.adapters import adapted, add_adapters
from lightningrl.models.checkpoint import load_model
from lightningrl.models.config_file import family_named
from lightningrl.models.lora import load_merged
from lightningrl.models.packing import pack_canvases
from lightningrl.training.distillation.answers import Target
from lightningrl.training.distillation.d2f import D2F, noisy_views
from lightningrl.training.distillation.d3llm import D3LLM, visible_in
from lightningrl.training.distillation.dparallel import DParallel
from lightningrl.training.distillation.losses import certainty_of, certainty_terms
from lightningrl.training.distillation.states import drawn_segment, merged, segment_views

FIXTURES = Path(__file__).parents[1] / "fixtures"
DPARALLEL = json.loads((FIXTURES / "llada_tiny" / "dparallel_loss.json").read_text())


def algorithm_of(kind, **keys):
    return kind(kind.Config.model_validate({"compat": True} | keys))


def target_of(ids, prompt_len, order=None):
    ids = np.array(ids)
    return Target(ids[:prompt_len], ids[prompt_len:], order)


class Draws:
    """Stands for the generator: the golden's own draws."""

    def __init__(self, segment, uniforms):
        self.segment, self.uniforms = segment, uniforms

    def integers(self, count):
        assert self.segment[:2] == [0, count - 1], "the published code draws among as many segments"
        return self.segment[2]

    def random(self, count):
        assert count == len(self.uniforms)
        return np.array(self.uniforms)


LLADA, DREAM = FIXTURES / "llada_tiny", FIXTURES / "dream_tiny"


@pytest.mark.parametrize("case", [case for case in DPARALLEL["masking"] if case["block_draw"]])
def test_dparallel_masks_what_the_published_code_masks_with_the_same_draws(case):
    """The number of segments, the last of which may be empty; which positions are masked; both states' tokens."""
    config = replace(load_model(LLADA).config, mask_token_id=case["mask_token_id"])
    target = target_of(case["input_ids"], case["prompt_length"])
    keys = {"block_size": case["block_size"], "segment": "block"}
    draws = Draws(case["block_draw"], case["uniforms"])
    views = algorithm_of(DParallel, **keys).views([target], config, draws, 0.0)
    for row, ids, masked in zip(views.rows, ("noisy", "noisy_rev"), ("masked", "masked_rev"), strict=True):
        assert row.ids.tolist() == case[ids] and np.flatnonzero(row.scored).tolist() == case[masked]


@pytest.mark.parametrize("case", DPARALLEL["loss"], ids=lambda case: case["name"])
def test_certainty_is_the_published_loss_of_given_logits_with_its_gradient(case):
    """Batches of two included: there the published means are over both rows' tokens, as those of a unit of two are."""
    label, terms, logits = torch.tensor(case["labels"]), [], []
    for view, (name, masked) in enumerate((("logits", "masked"), ("logits_rev", "masked_rev"))):
        logits.append(torch.tensor(case[name], dtype=torch.float64).requires_grad_())
        at = torch.tensor(case[masked]).bool()
        chosen = logits[-1][at]
        sharp = (chosen / case["temperature"]).log_softmax(-1)
        found = certainty_terms(chosen.log_softmax(-1), sharp, label[at], compat=True)
        terms.append((*found, torch.full((len(chosen),), view)))
    columns = [torch.cat(column) for column in zip(*terms, strict=True)]
    loss = certainty_of(*columns, 2, case["entropy_weight"])
    assert loss.item() == pytest.approx(case["loss"], abs=1e-5)
    for tensor, name in zip(logits, ("grad_norm_logits", "grad_norm_logits_rev"), strict=True):
        (gradient,) = torch.autograd.grad(loss, tensor, retain_graph=True)
        assert gradient.norm().item() == pytest.approx(case[name], abs=1e-5)


def test_certainty_by_hand():
    """Three words; the third prediction of the first state and the first of the second are wrong: 2.211599 in all."""
    logits = torch.tensor([[2, 0, 0], [0, 1, 0], [1, 1.5, -1], [0.5, 0, 0], [0, 0, 3]], dtype=torch.float64)
    found = certainty_terms(
        logits.log_softmax(-1), (logits / 0.5).log_softmax(-1), torch.tensor([0, 1, 0, 1, 2])
    )  # fmt: skip
    loss = certainty_of(*found, torch.tensor([0, 0, 0, 1, 1]), 2, 2.0)
    assert loss.item() == pytest.approx(2.211599, abs=1e-6)


def loss_of(algorithm, model, units, reference=None):
    packed = pack_canvases([row for unit in units for row in unit.rows], logit_shift=model.config.logit_shift)
    return algorithm.loss(model, reference or model, packed, units)[0]


@pytest.mark.parametrize("case", DPARALLEL["model"])
def test_dparallel_on_llada_has_the_published_loss_and_every_gradient(case):
    """Loss within 1e-4 of about 30, the norm of each weight's gradient within 1e-3, relative; float64 against
    float32."""
    model = load_model(LLADA, dtype=torch.float64)
    ids, masked, other = (np.array(case[name]) for name in ("input_ids", "masked", "masked_rev"))
    start, end = min(*masked, *other), max(*masked, *other) + 1
    views = segment_views(ids, start, np.isin(np.arange(start, end), masked), model.config.mask_token_id)
    assert [row.ids.tolist() for row in views.rows] == [case["noisy"], case["noisy_rev"]]
    loss = loss_of(algorithm_of(DParallel), model, [views])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    stored = family_named("llada").stored_name
    found = {stored(name): weight.grad.norm().item() for name, weight in model.named_parameters()}
    assert found == pytest.approx(case["grad_norm"], rel=1e-3)


D3 = load_file(FIXTURES / "d3llm_tiny" / "golden_train.safetensors")


def d3llm_case(case):
    given = {name.split(".", 1)[1]: value.numpy() for name, value in D3.items() if name.startswith(f"{case}.")}
    prompt_len, mask_id = int(given["prompt_length"][0]), 129
    # State s of the trajectory is the one after step s + 1, in which one more token is there.
    order = 1 + (given["trajectory"] == mask_id).sum(axis=0)[prompt_len:]
    return given, target_of(given["input_ids"][0], prompt_len, order)


@pytest.mark.parametrize("case", range(4))
def test_d3llm_masks_by_the_trajectory_as_published_and_has_the_published_loss(case):
    """The last case is the published code's empty segment. Losses within 1e-4, relative."""
    given, target = d3llm_case(case)
    model = load_model(DREAM, dtype=torch.float64)
    at = np.flatnonzero(given["masked_indices"][0] | given["masked_indices_rev"][0])
    start = int(at[0]) if len(at) else target.length
    end = int(at[-1]) + 1 if len(at) else target.length
    keys = {"weight": float(given["entropy_weight"][0])}
    if len(at):
        visible = visible_in(
            target.order, start - target.prompt_len, end - target.prompt_len, float(given["mask_ratio"][0]), compat=True
        )
        assert np.flatnonzero(~visible).tolist() == (np.flatnonzero(given["masked_indices"][0]) - start).tolist()
    masked = given["masked_indices"][0][start:end].astype(bool)
    views = segment_views(target.ids, start, masked, model.config.mask_token_id)
    assert [row.ids.tolist() for row in views.rows] == [given[f"noisy_batch{end}"][0].tolist() for end in ("", "_rev")]
    loss = loss_of(algorithm_of(D3LLM, **keys), model, [views])
    assert loss.item() == pytest.approx(float(given["loss"][0]), rel=1e-4, abs=1e-9)


D2 = load_file(FIXTURES / "d2f_tiny" / "golden_train.safetensors")


@pytest.mark.parametrize("has_adapter", [True, False])
@pytest.mark.parametrize("kind", ["distill", "hard"])
@pytest.mark.parametrize("case", range(3))
def test_d2f_has_the_published_loss_with_an_adapter_or_with_a_frozen_base(case, kind, has_adapter):
    """Two answers of unequal prompts as one unit; the student has the official adapter. Losses within 1e-4,
    relative."""
    given = {name.split(".", 1)[1]: value.numpy() for name, value in D2.items() if name.startswith(f"{case}.")}
    student = reference = load_model(DREAM, dtype=torch.float64)
    if has_adapter:
        student = load_model(DREAM, dtype=torch.float64)
        add_adapters(student, 4, 4.0, ["q_proj", "k_proj", "v_proj", "o_proj"])
        factors = load_file(FIXTURES / "d2f_tiny" / "adapter_model.safetensors")
        with torch.no_grad():
            for name, layer in adapted(student):
                layer.lora_A.copy_(factors[f"{name}.lora_A.weight"])
                layer.lora_B.copy_(factors[f"{name}.lora_B.weight"])
        algorithm = algorithm_of(D2F, from_teacher=kind == "distill", adapter={"rank": 4})
        assert not algorithm.needs_reference
    else:
        student = load_merged(DREAM, FIXTURES / "d2f_tiny", dtype=torch.float64)
        algorithm = algorithm_of(D2F, from_teacher=kind == "distill")
        assert algorithm.needs_reference == (kind == "distill")
    units, block = [], int(given["block_size"])
    for ids, prompt_len, masked, rate, noisy in zip(
        given["input_ids"], given["prompt_lengths"].tolist(), given[f"{kind}.masked_indices"], given[f"{kind}.p_mask"],
        given[f"{kind}.noisy_batch"], strict=True,
    ):  # fmt: skip
        masked = masked.astype(bool)
        assert not masked[:prompt_len].any()
        views = noisy_views(
            ids, prompt_len, masked[prompt_len:], rate[prompt_len:], block, student.config.mask_token_id
        )
        assert views.rows[0].ids.tolist() == noisy.tolist()
        units.append(views)
    loss = loss_of(algorithm, student, [merged(units)], reference)
    assert loss.item() == pytest.approx(float(given[f"loss_{kind}"][0]), rel=1e-4)


def test_by_default_d2f_learns_a_distribution_without_the_mask_token_which_its_defect_gives_a_share():
    """The sum of -teacher ln student over the tokens that can be decoded, by dense forwards; the student has moved."""
    student, teacher = (load_model(DREAM, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        student.lm_head.weight.mul_(1.3)
    config, target = student.config, target_of(np.arange(3, 23), 5)
    unit = D2F(D2F.Config(block_size=5)).views([target], config, np.random.default_rng(0), 0.0)
    [row], length = unit.rows, target.length
    seen = torch.ones(length, length, dtype=torch.bool)
    limited = torch.arange(length) < torch.from_numpy(row.limits)[:, None]
    terms = {False: [], True: []}
    logits = [
        model.logits(model.hidden(torch.tensor(row.ids)[None], torch.arange(length)[None], Masked(mask[None, None]))[0])
        for model, mask in ((student, limited), (teacher, seen))
    ]
    assert row.num_scored > 2
    for at, weight in zip(np.flatnonzero(row.scored), unit.weight_n, strict=True):
        for compat, found in terms.items():
            both = [each[at - 1].clone() for each in logits]
            if not compat:
                for each in both:
                    each[config.mask_token_id] = -torch.inf
            log_p, teacher_p = both[0].log_softmax(-1), both[1].softmax(-1)
            found.append(weight * -(teacher_p * log_p.clamp(min=-1e4)).sum())
    for keys, compat in (({}, False), ({"compat": True}, True)):
        loss = loss_of(D2F(D2F.Config(block_size=5, **keys)), student, [unit], teacher)
        assert loss.item() == pytest.approx(torch.stack(terms[compat]).mean().item(), abs=1e-9)
    assert abs(torch.stack(terms[True]).mean() - torch.stack(terms[False]).mean()) > 1e-6


def test_by_default_no_answer_is_drawn_an_empty_segment_and_a_state_shows_its_own_share():
    """What `compat` repeats of the published code, and what is done instead."""
    rng = np.random.default_rng(0)
    target = target_of(range(20), 4, order=np.r_[np.arange(9, 17), np.arange(1, 9)])
    drawn = {compat: {drawn_segment(target, 8, rng, compat) for _ in range(99)} for compat in (False, True)}
    assert drawn == {False: {(4, 12), (12, 20)}, True: {(4, 12), (12, 20), (20, 20)}}
    # The answer was decoded right half first. Of the left half three of eight are to be seen.
    assert visible_in(target.order, 0, 8, 5 / 8).tolist() == [True] * 3 + [False] * 5
    assert not visible_in(target.order, 0, 8, 5 / 8, compat=True).any()


def test_the_published_targets_reach_four_of_seven_matrices_of_llada():
    published = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for targets, hit in ((published, DPARALLEL["lora_modules_hit"]), ([], None)):
        model = load_model(LLADA)
        add_adapters(model, 2, 2.0, targets)
        stored = family_named("llada").stored_name
        found = {stored(f"{name}.weight").split(".")[-2] for name, _ in adapted(model)}
        assert found == set(hit or ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"])
