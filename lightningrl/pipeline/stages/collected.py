"""Reads the collected tables back as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lightningrl.errors import StageError

TEXT_COLUMNS = (
    "experiment", "policy", "role", "algorithm", "benchmark", "base", "thresholds", "run", "published", "device",
    "dtype", "split", "series", "seeds", "accuracy_pct_by_seed", "tpf_by_seed", "response_tokens_by_seed",
    "aup_anchored_by_seed", "measure", "label", "family", "weights", "setting", "exact", "counterpart", "quantizer",
    "calibration",
)  # fmt: skip
"""Columns that stay text even where they look like numbers; empty cells are empty strings."""


def read_collected(folder: Path, name: str) -> pd.DataFrame:
    """Returns `<name>.csv` of a collect stage. Raises StageError when it is missing or no table."""
    path = folder / f"{name}.csv"
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, "str"))
    except FileNotFoundError:
        raise StageError(f"{path} is missing. Run the collect stage (snakemake does so by itself).") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise StageError(f"{path} is damaged ({error}). Delete {folder} and run again.") from error
    return table.fillna({column: "" for column in TEXT_COLUMNS if column in table})


def read_all(folder: Path, names: str | Sequence[str]) -> list[pd.DataFrame]:
    """Returns the collected tables that a table or figure takes, in its order."""
    return [read_collected(folder, name) for name in ([names] if isinstance(names, str) else names)]
