"""Tables of quantised systems: `quantization`, each setting against its float weights; `bought_back`, what another
threshold gives back of what quantisation took.

They are pure functions of the collected tables; the statistics are in `quantized`, the probes in
`pipeline.stages.looks`.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pandas as pd

from lightningrl.quantization.values import UNROUNDED
from lightningrl.report.rivals import by_appearance
from lightningrl.report.tables import MISSING, Cell, Table, build_table, interval, number, plain
from lightningrl.utils.numbers import shortest

STATES = {
    ("state_over_threshold", "exact"): "over_threshold_exact", ("state_over_threshold", "own"): "over_threshold",
    ("state_kl", "all"): "kl", ("state_flips", "revealed"): "flips",
}  # fmt: skip
"""(measure, label) of a probe -> column."""


def quantization(quantized: pd.DataFrame, probes: pd.DataFrame) -> Table:
    """Returns the table of each setting at its primary threshold, by benchmark and policy."""
    rows = with_states(quantized[quantized["is_primary"].astype(bool)], probes)
    rows = rows.sort_values(["benchmark", "weights"], kind="stable", key=by_appearance)
    columns: list[tuple[str, Cell]] = [
        ("Benchmark", attrgetter("benchmark")),
        ("Policy", attrgetter("weights")),
        ("Setting", attrgetter("setting")),
        ("Bits (with scales)", plain("effective_bits", 2)),
        ("Inputs (bits)", lambda row: _bits(row.activation_bits)),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        ("Δ (points)", interval("accuracy_difference", 1, sign=True)),
        ("Δ beyond base", interval("accuracy_difference_beyond", 1, sign=True)),
        ("TPF", interval("tpf", 2)),
        ("x float", interval("tpf_ratio", 3)),
        ("x beyond base", interval("tpf_ratio_beyond", 3)),
        *((name, plain(name, 2)) for name in ("tpf_true", "tpf_paper", "tpf_harness", "tpf_rounds_mean")),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("AUP", interval("aup", 0)),
        ("Δ AUP", interval("aup_difference", 0, sign=True)),
        ("p > τ (%)", lambda row: _shares(row)),
        ("KL (nats)", plain("kl", 3)),
        ("Flips (%)", lambda row: number(100 * row.flips, 1)),
    ]
    notes = [
        *(f"{benchmark}: n = {here['n_problems'].iloc[0]:,} problems; τ = {shortest(here['threshold'].iloc[0])}."
          for benchmark, here in rows.groupby("benchmark", sort=False)),
        "Δ and x float: paired by problem with the same policy's float weights; beyond base: minus (x: over) what the "
        "same setting changes in the policy that these weights were trained from. AUP: on the float weights' axis, "
        "anchored, over the whole sweep.",
        "A model that repeats one sure token has a high TPF: read it with accuracy and tokens. tpf_true, tpf_paper, "
        "tpf_harness, tpf_rounds_mean: docs/counts.md.",
        "p > τ: the share of masked positions over the threshold, float to own weights; KL of the float weights' "
        "distribution; flips of the likeliest token where the float weights reveal; all on their states, validation.",
        "Brackets: 95 % intervals over problems (accuracy: Wilson; others: bootstrap).",
    ]  # fmt: skip
    return build_table("quantization", "Quantised systems against their float weights.", notes, columns, rows, 3)


def bought_back(quantized: pd.DataFrame) -> Table:
    """Returns the table of each quantised system at every threshold, against its float weights at their primary one."""
    rows = quantized[quantized["setting"] != "float"]
    rows = rows.sort_values(["benchmark", "weights"], kind="stable", key=by_appearance)
    columns: list[tuple[str, Cell]] = [
        ("Benchmark", attrgetter("benchmark")),
        ("Policy", attrgetter("weights")),
        ("Setting", attrgetter("setting")),
        ("Threshold τ", lambda row: f"{shortest(row.threshold)}{'*' if row.is_primary else ''}"),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        ("Δ to float* (points)", interval("accuracy_difference_to_primary", 1, sign=True)),
        ("TPF", interval("tpf", 2)),
        ("x float*", interval("tpf_ratio_to_primary", 3)),
        ("Δ tokens", interval("response_tokens_difference_to_primary", 1, sign=True)),
    ]
    notes = ["* the primary threshold; float*: the same policy's float weights at theirs. Paired by problem, 95 %."]
    return build_table("bought_back", "What another threshold gives back.", notes, columns, rows, 3)


def with_states(quantized: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with the columns of `STATES`, NaN where a system was not probed."""
    keys = ["policy", "benchmark"]
    column = [STATES.get(pair) for pair in zip(probes["measure"], probes["label"], strict=True)]
    known = probes.assign(column=column).dropna(subset=["column"])
    wide = known.pivot(index=keys, columns="column", values="value").reindex(columns=list(STATES.values()))
    return quantized.merge(wide.astype(float).reset_index(), "left", on=keys)


def _bits(bits: Any) -> str:
    return MISSING if pd.isna(bits) or bits == UNROUNDED else f"{bits:g}"


def _shares(row: Any) -> str:
    if pd.isna(row.over_threshold):
        return MISSING
    return f"{number(100 * row.over_threshold_exact, 1)} to {number(100 * row.over_threshold, 1)}"
