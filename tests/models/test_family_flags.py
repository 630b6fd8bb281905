"""The transformer's flags against Hugging Face's models that have them, and checkpoints of another family's names."""

import dataclasses

import pytest
import torch
from fixtures.naive import Masked
from fixtures.tiny import tiny_config, tiny_model

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.families import registry
from lightningrl.models.families.sdar import SDAR
from lightningrl.models.transformer import Transformer

CAUSAL = Masked(torch.ones(9, 9, dtype=torch.bool).tril()[None, None])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("qk_norm", "qkv_bias"), [(False, True), (False, False), (True, False)])
def test_logits_are_those_of_the_hugging_face_model_with_these_flags(qk_norm, qkv_bias, tied):
    """Qwen2 has biases and no norms of heads, Llama neither, Qwen3 the norms; all with and without a tied head."""
    import transformers

    ours = tiny_model(4, qk_norm=qk_norm, qkv_bias=qkv_bias, tie_word_embeddings=tied, attention="causal")
    with torch.no_grad():
        for parameter in ours.parameters():  # first biases are zeros, first norms ones
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    kind = {(False, True): "Qwen2", (False, False): "Llama", (True, False): "Qwen3"}[qk_norm, qkv_bias]
    shape = {key: value for key, value in dataclasses.asdict(ours.config).items() if key not in ("family", "attention")}
    config = getattr(transformers, f"{kind}Config")(**shape, attention_bias=qkv_bias, attn_implementation="eager")
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(0, 20, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
        found = ours.logits(ours.hidden(ids, torch.arange(9)[None], CAUSAL))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert ours.config.num_parameters == sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()


class Foreign(SDAR):
    """Full attention, biases, a tied head, and names of its own."""

    def shape(self, raw):
        found = super().shape(raw | {"attention_bias": False, "tie_word_embeddings": False})
        flags = {"qk_norm": False, "qkv_bias": True, "tie_word_embeddings": True}
        return found | {"family": "foreign", "attention": "full", **flags}

    def config_json(self, config):
        return super().config_json(config) | {"model_type": "foreign", "architectures": ["Foreign"]}

    def stored_name(self, name):
        return "net." + name.replace("self_attn", "attn").removeprefix("model.")


@pytest.fixture
def foreign(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, "foreign", f"{__name__}:Foreign")
    flags = {"qk_norm": False, "qkv_bias": True, "tie_word_embeddings": True, "attention": "full", "family": "foreign"}
    return tiny_model(3, **flags)


def test_a_familys_checkpoint_comes_back_from_files_in_its_names(foreign, tmp_path):
    from safetensors import safe_open

    save_model(foreign, tmp_path, eos_token_id=1, pad_token_id=2)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "net.layers.0.attn.q_proj.bias" in names and not [name for name in names if "lm_head" in name]
    again = load_model(tmp_path)
    assert again.config == foreign.config and again.lm_head.weight is again.model.embed_tokens.weight
    for name, weight in foreign.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_model_type_that_nobody_registered_is_refused_with_those_there_are(foreign, tmp_path, monkeypatch):
    save_model(foreign, tmp_path, eos_token_id=1, pad_token_id=2)
    monkeypatch.delitem(registry.FAMILIES, "foreign")
    with pytest.raises(CheckpointError, match="model_type is 'foreign', expected one of 'sdar', 'qwen3'"):
        load_model(tmp_path)


def test_weights_of_another_family_are_refused_by_name(foreign, tmp_path):
    save_model(foreign, tmp_path, eos_token_id=1, pad_token_id=2)
    other = tmp_path / "other"
    save_model(Transformer(tiny_config()), other, eos_token_id=1, pad_token_id=2)
    (tmp_path / "model.safetensors").replace(other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected weight net\."):
        load_model(other)
