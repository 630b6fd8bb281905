"""Decoders with several open blocks through the tools: generate, decoders, chat, trace, on LLaDA, Dream and SDAR."""

import json

import pytest
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.decoding.reference import decode_one
from lightningrl.inference.conversation import Conversation
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.inference.trace import trace_response

SHAPES = {
    "llada": {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5},
    "dream": {
        "family": "Dream",
        "attention": "full",
        "block_size": 1,
        "logit_shift": True,
        "qkv_bias": True,
        "qk_norm": False,
        "head_dim": 4,
    },
    "sdar": {},
}
FITS = {
    "llada": ["d2f", "d3llm", "d3llm_cached"], "dream": ["d2f", "d3llm_dream", "d3llm_dream_cached"], "sdar": ["mbd"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    return {name: save_byte_checkpoint(folder / name, **shape) for name, shape in SHAPES.items()}


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def policy_named(name, **changes):
    pieces = dict(PRESETS[name]["decoding"]) | changes
    return policy_of(pieces.pop("selector"), PRESETS[name]["parameter"], pieces.pop("selector_options"), **pieces)


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in FITS.items() for name in names])
def test_generate_with_a_published_decoder_gives_what_the_reference_gives(folders, family, name):
    done = run("generate", folders[family], "--prompt", "Hi", "--max-new-tokens", 32, "--decoder", name)
    assert done.exit_code == 0, done.output
    row, llm = json.loads(done.stdout.splitlines()[0]), LLM(folders[family])
    request = llm.request("Hi", uid="prompt/0", max_new_tokens=32)
    expected = decode_one(llm.model, request, policy_named(name), llm.stop_ids)
    assert row["token_ids"] == expected.response_ids.tolist()
    assert row["denoise_forwards"] == expected.stats.denoise_forwards


def test_d2f_decodes_with_an_adapter_merged_into_the_base(folders, tmp_path):
    adapter = byte_adapter(tmp_path / "lora", LLM(folders["dream"]).model)
    words = ["generate", folders["dream"], "--prompt", "Hi", "--max-new-tokens", 32, "--decoder", "d2f"]
    plain, merged = (json.loads(run(*words, *more).stdout.splitlines()[0]) for more in ([], ["--adapter", adapter]))
    llm = LLM(folders["dream"], adapter=adapter)
    request = llm.request("Hi", uid="prompt/0", max_new_tokens=32)
    expected = decode_one(llm.model, request, policy_named("d2f"), llm.stop_ids)
    assert merged["token_ids"] == expected.response_ids.tolist() != plain["token_ids"]


def test_presets_fit_by_attention_and_are_listed_and_refused_by_it(folders):
    for attention, logit_shift, names in (("full", False, FITS["llada"]), ("full", True, FITS["dream"]),
                                          ("block_causal", False, FITS["sdar"])):  # fmt: skip
        assert set(names) <= set(fitting(attention, logit_shift))
    assert not {*FITS["llada"]} & {*fitting("block_causal", False), *fitting("causal", True)}
    listed = run("decoders", folders["llada"]).output
    assert all(f"\n  {name} " in listed for name in FITS["llada"]) and "\n  mbd " not in listed
    refused = run("generate", folders["sdar"], "--prompt", "Hi", "--decoder", "d3llm")
    assert refused.exit_code == 2 and "d3llm is for models with full attention" in refused.stderr
    assert "mbd" in refused.stderr


def test_chat_shows_all_finished_blocks_and_a_trace_says_which_forward_revealed_what_where(folders):
    for family, name in (("llada", "d3llm"), ("sdar", "mbd")):
        llm, shown = LLM(folders[family]), []
        options = PRESETS[name]["decoding"]["schedule_options"]
        options = options | ({"block_size": 4} if "block_size" in options else {})
        policy = policy_named(name, schedule_options=options)
        conversation = Conversation(llm, max_new_tokens=16)
        got = conversation.answer("Hi", policy, lambda text, draft, shown=shown: shown.append(text))
        assert shown[-1] == llm.text(got).rstrip("\ufffd") and conversation.messages[-1]["content"] == llm.text(got)
        trace = trace_response(llm, "Hi", policy, name="x", max_new_tokens=16)
        assert len(trace.left_masked) == trace.forwards >= max(token.forward for token in trace.tokens)
        assert all(token.guess is not None for token in trace.tokens[: trace.response_tokens])
