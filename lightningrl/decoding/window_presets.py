"""Published decoders with several open blocks, as data; decoding/presets.py says what each key means."""

from __future__ import annotations

from typing import Any

_PIECES: dict[str, Any] = {
    "selector": "threshold", "selector_options": {}, "ranking": "confidence", "ranking_options": {},
    "schedule": "block_buffer", "schedule_options": {}, "stop": "finish_block", "logits_options": {},
}  # fmt: skip
_D2F: dict[str, Any] = _PIECES | {
    "selector": "skip_threshold", "schedule": "block_pipeline",
    "schedule_options": {"block_size": 32, "block_add_threshold": 0.1, "decoded_token_threshold": 0.95},
}  # fmt: skip
_D3LLM_BLOCKS = {"block_size": 32, "block_add_threshold": 0.1, "decoded_token_threshold": 0.95}
_D3LLM: dict[str, Any] = _PIECES | {
    "selector": "entropy", "selector_options": {"strict": True}, "ranking": "neg_entropy", "schedule": "multi_block",
    "schedule_options": _D3LLM_BLOCKS, "stop": "inside_block", "logits_options": {"untempered": True},
}  # fmt: skip
_D3LLM_CODE = "d3LLM (arXiv 2601.07568; hao-ai-lab/d3LLM, generate_multi_block), with early_stop, "
_D3LLM_REST = (
    "The first full block in which nothing passes reveals its surest position. Without early_stop: "
    "`stop: whole_canvas`. Ours ends at any stop token of the model, the published code at its end-of-text token alone"
)
_D3LLM_CACHE = (
    "finished blocks wait for some forwards, then their keys and values are kept, and grow stale. The published code "
    "keeps some of them twice: `compat: true` in schedule_options"
)
_BUFFER: dict[str, Any] = _PIECES | {
    "schedule": "block_buffer",
    "schedule_options": {"buffer_size": 4, "block_add_threshold": 0.1, "decoded_token_threshold": 0.9},
}  # fmt: skip

WINDOWS: dict[str, dict[str, Any]] = {
    "d2f": {
        "attention": "full",
        "adapter": "D2F's LoRA",
        "decoding": _D2F,
        "parameter": 0.9,
        "source": "D2F (arXiv 2508.09192; SJTU-DENG-Lab/Discrete-Diffusion-Forcing, D2F-eval): confidence > threshold "
        "in all open blocks; a full block in which nothing passes reveals its surest position. For LLaDA or Dream with "
        "D2F's LoRA (`--adapter`), which sees block by block. Block sizes are 16 to 64 and block_add_threshold 0.1 to "
        "0.9 by benchmark: 0.7 on GSM8K, 0.9 on MBPP, 0.1 else on d3LLM's leaderboard. Published code drops what "
        "max_new_tokens have over whole blocks (`drops_rest`); all three thresholds at 1 are one token a forward",
    },
    "d3llm": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _D3LLM | {"selector_options": {}, "schedule_options": _D3LLM_BLOCKS | {"reveals_best": True}},
        "parameter": 0.5,
        "source": f"{_D3LLM_CODE}on LLaDA: entropy <= threshold, in nats, in all open blocks, and the surest position "
        f"of all of them. {_D3LLM_REST}. Published: 0.5, and 0.4 on MBPP and long prompts; both thresholds of blocks "
        "are 1 on HumanEval",
    },
    "d3llm_cached": {
        "attention": "full",
        "logit_shift": False,
        "decoding": _D3LLM
        | {
            "selector_options": {},
            "schedule_options": _D3LLM_BLOCKS | {"reveals_best": True, "cache_delay_iter": 2, "refresh_interval": 3},
        },
        "parameter": 0.5,
        "source": f"{_D3LLM_CODE}on LLaDA with its delayed cache, as on GSM8K: as d3llm; {_D3LLM_CACHE}. On MATH and "
        "MBPP cache_delay_iter is 1 and nothing is refreshed",
    },
    "d3llm_dream": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _D3LLM,
        "parameter": 0.4,
        "source": f"{_D3LLM_CODE}on Dream: entropy < threshold, in nats, in all open blocks. {_D3LLM_REST}. Published: "
        "0.4, and 0.5 on HumanEval at a temperature of 0.1",
    },
    "d3llm_dream_cached": {
        "attention": "full",
        "logit_shift": True,
        "decoding": _D3LLM | {"schedule_options": _D3LLM_BLOCKS | {"cache_delay_iter": 1}},
        "parameter": 0.4,
        "source": f"{_D3LLM_CODE}on Dream with its delayed cache: as d3llm_dream; {_D3LLM_CACHE}. cache_delay_iter is "
        "1 or 2. The published code also predicts the first position behind the cache by its own logit (`compat`)",
    },
    "mbd": {
        "attention": "block_causal",
        "decoding": _BUFFER,
        "parameter": 0.95,
        "source": "MBD-LMs (arXiv 2606.29215; SJTU-DENG-Lab/Diffulex, branch mbd-lms), a buffer of four blocks, for "
        "SDAR with or without their training: confidence > threshold in all open blocks; a full block in which nothing "
        "passes reveals its surest position. Published on SDAR b32: block_add_threshold 0.1 on mathematics, 0.9 on "
        "code; on b4: 0.1 with decoded_token_threshold 0.25, and 0.75 with 0.75. Ours does not compute the last block "
        "clean",
    },
}
