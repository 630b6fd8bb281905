"""The three lines of Python: a checkpoint, prompts, completions."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from fixtures.byte_checkpoint import save_byte_checkpoint

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import CheckpointError, ConfigError, DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.models.checkpoint import load_model
from lightningrl.quantization.protocol import Calibration
from lightningrl.quantization.rtn import RoundToNearest
from lightningrl.quantization.stored import save_quantized
from lightningrl.tokenization import encode_prompt, load_tokenizer


def test_completions_are_the_decoders_own(model, llm):
    tokenizer, weights = load_tokenizer(model), load_model(model)
    weights.usable_vocab = len(tokenizer)
    messages = [{"role": "user", "content": "Hi"}]
    request = Request("prompt/0", 0, encode_prompt(tokenizer, messages), 21)
    for policy in (None, DecodePolicy(Threshold(0.2), temperature=0.7, top_k=9, top_p=0.8, seed=2)):
        [own] = BlockDecoder(weights, [tokenizer.eos_token_id]).decode(
            [request], policy or DecodePolicy(Threshold(0.9))
        )
        for prompt in ("Hi", messages):
            [completion] = llm.generate([prompt], policy, max_new_tokens=21)
            np.testing.assert_array_equal(completion.trajectory.token_ids, own.token_ids)
            np.testing.assert_array_equal(completion.trajectory.behaviour_logp, own.behaviour_logp)


def test_policies_of_requests_act_beside_each_other(llm):
    policies = {"greedy": policy_of(), "fast": policy_of(parameter=0.001), "drawn": policy_of(temperature=1)}
    requests = [llm.request("Hi", uid=name, max_new_tokens=21, policy=policy) for name, policy in policies.items()]
    found = {outcome.request.uid: outcome.trajectory for outcome in llm.stream(requests)}
    assert found["fast"].stats.denoise_forwards < found["greedy"].stats.denoise_forwards
    assert found["drawn"].token_ids.tolist() != found["greedy"].token_ids.tolist()


def test_one_bad_request_of_a_stream_fails_alone(llm):
    requests = [llm.request(text, uid=str(i), max_new_tokens=8) for i, text in enumerate(("a", "b" * 300, "c"))]
    outcomes = {outcome.index: outcome for outcome in llm.stream(requests)}
    assert [outcomes[i].error is None for i in range(3)] == [True, False, True]
    with pytest.raises(DecodeError, match="prompt/1: 319 prompt tokens and 8 new ones"):
        llm.generate(["a", "b" * 300], max_new_tokens=8)


def test_an_empty_text_is_a_prompt_and_no_token_or_no_text_is_none(llm):
    [completion] = LLM(llm.folder, block_size=4).generate([""], max_new_tokens=8)
    assert completion.trajectory.response_len > 0 and isinstance(completion.text, str)
    assert llm.generate([]) == []
    with pytest.raises(DecodeError, match="the prompt is empty"):
        llm.request(np.array([], dtype=np.int64), uid="x")
    with pytest.raises(DecodeError, match="x: the chat template or tokenizer refuses this prompt"):
        llm.request("\ud800", uid="x")


def test_the_fingerprint_tells_models_apart_and_copies_not(model, llm, tmp_path):
    assert LLM(model).fingerprint == llm.fingerprint
    assert LLM(save_byte_checkpoint(tmp_path / "other", seed=4)).fingerprint != llm.fingerprint
    other = LLM(model)
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight[3, 5] *= 1.5
    assert other.fingerprint != llm.fingerprint, "one weight of a matrix"


def test_a_quantised_model_has_another_fingerprint_than_its_plain_one(model, llm, tmp_path):
    seen = {llm.fingerprint}
    for bits in (8, 4):
        folder = tmp_path / str(bits)
        shutil.copytree(model, folder)
        save_quantized(RoundToNearest(bits=bits).quantize(load_model(model), Calibration()), folder, {})
        assert LLM(folder).fingerprint == LLM(folder).fingerprint
        seen.add(LLM(folder).fingerprint)
    assert len(seen) == 3


def test_stop_tokens_of_the_generation_config_count(llm, tmp_path):
    other = save_byte_checkpoint(tmp_path / "model")
    (other / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert LLM(other).stop_ids == sorted({5, 6, llm.tokenizer.eos_token_id, llm.tokenizer.pad_token_id})
    for content in ("[", '{"eos_token_id": 1e999}'):
        (other / "generation_config.json").write_text(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            LLM(other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"selector": "best"}, "there is no selector 'best'"),
        ({"ranking": "best"}, "there is no ranking 'best'"),
        ({"options": {"stps": 1}}, "stps"),
        ({"selector": "nowhere:Thing"}, "no module 'nowhere'"),
        ({"selector": ":Thing"}, "expected `module:attribute`"),
        ({"selector": ".here:Thing"}, "expected `module:attribute`"),
        ({"ranking": "json:dumps"}, "ranking json:dumps: .* missing"),
        ({"threshold": 0.5, "block_size": 4}, "found block_size, threshold, which no policy has.* as `parameter`"),
        *(({key: None}, f"found {key}, which") for key in ("dtype", "device", "rows", "memory_mb")),
    ],
)
def test_a_policy_of_unknown_words_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        policy_of(**words)


def test_a_string_is_one_prompt_and_so_is_a_conversation(llm):
    turns = [{"role": "user", "content": "Hi"}]
    found = [llm.generate(prompt, max_new_tokens=8) for prompt in ("Hi", turns, ["Hi"], [turns])]
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert len({each[0].trajectory.token_ids.tobytes() for each in found}) == 1


def test_words_say_how_it_decodes_those_of_a_call_before_those_of_the_model(llm):
    """`threshold`, `temperature`, `decoder`, against the policies that they stand for."""
    own = LLM(llm.folder, block_size=4, threshold=0.001)

    def ids(model, policy=None, **words):
        return model.generate("Hi", policy, max_new_tokens=21, **words)[0].trajectory.token_ids.tolist()

    fast, drawn = policy_of(parameter=0.001), policy_of(parameter=0.001, temperature=1.0)
    assert ids(llm, threshold=0.001) == ids(own) == ids(llm, fast) != ids(llm)
    assert ids(own, temperature=1.0) == ids(llm, drawn) != ids(own)
    assert ids(own, threshold=0.9) == ids(llm)
    preset = policy_of(preset="sdar_sequential", parameter=4)
    assert ids(llm, decoder="sdar_sequential", threshold=4) == ids(llm, preset)
    with pytest.raises(ConfigError, match="llada is for models with full attention"):
        llm.generate("Hi", decoder="llada", threshold=4)
    with pytest.raises(ConfigError, match="there is no preset 'dua'"):
        LLM(llm.folder, block_size=4, decoder="dua")


def test_it_says_in_a_line_what_it_is(llm):
    count = sum(weight.numel() for weight in llm.model.parameters())
    assert repr(llm) == f"LLM({str(llm.folder)!r}: sdar, {count:,} parameters, float32 on cpu)"
