"""The loss: tables, reductions, the gradient at ratio 1."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.rl.losses import Actions, Normalisers, Sums, kl_k3, policy_loss, surrogate, value_loss


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def loss_of(logp, lengths, advantage, *, old=None, ref=None, in_nll=None, kl=0.01, nll=0.1, reduction="seq-tok-tok"):
    """The loss of sequences of these lengths; old and ref are logp, and no sequence is in the NLL set, if not given."""
    length = torch.tensor(lengths)
    flags = torch.zeros(len(lengths), dtype=torch.bool) if in_nll is None else torch.tensor(in_nll)
    old, ref = (logp.detach() if values is None else values for values in (old, ref))
    per_token = [values.repeat_interleave(length) for values in (length, flags)]
    sums = Sums(Normalisers.of(lengths), Normalisers.of(length[flags].tolist()))
    actions = Actions(old, ref, doubles(*advantage), *per_token)
    return policy_loss(logp, actions, sums, clip=(0.2, 0.2), kl=kl, nll=nll, reduction=reduction)


@pytest.mark.parametrize(
    ("logp", "old", "advantage", "high", "expected", "clipped"),
    [
        (-1.0, -1.5, 1.0, 0.2, 1.2, True),  # r = e^0.5 = 1.648721, clipped to 1.2
        (-1.5, -1.0, 1.0, 0.2, 0.606531, False),  # r = e^-0.5, not clipped from below with A > 0
        (-1.0, -1.5, -1.0, 0.2, -1.648721, False),
        (-1.5, -1.0, -1.0, 0.2, -0.8, True),
        (-1.0, -1.0, 2.0, 0.2, 2.0, False),
        (-1.0, -1.5, 1.0, 0.28, 1.28, True),
    ],
)
def test_surrogate_table(logp, old, advantage, high, expected, clipped):
    value, was_clipped = surrogate(doubles(logp - old), doubles(advantage), 0.2, high)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert was_clipped.item() is clipped


def test_log_ratios_are_clamped_at_10_before_the_exponential():
    """As published: exp(clip(d, +-10)); e^10 = 22026.465795."""
    value, _ = surrogate(doubles(30.0), doubles(-1.0), 0.2, 0.2)
    assert value.item() == pytest.approx(-22026.465795, abs=1e-4)
    assert kl_k3(doubles(0.0), doubles(30.0)).item() == pytest.approx(22026.465795 - 1 - 30, abs=1e-4)


@pytest.mark.parametrize(("d", "expected"), [(0.5, 0.106531), (-0.5, 0.148721), (1.0, 0.367879), (0.0, 0.0)])
def test_kl_k3_table(d, expected):
    """d = logp - ref: k3 = exp(-d) - 1 + d."""
    assert kl_k3(doubles(d), doubles(0.0)).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(logp=st.floats(-9, 0), ref=st.floats(-9, 0))
def test_kl_k3_is_never_negative(logp, ref):
    assert kl_k3(doubles(logp), doubles(ref)).item() >= -1e-12


def test_kl_k3_is_an_unbiased_estimate_of_the_divergence():
    """Expectation over the policy, by enumeration: sum p k3(log p, log q) = KL(p || q). No gradient where p = q."""
    p, q = doubles(0.5, 0.3, 0.2), doubles(0.2, 0.2, 0.6)
    expected = (p * (p / q).log()).sum()
    assert (p * kl_k3(p.log(), q.log())).sum().item() == pytest.approx(expected.item())
    logp = doubles(-1.0, -2.0).requires_grad_()
    kl_k3(logp, doubles(-1.0, -1.5)).sum().backward()
    assert logp.grad[0] == 0 and logp.grad[1] == pytest.approx(1 - np.exp(0.5))


def test_kl_and_nll_are_means_over_tokens_and_the_loss_their_weighted_sum():
    """Lengths 1 and 3. KL d = -0.5 at the first, 0 at the rest: 0.148721 / 4 over tokens (sequence mean: / 2).

    NLL set: the second sequence, -logp = 1, 2, 3: mean 2. Without one the term is 0.
    """
    logp, ref = doubles(-0.5, -1, -2, -3), doubles(0, -1, -2, -3)
    loss, logged = loss_of(logp, [1, 3], [1, -1, -1, -1], ref=ref, in_nll=[False, True])
    assert logged["policy_loss"].item() == pytest.approx(0.0)
    assert logged["kl"].item() == pytest.approx(0.148721 / 4, abs=1e-6)
    assert logged["nll"].item() == pytest.approx(2.0)
    assert loss.item() == logged["loss"].item() == pytest.approx(0.01 * 0.148721 / 4 + 0.1 * 2.0, abs=1e-7)
    assert logged["ratio"].item() == pytest.approx(1.0) and logged["clip_fraction"].item() == 0
    assert loss_of(logp, [1, 3], [1, -1, -1, -1])[1]["nll"].item() == 0


def test_gradient_at_ratio_1_is_the_policy_gradient():
    """Loss = -mean advantage (over sequences), gradient of a token's -A / length / sequences."""
    logp = doubles(-1, -2, -0.5, -3, -1).requires_grad_()
    loss, logged = loss_of(logp, [2, 3], [1.5, 1.5, -0.5, -0.5, -0.5])
    loss.backward()
    assert loss.item() == pytest.approx(-(1.5 - 0.5) / 2)
    assert logp.grad.tolist() == pytest.approx([-1.5 / 2 / 2] * 2 + [0.5 / 3 / 2] * 3)
    assert not logged["loss"].requires_grad


