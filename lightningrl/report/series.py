"""Long tables: training curves by step, tokens revealed at each decoding step, and measured speeds.

`curves` gathers the trainer's metrics JSONL of several runs (paper's Figures 3-6 and 8); `steps` counts what each
denoise forward revealed (Figure 7); `speeds` puts measurements under each other (Table 7). Not done here: smoothing
and drawing (`figures`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.errors import StageError
from lightningrl.evaluation.metrics import problem_sums
from lightningrl.report.frontier import Evaluation, primary_index

CURVE_COLUMNS = (
    "reward_total_mean", "reward_accuracy_mean", "reward_speed_mean", "accuracy_pct", "tpf", "collapse_ratio_0.1",
    "collapse_ratio_0.1_sum", "acceptance_rate", "kl", "nll", "entropy", "response_tokens_mean",
)  # fmt: skip
"""Always present, NaN where a run does not log them; whatever else is logged follows by name, `TEXT_COLUMNS` last."""

TEXT_COLUMNS = ("role", "benchmark", "published")
"""What a run is, from its rows' keys of these names: its role, what it trained on, the row of the paper's tables that
it stands for. Empty where they do not say."""

STEP_COLUMNS = (
    "policy", "role", "benchmark", "threshold", "decoding_step", "tokens_mean", "tokens_std", "samples_running",
    "samples_total", "published",
)  # fmt: skip

SPEED_COLUMNS = (
    "policy", "role", "benchmark", "published", "prompts", "warmup_prompts", "batch", "prefill_included", "tokens",
    "seconds", "tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "device", "dtype", "threshold",
    "max_new_tokens",
)  # fmt: skip
"""The columns of `speed.json`, with the policy's role and row; the interval is 95 % over repeats."""


def curves(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per (run, step), sorted; of a step logged twice (a run that was resumed) the last row counts.

    Each row needs `run` and `step`; values that are not numbers are left out. Raises StageError without either.
    """
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    texts: dict[str, dict[str, str]] = {}
    for row in rows:
        if "run" not in row or "step" not in row:
            raise StageError(f"a metrics row must name its run and step; found the keys {sorted(row)}.")
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
        kept[str(row["run"]), int(row["step"])] = numbers
        texts[str(row["run"])] = {key: str(row.get(key) or "") for key in TEXT_COLUMNS}
    others = sorted({key for row in kept.values() for key in row} - set(CURVE_COLUMNS) - {"run", *TEXT_COLUMNS})
    columns = ["run", "step", *CURVE_COLUMNS, *others]
    order = {run: number for number, run in enumerate(dict.fromkeys(run for run, _ in kept))}
    listed = sorted(kept, key=lambda key: (order[key[0]], key[1]))
    table = pd.DataFrame([{"run": run, "step": step} | kept[run, step] for run, step in listed], columns=columns)
    table = table.astype(dict.fromkeys(columns[2:], float))
    return table.assign(**{key: [texts[run][key] for run in table["run"]] for key in TEXT_COLUMNS})


def steps(evaluations: Sequence[Evaluation], primary_threshold: float = 0.9) -> pd.DataFrame:
    """Tokens revealed at each decoding step at the primary threshold, by (policy, benchmark).

    Step i (from 1) is a response's i-th denoise forward; `tokens_mean` and `tokens_std` (population) are over the
    `samples_running` responses that took at least i forwards. Every decoded position counts, the tail after the stop
    token too. Raises StageError when a record's counts do not add up to its emitted tokens.
    """
    rows: list[dict[str, Any]] = []
    for evaluation in evaluations:
        sums = problem_sums(evaluation.records)
        threshold = sums.thresholds[primary_index(evaluation, sums, primary_threshold)]
        traces = [each for each in evaluation.records if each.threshold == threshold and each.tokens_by_step]
        for record in traces:
            if sum(record.tokens_by_step) != record.emitted_tokens:
                raise StageError(
                    f"{record.uid} sample {record.sample}: {sum(record.tokens_by_step)} tokens by step, but "
                    f"{record.emitted_tokens} emitted. The record is damaged; evaluate again."
                )
        longest = max((len(record.tokens_by_step) for record in traces), default=0)
        tokens_SI = np.full((len(traces), longest), np.nan)  # samples x decoding steps
        for s, record in enumerate(traces):
            tokens_SI[s, : len(record.tokens_by_step)] = record.tokens_by_step
        for i in range(longest):
            running = tokens_SI[~np.isnan(tokens_SI[:, i]), i]
            rows.append(
                {
                    "policy": evaluation.policy,
                    "role": evaluation.role,
                    "benchmark": evaluation.benchmark,
                    "threshold": threshold,
                    "decoding_step": i + 1,
                    "tokens_mean": float(running.mean()),
                    "tokens_std": float(running.std()),
                    "samples_running": len(running),
                    "samples_total": len(traces),
                    "published": evaluation.published,
                }
            )
    return pd.DataFrame(rows, columns=list(STEP_COLUMNS))


def speeds(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per measured (policy, benchmark), as given; columns beyond `SPEED_COLUMNS` follow by name.

    Raises StageError when a row lacks one of them.
    """
    rows = list(rows)
    for row in rows:
        missing = sorted(set(SPEED_COLUMNS) - set(row))
        if missing:
            raise StageError(
                f"the speed of {row.get('policy', 'a policy')} lacks {', '.join(missing)}; measure it again."
            )
    others = sorted({key for row in rows for key in row} - set(SPEED_COLUMNS))
    return pd.DataFrame(rows, columns=[*SPEED_COLUMNS, *others])
