"""The families of Qwen2's line and Llama 3: official logits, published sizes, Hugging Face's arithmetic, refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.naive import Masked, dense_block_mask
from safetensors.torch import load_file

from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import empty_model, into_files, load_model, save_model
from lightningrl.models.config_file import read_config
from lightningrl.models.families.protocol import NO_MASK

FIXTURES = Path(__file__).parents[1] / "fixtures"
QWEN_7B = {
    "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
    "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    "use_cache": True, "use_sliding_window": False, "vocab_size": 152064, "attention_dropout": 0.0,
}  # fmt: skip
QWEN_1_5B = QWEN_7B | {
    "hidden_size": 1536, "intermediate_size": 8960, "max_window_layers": 21, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 131072}
DREAM = {
    "model_type": "Dream", "architectures": ["DreamModel"], "max_position_embeddings": 131072, "rope_scaling": None,
    "sliding_window": None, "mask_token_id": 151666, "pad_token_id": 151643, "bos_token_id": 151643,
    "eos_token_id": 151643,
}  # fmt: skip
FAST = {
    "model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 32,
    "conplemenrary_mask": True, "layer_types": ["full_attention"] * 28, "sliding_window": None,
}  # fmt: skip
LLAMA_8B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
SCALED = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
LLAMA_31 = LLAMA_8B | {"max_position_embeddings": 131072, "mlp_bias": False, "rope_scaling": SCALED}
LLAMA_32_1B = LLAMA_31 | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "tie_word_embeddings": True, "rope_scaling": SCALED | {"factor": 32.0},
}  # fmt: skip


def written(folder, raw, **changes):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(raw | changes))
    return folder


def logits_of(model, ids, mask):
    with torch.no_grad():
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        return model.logits(model.hidden(ids, positions, Masked(mask[None, None].to(model.device))))


@pytest.fixture
def fast_dllm(tmp_path):
    """The folder of the tiny Fast-dLLM v2: its own config beside the weights that the three systems share."""
    shutil.copy(FIXTURES / "fastdllm_v2_tiny" / "config.json", tmp_path)
    shutil.copy(FIXTURES / "dream_tiny" / "model.safetensors", tmp_path)
    return tmp_path


def test_dreams_logits_are_the_official_ones_and_shifted_by_one():
    golden = load_file(FIXTURES / "dream_tiny" / "golden_logits.safetensors")
    model, ids = load_model(FIXTURES / "dream_tiny"), golden["input_ids"]
    everything, causal = torch.ones(24, 24, dtype=torch.bool), dense_block_mask(24, 1)
    found = logits_of(model, ids, everything)
    torch.testing.assert_close(found, golden["logits"], rtol=0, atol=2e-3)
    assert (logits_of(model, ids, causal) - golden["logits"]).abs().max() > 0.1, "the mask must matter"
    assert model.config.logit_shift and model.config.attention == "full"
    torch.testing.assert_close(found[:, :-1], golden["logits_shifted"][:, 1:], rtol=0, atol=2e-3)
    torch.testing.assert_close(found[:, 0], golden["logits_shifted"][:, 0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("block_size", [8, 32])
def test_fast_dllm_v2s_logits_are_the_official_ones(fast_dllm, block_size):
    golden = load_file(FIXTURES / "fastdllm_v2_tiny" / "golden_logits.safetensors")
    model = load_model(fast_dllm)
    assert model.config.block_size == 32 and model.config.attention == "block_causal" and model.config.logit_shift
    found = logits_of(model, golden["input_ids"], dense_block_mask(40, block_size))
    torch.testing.assert_close(found, golden[f"logits_block{block_size}"], rtol=0, atol=2e-3)
    assert (found - golden[f"logits_block{40 - block_size}"]).abs().max() > 0.1, "the block size must matter"


def test_in_bfloat16_the_official_logits_come_out_in_their_order_of_magnitude():
    golden = load_file(FIXTURES / "dream_tiny" / "golden_logits.safetensors")
    model = load_model(FIXTURES / "dream_tiny", dtype=torch.bfloat16)
    found = logits_of(model, golden["input_ids"], torch.ones(24, 24, dtype=torch.bool)).float()
    assert (found - golden["logits"]).abs().mean() < 0.05 * golden["logits"].abs().mean()


SIZES = [
    ("Qwen2.5-7B", QWEN_7B | QWEN2, 7_615_616_512, 15_231_233_024, 4),
    ("Qwen2.5-1.5B", QWEN_1_5B | QWEN2, 1_543_714_304, 3_087_428_608, 1),
    ("Dream-v0-Instruct-7B", QWEN_7B | DREAM, 7_615_616_512, 15_231_233_024, 4),
    ("Fast_dLLM_v2_7B", QWEN_7B | FAST, 7_615_616_512, 15_231_233_024, 4),
    ("Fast_dLLM_v2_1.5B", QWEN_1_5B | FAST, 1_543_714_304, 3_087_428_608, 1),
    ("Llama-3-8B", LLAMA_8B, 8_030_261_248, 16_060_522_496, 4),
    ("Llama-3.1-8B", LLAMA_31, 8_030_261_248, 16_060_522_496, 4),
    ("Llama-3.2-1B", LLAMA_32_1B, 1_235_814_400, 2_471_628_800, 1),
]


@pytest.mark.parametrize(
    ("raw", "parameters", "nbytes", "files"), [row[1:] for row in SIZES], ids=[r[0] for r in SIZES]
)
def test_published_sizes_have_the_published_names_counts_and_bytes(tmp_path, raw, parameters, nbytes, files):
    """15,231,233,024 is the `total_size` of the index files of Qwen2.5-7B and Fast_dLLM_v2_7B, 16,060,522,496 that of
    Llama 3's; the tied sizes have no lm_head (338 tensors in the file of Fast_dLLM_v2_1.5B)."""
    config = read_config(written(tmp_path, raw))
    weights = empty_model(config).to(torch.bfloat16).weights()
    assert sum(w.numel() for w in weights.values()) == config.num_parameters == parameters
    assert sum(w.nbytes for w in weights.values()) == nbytes
    assert len(into_files(weights).filename_to_tensors) == files
    parts = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
    parts += [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    kinds = ("weight",) if raw["model_type"] == "llama" else ("weight", "bias")
    parts += [f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in kinds]
    names = {f"model.layers.{i}.{part}" for i in range(raw["num_hidden_layers"]) for part in parts}
    names |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert set(weights) == names - ({"lm_head.weight"} if raw["tie_word_embeddings"] else set())


def test_facts_of_each_family_are_its_own(tmp_path):
    kinds = {
        "qwen2": (QWEN_7B | QWEN2, "causal", 1, NO_MASK), "llama": (LLAMA_31, "causal", 1, NO_MASK),
        "Dream": (QWEN_7B | DREAM, "full", 1, 151666), "fast": (QWEN_7B | FAST, "block_causal", 32, 151665),
    }  # fmt: skip
    for name, (raw, attention, block_size, mask) in kinds.items():
        config = read_config(written(tmp_path / name, raw))
        assert (config.attention, config.block_size, config.mask_token_id) == (attention, block_size, mask)
        assert config.logit_shift and config.head_dim == 128 and config.qkv_bias == (name != "llama")
    assert read_config(written(tmp_path, LLAMA_32_1B)).head_dim == 64
    with pytest.raises(CheckpointError, match=r"says mask_token_id 151666, the caller 5: they must agree"):
        read_config(tmp_path / "Dream", mask_token_id=5)


SMALL = {
    "vocab_size": 53, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.4, "rms_norm_eps": 1e-3,
    "rope_theta": 500.0,
}  # fmt: skip
SMALL_SCALED = SCALED | {"original_max_position_embeddings": 64}


@pytest.fixture
def in_float64(monkeypatch):
    """Their norms and rotary angles are float32 whatever the weights: norms written out, angles of float64
    frequencies, which they compute themselves from the config (with the scaling of Llama 3)."""
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2 import modeling_qwen2

    def norm(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    def rotary(self, x, position_ids):
        angle = position_ids[..., None].double() * torch.cat([self.inv_freq, self.inv_freq]).double()
        return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling

    for module, name in ((modeling_llama, "Llama"), (modeling_qwen2, "Qwen2")):
        monkeypatch.setattr(getattr(module, f"{name}RMSNorm"), "forward", norm)
        monkeypatch.setattr(getattr(module, f"{name}RotaryEmbedding"), "forward", rotary)
        monkeypatch.setattr(module.nn.functional, "softmax", lambda x, dim, dtype=None: torch.softmax(x, dim))


def their_model(kind, seed=0, **changes):
    """A random model of Hugging Face's, in float64, biases and norms included."""
    import transformers

    shape = {key: value for key, value in (SMALL | changes).items() if key != "rope_theta"}
    rope = changes.pop("rope", None) or {"rope_type": "default"}
    config = getattr(transformers, f"{kind}Config")(
        **{key: value for key, value in shape.items() if key != "rope"},
        rope_parameters=rope | {"rope_theta": SMALL["rope_theta"]}, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(seed)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).double().eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.ndim == 1:
                weight.copy_(0.3 * torch.randn_like(weight) + ("norm" in name))
    return theirs


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "rope"), [("Qwen2", None), ("Llama", None), ("Llama", SMALL_SCALED | {"rope_type": "llama3"})]
)
def test_in_float64_hugging_faces_checkpoint_gives_its_logits_here_and_ours_there(
    in_float64, tmp_path, kind, rope, tied
):
    """Theirs in its own spelling of the config. The frequencies are float32 numbers there: 1e-6 of an angle."""
    import transformers

    theirs = their_model(kind, rope=rope, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=20_000)
    ours = load_model(tmp_path / "theirs", dtype=None)
    ids = torch.randint(0, 53, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits
    found = logits_of(ours, ids, dense_block_mask(200, 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert (logits_of(ours, ids, torch.ones(200, 200, dtype=torch.bool)) - expected).abs().max() > 0.1
    save_model(ours, tmp_path / "ours", eos_token_id=1, pad_token_id=None, bos_token_id=2)
    again = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(
        tmp_path / "ours", dtype=torch.float64, attn_implementation="eager"
    )
    assert again.config.rope_parameters == theirs.config.rope_parameters and again.config.bos_token_id == 2
    with torch.no_grad():
        torch.testing.assert_close(again(ids, use_cache=False).logits, expected, rtol=0, atol=1e-12)


def test_llama_3s_scaling_keeps_fast_pairs_and_divides_slow_ones():
    """Of 128 numbers with theta 500000, context 8192, factor 8: a pair of wavelength 8192 / 4 or less keeps its
    frequency, one of 8192 or more turns at an eighth of it; between them by hand at one wavelength."""
    import math

    from lightningrl.models.rope import Llama3Rope, frequencies

    scaling = Llama3Rope(**{key: value for key, value in SCALED.items() if key != "rope_type"})
    plain, scaled = frequencies(128, 5e5), frequencies(128, 5e5, scaling)
    wavelength = 2 * math.pi / plain
    assert torch.equal(scaled[wavelength <= 2048], plain[wavelength <= 2048])
    torch.testing.assert_close(scaled[wavelength >= 8192], plain[wavelength >= 8192] / 8, rtol=1e-12, atol=0)
    middle = torch.tensor([2 * math.pi / 4096], dtype=torch.float64)  # 2 turns: a third of the way from 1 to 4
    torch.testing.assert_close(scaling.scaled(middle), middle * (1 / 3 + 2 / 3 / 8), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "raw", [QWEN_7B | QWEN2, QWEN_7B | DREAM, QWEN_7B | FAST, LLAMA_31], ids=lambda r: r["model_type"]
)
def test_what_was_loaded_is_saved_in_the_familys_own_format(tmp_path, raw):
    """A small one in the hub's layout: the same names, dtypes and values, and a config that says the same."""
    from safetensors.torch import save_file

    small = {key: value for key, value in SMALL.items() if key not in ("rms_norm_eps", "rope_theta")}
    raw = raw | small | ({"mask_token_id": 50} if "mask_token_id" in raw or "bd_size" in raw else {})
    raw.pop("layer_types", None)
    folder = written(tmp_path / "hub", raw, torch_dtype="bfloat16")
    shapes = {name: w.shape for name, w in empty_model(read_config(folder)).weights().items()}
    weights = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_model(load_model(folder, dtype=None), tmp_path / "saved", eos_token_id=3, pad_token_id=4, max_shard_bytes=9000)
    found = {}
    for path in (tmp_path / "saved").glob("model-*.safetensors"):
        found |= load_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == torch.bfloat16 for name in weights)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    same = {"torch_dtype", "architectures", "model_type", "rope_scaling", "bd_size", "mask_token_id", *small}
    assert {k: config.get(k) for k in same} == {k: raw.get(k, "bfloat16" if k == "torch_dtype" else None) for k in same}
    assert read_config(tmp_path / "saved") == read_config(folder)


YARN = {"rope_type": "yarn", "factor": 4.0}
REFUSED = [
    *(("qwen2", key, value, key) for key, value in (
        ("hidden_act", "gelu"), ("use_sliding_window", True), ("attention_dropout", 0.1), ("rope_scaling", YARN),
        ("rope_parameters", YARN | {"rope_theta": 1e6}), ("use_mrope", True), ("quantization_config", {"bits": 4}),
        ("layer_types", ["sliding_attention"]), ("tie_word_embeddings", None), ("hidden_size", 3583),
    )),
    *(("llama", key, value, key) for key, value in (
        ("attention_bias", True), ("mlp_bias", True), ("pretraining_tp", 2), ("rope_scaling", YARN),
        ("rope_scaling", {"type": "linear", "factor": 2.0}), ("rope_scaling", SCALED | {"rope_type": "longrope"}),
        ("rope_scaling", SCALED | {"beta": 1}), ("rope_scaling", SCALED | {"factor": "8"}),
        ("rope_scaling", SCALED | {"high_freq_factor": 1.0}), ("sliding_window", 4096),
        ("rope_parameters", SCALED | {"rope_theta": 1e4}),
    )),
    ("Dream", "mask_token_id", None, "lacks mask_token_id"), ("Dream", "mask_token_id", -1, "outside the vocabulary"),
    ("Dream", "use_sliding_window", True, "use_sliding_window"), ("Dream", "rope_theta", None, "lacks rope_theta"),
    ("Fast_dLLM_Qwen", "bd_size", None, "lacks block_size"), ("Fast_dLLM_Qwen", "bd_size", 0, "block_size is 0"),
    ("Fast_dLLM_Qwen", "vocab_size", 151000, "mask token 151665 outside"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "key", "value", "message"), REFUSED)
def test_what_a_family_does_not_compute_is_refused_by_name(tmp_path, family, key, value, message):
    raw = {"qwen2": QWEN_7B | QWEN2, "llama": LLAMA_31, "Dream": QWEN_7B | DREAM, "Fast_dLLM_Qwen": QWEN_7B | FAST}
    read_config(written(tmp_path, raw[family]))
    with pytest.raises(CheckpointError, match=rf"config\.json:? .*{message}"):
        read_config(written(tmp_path, raw[family], **{key: value}))


def test_a_checkpoint_of_another_family_is_refused_before_its_weights_are_read(tmp_path):
    """Llama's files have no biases, Qwen2's have them; SDAR has norms of heads."""
    shutil.copy(FIXTURES / "dream_tiny" / "model.safetensors", tmp_path)
    raw = json.loads((FIXTURES / "dream_tiny" / "config.json").read_text())
    for kind, message in (
        ("llama", "unexpected weight .*bias"),
        ("sdar", "lacks head_dim"),
        ("gpt2", "expected one of"),
    ):
        written(tmp_path, raw, model_type=kind)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path)
