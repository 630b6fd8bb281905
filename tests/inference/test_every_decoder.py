"""Every published decoder on every family that it fits, through Python, chat, trace, records and speed: one answer."""

import json

import numpy as np
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint

from lightningrl.answering import Task, answer
from lightningrl.bench.speed import measure
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.errors import ConfigError
from lightningrl.evaluation.metrics import summarise
from lightningrl.evaluation.records import to_records
from lightningrl.inference.conversation import Conversation
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of, require_fitting
from lightningrl.inference.trace import trace_response
from lightningrl.types import EvalRecord, Example, Verdict

LLADA = {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5}
QWEN = {"qk_norm": False, "qkv_bias": True, "logit_shift": True, "head_dim": 4}
FAMILIES = {
    "sdar": {},
    "llada": LLADA,
    "planned": LLADA | {"has_planner": True},  # dUltra's
    "Dream": {"family": "Dream", "attention": "full", "block_size": 1, **QWEN},
    "Fast_dLLM_Qwen": {"family": "Fast_dLLM_Qwen", "attention": "block_causal", "block_size": 8, **QWEN},
    "qwen2": {"family": "qwen2", "attention": "causal", "block_size": 1, **QWEN},
}
LENGTH = 32


def preset_names(family):
    """The presets that fit a family; of one with a planner those that need it, for the others are tried without."""
    shape = FAMILIES[family]
    planned = shape.get("has_planner", False)
    names = fitting(shape.get("attention", "block_causal"), shape.get("logit_shift", False), planned)
    return [name for name in names if PRESETS[name].get("planner", False) == planned]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    folders = {name: save_byte_checkpoint(folder / name, **shape) for name, shape in FAMILIES.items()}
    path = folders["qwen2"] / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "mask_token"}
    path.write_text(json.dumps(config))  # an autoregressive model has no mask
    return {name: LLM(each) for name, each in folders.items()}


def policy_named(name):
    """The published pieces with a parameter at which a random model takes few forwards."""
    few = {"quota": 2, "timestep": 8, "random_timestep": 8, "entropy": 4.0, "cumulative_entropy": 9.0, "factor": 20.0}
    few |= {"bernoulli": 0.5, "top_sum": 0.5}
    return policy_of(preset=name, parameter=few.get(PRESETS[name]["decoding"]["selector"], 0.12))


class Right:
    graded, needs_jail = False, False

    def judge(self, examples, responses):
        return [Verdict(True, 1.0, "ok") for _ in responses]


def length_of(policy):
    """LENGTH, or a whole block where that is longer."""
    return max(LENGTH, policy.schedule.block_size or 0)


def test_every_preset_is_tried_and_the_tools_take_just_those_that_fit(models):
    assert set().union(*map(preset_names, FAMILIES)) == PRESETS.keys()
    for family, llm in models.items():
        shape = FAMILIES[family]
        facts = shape.get("attention", "block_causal"), shape.get("logit_shift", False)
        fits = fitting(*facts, shape.get("has_planner", False))
        for name in PRESETS:
            if name in fits:
                require_fitting(llm.folder, name)
            else:
                with pytest.raises(ConfigError, match=f"the decoder {name} is for models with"):
                    require_fitting(llm.folder, name)
    with pytest.raises(ConfigError, match=r"unshifted logits, and no planner\. Decoders that fit it: llada"):
        require_fitting(models["llada"].folder, "dultra_b32")


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tools_decode_alike_with_every_preset_of_a_family(models, family):
    llm, names = models[family], preset_names(family)
    assert names
    for name in names:
        policy = policy_named(name)
        length = length_of(policy)
        [expected] = llm.generate(["Hi"], policy, max_new_tokens=length)
        found = expected.trajectory
        talk, shown = Conversation(llm, max_new_tokens=length), []
        told = talk.answer("Hi", policy, lambda text, draft, shown=shown: shown.append((text, draft)))
        assert talk.messages[-1]["content"] == llm.text(told) and llm.text(told).startswith(shown[-1][0]), name
        idle = policy.schedule.least_forwards > 1  # forwards on a full block have nothing to show
        assert len(shown) == told.stats.denoise_forwards or (idle and len(shown) < told.stats.denoise_forwards), name
        if not any(getattr(part, "uses_noise", False) for part in (policy.ranking, policy.selector)):  # by the uid
            assert told.token_ids.tolist() == found.token_ids.tolist(), name
        trace = trace_response(llm, "Hi", policy, name="m", max_new_tokens=length)
        assert [token.forward for token in trace.tokens] == found.reveal_step.tolist(), name
        seen = [(at, token.guess.token_id) for at, token in enumerate(trace.tokens) if token.guess is not None]
        assert seen == [(at, int(found.token_ids[at])) for at in np.flatnonzero(found.reveal_step)], name
        assert found.window > 1 or not any(token.ahead for token in trace.tokens), name
        example = Example("toy/test/0", ({"role": "user", "content": "Hi"},), {})
        answers = answer(
            llm.decoder, llm.tokenizer, Task(lambda each: each.messages, Right(), length), [(example, 0)], policy
        )
        [record] = to_records("m", 0.9, answers, llm.tokenizer)
        assert EvalRecord.from_json(record.to_json()) == record and record.family == FAMILIES[family].get(
            "family", "sdar"
        )
        assert sum(record.tokens_by_step) == record.emitted_tokens, name
        summary = summarise([record], 10)
        requests = [llm.request("Hi", uid=example.uid, max_new_tokens=length, policy=policy)] * 2  # one key, one answer
        figures = measure(llm.decoder, requests, policy, warmup=0, batch=2, repeats=1).figures()
        for count in ("tpf", "tpf_true", "tpf_harness", "positions_per_token", "keys_per_token"):
            assert figures[count] == pytest.approx(getattr(summary, count)), (name, count)
        assert figures["tokens_per_second"] > 0


def test_windows_show_tokens_ahead_of_the_active_block(models):
    """Random models reveal little at published thresholds; at a low one, later blocks of a window have tokens first."""
    for family, name in (("sdar", "mbd"), ("llada", "d3llm"), ("Dream", "d2f")):
        options = PRESETS[name]["decoding"]["schedule_options"] | {"block_add_threshold": 0.0}
        options |= {"block_size": 8} if "block_size" in options else {}
        policy = policy_of(preset=name, parameter=4.0 if name == "d3llm" else 0.12, schedule_options=options)
        trace = trace_response(models[family], "Hello", policy, name="m", max_new_tokens=LENGTH)
        ahead = [at for at, token in enumerate(trace.tokens) if token.ahead]
        assert ahead, name
        for at in ahead:
            block, forward = trace.tokens[at].block, trace.tokens[at].forward
            assert max(token.forward for token in trace.tokens if token.block < block) >= forward


def test_a_length_that_is_not_said_is_whole_blocks_of_the_policys_schedule(models):
    """The context's rest after this prompt is none."""
    llm = models["llada"]
    policy = policy_of(preset="fast_dllm_v1_dual")
    [found] = llm.generate(["Hi"], policy)
    trace = trace_response(llm, "Hi", policy, name="m")
    left = 256 - len(found.trajectory.prompt_ids)
    assert left % 4 and len(found.trajectory.token_ids) == len(trace.tokens) == left // 4 * 4