def test_a_clipped_token_has_no_gradient_and_an_unclipped_one_has():
    logp = doubles(-1.0, -1.5, -1.0, -1.5).requires_grad_()
    loss, logged = loss_of(logp, [4], [1, 1, -1, -1], old=doubles(-1.5, -1.0, -1.5, -1.0), kl=0)
    loss.backward()
    assert [bool(g) for g in logp.grad] == [False, True, True, False]
    assert logged["clip_fraction"].item() == 0.5


@pytest.mark.parametrize(("how", "expected"), [("seq", -0.25), ("tok", -0.083333), ("longest", -0.0625)])
def test_each_reduction_of_the_policy_term(how, expected):
    """Surrogates [1, .5] and [-1, 0, 0, 0]: sequence means -(0.75 - 0.25) / 2, token mean -0.5 / 6, over the longest
    -0.5 / (2 * 4)."""
    loss, _ = loss_of(torch.zeros(6).double(), [2, 4], [1, 0.5, -1, 0, 0, 0], reduction=f"{how}-tok-tok")
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("reduction", "kl", "nll"),
    [("seq-seq-seq", 0.148721 / 2, (0.5 + 2) / 2), ("seq-tok-seq", 0.148721 / 4, (0.5 + 2) / 2),
     ("seq-tok-tok", 0.148721 / 4, 6.5 / 4), ("tok-tok-tok", 0.148721 / 4, 6.5 / 4)],
)  # fmt: skip
def test_the_papers_four_reductions(reduction, kl, nll):
    """Table 4. Lengths 1 and 3, k3 of the first token 0.148721; both in the NLL set: sequence means 0.5 and 2."""
    logp, ref = doubles(-0.5, -1, -2, -3), doubles(0, -1, -2, -3)
    _, logged = loss_of(logp, [1, 3], [1, -1, -1, -1], ref=ref, in_nll=[True, True], reduction=reduction)
    assert logged["kl"].item() == pytest.approx(kl, abs=1e-6) and logged["nll"].item() == pytest.approx(nll)
    assert logged["policy_loss"].item() == pytest.approx(0 if reduction.startswith("seq") else 0.5)


def test_value_loss_takes_the_worse_of_the_free_and_the_clipped_value():
    """Old 0, new 1. Return 1: clipped to 0.2 it is 0.8 off, half its square 0.32. Return 0: 1 off, 0.5."""
    found = value_loss(doubles(1.0, 1.0), doubles(0.0, 0.0), doubles(1.0, 0.0), 0.2, 2)
    assert found.item() == pytest.approx((0.32 + 0.5) / 2)
