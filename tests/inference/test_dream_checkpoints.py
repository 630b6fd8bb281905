"""Dream and Fast-dLLM v2 checkpoints through the tools: generate by every preset, chat, trace, what is refused."""

import json

import numpy as np
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.decoding.reference import decode_one
from lightningrl.inference.conversation import Conversation
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.inference.trace import trace_response

QWEN = {"qk_norm": False, "qkv_bias": True, "logit_shift": True, "head_dim": 4}
FAMILIES = {
    "Dream": {"family": "Dream", "attention": "full", "block_size": 1, **QWEN},
    "Fast_dLLM_Qwen": {"family": "Fast_dLLM_Qwen", "attention": "block_causal", "block_size": 8, **QWEN},
}
OF_DREAM = fitting("full", True)
OF_V2 = ["fast_dllm_v2", "fast_dllm_v2_cached"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {family: save_byte_checkpoint(folder / family, **shape) for family, shape in FAMILIES.items()}


@pytest.fixture(scope="module")
def llms(folders):
    return {family: LLM(folder) for family, folder in folders.items()}


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def policy_named(name, parameter=None):
    pieces = dict(PRESETS[name]["decoding"])
    parameter = PRESETS[name].get("parameter", 8) if parameter is None else parameter
    return policy_of(pieces.pop("selector"), parameter, pieces.pop("selector_options"), **pieces)


def test_every_preset_decodes_a_model_of_its_family_as_the_reference_does(llms):
    for family, names in (("Dream", OF_DREAM), ("Fast_dLLM_Qwen", OF_V2)):
        llm = llms[family]
        for name in names:
            policy = policy_named(name, 5 if PRESETS[name].get("parameter") == 256 else None)  # steps
            request = llm.request("Hi", uid="prompt/0", max_new_tokens=32, policy=policy)
            [got] = llm.decoder.decode([request], policy)
            expected = decode_one(llm.model, request, policy, llm.stop_ids)
            np.testing.assert_array_equal(got.token_ids, expected.token_ids)
            np.testing.assert_array_equal(got.reveal_step, expected.reveal_step)
            assert got.stats == expected.stats
            assert got.exact_cache == (not any(word in name for word in ("prefix", "dual", "cached")))


@pytest.mark.parametrize(("family", "name"), [("Dream", "dream"), ("Dream", "fast_dllm_v1_dream_dual"),
                                              ("Fast_dLLM_Qwen", "fast_dllm_v2")])  # fmt: skip
def test_generate_with_a_published_decoder_gives_what_the_reference_gives(folders, llms, family, name):
    steps = ("--threshold", 9) if name == "dream" else ()
    done = run("generate", folders[family], "--prompt", "Hi", "--max-new-tokens", 32, "--decoder", name, *steps)
    assert done.exit_code == 0, done.output
    row, llm = json.loads(done.stdout.splitlines()[0]), llms[family]
    request = llm.request("Hi", uid="prompt/0", max_new_tokens=32)
    expected = decode_one(llm.model, request, policy_named(name, *steps[1:]), llm.stop_ids)
    assert row["token_ids"] == expected.response_ids.tolist()
    assert row["denoise_forwards"] == expected.stats.denoise_forwards
    assert (row["prefill_forwards"], row["commit_forwards"]) == (expected.stats.prefill_forwards, 0)


def test_decoders_of_other_families_are_refused_before_a_weight_is_read_with_those_that_fit(folders, tmp_path):
    for family, wrong, right, found in (
        ("Dream", "fast_dllm_v1_dual", "fast_dllm_v1_dream_dual", "full attention and shifted logits"),
        ("Dream", "fast_dllm_v2", "dparallel_dream", "full attention and shifted logits"),
        ("Fast_dLLM_Qwen", "dream", "fast_dllm_v2", "block_causal attention and shifted logits"),
    ):
        bare = tmp_path / f"{family}-{wrong}"
        bare.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (bare / name).write_bytes((folders[family] / name).read_bytes())
        done = run("generate", bare, "--prompt", "Hi", "--decoder", wrong)
        assert done.exit_code == 2 and f"the decoder {wrong} is for models with" in done.stderr
        assert found in done.stderr and right in done.stderr
    sdar = save_byte_checkpoint(tmp_path / "sdar")
    done = run("generate", sdar, "--prompt", "Hi", "--decoder", "fast_dllm_v2")
    assert done.exit_code == 2 and "shifted logits" in done.stderr and "sdar_dynamic" in done.stderr


def test_the_verb_lists_those_that_fit_a_model(folders):
    for family, shift, attention in (("Dream", True, "full"), ("Fast_dLLM_Qwen", True, "block_causal")):
        fits = run("decoders", folders[family]).stdout
        assert {name for name in PRESETS if f"  {name} " in fits} == set(fitting(attention, shift))
    assert set(OF_V2) < set(fitting("block_causal", True)) and "sdar_dynamic" in fitting("block_causal", True)
    assert not {*OF_V2} & {*fitting("block_causal", False)}
    assert {*OF_DREAM} & {*fitting("full", False)} == {"d2f"}, "its adapter alone is a family's own"


def test_lines_choose_rankings_and_their_options(folders, tmp_path):
    line = {"prompt": "Hi", "max_new_tokens": 8, "parameter": 8, "temperature": 0.0}
    lines = [
        line | {"id": "a"},
        line | {"id": "b", "ranking_options": {"alg_temp": 3.0}},
        line | {"id": "c", "ranking": "margin"},
    ]
    lines.append(line | {"id": "d", "max_new_tokens": 5, "parameter": 5})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    done = run("generate", folders["Dream"], tmp_path / "in.jsonl", "--decoder", "dream", "--threshold", 8)
    assert done.exit_code == 0, done.output
    rows = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert [rows[name]["denoise_forwards"] for name in "abcd"] == [8, 8, 8, 5], "canvases of two lengths in one run"
    assert rows["a"]["token_ids"] != rows["b"]["token_ids"]


def test_the_longest_answer_of_one_block_is_what_is_asked_or_what_the_model_has_room_for(llms):
    llm, policy = llms["Dream"], policy_named("dream", 4)
    assert llm.tokens_left(9, policy) == 247 and llm.tokens_left(9, policy, 30) == 30
    assert llms["Fast_dLLM_Qwen"].tokens_left(9, policy_named("fast_dllm_v2")) == 247


def test_a_chat_and_a_trace_follow_openings_sub_blocks_and_commits(llms):
    llm, shown = llms["Fast_dLLM_Qwen"], []
    policy = policy_of("threshold", 1.0, schedule="sub_block", schedule_options={"sub_block": 4}, stop="inside_block")
    conversation = Conversation(llm, max_new_tokens=16)
    found = conversation.answer("Hi", policy, lambda text, draft: shown.append((text, draft)))
    assert len(shown) == found.stats.denoise_forwards == len(np.unique(found.reveal_step[found.reveal_step > 0]))
    assert conversation.messages[-1]["content"] == llm.text(found)
    trace = trace_response(llm, "Hi", policy, name="m", max_new_tokens=16)
    assert len(trace.tokens) == len(found.token_ids) and "sub block" in trace.policy.replace("_", " ").lower()
    dual = policy_of(
        "threshold",
        0.9,
        schedule="dual_cache",
        schedule_options={"block_size": 4, "opens_first": True},
        stop="whole_canvas",
    )
    opened = trace_response(llms["Dream"], "Hi", dual, name="m", max_new_tokens=8)
    assert [token.forward for token in opened.tokens[::4]] == [1, max(t.forward for t in opened.tokens[:4]) + 1]
