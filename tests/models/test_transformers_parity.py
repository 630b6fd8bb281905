"""Our checkpoints in Hugging Face's Qwen3ForCausalLM, and its in ours: same weights, same logits."""

import json

import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import tiny_model

from lightningrl.models.checkpoint import MAX_SHARD_BYTES, load_model, save_model


@pytest.fixture
def load_qwen3(tmp_path):
    """Save `model`, say `qwen3` in its config and load with transformers."""
    from transformers import Qwen3ForCausalLM

    def load(model, max_shard_bytes=MAX_SHARD_BYTES):
        save_model(model, tmp_path, eos_token_id=1, pad_token_id=2, max_shard_bytes=max_shard_bytes)
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        theirs, report = Qwen3ForCausalLM.from_pretrained(
            tmp_path, dtype=model.lm_head.weight.dtype, attn_implementation="eager", output_loading_info=True
        )
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return theirs.eval()

    return load


def their_logits(theirs, ids, allowed):
    mask = torch.zeros(allowed.shape, dtype=theirs.dtype).masked_fill(~allowed, -1e30).expand(len(ids), 1, -1, -1)
    return theirs(ids, attention_mask=mask, position_ids=torch.arange(ids.shape[1])[None], use_cache=False).logits


def our_logits(model, ids, allowed):
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    return model.logits(model.hidden(ids, positions, Masked(allowed[None, None])))


def assert_same_logits(ours, theirs, block_sizes=(1, 4, 5, 32), atol=1e-10):
    ids = torch.randint(0, 24, (3, 20), generator=torch.Generator().manual_seed(0))
    for block_size in block_sizes:
        allowed = dense_block_mask(20, block_size)
        found, expected = our_logits(ours, ids, allowed), their_logits(theirs, ids, allowed)
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
        if block_size < 20:
            everything = torch.ones(20, 20, dtype=torch.bool)
            assert (our_logits(ours, ids, everything) - expected).abs().max() > 0.1, "the mask must matter"


@torch.no_grad()
def test_qwen3_gives_the_same_logits_in_float32_and_is_with_blocks_of_one_its_own_causal_model(load_qwen3):
    """With B = 1 and no masks the model is a causal LM; the mask is theirs here, not ours."""
    model = tiny_model(7, rms_norm_eps=1e-3)
    theirs = load_qwen3(model)
    assert_same_logits(model, theirs, (4,), 2e-5)
    ids = torch.randint(0, 23, (2, 15), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids, use_cache=False).logits
    torch.testing.assert_close(our_logits(model, ids, dense_block_mask(15, 1)), expected, rtol=0, atol=2e-5)


@pytest.fixture
def in_float64(monkeypatch):
    """Their norms, rotary angles and softmax are float32 whatever the weights: written out in float64 instead."""
    from transformers.models.qwen3 import modeling_qwen3

    def norm(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    def rotary(self, x, position_ids):
        size = self.config.head_dim
        frequency = [self.config.rope_parameters["rope_theta"] ** (-2 * i / size) for i in range(size // 2)]
        angle = position_ids[..., None].double() * torch.tensor(frequency * 2, dtype=torch.float64)
        return angle.cos(), angle.sin()

    monkeypatch.setattr(modeling_qwen3.Qwen3RMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_qwen3.Qwen3RotaryEmbedding, "forward", rotary)
    monkeypatch.setattr(modeling_qwen3.nn.functional, "softmax", lambda x, dim, dtype=None: torch.softmax(x, dim))


@pytest.mark.parametrize("shard", [8000, MAX_SHARD_BYTES], ids=["shards", "one file"])
@torch.no_grad()
def test_in_float64_what_either_side_saves_gives_the_same_logits_on_the_other(load_qwen3, in_float64, tmp_path, shard):
    """Theirs: its own spelling of the config (`rope_parameters`, `dtype`), its own shards; our two facts are given."""
    model = tiny_model(7, torch.float64, rms_norm_eps=1e-3, rope_theta=1e6)
    theirs = load_qwen3(model, shard)
    assert_same_logits(model, theirs)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    raw = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert "rope_theta" not in raw and "rope_parameters" in raw
    facts = {key: raw.pop(key) for key in ("block_size", "mask_token_id") if key in raw}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(raw))
    ours = load_model(tmp_path / "theirs", dtype=None, block_size=4, mask_token_id=23)
    assert ours.config == model.config and facts.items() <= {"block_size": 4, "mask_token_id": 23}.items()
    assert_same_logits(ours, theirs)
