"""Each family's folder as the hub has it, at a small size: tokenizer, chat template, stop tokens, from text to text."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.decoding import DirectDecoding
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import direct_policy
from lightningrl.models.checkpoint import save_model
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.loading import load_policy, save_policy

AUTOREGRESSIVE = direct_policy(DirectDecoding.model_validate({"preset": "autoregressive"}))
QWEN_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SMALL = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "rms_norm_eps": 1e-6,
    "rope_theta": 500.0, "tie_word_embeddings": False, "hidden_act": "silu", "attention_dropout": 0.0,
}  # fmt: skip
FAMILIES = {
    "qwen2": {"added": QWEN, "eos": 2, "pad": 0, "template": QWEN_TEMPLATE, "class": "Qwen2Tokenizer", "ends": [2, 0]},
    "llama": {
        "added": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "eos": 4, "bos": 0, "template": LLAMA_TEMPLATE, "class": "PreTrainedTokenizerFast", "ends": [1, 4],
    },
    "Dream": {
        "added": [*QWEN, "<|beginoftext|>", "<|mask|>"], "eos": 0, "pad": 0, "bos": 3, "mask": 4, "ends": 0,
        "template": QWEN_TEMPLATE, "class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    },
    "Fast_dLLM_Qwen": {
        "added": [*QWEN, "|<MASK>|"], "eos": 2, "pad": 0, "template": QWEN_TEMPLATE, "class": "Qwen2Tokenizer",
        "ends": [2, 0],
    },
}  # fmt: skip
"""added: tokens behind the vocabulary's; eos, pad, bos, mask: which of them; ends: generation_config's end tokens."""


def write(folder, name):
    """A folder with the files and keys of the family's on the hub: the tokenizers of Dream have no tokenizer.json, its
    class and the config's are code of the repository, Fast-dLLM v2's names no mask token."""
    facts = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["How many legs have cats? user assistant"] * 3, trainer)
    first, added = tokenizer.get_vocab_size(), facts["added"]
    tokenizer.model.save(str(folder))
    tokens = {str(first + i): {"content": t, "special": True, "normalized": False} for i, t in enumerate(added)}
    named = {f"{k}_token": added[facts[k]] for k in ("eos", "pad", "bos", "mask") if k in facts}
    config = named | {
        "added_tokens_decoder": tokens, "chat_template": facts["template"], "tokenizer_class": facts["class"],
        "clean_up_tokenization_spaces": False, "model_max_length": 131072, "auto_map": facts.get("auto_map"),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    if name == "Dream":
        (folder / "added_tokens.json").write_text(json.dumps({t: first + i for i, t in enumerate(added)}))
    else:
        tokenizer.add_special_tokens(added)
        tokenizer.save(str(folder / "tokenizer.json"))
        for file in ("vocab.json", "merges.txt"):
            (folder / file).unlink()
    ends = facts["ends"]
    ends = [first + i for i in ends] if isinstance(ends, list) else first + ends
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.7}))
    raw = SMALL | {"model_type": name, "vocab_size": first + len(added) + 6, "eos_token_id": first + facts["eos"]}
    if name == "Dream":
        raw |= {"mask_token_id": first + 4, "auto_map": {"AutoConfig": "configuration_dream.DreamConfig"}}
    if name == "Fast_dLLM_Qwen":
        raw |= {"bd_size": 8, "mask_token_id": first + 3, "auto_map": {"AutoModel": "modeling.Fast_dLLM_QwenModel"}}
    (folder / "config.json").write_text(json.dumps(raw))
    torch.manual_seed(3)
    model = Transformer(read_config(folder))
    save_model(model, folder, eos_token_id=first + facts["eos"], pad_token_id=None, bos_token_id=facts.get("bos"))
    (folder / "config.json").write_text(json.dumps(raw))
    return first


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    """(name, folder, the id of the first added token)."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, write(folder, request.param)


def policy_of(name):
    if name in ("qwen2", "llama"):
        return AUTOREGRESSIVE
    if name == "Dream":
        return DecodePolicy(Threshold(0.9), schedule=FullSequence(8))
    return DecodePolicy(Threshold(0.9))


def test_prompts_special_tokens_and_stop_tokens_are_the_familys(family):
    name, folder, first = family
    llm, facts = LLM(folder), FAMILIES[name]
    prompt = [int(i) for i in llm.request("How many legs?", uid="x").prompt_ids]
    if name == "llama":
        assert [i - first for i in prompt if i >= first] == [0, 2, 3, 4, 2, 3] and prompt[0] == first
        text = "user<|end_header_id|>\n\nHow many legs?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        assert llm.tokenizer.decode(prompt) == "<|begin_of_text|><|start_header_id|>" + text
    else:
        assert [i - first for i in prompt if i >= first] == [1, 2, 1]
        text = "<|im_start|>user\nHow many legs?<|im_end|>\n<|im_start|>assistant\n"
        assert llm.tokenizer.decode(prompt) == text
    ends = facts["ends"] if isinstance(facts["ends"], list) else [facts["ends"]]
    named = {facts["eos"], *([facts["pad"]] if "pad" in facts else [])}
    assert llm.stop_ids == sorted(first + i for i in {*ends, *named})
    assert llm.model.usable_vocab == len(llm.tokenizer) == first + len(facts["added"]) < llm.model.config.vocab_size
    assert llm.model.config.mask_token_id == (first + 4 if name == "Dream" else first + 3 if "dLLM" in name else -1)


