"""Where logits are shifted the trainer reads what the decoder read: likelihoods, gradients, supervised targets."""

import numpy as np
import pytest
import torch
from fixtures.naive import dense_log_probs, naive_action_log_probs
from fixtures.tiny import make_trainer, requests_of, tiny_model, tiny_setup

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import ConfigError
from lightningrl.models.packing import PackedRow, pack, token_scores
from lightningrl.rl.likelihood import score_tokens


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainers_likelihood_is_the_decoders_and_the_naive_one_in_values_and_gradients(temperature):
    """A first block with prompt tokens, prompts on the grid and off it, whole responses."""
    model = tiny_model(4, torch.float64, logit_shift=True)
    requests = requests_of([1, 4, 6, 9, 8], 14)
    trajectories = BlockDecoder(model, (3, 7)).decode(requests, DecodePolicy(Threshold(0.3), temperature, seed=2))
    scores = score_tokens(model, trajectories)
    behaviour = np.concatenate([t.behaviour_logp[: t.response_len] for t in trajectories])
    order = np.lexsort((scores.position_n.numpy(), scores.row_n.numpy()))
    np.testing.assert_allclose(scores.logp_n.detach().numpy()[order], behaviour, atol=1e-6)
    weight = torch.linspace(-1, 1, len(behaviour), dtype=torch.float64)
    gradients = []
    tables = [naive_action_log_probs(model, trajectory) for trajectory in trajectories]
    naive = torch.stack([table[p] for table in tables for p in sorted(table)])
    for logp in (scores.logp_n[torch.from_numpy(order)], naive):
        model.zero_grad(set_to_none=True)
        (weight * logp).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(scores.logp_n[torch.from_numpy(order)], naive, rtol=0, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_blocks_of_one_without_a_copy_of_their_own_are_the_next_token_loss():
    """Block size 1: a token is predicted by the clean position before it, whatever the copy holds."""
    model = tiny_model(6, torch.float64, block_size=1, logit_shift=True)
    ids = np.array([5, 2, 9, 11, 4], dtype=np.int64)
    targets = np.arange(1, 5)
    copies = np.full((4, 1), model.config.mask_token_id)
    row = PackedRow(ids[:-1], targets, copies, ids[1:, None], np.ones((4, 1), dtype=bool))
    logp, _ = token_scores(model, pack([row], logit_shift=True))
    table = dense_log_probs(model, ids.tolist())
    torch.testing.assert_close(logp, table[targets, ids[1:]], rtol=0, atol=1e-12)


def test_the_first_position_of_a_sequence_keeps_its_own_logits():
    model = tiny_model(6, torch.float64, logit_shift=True)
    state = np.array([[23, 2, 23, 23]])
    row = PackedRow(np.array([], dtype=np.int64), np.array([0]), state, np.array([[1, 2, 3, 4]]), state == 23)
    logp, _ = token_scores(model, pack([row], logit_shift=True))
    table = dense_log_probs(model, state[0].tolist())
    torch.testing.assert_close(logp, table[[0, 2, 3], [1, 3, 4]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_trainings_of_packed_blocks_refuse_a_model_that_sees_otherwise(tmp_path, attention):
    """It would train under another mask than the model has."""
    setup = tiny_setup(tmp_path)
    shape = {"vocab_size": setup.model.config.vocab_size, "attention": attention, "logit_shift": True}
    setup.model = tiny_model(1, **shape)
    with pytest.raises(ConfigError, match=f"{attention} attention"):
        make_trainer(setup)
