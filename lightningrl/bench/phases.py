"""Where the seconds of a training run went, from its own files: by phase, with the share of the machine's peak.

Operations counted are multiplications and additions of the layers' matrices, two a weight and position: a rollout and a
reference position once, a trained one three times (forward, backward); attention and the head are left out, so the
shares are low rather than high.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightningrl.bench.machine import peak_operations_per_s
from lightningrl.errors import CheckpointError, StageError
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import ModelConfig
from lightningrl.utils import files

FORWARDS = {"rollout": 1, "reference": 1, "update": 3}
POSITIONS = {"rollout": "rollout_positions", "reference": "trained_positions", "update": "trained_positions"}


def layer_weights(config: ModelConfig) -> int:
    """Numbers in the layers' matrices."""
    heads, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (2 * heads + 2 * kv + 3 * config.intermediate_size)


def phases(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Medians over the run's steps but the first: {"phases": [...], "logp_gap_mean": ..., "logp_gap_max": ...}.

    folder: a finished training's. device, dtype: where its peak is measured now. Raises CheckpointError for another
    folder.
    """
    try:
        metrics = list(files.read_jsonl(folder / "metrics.jsonl"))
        timing = [row for row in files.read_jsonl(folder / "timing.jsonl") if "rollout_s" in row]
    except (OSError, StageError):
        raise CheckpointError(f"{folder} is no finished training: it has no metrics.jsonl or timing.jsonl") from None
    if not timing or "trained_positions" not in metrics[0]:
        raise CheckpointError(f"{folder} is no reinforcement-learning run: its steps have no phases")
    config = read_config(folder)
    steps = range(1, len(metrics)) if len(metrics) > 1 else range(1)
    peak = peak_operations_per_s(device, dtype)
    rows = []
    for name, forwards in FORWARDS.items():
        seconds = median(timing[step][f"{name}_s"] for step in steps)
        positions = median(metrics[step][POSITIONS[name]] for step in steps)
        operations = 2 * forwards * layer_weights(config) * positions
        rows.append({
            "phase": name, "seconds": seconds, "positions": positions, "positions_per_s": positions / seconds,
            "of_peak_pct": 100 * operations / seconds / peak,
        })  # fmt: skip
    return {
        "phases": rows,
        "peak_operations_per_s": peak,
        "parameters": config.num_parameters,
        "rollout_tokens_per_s": median(timing[step]["rollout_tokens_per_s"] for step in steps),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in timing),
        "logp_gap_mean": max(row.get("logp_gap_mean", 0.0) for row in metrics),
        "logp_gap_max": max(row.get("logp_gap_max", 0.0) for row in metrics),
    }
