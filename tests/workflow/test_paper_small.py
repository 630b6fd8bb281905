"""The paper's whole DAG with real problems and random checkpoints of a few thousand weights: every table and figure.

Its numbers mean nothing; that each stage of `config/paper.yaml` runs, and what it shows, is what is tried.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from fixtures.byte_checkpoint import byte_adapter, save_byte_checkpoint
from fixtures.limits import TEST_S

from lightningrl.models.checkpoint import load_model
from lightningrl.models.families.protocol import NO_MASK
from lightningrl.tokenization import load_tokenizer

pytestmark = [pytest.mark.mirror, pytest.mark.slow]

SIZES = {"train": 12, "validation": 2, "test": 3, "max_new_tokens": 8}
SMALL = {
    "steps": 2, "prompts": 2, "responses": 2, "updates": 1, "max_rounds": 1, "validate_every": 2, "threshold": 0.05,
    "precision": "float32", "microbatch_positions": 1500,
}  # fmt: skip


CANVAS = {"qk_norm": False, "head_dim": 4, "attention": "full", "max_position_embeddings": 4096}
QWEN = {"qk_norm": False, "qkv_bias": True, "logit_shift": True, "head_dim": 4, "max_position_embeddings": 4096}
RIVALS = {
    "llada-256": CANVAS | {"family": "llada", "block_size": 32, "rms_norm_eps": 1e-5},
    "d2f-llada-256": CANVAS | {"family": "llada", "block_size": 32, "rms_norm_eps": 1e-5},
    "dream-256": CANVAS | QWEN | {"family": "Dream", "block_size": 1},
    "d3llm-dream-256": CANVAS | QWEN | {"family": "Dream", "block_size": 1},
    "fast-dllm-v2": QWEN | {"family": "Fast_dLLM_Qwen", "block_size": 8},
    "qwen2_5-7b": QWEN | {"family": "qwen2", "attention": "causal", "block_size": 1, "mask_token_id": NO_MASK},
}
"""Table 2's other systems that are run here, on GSM8K, and the shapes of their families: one of each kind."""
FAST = "fast-dllm-llada-256"
PARAMETERS = {
    "llada-256": 2, "d2f-llada-256": 0.01, "dream-256": 4, "d3llm-dream-256": 9.0, "fast-dllm-v2": 0.02,
    "qwen2_5-7b": 1, FAST: 0.01,
}  # fmt: skip
"""One for each, at which few forwards are needed."""


def small_rivals(root: Path, tree: dict) -> None:
    """Gives rivals random checkpoints in their families' formats, and canvases of 32 tokens."""
    kept = (*RIVALS, *(each["name"] for each in tree["checkpoints"] if each["name"].startswith(("sdar", "released"))))
    tree["checkpoints"] = [each for each in tree["checkpoints"] if each["name"] in kept]
    tree["systems"] = [each for each in tree["systems"] if each["name"] in (*RIVALS, FAST) or "endpoint" in each]
    for policy in tree["checkpoints"]:
        if policy["name"] in RIVALS:
            made = save_byte_checkpoint(root / "models" / policy["name"], **RIVALS[policy["name"]])
            policy |= {"checkpoint": str(made), "evaluate_on": ["gsm8k"], "size": "8b"}
            if RIVALS[policy["name"]].get("mask_token_id") == NO_MASK:  # as an autoregressive model's tokenizer
                names = made / "tokenizer_config.json"
                names.write_text(
                    json.dumps({k: v for k, v in json.loads(names.read_text()).items() if k != "mask_token"})
                )
            if "adapter" in policy:
                policy["adapter"] = str(byte_adapter(root / "models" / "adapter", load_model(made)))
    for system in tree["systems"]:
        if "endpoint" not in system:
            parameter = PARAMETERS[system["name"]]
            system |= {"thresholds": [parameter], "primary_threshold": parameter}
        if "max_new_tokens" in system:
            system["max_new_tokens"] = 32
        if system["name"] == FAST:
            system["evaluate_on"] = ["gsm8k"]


def small_paper(root: Path) -> dict:
    """`config/paper.yaml` with small checkpoints, few problems and short runs; code is learned on MBPP, because
    PrimeIntellect is not in the mirror."""
    tree = yaml.safe_load((root / "config" / "paper.yaml").read_text())
    small_rivals(root, tree)
    for number, policy in enumerate([tree["base"], *tree["checkpoints"]]):
        if policy.get("name") in RIVALS:
            continue
        folder = save_byte_checkpoint(
            root / "models" / f"sdar-{number}", seed=number, block_size=min(policy["block_size"], 8),
            max_position_embeddings=4096,
        )  # fmt: skip
        policy |= {
            "checkpoint": str(folder), "block_size": min(policy["block_size"], 8),
            "mask_token_id": load_tokenizer(folder).mask_token_id, "size": "8b",
        }  # fmt: skip
    names = ("gsm8k", "math500", "mbpp", "humaneval")
    tree["benchmarks"] = [
        {"name": name, **(SIZES if name != "humaneval" else {"test": 3, "max_new_tokens": 8})} for name in names
    ]
    tree["evaluation"] |= {"thresholds": [0.02, 0.9]}
    for run in tree["runs"]:
        run |= SMALL | {"benchmark": "mbpp" if run["benchmark"] == "primeintellect" else run["benchmark"]}
    tree["speed"] = {"prompts": 2, "warmup": 1, "repeats": 2}
    tree["report"] |= {"bootstrap": 20, "replays": ["lightningrl-gsm8k"]}
    tree["decoding"] |= {"rows": 8, "memory_mb": 50}
    return tree | {"experiment": "small", "resources": {}}


def test_every_table_and_figure_of_the_paper_is_made(checkout: Checkout) -> None:
    config = checkout.path("config/small.yaml")
    config.write_text(yaml.safe_dump(small_paper(checkout.root), sort_keys=False))
    environment = {"LIGHTNINGRL_DATA_MIRROR": os.environ["LIGHTNINGRL_DATA_MIRROR"]}
    checkout.run("--cores", "2", "--quiet", config=str(config), limit_s=TEST_S, **environment)
    latest = checkout.path("results/small/latest")
    for number in range(1, 8):
        page = (latest / "tables" / f"table{number}.md").read_text()
        assert all(title in page for title in ("As published", "As measured here", "Measured minus published"))
    for number in (1, 3, 4, 5, 6, 7, 8):
        assert (latest / "figures" / f"figure{number}.png").stat().st_size > 0
    rows = list(csv.DictReader((latest / "tables" / "table1.csv").open()))
    measured = {row["policy"] for row in rows if row["part"] == "measured"}
    assert {"base", "lightningrl-gsm8k", "tracerl-math", "grpo-traj-code", "released-humaneval"} <= measured
    rivals = {
        row["policy"]
        for row in csv.DictReader((latest / "tables" / "table2.csv").open())
        if row["part"] == "difference"
    }
    assert {*RIVALS, FAST} <= rivals and not any("sglang" in policy or "eagle" in policy for policy in rivals)
    assert checkout.would_run(config=str(config)) == set()