def test_neither_unused_rows_nor_the_mask_are_ever_drawn(family):
    """At a temperature that makes every other token likely."""
    name, folder, _ = family
    llm = LLM(folder)
    with torch.no_grad():
        llm.model.lm_head.weight.zero_()  # all logits equal
    hot = DecodePolicy(Threshold(0.0), 1.0, schedule=policy_of(name).schedule)
    requests = [llm.request("How?", uid=str(i), max_new_tokens=40) for i in range(12)]
    drawn = torch.cat([torch.from_numpy(t.token_ids) for t in llm.decoder.decode(requests, hot)])
    assert len(drawn.unique()) > 80 and int(drawn.max()) < llm.model.usable_vocab
    assert not (drawn == llm.model.config.mask_token_id).any()


def test_a_text_becomes_a_text_and_what_is_saved_decodes_the_same(family, tmp_path):
    name, folder, _ = family
    policy = policy_of(name)
    [expected] = LLM(folder).generate(["How many legs have cats?"], policy, max_new_tokens=16)
    model, tokenizer = load_policy(folder)
    save_policy(model, tokenizer, folder, tmp_path)
    [found] = LLM(tmp_path).generate(["How many legs have cats?"], policy, max_new_tokens=16)
    assert found.text == expected.text and found.trajectory.stats == expected.trajectory.stats
    assert read_config(tmp_path) == read_config(folder)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == name and written["bos_token_id"] == (
        tokenizer.bos_token_id or tokenizer.pad_token_id
    )


def test_the_command_line_decodes_an_autoregressive_family_by_its_preset_and_says_so_else(tmp_path):
    write(tmp_path, "qwen2")
    asked = ["generate", str(tmp_path), "--prompt", "How?", "--max-new-tokens", "9"]
    found = CliRunner().invoke(app, [*asked, "--preset", "autoregressive"])
    assert found.exit_code == 0, found.output
    line = json.loads(found.stdout.splitlines()[0])
    expected = LLM(tmp_path).generate(["How?"], AUTOREGRESSIVE, max_new_tokens=9)[0]
    assert line["text"] == expected.text and line["tpf"] == 1.0
    with pytest.raises(DecodeError, match="has no mask token; take the preset"):
        LLM(tmp_path).generate(["How?"], max_new_tokens=9)
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code != 0 and "autoregressive" in refused.output


def test_chat_and_trace_take_every_family(family, tmp_path):
    name, folder, _ = family
    options = {"Dream": ["--schedule", "full_sequence", "--schedule-options", '{"block_size": 8}']}
    more = options.get(name, [] if "dLLM" in name else ["--preset", "autoregressive"])
    asked = ["--max-new-tokens", "8", *more]
    found = CliRunner().invoke(app, ["chat", str(folder), *asked], input="Hi\n/quit\n")
    assert found.exit_code == 0 and "TPF" in found.output, found.output
    page = tmp_path / "trace.html"
    found = CliRunner().invoke(app, ["trace", str(folder), "How many legs?", "--out", str(page), *asked])
    assert found.exit_code == 0 and page.stat().st_size > 1000, found.output


def test_a_tokenizer_of_another_checkpoint_is_refused(tmp_path):
    """One without the mask token, and one that names another."""
    folders = {name: tmp_path / name for name in ("Fast_dLLM_Qwen", "qwen2", "Dream")}
    for name, folder in folders.items():
        folder.mkdir()
        write(folder, name)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folders["qwen2"] / name, folders["Fast_dLLM_Qwen"] / name)
    for opened in (LLM, load_policy):
        with pytest.raises(CheckpointError, match=r"the model's mask token is .* names none: it is another"):
            opened(folders["Fast_dLLM_Qwen"])
    raw = json.loads((folders["Dream"] / "config.json").read_text())
    (folders["Dream"] / "config.json").write_text(json.dumps(raw | {"mask_token_id": raw["mask_token_id"] - 1}))
    with pytest.raises(CheckpointError, match="they must agree"):
        LLM(folders["Dream"])
    with pytest.raises(CheckpointError, match=r"names .*: it is another checkpoint's"):
        load_policy(folders["Dream"])
