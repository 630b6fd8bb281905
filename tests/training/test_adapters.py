"""LoRA in training: where it begins, what is decoded and shipped, peft's format, which modules may have one."""

import json

import pytest
import torch
from fixtures.distilling import trainer_of
from fixtures.naive import Masked
from fixtures.tiny import FAMILIES, tiny_model, tiny_setup

from lightningrl.errors import ConfigError
from lightningrl.models.adapters import (
    adapted,
    adapters_off,
    add_adapters,
    merged_weights,
    split_factors,
    start_adapters,
    write_adapter,
)
from lightningrl.models.checkpoint import save_model
from lightningrl.models.lora import CONFIG, load_merged
from lightningrl.training.shards import full, full_weights, own_part


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tokenizer of `tiny_setup`."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_setup(folder)
    return folder


def test_adapters_begin_at_the_base_and_are_trained_alone_and_decoded_merged(folder, tmp_path):
    """The decoder has a plain model; what is chosen for shipping are its weights, and the factors beside them."""
    trainer = trainer_of(folder, "dparallel", "sdar", {"adapter": {"rank": 3, "alpha": 6}}, steps=2, learning_rate=0.05)
    model, plain = trainer.model, trainer.setup.decoder.model
    assert len(trainer.trained) == 2 * 7 * 2 and all(name.endswith(("lora_A", "lora_B")) for name in trainer.trained)
    start = {name: weight.clone() for name, weight in plain.named_parameters()}
    assert all(torch.equal(start[name], weight) for name, weight in merged_weights(model, full))
    first, again = (add_and_start(seed) for seed in (5, 5))
    assert all(torch.equal(a.lora_A, b.lora_A) for (_, a), (_, b) in zip(first, again, strict=True))
    assert not torch.equal(first[0][1].lora_A, add_and_start(6)[0][1].lora_A)
    trainer.step(), trainer.step()
    ids, at = torch.arange(8)[None], torch.arange(8)[None]
    seen = Masked(torch.ones(1, 1, 8, 8, dtype=torch.bool))
    hidden = [each.hidden(ids, at, seen) for each in (model, plain)]
    torch.testing.assert_close(*hidden, rtol=0, atol=1e-5)
    with adapters_off(model):
        assert not torch.allclose(model.hidden(ids, at, seen), hidden[0], atol=1e-3)
    assert any(not torch.equal(start[name], weight) for name, weight in plain.named_parameters())
    weights, factors = split_factors(trainer.selection.weights)
    assert weights.keys() == start.keys() and factors.keys() == trainer.trained.keys()


def add_and_start(seed):
    model = tiny_model()
    add_adapters(model, 2, 2.0)
    start_adapters(model, seed, own_part)
    return adapted(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_adapter_is_read_and_merged_to_the_shipped_weights(family, tmp_path):
    """By our own strict reader, whose merge is compared with peft's elsewhere. LLaDA's `ff_out` is also its head's
    name, so its config has a pattern."""
    base, model = tiny_model(0, torch.float64, **FAMILIES[family]), tiny_model(0, torch.float64, **FAMILIES[family])
    add_adapters(model, 2, 6.0)
    start_adapters(model, 1, own_part)
    with torch.no_grad():
        for _, layer in adapted(model):
            layer.lora_B.normal_(std=0.1)
    (tmp_path / "base").mkdir(), (tmp_path / "adapter").mkdir()
    save_model(base, tmp_path / "base", eos_token_id=1, pad_token_id=0)
    weights, factors = split_factors(full_weights(model, True))
    write_adapter(tmp_path / "adapter", model.config.family, factors, 6.0)
    targets = json.loads((tmp_path / "adapter" / CONFIG).read_text())["target_modules"]
    assert isinstance(targets, str) == (family == "llada")
    options = {"block_size": 4, "mask_token_id": 23} if family == "sdar" else {}
    found = load_merged(tmp_path / "base", tmp_path / "adapter", dtype=torch.float64, **options)
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-12)


def test_peft_merges_a_written_adapter_to_the_shipped_weights(tmp_path):
    """Into transformers' own class, whose modules have the names of SDAR's; bit for bit in float64."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model, shape = tiny_model(0, torch.float64), tiny_model().config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings")  # fmt: skip
    config = transformers.Qwen3Config(**{name: getattr(shape, name) for name in names}, tie_word_embeddings=False)
    base = transformers.Qwen3ForCausalLM(config).double()
    base.load_state_dict(model.state_dict())
    add_adapters(model, 3, 6.0)
    start_adapters(model, 1, own_part)
    with torch.no_grad():
        for _, layer in adapted(model):
            layer.lora_B.normal_(std=0.1)
    weights, factors = split_factors(full_weights(model, True))
    write_adapter(tmp_path, "sdar", factors, 6.0)
    merged = peft.PeftModel.from_pretrained(base, str(tmp_path)).double().merge_and_unload().state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())


def test_targets_that_reach_nothing_or_the_head_are_refused():
    for targets, told in ((["query"], r"found \['query'\], which are no modules"), (["ff_out"], "is the head")):
        with pytest.raises(ConfigError, match=told):
            add_adapters(tiny_model(**FAMILIES["llada"]), 2, 2.0, targets)


def test_a_planner_has_no_adapters_and_is_no_head():
    """Its layer's matrices have the ends of names that targets have; alone they are refused as what they are."""
    plain, planned = tiny_model(**FAMILIES["llada"]), tiny_model(**FAMILIES["llada"], has_planner=True)
    for targets in (["q_proj", "attn_out", "up_proj"], []):
        assert add_adapters(planned, 2, 2.0, targets) == add_adapters(plain, 2, 2.0, targets)
        assert not any(name.startswith("planner.") for name, _ in adapted(planned))
        plain, planned = tiny_model(**FAMILIES["llada"]), tiny_model(**FAMILIES["llada"], has_planner=True)
    with pytest.raises(ConfigError, match=r"only of the planner \(mask_linear\), which has no adapters"):
        add_adapters(planned, 2, 2.0, ["mask_linear"])
