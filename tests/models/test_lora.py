"""LoRA adapters: D2F's official logits, the formula, peft's own merge, and everything that must be refused."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from fixtures.naive import Masked
from safetensors.torch import load_file, save_file

from lightningrl.errors import CheckpointError
from lightningrl.inference.llm import LLM
from lightningrl.models import lora
from lightningrl.models.checkpoint import load_model
from lightningrl.models.lora import load_merged
from lightningrl.quantization.open import QUANTIZATION, open_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
DREAM, D2F = FIXTURES / "dream_tiny", FIXTURES / "d2f_tiny"


@pytest.fixture
def adapter(tmp_path):
    """A copy of D2F's adapter to be damaged."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in (lora.CONFIG, lora.TENSORS):
        shutil.copy(D2F / name, folder)
    return folder


def edit(folder, remove=(), **changes):
    raw = json.loads((folder / lora.CONFIG).read_text()) | changes
    (folder / lora.CONFIG).write_text(json.dumps({key: value for key, value in raw.items() if key not in remove}))


def retensor(folder, change):
    """Writes what `change` makes of the tensors, in peft's own names."""
    tensors = {lora.PREFIX + name: tensor for name, tensor in load_file(D2F / lora.TENSORS).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / lora.TENSORS)


def d2f_mask(prompt_lengths, length, block_size):
    """(B, 1, L, L): block-causal, the prompt being the first block, whatever its length."""
    block_BL = torch.tensor([[max(0, (i - p) // block_size + 1) for i in range(length)] for p in prompt_lengths])
    return Masked((block_BL[:, None, :] <= block_BL[:, :, None])[:, None])


def logits_of(model, ids, mask):
    with torch.no_grad():
        return model.logits(model.hidden(ids, torch.arange(ids.shape[1]).expand(len(ids), -1), mask))


@pytest.mark.parametrize("block_size", [4, 8])
def test_the_base_of_d2f_has_the_official_logits(block_size):
    golden = load_file(D2F / "golden_logits.safetensors")
    found = logits_of(load_model(DREAM), golden["input_ids"], d2f_mask([6], 30, block_size))
    torch.testing.assert_close(found, golden[f"logits_prompt6_block{block_size}"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("case", range(3))
def test_the_losses_of_d2f_with_its_adapter_are_the_official_ones(case):
    """The student is the base with the adapter, block-causal, the teacher the base alone, which sees everything; both
    shifted. A masked token's loss, cross-entropy with the teacher or with the data's token, is divided by its block's
    mask rate; the mean is over all masked tokens."""
    golden = load_file(D2F / "golden_train.safetensors")
    given = {name.split(".", 1)[1]: v for name, v in golden.items() if name.startswith(f"{case}.")}
    ids, prompts = given["input_ids"], given["prompt_lengths"].tolist()
    student, teacher = load_merged(DREAM, D2F), load_model(DREAM)
    for kind in ("distill", "hard"):
        noisy, masked, rate = (given[f"{kind}.{name}"] for name in ("noisy_batch", "masked_indices", "p_mask"))
        at = masked.bool().nonzero(as_tuple=True)
        before = at[0], at[1] - 1
        seen = d2f_mask(prompts, ids.shape[1], int(given["block_size"]))
        log_probs = logits_of(student, noisy, seen)[before].log_softmax(-1)
        everything = Masked(torch.ones(1, 1, *[ids.shape[1]] * 2, dtype=torch.bool))
        target = logits_of(teacher, noisy, everything)[before].softmax(-1)
        if kind == "hard":
            target = torch.nn.functional.one_hot(ids[at], log_probs.shape[-1]).float()
        loss = (-(target * log_probs).sum(-1) / rate[at]).mean()
        torch.testing.assert_close(loss, given[f"loss_{kind}"].squeeze(), rtol=1e-4, atol=0)
        without = logits_of(teacher, noisy, seen)[before].log_softmax(-1)
        assert abs((-(target * without).sum(-1) / rate[at]).mean() - loss) > 0.1, "the adapter must matter"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rslora", [False, True])
def test_weights_are_w_plus_scale_b_a_in_float32_rounded_once_and_all_others_as_they_were(adapter, dtype, rslora):
    edit(adapter, lora_alpha=6, use_rslora=rslora)
    scale = 6 / math.sqrt(4) if rslora else 6 / 4
    plain, found = load_model(DREAM, dtype=dtype), load_merged(DREAM, adapter, dtype=dtype)
    tensors, changed = load_file(D2F / lora.TENSORS), set()
    wide = torch.promote_types(dtype, torch.float32)
    for name, weight in plain.weights().items():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in tensors:
            a, b = (tensors[f"{module}.lora_{half}.weight"].to(wide) for half in "AB")
            changed.add(name)
            weight = (weight.to(wide) + scale * (b @ a)).to(dtype)
        torch.testing.assert_close(
            found.weights()[name], weight, rtol=1e-6 if dtype != torch.bfloat16 else 8e-3, atol=1e-7
        )
        assert found.weights()[name].dtype == dtype
    assert len(changed) == 8


def test_names_with_and_without_pefts_prefix_are_the_same_adapter(adapter):
    expected = load_merged(DREAM, D2F).weights()
    retensor(adapter, lambda tensors: tensors)
    edit(adapter, target_modules=r"model\.layers\.\d+\.self_attn\.[qkvo]_proj")
    assert all(torch.equal(w, expected[name]) for name, w in load_merged(DREAM, adapter).weights().items())


def test_pefts_own_merge_gives_the_same_weights(tmp_path):
    """peft over Hugging Face's Qwen2 with the same weights: its folder as it saves it, its merge as it does it."""
    peft = pytest.importorskip("peft", reason="peft is not installed here: only the formula is compared")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lightningrl.models.checkpoint import save_model

    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = Qwen2ForCausalLM(config)
    theirs.save_pretrained(tmp_path / "base")
    for number, options in enumerate([{}, {"use_rslora": True}, {"layers_to_transform": [0, 2]}]):
        wrapped = peft.get_peft_model(
            Qwen2ForCausalLM.from_pretrained(tmp_path / "base"),
            peft.LoraConfig(
                r=5, lora_alpha=7, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options
            ),
        )
        wrapped.save_pretrained(tmp_path / f"{number}")
        found = load_merged(tmp_path / "base", tmp_path / f"{number}").weights()
        expected = wrapped.merge_and_unload().state_dict()
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6)
        save_model(
            load_merged(tmp_path / "base", tmp_path / f"{number}"), tmp_path / "m", eos_token_id=1, pad_token_id=1
        )
        assert load_model(tmp_path / "m").weights().keys() == found.keys()


CONFIGS = [
    ({"use_dora": True}, "use_dora is True; only plain LoRA"), ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
    ({"bias": "all"}, "bias is 'all'"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"), ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"), ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"lora_bias": True}, "lora_bias"), ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"r": 8}, r"has shape \(4, 64\), expected \(8, 64\)"), ({"r": "4"}, "r is '4'"),
    ({"lora_alpha": None}, "lora_alpha is None"), ({"target_modules": []}, r"target_modules is \[\]"),
    ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "a module that target_modules .* does not name"),
    ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]}, "4 tensors are missing, the first is"),
    ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "wq"]}, "target 'wq' is no module"),
    ({"layers_to_transform": [0]}, "does not name"), ({"layers_to_transform": "all"}, "layers_to_transform is 'all'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_what_is_no_plain_lora_or_is_not_of_this_model_is_refused_unread(adapter, monkeypatch, changes, message):
    monkeypatch.setattr(lora, "load_model", lambda *a, **o: pytest.fail("the weights were read"))
    edit(adapter, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_merged(DREAM, adapter)


Q0 = f"{lora.PREFIX}model.layers.0.self_attn.q_proj"
TENSORS = [
    (lambda t: {n: v for n, v in t.items() if n != f"{Q0}.lora_B.weight"}, r"1 tensors are missing.*q_proj\.lora_B"),
    (lambda t: t | {f"{Q0}.lora_magnitude_vector": torch.ones(3)}, "no lora_A or lora_B"),
    (lambda t: t | {f"{lora.PREFIX}model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}, "no module of"),
    (lambda t: t | {f"{Q0}.lora_A.weight": torch.ones(4, 63)}, r"has shape \(4, 63\), expected \(4, 64\).*Dream"),
    (lambda t: t | {f"{Q0}.lora_A.default.weight": torch.ones(4, 64)}, "two tensors lora_A"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_every_tensor_must_be_used_and_none_may_lack(adapter, monkeypatch, change, message):
    monkeypatch.setattr(lora, "load_model", lambda *a, **o: pytest.fail("the weights were read"))
    retensor(adapter, change)
    with pytest.raises(CheckpointError, match=message):
        load_merged(DREAM, adapter)


def test_damaged_and_missing_adapters_are_told_with_what_to_do(adapter, tmp_path):
    retensor(adapter, lambda t: t | {f"{Q0}.lora_A.weight": torch.full((4, 64), float("nan"))})
    with pytest.raises(CheckpointError, match="not finite numbers"):
        load_merged(DREAM, adapter)
    (adapter / lora.TENSORS).write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        load_merged(DREAM, adapter)
    (adapter / lora.TENSORS).unlink()
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"is missing; pickles \(\*\.bin\) are never read"):
        load_merged(DREAM, adapter)
    (adapter / lora.CONFIG).write_text("[")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is damaged"):
        load_merged(DREAM, adapter)
    for place, what in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "adapter_config.json is missing")):
        with pytest.raises(CheckpointError, match=f"{what}.*hf download"):
            load_merged(DREAM, place)


def test_llm_and_the_verbs_take_an_adapter_for_any_family(tmp_path):
    from typer.testing import CliRunner

    from lightningrl.cli.app import app

    base = save_byte_checkpoint(tmp_path / "base")
    folder = byte_adapter(tmp_path / "adapter", load_model(base))
    plain, adapted = LLM(base), LLM(base, adapter=folder)
    assert plain.fingerprint != adapted.fingerprint
    asked = ["generate", str(base), "--prompt", "How many?", "--max-new-tokens", "8", "--no-tokens"]
    texts = {}
    for name, more in (("plain", []), ("adapted", ["--adapter", str(folder)])):
        found = CliRunner().invoke(app, [*asked, *more])
        assert found.exit_code == 0, found.output
        texts[name] = json.loads(found.stdout.splitlines()[0])["text"]
    expected = [llm.generate(["How many?"], max_new_tokens=8)[0].text for llm in (plain, adapted)]
    assert [texts["plain"], texts["adapted"]] == expected and expected[0] != expected[1]
    (base / QUANTIZATION).write_text("{}")
    with pytest.raises(CheckpointError, match="is quantised, and an adapter is merged into plain weights"):
        open_model(base, adapter=folder)
