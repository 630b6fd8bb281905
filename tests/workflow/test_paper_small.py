"""The paper's whole DAG with real problems and random checkpoints of a few thousand weights: every table and figure.

Its numbers mean nothing; that each stage of `config/paper.yaml` runs, and what it shows, is what is tried.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import TEST_S

from lightningrl.tokenization import load_tokenizer

pytestmark = [pytest.mark.mirror, pytest.mark.slow]

SIZES = {"train": 12, "validation": 2, "test": 3, "max_new_tokens": 8}
SMALL = {
    "steps": 2, "prompts": 2, "responses": 2, "updates": 1, "max_rounds": 1, "validate_every": 2, "threshold": 0.05,
    "precision": "float32", "microbatch_positions": 1500,
}  # fmt: skip


def small_paper(root: Path) -> dict:
    """`config/paper.yaml` with small checkpoints, few problems and short runs; code is learned on MBPP, because
    PrimeIntellect is not in the mirror."""
    tree = yaml.safe_load((root / "config" / "paper.yaml").read_text())
    for number, policy in enumerate([tree["base"], *tree["checkpoints"]]):
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
    assert checkout.would_run(config=str(config)) == set()
