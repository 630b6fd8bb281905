"""Sentences about a headline (`frontier.collect`): significant differences to the base, and a run's place among
others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lightningrl.errors import StageError
from lightningrl.report.tables import number

COLUMNS = ("benchmark", "policy", "tpf", "accuracy_difference")


def read_seeds(path: Path) -> pd.DataFrame:
    """Reads the headlines of runs with other seeds. Raises StageError when the file is not such a table."""
    try:
        return pd.read_csv(path)[list(COLUMNS)]
    except (KeyError, ValueError) as error:  # pandas' errors about the file's form are ValueErrors
        raise StageError(
            f"{path}, the config's `report.seeds`, is no CSV file with the columns {', '.join(COLUMNS)}: {error}. Give "
            "the headline.csv of runs under other seeds, or leave the key out."
        ) from None


def differences(headline: pd.DataFrame) -> list[str]:
    """Returns a sentence for each policy whose paired interval of the accuracy difference excludes 0."""
    row: Any
    sentences = []
    for row in headline.itertuples():
        low, high = row.accuracy_difference_low, row.accuracy_difference_high
        if low > 0 or high < 0:
            sentences.append(
                f"On {row.benchmark}, {row.policy} is {number(abs(row.accuracy_difference), 1)} points "
                f"{'more' if low > 0 else 'less'} accurate than its base: the 95 % interval "
                f"[{number(low, 1, sign=True)}, {number(high, 1, sign=True)}] excludes 0."
            )
    return sentences


def among_seeds(headline: pd.DataFrame, seeds: pd.DataFrame) -> list[str]:
    """Returns a sentence for each policy in `seeds`, with the places of its TPF and accuracy difference among theirs.

    seeds: rows of recorded runs of the same experiment, one per seed, in the headline's columns.
    """
    row: Any
    sentences = []
    for row in headline.itertuples():
        recorded = seeds[(seeds.policy == row.policy) & (seeds.benchmark == row.benchmark)]
        if len(recorded):
            where = [_place("TPF", row.tpf, recorded.tpf, 2)]
            if not pd.isna(row.accuracy_difference):
                where.append(_place("Δ accuracy", row.accuracy_difference, recorded.accuracy_difference, 1, sign=True))
            runs = f"the {len(recorded)} recorded seeds" if len(recorded) > 1 else "the one recorded seed"
            sentences.append(f"Of {runs} of {row.policy} on {row.benchmark}, {'; '.join(where)}.")
    return sentences


def _place(name: str, value: float, recorded: pd.Series, digits: int, sign: bool = False) -> str:
    """Says how many recorded values are below one, and their range."""
    low, high = number(recorded.min(), digits, sign), number(recorded.max(), digits, sign)
    below = int((recorded < value).sum())
    count = "none has" if not below else "one has" if below == 1 else f"{below} have"
    return f"{count} a lower {name} than this run's {number(value, digits, sign)} (range {low} to {high})"
