"""The table of trained systems beside what they began from: accuracy, speed, work, and what the training spent.

A row is a (system, benchmark) at the system's primary threshold, by family. Notes say which system is ahead among those
that are as accurate as the best, per forward and per position computed, because a forward over a whole canvas is not a
forward over one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pandas as pd

from lightningrl.report.rivals import by_appearance
from lightningrl.report.tables import MISSING, Cell, Table, build_table, interval, number, plain, word_notes
from lightningrl.utils.numbers import shortest

MARGIN = 2.0
"""Points of accuracy below the most accurate system within which a system counts as equally accurate."""


def trained(headline: pd.DataFrame, trainings: pd.DataFrame) -> Table:
    """Returns the table, by benchmark and family, then in the order of the headline."""
    spent = trainings.assign(
        spent=(trainings["token_forwards"] + trainings["earlier_token_forwards"]) / 1e6, policy=trainings["run"]
    )
    data = headline.merge(
        spent[["policy", "spent", "steps"]].astype({"spent": float, "steps": float}), "left", "policy"
    )
    data = data.sort_values(["benchmark", "family"], kind="stable", key=by_appearance)
    columns: list[tuple[str, Cell]] = [
        ("Benchmark", attrgetter("benchmark")),
        ("System", attrgetter("policy")),
        ("Family", lambda row: MISSING if pd.isna(row.family) else str(row.family)),
        ("Parameter", lambda row: shortest(row.threshold)),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        ("Δ accuracy (points)", interval("accuracy_difference", 1, sign=True)),
        ("TPF", interval("tpf", 2)),
        ("Forwards (per problem)", interval("forwards_per_problem", 1)),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("Positions (per token)", interval("positions_per_token", 1)),
        ("Keys (per token)", interval("keys_per_token", 0)),
        ("AUP", interval("aup", 1)),
        ("Trained with (10^6 token-forwards)", plain("spent", 2)),
        ("Steps", plain("steps", 0)),
    ]
    notes = [
        *_ahead(data),
        *word_notes(headline),
        "Δ accuracy: against the untrained policy of the same family by its own decoder, paired by problem. TPF: "
        "response tokens over denoise forwards; positions and keys per token: docs/counts.md. AUP: one y_max per "
        "benchmark.",
        "Trained with: positions of all forwards, those of rollouts, of a teacher, of the answers made for it and of "
        "earlier runs on the way to its base included; a backward counts as two.",
        "Brackets: 95 % intervals over problems (accuracy: Wilson; others: bootstrap).",
    ]
    return build_table("trained", "Trained systems on the same ground.", notes, columns, data, 3)


def _ahead(data: pd.DataFrame) -> Iterator[str]:
    """Yields a sentence for each benchmark: who is ahead at equal accuracy, per forward and per position."""
    for benchmark, rows in data.groupby("benchmark", sort=False):
        equal = rows[rows["accuracy_pct"] >= rows["accuracy_pct"].max() - MARGIN]
        by_forward: Any = equal.loc[equal["tpf"].idxmax()]
        sentence = (
            f"{benchmark}, n = {rows['n_problems'].iloc[0]:,}: of the {len(equal)} systems within {MARGIN:g} points of "
            f"the most accurate, {by_forward.policy} is ahead per forward ({number(by_forward.tpf, 2)} tokens)"
        )
        counted = equal[equal["positions_per_token"].notna()]
        if len(counted):
            by_work: Any = counted.loc[counted["positions_per_token"].idxmin()]
            least = number(by_work.positions_per_token, 1)
            sentence += f", {by_work.policy} per unit of work ({least} positions per token)"
        yield sentence + "."
