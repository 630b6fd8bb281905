"""CSV text with fixed bytes, as figures and tables write it."""

from __future__ import annotations

import pandas as pd


def csv_text(table: pd.DataFrame) -> str:
    """Returns CSV with a header, shortest exact floats, empty cells for NaN, and Unix line ends."""
    return table.to_csv(index=False, lineterminator="\n", na_rep="")
