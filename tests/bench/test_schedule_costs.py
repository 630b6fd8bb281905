"""Forwards and positions of a response by schedule, beside what the decoder counts; sizes of the systems of Table 2."""

import numpy as np
import pytest
from fixtures.tiny import requests_of, tiny_model

from lightningrl.bench.costs import Lengths
from lightningrl.bench.estimate.budget import Estimate, device_of, shapes_of
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.schedule_costs import decoded
from lightningrl.config.decoding import Decoding
from lightningrl.config.experiment import load
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.inference.policy import make_policy
from lightningrl.pipeline.code_digest import PACKAGE

PROMPT, LONGEST, BLOCK = 6, 16, 4
FULL = {"attention": "full", "qk_norm": False, "block_size": BLOCK}
CAUSAL = {"attention": "causal", "qk_norm": False, "block_size": 1, "logit_shift": True, "mask_token_id": -1}
SHIFTED, BLOCKS = FULL | {"logit_shift": True}, {"block_size": BLOCK}
OPENING = {"schedule_options": {"block_size": BLOCK, "opens_first": True}}
EXACT = {
    "llada": ({"preset": "llada"}, FULL, 4),
    "two steps per block": ({"preset": "llada"}, FULL, 2),
    "prefix": ({"preset": "fast_dllm_v1_prefix_static"}, FULL, 2),
    "dual": ({"preset": "fast_dllm_v1_dual_static"}, FULL, 4),
    "dual, refreshed": ({"preset": "fast_dllm_v1_dual_static", "schedule_options": {"refresh_every": 2}}, FULL, 4),
    "dream": ({"preset": "dream"}, SHIFTED, 7),
    "dream's caches": (OPENING | {"preset": "fast_dllm_v1_dream_dual_static"}, SHIFTED, 4),
    "dream's caches in one step": (OPENING | {"preset": "fast_dllm_v1_dream_prefix_static"}, SHIFTED, 1),
    "dream's caches in more steps than positions": (OPENING | {"preset": "fast_dllm_v1_dream_dual_static"}, SHIFTED, 6),
    "origin, all steps": ({"preset": "dream_origin", "schedule_options": {"least_forwards": 7}}, SHIFTED, 7),
    "two steps per block, three at least": ({"preset": "llada", "schedule_options": {"least_forwards": 3}}, FULL, 2),
    "sdar": ({"preset": "sdar_static"}, BLOCKS, 4),
    "sdar in three steps": ({"preset": "sdar_static", "schedule": "fused"}, BLOCKS, 3),
    "sdar in one step": ({"preset": "sdar_sequential"}, BLOCKS, 1),
    "autoregressive": ({"preset": "autoregressive"}, CAUSAL, 1),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("prompt", (PROMPT, 8))
def test_forwards_and_positions_are_those_that_the_decoder_counts(name, prompt):
    keys, shape, parameter = EXACT[name]
    decoding = Decoding.model_validate(keys)
    policy = make_policy({"decoding": decoding, "members": decoding.members()}, parameter)
    [found] = BlockDecoder(tiny_model(1, **shape), []).decode(requests_of([prompt], LONGEST), policy)
    expected = decoded(decoding, parameter, Lengths(prompt, LONGEST, 4.0), LONGEST, shape["block_size"])
    stats = found.stats
    assert stats.denoise_forwards == expected.forwards
    assert stats.prefill_positions + stats.decode_positions == expected.positions
    if shape["block_size"] == BLOCK and shape is not BLOCKS:  # the others take the mean length of what is seen
        assert stats.commit_forwards == 0
        assert stats.decode_keys == expected.decode[2]


def test_what_chance_ends_early_is_the_mean_of_many_decodes():
    decoding = Decoding(preset="dream_origin")
    policy = make_policy({"decoding": decoding, "members": decoding.members()}, 12)
    found = BlockDecoder(tiny_model(1, **SHIFTED), []).decode(requests_of([PROMPT] * 60, LONGEST), policy)
    counts = [each.stats.denoise_forwards for each in found]
    expected = decoded(decoding, 12, Lengths(PROMPT, LONGEST, 4.0), LONGEST, BLOCK).forwards
    error = np.std(counts) / np.sqrt(len(counts))
    assert len(set(counts)) > 1 and abs(np.mean(counts) - expected) < 4 * error < 0.5, (np.mean(counts), expected)


def test_of_windows_and_parts_of_blocks_what_is_assumed_holds_where_it_is_exact():
    lengths = Lengths(PROMPT, LONGEST, 2.0)
    of = lambda **keys: decoded(Decoding.model_validate(keys), 0.9, lengths, LONGEST, BLOCK)  # noqa: E731
    blocks = {"block_size": BLOCK}
    whole = of(preset="d3llm", schedule_options=blocks)
    cached = of(preset="d3llm_cached", schedule_options=blocks | {"cache_delay_iter": 1})
    assert whole.positions == whole.forwards * (PROMPT + LONGEST) > cached.positions > 0
    assert of(preset="fast_dllm_v2").decode[0] == 8 * BLOCK
    assert of(preset="d2f", schedule_options=blocks).positions < whole.positions
    usual = of()  # SDAR's blocks are what they were
    assert usual.forwards == 8 and usual.prefill[0] == BLOCK


def test_the_sizes_of_other_families_are_the_official_files():
    sizes = {"GSAI-ML/LLaDA-8B-Instruct": 8_015_581_184, "Dream-org/Dream-v0-Instruct-7B": 7_615_616_512}
    sizes["Efficient-Large-Model/Fast_dLLM_v2_7B"] = 7_615_616_512
    for checkpoint, parameters in sizes.items():
        assert Shape.of_checkpoint(checkpoint, 32).parameters == parameters
    paper = shapes_of(load(PACKAGE.parent / "config" / "paper.yaml"))
    assert paper["d3llm-llada-256"] == paper["llada-256"] != paper["base"]
    assert paper["d3llm-dream-256"].parameters == 7_615_616_512


def test_the_plan_says_forwards_and_positions_of_each_row_of_table_2():
    found = Estimate(
        paper := load(PACKAGE.parent / "config" / "paper.yaml"), shapes_of(paper), device_of("h100"), None
    ).evaluations()
    vanilla, fast = found["llada-256/gsm8k"], found["fast-dllm-llada-256/gsm8k"]
    assert vanilla["forwards_per_response"] == 256 and vanilla["positions_per_response"] == 256 * (120 + 256)
    assert fast["forwards_per_response"] == pytest.approx(151 / 2.77)  # the published TPF
    assert fast["positions_per_response"] == pytest.approx(8 * (120 + 256) + (151 / 2.77 - 8) * 32)
    assert vanilla["longest"] == 256 and found["qwen2_5-7b/gsm8k"]["longest"] == 8192
    assert vanilla["gpu_hours"] * 3600 == pytest.approx(
        sum((64, 128, 256)) / 256 * vanilla["point"]["seconds"], rel=0.1
    )
    assert np.isfinite([row["gpu_hours"] for row in found.values()]).all()
