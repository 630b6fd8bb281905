"""Published decoders by name, as data: which pieces they are made of, the published value of the parameter, the source.

A preset names every piece, so that it says the same whatever it is merged over. `parameter` is the selector's (a
threshold, steps per block, nats, a factor); it is left out where the publication leaves it to the user. `attention` is
what it needs of the model: a preset for block-causal models cannot decode one that sees its whole canvas; so is
`logit_shift`, where it matters: whether the logits at a position predict the next one; so are `planner`, and `adapter`:
the LoRA without which its weights were not published. What a decoder does otherwise than its publication is in
`source`: where that is a defect, ours is corrected, and the options that bring it back are named.
"""

from __future__ import annotations

from typing import Any

from lightningrl.decoding.window_presets import WINDOWS

_SDAR: dict[str, Any] = {
    "selector": "threshold", "selector_options": {}, "ranking": "confidence", "ranking_options": {},
    "schedule": "separate", "schedule_options": {}, "stop": "finish_block", "logits_options": {},
}  # fmt: skip
_CANVAS: dict[str, Any] = {
    "selector": "threshold", "selector_options": {"inclusive": True}, "ranking": "confidence", "ranking_options": {},
    "schedule": "full_sequence", "schedule_options": {}, "stop": "whole_canvas", "logits_options": {"untempered": True},
}  # fmt: skip
_FACTOR: dict[str, Any] = {"selector": "factor", "selector_options": {}}
_QUOTA: dict[str, Any] = {"selector": "quota", "selector_options": {}}
_ENTROPY: dict[str, Any] = {"selector": "entropy", "selector_options": {}, "ranking": "neg_entropy"}
_PREFIX: dict[str, Any] = {"schedule": "prefix_cache"}
_DUAL: dict[str, Any] = {"schedule": "dual_cache"}
_DULTRA: dict[str, Any] = _CANVAS | {
    "selector": "bernoulli", "selector_options": {}, "ranking": "planner", "schedule_options": {"block_size": 32},
}  # fmt: skip
_DULTRA_CODE = (
    "dUltra (chinsengi/dUltra-os, mode training): every open position is revealed by a coin of its own, which falls so "
    "with the planner's probability times the factor; where none does, the likeliest. Tokens are the likeliest. The "
    "factor is swept from 0.5 to 1.5. `ranking_options: {temperature: ...}` is its planner_temperature. "
)
_DREAM: dict[str, Any] = _CANVAS | {
    "selector": "timestep", "selector_options": {}, "ranking": "neg_entropy", "schedule": "whole_sequence",
    "logits_options": {"filtered": True, "filtered_greedy": True},
}  # fmt: skip
_OPENING: dict[str, Any] = {"schedule_options": {"block_size": 32, "opens_first": True}, "logits_options": {}}
_DREAM_STATIC: dict[str, Any] = {
    "selector": "timestep", "selector_options": {"opening": True}, "ranking": "neg_entropy",
    "logits_options": {"filtered": True, "filtered_greedy": True},
}  # fmt: skip
_V2: dict[str, Any] = _SDAR | {
    "schedule": "sub_block", "schedule_options": {"sub_block": 8}, "stop": "inside_block",
    "logits_options": {"filtered": True},
}  # fmt: skip
_DREAM_CODE = "Dream (arXiv 2508.15487; generation_utils.py of its checkpoints), "
_STEPS = (
    "as many as the step's share of what is masked by a time from 1 to eps; the parameter is the number of steps, all "
    "of "
    "which are run. With as many steps as tokens the first reveals nothing and the last two. `ranking_options: "
    "{alg_temp: ...}` is its alg_temp"
)
_FIRST = "the first forward of a block reveals its first position alone; "
_FAST = "Fast-dLLM v1 (arXiv 2505.22618; NVlabs/Fast-dLLM), "
_CACHES = {
    "none": "no cache",
    "prefix": "what lies before the block is kept from its first forward on",
    "dual": "all but the block is kept from its first forward on",
}
_RULES = {
    "threshold": "confidence >= threshold, else the surest position",
    "factor": "the factor rule; its reference's off-by-one is `selector_options: {compat: true}`",
    "static": "a share of the block a step; the parameter is the steps of a block",
}

