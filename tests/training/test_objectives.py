"""The objectives of whole sequences: LLaDA's and Dream's masked canvases, next tokens; and the budget of compute."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from fixtures.naive import Masked as DenseMask
from fixtures.tiny import MASK_ID, tiny_examples, tiny_model, tiny_setup
from test_supervised import sequence_of

from lightningrl.config.model import Diffusion, Pretrain
from lightningrl.errors import ConfigError
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.objective import supervised_backward
from lightningrl.training.supervised.objectives.blocks import BlockDiffusion, MaskedNext
from lightningrl.training.supervised.objectives.masked import Masked
from lightningrl.training.supervised.objectives.next_token import NextToken
from lightningrl.training.supervised.pretrainer import Pretrainer

LLADA = {"family": "llada", "attention": "full", "qk_norm": False}
DREAM = {
    "family": "Dream", "attention": "full", "logit_shift": True, "qk_norm": False, "qkv_bias": True, "block_size": 1,
}  # fmt: skip
QWEN2 = DREAM | {"family": "qwen2", "attention": "causal"}
PHASE = Diffusion(steps=1, sequences=1)


def dense_logp(model, ids, causal=False):
    """(L, V) what one row alone gives under a dense mask; shifted logits are put where they predict."""
    seen = torch.ones(len(ids), len(ids), dtype=torch.bool)
    attend = DenseMask((seen.tril() if causal else seen)[None, None])
    hidden = model.hidden(torch.tensor(np.asarray(ids))[None], torch.arange(len(ids))[None], attend)[0]
    logp = model.log_probs(hidden)
    return torch.cat([logp[:1], logp[:-1]]) if model.config.logit_shift else logp


class Draws:
    """Stands for the generator: masks `count` of `maskable` tokens, in this order."""

    def __init__(self, count, maskable, order):
        self.share, self.order = (count - 0.5) / maskable, np.array(order)

    def random(self):
        return self.share

    def permutation(self, maskable):
        return self.order


@torch.no_grad()
@pytest.mark.parametrize("family", [LLADA, DREAM], ids=["llada", "dream"])
def test_expected_masked_loss_is_lladas_integral_over_t(family):
    """Each of the 2^m - 1 sets of masked tokens S has probability t^n (1 - t)^(m - n) and the loss the weight 1/t
    (LLaDA, Eq. 5): the integral over t of its weight is B(n, m - n + 1). Ours is enumerated: counts, then orders."""
    model, sequence, m = tiny_model(2, torch.float64, **family), sequence_of(3, 4), 4
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    objective, found = Masked(model.config, PHASE), []
    for count in range(1, m + 1):
        for order in itertools.permutations(range(m)):
            [(row, weight)] = objective.rows(sequence, Draws(count, m, order))
            assert weight.tolist() == [m / count] * count and (row.ids[:3] == sequence.prompt_ids).all()
            found.append(objective.loss(model, [(row, weight)]).item())
    expected = 0.0
    for n in range(1, m + 1):
        share = math.gamma(n) * math.gamma(m - n + 1) / math.gamma(m + 1)
        for chosen in itertools.combinations(range(3, 7), n):
            noisy = [MASK_ID if p in chosen else int(t) for p, t in enumerate(ids)]
            logp = dense_logp(model, noisy)
            expected -= share * sum(logp[p, ids[p]].item() for p in chosen)
    assert np.mean(found) == pytest.approx(expected, abs=1e-10) and np.std(found) > 0.01


def test_masked_rows_mask_as_many_as_they_weigh_in_every_copy():
    """Over 6,000 rows of 5 response tokens each count has 1,200 (sd 31), each token is masked 3,600 times (sd 38)."""
    model, sequence = tiny_model(0, **LLADA), sequence_of(4, 5)
    rows = Masked(model.config, Diffusion(steps=1, sequences=1, copies=6000)).rows(sequence, np.random.default_rng(0))
    counts = np.bincount([row.num_scored for row, _ in rows], minlength=6)
    assert counts[0] == 0 and (abs(counts[1:] - 1200) < 155).all()
    at = sum(row.scored.astype(int) for row, _ in rows)
    assert (at[:4] == 0).all() and (abs(at[4:] - 3600) < 190).all()
    for row, weight in rows[:50]:
        assert ((row.ids == MASK_ID) == row.scored).all() and weight.sum() == pytest.approx(5)
        assert (row.target_ids[4:] == sequence.response_ids).all()


@pytest.mark.parametrize("family", [QWEN2, DREAM], ids=["qwen2", "dream"])
def test_next_token_is_the_causal_loss_without_pads(family):
    model, sequence = tiny_model(2, torch.float64, **family), sequence_of(5, 7)
    sequence = dataclasses.replace(sequence, pads=3)
    objective = NextToken(model.config, PHASE)
    [(row, weight)] = objective.rows(sequence, np.random.default_rng(0))
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])[:9]
    assert row.num_tokens == 8 and weight.tolist() == [1.0] * 4
    logp = dense_logp(model, ids, causal=True)
    expected = -sum(logp[p, ids[p]] for p in range(5, 9))
    found = objective.loss(model, [(row, weight)])
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "family"), [(Masked, LLADA), (Masked, DREAM), (NextToken, QWEN2)])
def test_rows_beside_a_row_change_neither_loss_nor_gradient(kind, family):
    model, rng = tiny_model(2, torch.float64, **family), np.random.default_rng(1)
    objective = kind(model.config, Diffusion(steps=1, sequences=1, copies=2))
    rows = [row for shape in ((4, 4), (5, 7), (2, 14), (9, 3)) for row in objective.rows(sequence_of(*shape), rng)]
    found = []
    for size in (1, 3, len(rows)):
        model.zero_grad()
        loss = supervised_backward(model, rows, size, cross_entropy=objective.loss)
        found.append((loss, [p.grad.clone() for p in model.parameters()]))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-12)
        torch.testing.assert_close(gradients, found[0][1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "family", "instead"),
    [
        (BlockDiffusion, LLADA, "masked"), (MaskedNext, QWEN2, "next_token"), (Masked, {}, "block_diffusion"),
        (Masked, QWEN2, "next_token"), (NextToken, LLADA, "masked"), (NextToken, {}, "masked_next"),
    ],
)  # fmt: skip
def test_an_objective_refuses_a_model_that_it_is_not_for_and_names_another(kind, family, instead):
    with pytest.raises(ConfigError, match=f"`{instead}`"):
        kind(tiny_model(0, **family).config, PHASE)


def test_a_canvas_is_filled_with_pads_and_no_answer_is_cut(tmp_path):
    tokenizer, examples = tiny_setup(tmp_path).tokenizer, tiny_examples("train", 7)
    plain = build_corpus(tokenizer, examples, lambda e: e.messages, 1)
    lengths = [len(each.response_ids) for each in plain]
    canvas = sorted(lengths)[3]
    assert min(lengths) < canvas < max(lengths) and {each.pads for each in plain} == {0}
    for one, other in zip(plain, build_corpus(tokenizer, examples, lambda e: e.messages, 1, canvas), strict=True):
        pads = max(0, canvas - len(one.response_ids))
        assert other.pads == pads
        assert other.response_ids.tolist() == [*one.response_ids.tolist(), *[tokenizer.pad_token_id] * pads]


def test_a_budget_is_spent_by_the_last_phase_and_its_rate_falls_with_it():
    """4 rows of 7 positions each, three times: 84 token-forwards per step; the warm start's have an end token less."""
    model = tiny_model(0, **DREAM)
    config = Pretrain(
        autoregressive={"steps": 2, "sequences": 4}, diffusion={"steps": 1, "sequences": 4, "decay": 1.0},
        validate_every=99, warmup_steps=0,
    )  # fmt: skip
    objectives = {"autoregressive": NextToken(model.config, PHASE), "diffusion": Masked(model.config, PHASE)}
    corpora = {"one": [sequence_of(3, 4)]}
    trainer = Pretrainer(config, 0, model, corpora, objectives, lambda model: {"accuracy_pct": 1.0}, budget=400)
    rows = []
    while not trainer.done:
        rows.append(trainer.step().metrics)
    assert [row["token_forwards"] for row in rows] == [72, 144, 228, 312, 396, 480]
    assert [row["phase"] for row in rows] == ["autoregressive"] * 2 + ["diffusion"] * 4
    assert [row["rate"] for row in rows] == pytest.approx([1, 1, 1, 172 / 256, 88 / 256, 4 / 256])
    assert "accuracy_pct" in rows[-1]
    told = r"pretrain\.autoregressive: its steps take 144 token-forwards, and `match_compute` leaves 144"
    with pytest.raises(ConfigError, match=told):
        Pretrainer(config, 0, model, corpora, objectives, lambda model: {"accuracy_pct": 1.0}, budget=144)
