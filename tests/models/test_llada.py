"""LLaDA's family: the official logits, its own files, what it refuses, its tokenizer, template and stop tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.naive import Masked
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from lightningrl.errors import CheckpointError
from lightningrl.inference.llm import LLM
from lightningrl.models.attention import PagedAttention, PagedKV, PagedSpan
from lightningrl.models.checkpoint import empty_model, load_model, save_model
from lightningrl.models.config_file import family_named, read_config
from lightningrl.tokenization import encode_prompt, load_tokenizer, stop_token_ids

FOLDER = Path(__file__).parents[1] / "fixtures" / "llada_tiny"
TINY = json.loads((FOLDER / "config.json").read_text())
PUBLISHED = TINY | {
    "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288, "vocab_size": 126464,
    "embedding_size": 126464, "rope_theta": 500000.0, "max_sequence_length": 4096, "mask_token_id": 126336,
    "eos_token_id": 126081, "pad_token_id": 126081, "precision": "amp_bf16", "init_device": "meta",
}  # fmt: skip
del PUBLISHED["torch_dtype"]


def folder_of(tmp_path, raw, remove=()):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if k not in remove}))
    return tmp_path


def full_logits(model, ids, hidden_from=0):
    """Every position sees every one that lies at or behind `hidden_from`."""
    length = len(ids)
    mask = (torch.arange(length) >= hidden_from).expand(1, 1, length, length) | torch.eye(length, dtype=torch.bool)
    with torch.no_grad():
        return model.logits(model.hidden(ids[None], torch.arange(length)[None], Masked(mask))[0])


def test_logits_confidences_and_entropies_are_the_official_ones():
    golden, model = load_file(FOLDER / "golden_logits.safetensors"), load_model(FOLDER)
    for i in range(6):
        found = full_logits(model, golden[f"input_ids_{i}"])
        torch.testing.assert_close(found, golden[f"logits_{i}"], rtol=0, atol=2e-4)
        p = found.double().softmax(-1)
        torch.testing.assert_close(p.amax(-1), golden[f"confidence_{i}"], rtol=0, atol=2e-4)
        torch.testing.assert_close(-(p * p.log()).sum(-1), golden[f"entropy_{i}"], rtol=0, atol=1e-3)
    half = load_model(FOLDER, dtype=torch.bfloat16)
    gap = (full_logits(half, golden["input_ids_1"]).float() - golden["logits_1"]).abs()
    assert 0 < gap.mean() < 0.3 and gap.max() < 4, "bf16 runs; its golden is an order of magnitude"


def test_a_left_padded_row_whose_padding_is_hidden_has_the_logits_of_the_official_batch_and_of_the_row_alone():
    golden, model = load_file(FOLDER / "golden_logits.safetensors"), load_model(FOLDER, dtype=torch.float64)
    pads = (golden["padded_attention_mask"] == 0).sum(-1).tolist()
    assert len(set(pads)) == 3
    for ids, expected, pad in zip(golden["padded_input_ids"], golden["padded_logits"], pads, strict=True):
        found = full_logits(model, ids, pad)[pad:]
        torch.testing.assert_close(found, expected[pad:].double(), rtol=0, atol=2e-4)
        torch.testing.assert_close(found, full_logits(model, ids[pad:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", [0, 1])
@torch.no_grad()
def test_forwards_over_stale_keys_have_the_official_logits(case):
    """A full forward before; then the block and all behind it (prefix), or the block alone (dual), over its keys."""
    golden, model = load_file(FOLDER / "golden_logits.safetensors"), load_model(FOLDER)
    before, after = golden[f"cache{case}_before"], golden[f"cache{case}_after"]
    (start, stop), end, config = golden[f"cache{case}_block"].tolist(), len(golden[f"cache{case}_after"]), model.config

    def forward(cache, ids, first, last):
        at = np.arange(first, last)[None]
        span = PagedSpan(np.arange(cache.pages)[None, ::-1].copy(), at, np.full_like(at, end), cache.page_tokens)
        return model.logits(model.hidden(ids[None, first:last], torch.from_numpy(at), PagedAttention(cache, [span])))[0]

    for name, last in (("prefix", end), ("dual", stop), ("full", None)):
        cache = PagedKV(
            config.num_hidden_layers, 6, 8, config.num_key_value_heads, config.head_dim, model.lm_head.weight
        )
        forward(cache, before, 0, end)
        found = forward(cache, after, 0, end) if last is None else forward(cache, after, start, last)
        torch.testing.assert_close(found, golden[f"cache{case}_logits_{name}"], rtol=0, atol=2e-4)


def test_the_published_size_has_the_published_names_shapes_parameters_and_bytes(tmp_path):
    """`total_size` of the hub's index is 16,031,162,368."""
    config = read_config(folder_of(tmp_path, PUBLISHED))
    assert (config.attention, config.mask_token_id, config.block_size, config.head_dim) == ("full", 126336, 32, 128)
    assert not (config.qk_norm or config.qkv_bias or config.tie_word_embeddings)
    weights, family = empty_model(config).to(torch.bfloat16).weights(), family_named("llada")
    d, f, v = 4096, 12288, 126464
    layer = {
        "attn_norm": (d,), "q_proj": (d, d), "k_proj": (d, d), "v_proj": (d, d), "attn_out": (d, d), "ff_norm": (d,),
        "ff_proj": (f, d), "up_proj": (f, d), "ff_out": (d, f),
    }  # fmt: skip
    expected = {"wte": (v, d), "ln_f": (d,), "ff_out": (v, d)}
    expected |= {f"blocks.{i}.{name}": shape for i in range(32) for name, shape in layer.items()}
    expected = {f"model.transformer.{name}.weight": shape for name, shape in expected.items()}
    assert {family.stored_name(name): tuple(weight.shape) for name, weight in weights.items()} == expected
    assert sum(weight.numel() for weight in weights.values()) == config.num_parameters == 8_015_581_184
    assert sum(weight.nbytes for weight in weights.values()) == 16_031_162_368