PRESETS: dict[str, dict[str, Any]] = {
    "sdar_dynamic": {
        "attention": "block_causal",
        "decoding": _SDAR,
        "parameter": 0.85,
        "source": "SDAR, generate.py, low_confidence_dynamic with as many steps as a block has positions: confidence > "
        "threshold, else the surest position",
    },
    "sdar_static": {
        "attention": "block_causal",
        "decoding": _SDAR | {"selector": "quota"},
        "source": "SDAR, generate.py, low_confidence_static: the surest positions, as many as the step's share; the "
        "parameter is the steps of a block. No revealed token is written over when fewer are left than the share",
    },
    "sdar_sequential": {
        "attention": "block_causal",
        "decoding": _SDAR | {"selector": "quota", "ranking": "position"},
        "source": "SDAR, generate.py, sequential: the left-most positions; the parameter is the steps of a block",
    },
    "entropy_bounded": {
        "attention": "block_causal",
        "decoding": _SDAR | {"selector": "cumulative_entropy", "ranking": "neg_entropy"},
        "parameter": 0.35,
        "source": "JetEngine, entropy_bounded: the longest prefix by rising entropy within the bound, in nats, and at "
        "least one position (an entropy exactly at the bound counts as within it, JetEngine's as over it)",
    },
    "lmdeploy_dynamic": {
        "attention": "block_causal",
        "decoding": _SDAR | {"selector_options": {"inclusive": True}},
        "parameter": 0.85,
        "source": "LMDeploy 0.16, low_confidence_dynamic: confidence >= threshold, else the surest position",
    },
    "autoregressive": {
        "attention": "causal",
        "decoding": _SDAR | {"selector": "quota", "schedule": "autoregressive", "stop": "inside_block"},
        "parameter": 1,
        "source": "one token a forward, the likeliest; the models are Qwen2.5 and Llama 3. It ends at the stop token",
    },
    "fast_dllm_factor": {
        "attention": "block_causal",
        "decoding": _SDAR | {"selector": "factor"},
        "parameter": 1.0,
        "source": "Fast-dLLM v1 (arXiv 2505.22618), the factor rule, on the blocks of a block-causal model; the "
        "off-by-one of the reference implementation is `selector_options: {compat: true}`",
    },
    "llada": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _QUOTA,
        "parameter": 32,
        "source": "LLaDA (arXiv 2502.09992; ML-GSAI/LLaDA, generate.py), low_confidence: the surest positions, as many "
        "as the step's share; the parameter is the steps of a block, one token a forward at 32 of 32. Confidences are "
        "in float32 at least; with more steps than a block has positions, the forwards on a full block that the "
        "published loop runs are `schedule_options: {least_forwards: STEPS}`. Its options are `logits_options`: "
        "cfg_scale, logits_eos_inf, confidence_eos_eot_inf",
    },
    "llada_random": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _QUOTA | {"ranking": "random"},
        "parameter": 32,
        "source": "LLaDA, generate.py, remasking random: as `llada`, but which positions is drawn",
    },
    "fast_dllm_v1_none": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS,
        "parameter": 0.9,
        "source": f"{_FAST}{_CACHES['none']}: {_RULES['threshold']}",
    },
    "fast_dllm_v1_prefix": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _PREFIX,
        "parameter": 0.9,
        "source": f"{_FAST}{_CACHES['prefix']}: {_RULES['threshold']}",
    },
    "fast_dllm_v1_dual": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _DUAL,
        "parameter": 0.9,
        "source": f"{_FAST}{_CACHES['dual']}: {_RULES['threshold']}",
    },
    "fast_dllm_v1_prefix_june2025": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _PREFIX | {"schedule_options": {"least_forwards": 2}},
        "parameter": 0.9,
        "source": f"{_FAST}24cc59e of June 2025: as fast_dllm_v1_prefix, with its count: a block that its first "
        "forward finishes has one more, which reveals nothing",
    },
    "fast_dllm_v1_dual_june2025": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _DUAL | {"schedule_options": {"least_forwards": 2}},
        "parameter": 0.9,
        "source": f"{_FAST}24cc59e of June 2025: as fast_dllm_v1_dual, with its count; the decoder of the "
        "Fast-dLLM-LLaDA rows of d3LLM's leaderboard",
    },
    "fast_dllm_v1_none_factor": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _FACTOR,
        "parameter": 1.0,
        "source": f"{_FAST}{_CACHES['none']}: {_RULES['factor']}",
    },
    "fast_dllm_v1_prefix_factor": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _FACTOR | _PREFIX,
        "parameter": 1.0,
        "source": f"{_FAST}{_CACHES['prefix']}: {_RULES['factor']}",
    },
    "fast_dllm_v1_dual_factor": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _FACTOR | _DUAL,
        "parameter": 1.0,
        "source": f"{_FAST}{_CACHES['dual']}: {_RULES['factor']}",
    },
    "fast_dllm_v1_prefix_static": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _QUOTA | _PREFIX,
        "source": f"{_FAST}{_CACHES['prefix']}: {_RULES['static']}",
    },
    "fast_dllm_v1_dual_static": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _QUOTA | _DUAL,
        "source": f"{_FAST}{_CACHES['dual']}: {_RULES['static']}",
    },
    "dparallel_llada": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _ENTROPY,
        "parameter": 0.5,
        "source": "dParallel (arXiv 2509.26488; czg1225/dParallel, LLaDA/generate.py): entropy <= threshold, in nats, "
        "else the surest position; no cache. Published: 0.5 on GSM8K, MATH and HumanEval, 0.45 on MBPP",
    },
    "dparallel_llada_prefix": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _ENTROPY | _PREFIX,
        "parameter": 0.5,
        "source": f"dParallel, LLaDA/generate.py: as dparallel_llada; {_CACHES['prefix']}. Its extra forward on blocks "
        "finished by their first is `schedule_options: {least_forwards: 2}`",
    },
    "dparallel_llada_dual": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _CANVAS | _ENTROPY | _DUAL,
        "parameter": 0.5,
        "source": f"dParallel, LLaDA/generate.py: as dparallel_llada; {_CACHES['dual']}. Its extra forward on blocks "
        "finished by their first is `schedule_options: {least_forwards: 2}`",
    },
    "dultra_b32": {
        "attention": "full",
        "logit_shift": False,
        "planner": True,
        "decoding": _DULTRA,
        "parameter": 1.0,
        "source": f"{_DULTRA_CODE}Published with sengi/dUltra-math, on blocks of 32",
    },
    "dultra_b128": {
        "attention": "full",
        "logit_shift": False,
        "planner": True,
        "decoding": _DULTRA | {"schedule_options": {"block_size": 128}},
        "parameter": 1.0,
        "source": f"{_DULTRA_CODE}Published with sengi/dUltra-math-b128, on blocks of 128",
    },
    "dultra_top_sum": {
        "attention": "full",
        "logit_shift": False,
        "planner": True,
        "decoding": _DULTRA | {"selector": "top_sum"},
        "parameter": 1.0,
        "source": "dUltra (chinsengi/dUltra-os, mode inference): the best positions by the planner, as many as its "
        "probabilities times the factor add up to; never more than are open, which the published code forgets",
    },
    "dream": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _DREAM,
        "parameter": 256,
        "source": f"{_DREAM_CODE}entropy: the positions with the least entropy of the whole canvas, {_STEPS}. "
        f"Published rows "
        "are 256 tokens in 256 steps; generation_config.json says 512",
    },
    "dream_maskgit_plus": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _DREAM | {"ranking": "confidence"},
        "parameter": 256,
        "source": f"{_DREAM_CODE}maskgit_plus: the surest positions, {_STEPS}",
    },
    "dream_topk_margin": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _DREAM | {"ranking": "margin"},
        "parameter": 256,
        "source": f"{_DREAM_CODE}topk_margin: the positions with the largest difference of the two likeliest tokens, "
        f"{_STEPS}",
    },
    "dream_origin": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _DREAM | {"selector": "random_timestep", "ranking": "confidence"},
        "parameter": 256,
        "source": f"{_DREAM_CODE}origin, the default of its files: each masked position with the step's probability, "
        "at random, the rest in the last step; the parameter is the number of steps. Published code runs them all; "
        "ours ends when nothing is masked, and runs them all with `schedule_options: {least_forwards: STEPS}`",
    },
    "fast_dllm_v1_dream_none": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _DREAM | {"selector": "quota_threshold", "selector_options": {"steps": 8}, "ranking": "confidence"},
        "parameter": 0.9,
        "source": f"{_FAST}dream/model, no cache and no blocks: confidence >= threshold among the best of the whole "
        f"canvas "
        "that are due by then, an eighth a step, else the surest position; what is left after the last step takes more",
    },
    "fast_dllm_v1_dream_prefix": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _PREFIX | _OPENING,
        "parameter": 0.9,
        "source": f"{_FAST}dream/model, {_CACHES['prefix']}: {_FIRST}then {_RULES['threshold']}",
    },
    "fast_dllm_v1_dream_dual": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _DUAL | _OPENING,
        "parameter": 0.9,
        "source": f"{_FAST}dream/model, {_CACHES['dual']}: {_FIRST}then {_RULES['threshold']}. The published loop runs "
        f"a "
        "forward more on blocks of one position (`least_forwards: 2`)",
    },
    "fast_dllm_v1_dream_prefix_factor": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _FACTOR | _PREFIX | _OPENING,
        "parameter": 1.0,
        "source": f"{_FAST}its factor rule for LLaDA over the blocks of dream/model, whose code has none: {_FIRST}then "
        f"{_RULES['factor']}",
    },
    "fast_dllm_v1_dream_dual_factor": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _FACTOR | _DUAL | _OPENING,
        "parameter": 1.0,
        "source": f"{_FAST}as fast_dllm_v1_dream_prefix_factor; {_CACHES['dual']}",
    },
    "fast_dllm_v1_dream_prefix_static": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _PREFIX | _OPENING | _DREAM_STATIC,
        "source": f"{_FAST}dream/model, {_CACHES['prefix']}: {_FIRST}then the least entropies, as many as Dream's "
        f"share of "
        "the step; the parameter is the steps of a block. Ranked by entropy whatever `alg` says, as published. With "
        "one "
        "step a block the published loop leaves all but the first position masked (`compat`, `most_forwards: 2`)",
    },
    "fast_dllm_v1_dream_dual_static": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _DUAL | _OPENING | _DREAM_STATIC,
        "source": f"{_FAST}as fast_dllm_v1_dream_prefix_static; {_CACHES['dual']}",
    },
    "dparallel_dream": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _CANVAS | _ENTROPY | {"selector_options": {"strict": True}, "schedule_options": {"block_size": 32}},
        "parameter": 0.5,
        "source": "dParallel (arXiv 2509.26488; czg1225/dParallel, Dream/model): entropy < threshold, in nats, else "
        "the surest position; no cache. Published: 0.45 on GSM8K and MATH, 0.5 on HumanEval and MBPP",
    },
    "fast_dllm_v2": {
        "attention": "block_causal",
        "logit_shift": True,
        "decoding": _V2,
        "parameter": 0.9,
        "source": "Fast-dLLM v2 (arXiv 2509.26328; modeling.py of its checkpoints, generate): confidence > threshold "
        "in the "
        "first sub-block with masks, else its surest position; the forward that commits a block reveals the next one's "
        "first "
        "token. Published accuracies are at 1, one token a forward. Ours decodes as many blocks as hold "
        "max_new_tokens, "
        "and a prompt of one block is prefilled; `schedule_options: {compat: true}` is the published length. At a "
        "temperature above 0 the published top_p is 0.95",
    },
    "fast_dllm_v2_cached": {
        "attention": "block_causal",
        "logit_shift": True,
        "decoding": _V2 | {"schedule_options": {"sub_block": 8, "caches_block": True}},
        "parameter": 0.9,
        "source": "Fast-dLLM v2, generate with use_block_cache: as fast_dllm_v2; once a sub-block's first position is "
        "known "
        "its forwards compute it alone, over the stale keys and values of the rest of the block",
    },
}
PRESETS |= WINDOWS


def needs(name: str) -> str:
    """What a preset needs of a model, in words."""
    preset, kinds = PRESETS[name], {True: " and shifted logits", False: " and unshifted logits", None: ""}
    planner = ", and a planner (dUltra)" if preset.get("planner") else ""
    return f"{preset['attention']} attention{kinds[preset.get('logit_shift')]}{planner}"


def fitting(attention: str, logit_shift: bool = False, has_planner: bool = False) -> list[str]:
    """The names of the presets for models with this attention, with logits that are shifted or not, and with a planner
    or without one."""
    return [
        name for name, preset in PRESETS.items()
        if preset["attention"] == attention and preset.get("logit_shift", logit_shift) == logit_shift
        and preset.get("planner", False) <= has_planner
    ]  # fmt: skip
