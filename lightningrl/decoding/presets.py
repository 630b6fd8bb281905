"""Published decoders by name, as data: which pieces they are made of, the published value of the parameter, the source.

A preset names every piece, so that it says the same whatever it is merged over. `parameter` is the selector's (a
threshold, steps a block, nats, a factor); it is left out where the publication leaves it to the user. What a decoder
does otherwise than its publication is in `source`.
"""

from __future__ import annotations

from typing import Any

_SDAR: dict[str, Any] = {
    "selector": "threshold", "selector_options": {}, "ranking": "confidence",
    "schedule": "separate", "schedule_options": {}, "stop": "finish_block",
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "sdar_dynamic": {
        "decoding": _SDAR,
        "parameter": 0.85,
        "source": "SDAR, generate.py, low_confidence_dynamic with as many steps as a block has positions: confidence > "
        "threshold, else the surest position",
    },
    "sdar_static": {
        "decoding": _SDAR | {"selector": "quota"},
        "source": "SDAR, generate.py, low_confidence_static: the surest positions, as many as the step's share; the "
        "parameter is the steps of a block. No revealed token is written over when fewer are left than the share",
    },
    "sdar_sequential": {
        "decoding": _SDAR | {"selector": "quota", "ranking": "position"},
        "source": "SDAR, generate.py, sequential: the left-most positions; the parameter is the steps of a block",
    },
    "entropy_bounded": {
        "decoding": _SDAR | {"selector": "cumulative_entropy", "ranking": "neg_entropy"},
        "parameter": 0.35,
        "source": "JetEngine, entropy_bounded: the longest prefix by rising entropy within the bound, in nats, and at "
        "least one position (an entropy exactly at the bound counts as within it, JetEngine's as over it)",
    },
    "lmdeploy_dynamic": {
        "decoding": _SDAR | {"selector_options": {"inclusive": True}},
        "parameter": 0.85,
        "source": "LMDeploy 0.16, low_confidence_dynamic: confidence >= threshold, else the surest position",
    },
    "autoregressive": {
        "decoding": _SDAR | {"selector": "quota", "schedule": "autoregressive", "stop": "inside_block"},
        "parameter": 1,
        "source": "one token a forward, the likeliest; the models are Qwen2.5 and Llama 3. It ends at the stop token",
    },
    "fast_dllm_factor": {
        "decoding": _SDAR | {"selector": "factor"},
        "parameter": 1.0,
        "source": "Fast-dLLM v1 (arXiv 2505.22618), the factor rule, on the blocks of a block-causal model; the "
        "off-by-one of the reference implementation is `selector_options: {compat: true}`",
    },
}
