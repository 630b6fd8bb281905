"""The transformer's flags against Hugging Face's models that have them, and checkpoints of a family from outside."""

import dataclasses

import pytest
import torch
from fixtures.naive import Masked
from fixtures.tiny import tiny_config, tiny_model
from safetensors import safe_open

from lightningrl.config.experiment import Experiment, load
from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.checkpoint import load_model, save_model
from lightningrl.models.families import registry
from lightningrl.models.families.sdar import SDAR
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import context_of

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


FLAGS = {"qk_norm": False, "qkv_bias": True, "tie_word_embeddings": True, "family": "foreign", "attention": "full"}
MEMBERS = {"family": {"foreign": f"{__name__}:Foreign"}}


def nano():
    return load(PACKAGE.parent / "config" / "nano.yaml").model_dump()


class Foreign(SDAR):
    """Full attention, biases, a tied head, and names of its own."""

    def shape(self, raw):
        return super().shape(raw | {"attention_bias": False, "tie_word_embeddings": False}) | FLAGS

    def config_json(self, config):
        return super().config_json(config) | {"model_type": "foreign", "architectures": ["Foreign"]}

    def stored_name(self, name):
        return "net." + name.replace("self_attn", "attn").removeprefix("model.")


@pytest.fixture
def foreign(monkeypatch, tmp_path):
    """A model of the family that only plug-ins know, and its checkpoint."""
    monkeypatch.setitem(registry.PLUGGED, "foreign", MEMBERS["family"]["foreign"])
    model = tiny_model(3, **FLAGS)
    save_model(model, tmp_path, eos_token_id=1, pad_token_id=2)
    return model, tmp_path


def test_a_familys_checkpoint_comes_back_from_files_in_its_names(foreign):
    model, folder = foreign
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "net.layers.0.attn.q_proj.bias" in names and not [name for name in names if "lm_head" in name]
    again = load_model(folder)
    assert again.config == model.config and again.lm_head.weight is again.model.embed_tokens.weight
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    save_model(Transformer(tiny_config()), folder / "other", eos_token_id=1, pad_token_id=2)
    (folder / "model.safetensors").replace(folder / "other" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected weight net\."):
        load_model(folder / "other")


def test_a_plug_in_names_a_family_for_the_stages_that_read_weights_and_its_file_is_in_their_keys(foreign):
    usual, own = (plan(Experiment.model_validate(nano() | {"plugins": names})) for names in ([], [__name__]))
    registry.PLUGGED.clear()
    with pytest.raises(CheckpointError, match="model_type is 'foreign', expected one of 'sdar', 'qwen3'"):
        load_model(foreign[1])
    stage = own.stage("evaluate", "base/gsm-mini")
    context_of(stage, own.experiment, print, bool, print)
    assert load_model(foreign[1]).config.family == "foreign"
    assert f"plug-in {__name__}" in stage.sources and stage.key != usual.stage("evaluate", "base/gsm-mini").key
    assert own.stage("data", "gsm-mini").key == usual.stage("data", "gsm-mini").key
    context_of(usual.stage("evaluate", "base/gsm-mini"), usual.experiment, print, bool, print)
    assert registry.known() == registry.FAMILIES, "another stage has no such family"


def test_a_plug_in_may_not_take_a_familys_name(monkeypatch):
    monkeypatch.setitem(MEMBERS["family"], "sdar", f"{__name__}:Foreign")
    with pytest.raises(ConfigError, match=r"the family 'sdar', a name that .*:SDAR has already"):
        plan(Experiment.model_validate(nano() | {"plugins": [__name__]}))
