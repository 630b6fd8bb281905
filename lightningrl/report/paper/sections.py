"""Several tables under one name (as published, as measured, the difference), which are written like a `Table`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from lightningrl.report.formats import csv_text
from lightningrl.report.tables import Table


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """Tables below one another, and one long table of all their numbers.

    >>> part = Table("p", "As published", (), ("A", "TPF"), (("x", "2.0"),), pd.DataFrame())
    >>> Sections("table9", "Table 9: speed", (part,), pd.DataFrame({"value": [2.0]})).csv()
    'value\\n2.0\\n'
    """

    name: str
    """The file name without its ending."""
    caption: str
    parts: tuple[Table, ...]
    """The tables, each with its caption as heading; their own data are not used."""
    data: pd.DataFrame
    """The long table, with one number in each row."""

    def csv(self) -> str:
        return csv_text(self.data)

    def markdown(self) -> str:
        """Returns a heading and a pipe table for each part, with its notes below."""
        lines = [f"## {self.caption}", ""]
        for part in self.parts:
            lines += [f"### {part.caption}", "", *part.pipe(), "", *(f"- {note}" for note in part.notes)]
            lines += [""] if part.notes else []
        return "\n".join(lines)

    def latex(self) -> str:
        """Returns a `table` environment for each part."""
        parts = [
            replace(part, name=f"{self.name}-{number}", caption=f"{self.caption}. {part.caption}.")
            for number, part in enumerate(self.parts, 1)
        ]
        return "\n".join(part.latex() for part in parts)