def test_what_was_loaded_comes_out_with_the_same_names_values_dtype_and_config(tmp_path):
    stored = load_file(FOLDER / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(FOLDER, dtype=dtype)
        save_model(model, tmp_path, eos_token_id=113, pad_token_id=113)
        again = load_file(tmp_path / "model.safetensors")
        assert again.keys() == stored.keys()
        assert all(torch.equal(again[name], weight.to(dtype)) for name, weight in stored.items())
        written = json.loads((tmp_path / "config.json").read_text())
        same = TINY.keys() - {"torch_dtype", "precision", "transformers_version", "init_device"}
        assert {key: written[key] for key in same} == {key: TINY[key] for key in same}
        assert read_config(tmp_path) == model.config
    save_model(load_model(FOLDER, block_size=8), tmp_path, eos_token_id=113, pad_token_id=113)
    assert read_config(tmp_path).block_size == 8


def test_six_shards_in_the_hubs_order_are_read_whole(tmp_path):
    """The weights of a layer lie in different files there."""
    stored = load_file(FOLDER / "model.safetensors")
    shards = {name: f"model-{i % 6 + 1:05d}-of-00006.safetensors" for i, name in enumerate(sorted(stored))}
    for shard in set(shards.values()):
        part = {name: weight.bfloat16() for name, weight in stored.items() if shards[name] == shard}
        save_file(part, folder_of(tmp_path, TINY) / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": shards}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = load_model(tmp_path, dtype=None)
    assert {weight.dtype for weight in model.weights().values()} == {torch.bfloat16}
    (tmp_path / shards["model.transformer.wte.weight"]).unlink()
    with pytest.raises(CheckpointError, match=r"model-0000\d-of-00006\.safetensors is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("architectures", ["LLaDAMoEModelLM"]), ("block_type", "sequential"), ("activation_type", "swiglu"),
     ("alibi", True),
     ("layer_norm_type", "default"), ("rope", False), ("include_bias", True), ("include_qkv_bias", True),
     ("weight_tying", True), ("attention_layer_norm", True), ("input_emb_norm", True), ("scale_logits", True),
     ("bias_for_layer_norm", True), ("block_group_size", 2), ("quantization_config", {"bits": 4})],
)  # fmt: skip
def test_what_it_does_not_compute_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is .*; this model class has .* only"):
        read_config(folder_of(tmp_path, TINY | {key: value}))


def test_keys_that_say_the_same_in_another_way_and_those_that_are_missing(tmp_path):
    whole = read_config(folder_of(tmp_path, TINY))
    for other in ({"n_kv_heads": None}, {"n_kv_heads": None, "multi_query_attention": False}, {"embedding_size": None}):
        assert read_config(folder_of(tmp_path, TINY | other)) == whole
    one = read_config(folder_of(tmp_path, TINY | {"n_kv_heads": None, "multi_query_attention": True}))
    assert one.num_key_value_heads == 1
    wide = read_config(folder_of(tmp_path, TINY | {"mlp_hidden_size": None}))
    assert wide.intermediate_size == 4 * 48
    with pytest.raises(CheckpointError, match=r"block_type is None; this model class has 'llama' only"):
        read_config(folder_of(tmp_path, TINY, remove=["block_type"]))
    with pytest.raises(CheckpointError, match="lacks max_position_embeddings"):
        read_config(folder_of(tmp_path, TINY, remove=["max_sequence_length"]))
    with pytest.raises(CheckpointError, match="d_model is 50, expected a multiple of the 4 heads"):
        read_config(folder_of(tmp_path, TINY | {"d_model": 50}))
    assert read_config(folder_of(tmp_path, TINY), block_size=16).block_size == 16
    with pytest.raises(CheckpointError, match="says mask_token_id 117, the caller 3"):
        read_config(tmp_path, mask_token_id=3)


@pytest.mark.parametrize("planner", [False, True])
def test_a_checkpoint_of_another_model_is_refused_with_the_weight_it_has_too_much_or_too_few(tmp_path, planner):
    stored = load_file(FOLDER / "model.safetensors")
    if planner:
        stored["mask_linear.weight"] = torch.zeros(1, 48)
    else:
        del stored["model.transformer.blocks.1.ff_out.weight"]
    save_file(stored, folder_of(tmp_path, TINY) / "model.safetensors", {"format": "pt"})
    said = "unexpected weight mask_linear.weight" if planner else r"the first is model\.transformer\.blocks\.1\.ff_out"
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


@pytest.fixture
def hub_folder(tmp_path):
    """A small LLaDA as on the hub: its tokenizer names no mask token, its eos is the pad, its template adds bos."""
    special = [
        "<|startoftext|>",
        "<|endoftext|>",
        "<|mdm_mask|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    words = {word: i for i, word in enumerate(["user", "assistant", "system", "\n", "hello", "world", "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    config = {
        "bos_token": special[0], "eos_token": special[1], "pad_token": special[1], "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "cls_token": None, "tokenizer_class": "PreTrainedTokenizerFast",
        "trust_remote_code": True, "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    raw = TINY | {"mask_token_id": ids["<|mdm_mask|>"], "eos_token_id": 8, "pad_token_id": 8}
    save_file(load_file(FOLDER / "model.safetensors"), folder_of(tmp_path, raw) / "model.safetensors", {"format": "pt"})
    return tmp_path, ids


def test_tokenizer_template_mask_and_stop_tokens_of_the_hubs_folder(hub_folder):
    folder, ids = hub_folder
    tokenizer = load_tokenizer(folder)
    assert tokenizer.mask_token_id == ids["<|mdm_mask|>"] == 9
    header = [ids["<|start_header_id|>"], 0, ids["<|end_header_id|>"], 3, 3]
    answer = [ids["<|start_header_id|>"], 1, ids["<|end_header_id|>"], 3, 3]
    found = encode_prompt(tokenizer, [{"role": "user", "content": " hello "}])
    assert found.tolist() == [ids["<|startoftext|>"], *header, 4, ids["<|eot_id|>"], *answer]
    assert stop_token_ids(tokenizer, folder) == [ids["<|endoftext|>"]]
    llm = LLM(folder)
    assert llm.stop_ids == sorted([ids["<|endoftext|>"], ids["<|eot_id|>"]])
    assert llm.model.usable_vocab == len(tokenizer) == 13, "padding rows of the vocabulary are never drawn"


def test_a_tokenizer_without_a_mask_beside_a_config_that_does_not_help_is_refused(hub_folder):
    folder, _ = hub_folder
    for value in (None, 10**9, "x", [1]):
        folder_of(folder, TINY | {"mask_token_id": value})
        assert load_tokenizer(folder).mask_token_id is None, "a family without a mask needs none"
        with pytest.raises(CheckpointError, match=r"mask.token"):
            LLM(folder)


def test_names_in_the_tiny_file_are_the_official_ones():
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        names = set(file.keys())
    family = family_named("llada")
    assert names == {family.stored_name(name) for name in load_model(FOLDER).weights()}
