"""The miniature's tokenizer: exact round trips, a plain Hugging Face folder, one prompt format."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.errors import BenchmarkError, CheckpointError
from lightningrl.tokenization import (
    SPECIAL_TOKENS,
    build_tokenizer,
    decode_response,
    encode_prompt,
    encode_prompts,
    encode_texts,
    load_tokenizer,
    stop_token_ids,
)

GENERATED = ("gsm-mini", "code-mini")

QUESTION = [{"role": "user", "content": "Ann has 12 pens, buys 5, then doubles them. How many pens now?"}]


@pytest.fixture(scope="module")
def texts():
    examples = [e for name in GENERATED for e in get_benchmark(name).load({"train": 2000}, seed=0)["train"]]
    return [m["content"] for e in examples for m in e.messages] + [e.solution for e in examples]


@pytest.fixture(scope="module")
def unseen():
    """Examples of all splits and another seed than the vocabulary was read from."""
    sizes = {"train": 400, "validation": 100, "test": 200}
    return [e for name in GENERATED for split in get_benchmark(name).load(sizes, seed=1).values() for e in split]


@pytest.fixture(scope="module")
def folder(texts, tmp_path_factory):
    build_tokenizer(texts, path := tmp_path_factory.mktemp("tokenizer"))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_every_text_round_trips_without_unknown_pieces(tokenizer, texts, unseen):
    all_texts = [*texts, *(m["content"] for e in unseen for m in e.messages), *(e.solution for e in unseen)]
    for text, ids in zip(all_texts, encode_texts(tokenizer, all_texts), strict=True):
        assert decode_response(tokenizer, ids) == text
        assert tokenizer.unk_token_id not in ids, text


@given(st.lists(st.sampled_from(["Ann.", " has ", " 1", "2", "\n", "  ", "0", " 9 ", "```python", " \\boxed{", "}."])))
def test_odd_spacing_round_trips_where_its_pieces_are_known(tokenizer, pieces):
    ids = encode_texts(tokenizer, ["".join(pieces)])[0]  # pieces meet: "Ann.2" is known, "  }" is not
    assert tokenizer.unk_token_id in ids or decode_response(tokenizer, ids) == "".join(pieces)


def test_pieces_are_words_digits_signs_and_whole_markers(tokenizer):
    def pieces(text):
        return [tokenizer.decode([i]) for i in encode_texts(tokenizer, [text])[0]]

    assert pieces("Ann has \\boxed{17} pens.") == ["Ann", " has", " \\boxed{", "1", "7", "}", " pens", "."]
    assert pieces("```python\ndef f(x): return") == ["```python", "\n", "def", " f", "(", "x", ")", ":", " return"]
    assert pieces(" -x ** 2 + 13\n```") == [" -", "x", " *", "*", " 2", " +", " 1", "3", "\n", "```"]


def test_the_vocabulary_is_small_and_ends_with_the_special_tokens_the_mask_last(tokenizer):
    n_tokens = len(tokenizer)
    assert 150 < n_tokens < 300
    assert tokenizer.convert_ids_to_tokens(list(range(n_tokens - 5, n_tokens))) == list(SPECIAL_TOKENS)
    assert SPECIAL_TOKENS == ("<|unk|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|MASK|>")
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id) == (n_tokens - 5, n_tokens - 4)
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (n_tokens - 2, n_tokens - 1)


def test_prompt_is_the_chat_template_and_nothing_else(tokenizer):
    """Golden string: the Qwen chat format written out by hand."""
    text = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert text == f"<|im_start|>user\n{QUESTION[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    ids = encode_prompt(tokenizer, QUESTION)
    assert ids.dtype == np.int64 and ids.ndim == 1
    assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    messages = [{"role": "system", "content": "Ann"}, *QUESTION, {"role": "assistant", "content": "Ann"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.startswith("<|im_start|>system\nAnn<|im_end|>\n<|im_start|>user\nAnn has")
    assert text.endswith("<|im_start|>assistant\nAnn<|im_end|>\n")
    assert tokenizer.unk_token_id not in encode_prompt(tokenizer, messages)


def test_batched_prompts_equal_single_ones_and_the_library_s_own(tokenizer, unseen):
    conversations = [
        get_benchmark(e.benchmark).render(e, PromptOptions(suffix="def f(x)" if i % 2 else ""))
        for i, e in enumerate(unseen[::40])
    ]
    for messages, ids in zip(conversations, encode_prompts(tokenizer, conversations), strict=True):
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids.tolist() == encode_prompt(tokenizer, messages).tolist() == list(theirs)
    assert encode_prompts(tokenizer, []) == []


def test_response_text_leaves_special_tokens_out_and_the_pad_ends_it_like_the_end_token(tokenizer):
    """Else a model that pads without an end token would get TPF for it."""
    ids = encode_texts(tokenizer, ["Ann has 7 pens."])[0]
    tail = [tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id]
    assert decode_response(tokenizer, np.r_[ids, tail]) == "Ann has 7 pens."
    assert decode_response(tokenizer, np.array([], dtype=np.int64)) == ""
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == ["<|endoftext|>", "<|im_end|>"]


def test_unknown_words_become_unk_and_are_refused_in_a_prompt(tokenizer):
    ids = encode_texts(tokenizer, ["Ann has 7 zebras."])[0]
    assert (ids == tokenizer.unk_token_id).sum() == 1
    with pytest.raises(BenchmarkError, match="the tokenizer does not know '"):
        encode_prompts(tokenizer, [[{"role": "user", "content": "Xylophone?"}]])


def test_auto_tokenizer_loads_the_folder_and_saves_it_unchanged(folder, tokenizer, texts, tmp_path):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert encode_prompt(again, QUESTION).tolist() == encode_prompt(tokenizer, QUESTION).tolist()
    assert again.special_tokens_map == tokenizer.special_tokens_map


def test_same_texts_give_the_same_bytes_in_any_order(folder, texts, tmp_path):
    build_tokenizer(reversed(texts), tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tmp_path.iterdir())
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to damage."""
    return shutil.copytree(folder, tmp_path / "broken")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_and_missing_files_are_named(broken, name):
    whole = (broken / name).read_bytes()
    for damaged in (whole[:100], b"", b"[]", b"\xff" + whole):
        (broken / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            load_tokenizer(broken)
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(broken)


@pytest.mark.parametrize(("key", "what"), [("eos_token", "end token"), ("chat_template", "chat template")])
def test_tokenizer_unfit_for_chat_is_refused(broken, key, what):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = json.loads((broken / name).read_text())
        values.pop(key, None)
        (broken / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"has no {what}"):
        load_tokenizer(broken)


@pytest.mark.parametrize(("name", "content"), [("tokenizer.json", '{"model": {}}'), ("config.json", "[" * 100_000)])
def test_what_the_library_cannot_load_is_said_in_our_words(broken, name, content):
    (broken / name).write_text(content)
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* cannot be loaded"):
        load_tokenizer(broken)
    with pytest.raises(CheckpointError, match="no tokenizer folder"):
        load_tokenizer(broken / "nowhere")
