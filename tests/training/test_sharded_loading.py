"""What processes read of a checkpoint by slices is the checkpoint, bit for bit."""

import pytest
import torch
from fixtures import killing, sharded
from fixtures.tiny import tiny_model

from lightningrl.models.checkpoint import empty_model, load_model, save_model, stored_weights, write_weights
from lightningrl.training import sharded_loading
from lightningrl.training.world import join

HEAD = "lm_head.weight"


@pytest.mark.parametrize(("processes", "shape"), [(1, {}), (2, {"vocab_size": 25, "hidden_size": 15})])
def test_shards_of_all_processes_are_the_checkpoints_weights(tmp_path, processes, shape):
    """Rows that do not divide evenly, too. A value model has the trunk, and a head of zeros."""
    save_model(tiny_model(**shape), tmp_path, eos_token_id=1, pad_token_id=2)
    out = tmp_path / "found.pt"
    killing.run_ranks(processes, sharded.main, str(tmp_path), str(out)) if processes > 1 else sharded.main(
        tmp_path, out
    )
    found, whole = torch.load(out), load_model(tmp_path)
    expected = {name: weight.detach() for name, weight in whole.named_parameters()}
    torch.testing.assert_close(found["model"], expected, rtol=0, atol=0)
    low = {name: weight.bfloat16() for name, weight in expected.items()}
    torch.testing.assert_close(found["reference"], low, rtol=0, atol=0)
    torch.testing.assert_close(dict(found["replica"]), low, rtol=0, atol=0)
    value = found["value"]
    assert value[HEAD].shape == (1, whole.config.hidden_size) and not value.pop(HEAD).any()
    torch.testing.assert_close(value, {name: w for name, w in expected.items() if name != HEAD}, rtol=0, atol=0)


def test_a_tied_head_stays_the_embedding(tmp_path, monkeypatch):
    """Of families from outside; the checkpoint has no head."""
    model = tiny_model(tie_word_embeddings=True)
    write_weights(tmp_path, model.weights())
    monkeypatch.setattr(
        sharded_loading, "inspect_model", lambda _: (empty_model(model.config), stored_weights(tmp_path))
    )
    with join(is_sharded=True):
        found = sharded_loading.load_shards(tmp_path, torch.device("cpu"), "bfloat16")
        replica = sharded_loading.make_replica(found, torch.float32, torch.device("cpu"))
        assert found.lm_head.weight is found.model.embed_tokens.weight
    assert replica.lm_head.weight is replica.model.embed_tokens.weight
    torch.testing.assert_close(replica.weights(), model.weights(), rtol=0, atol=0)
