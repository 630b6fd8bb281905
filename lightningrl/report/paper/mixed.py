"""The AUPs of a table that mixes measured policies with systems of the d3LLM leaderboard, recomputed with one y_max.

For each benchmark y_max is the best accuracy in the table: among the measured sweeps, the leaderboard's points of the
systems that are not run here, and what the paper prints for them. A system without points keeps its published AUP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lightningrl.evaluation.aup import aup
from lightningrl.report.paper.lines import NAN, Line
from lightningrl.report.paper.printed import BENCHMARKS
from lightningrl.report.published.leaderboard import Point, table_2


@dataclass(frozen=True, slots=True)
class Mixed:
    """The y_max and the points from which the AUPs of one mixed table are computed."""

    y_max: Mapping[str, float]
    """y_max by benchmark, percent."""
    points: Mapping[tuple[str, str], Sequence[Point]]
    """(benchmark, policy or other system) -> (TPF, accuracy in percent)."""

    def aup(self, line: Line) -> float:
        """Returns the AUP with the table's y_max, or NaN where there are no points."""
        points = self.points.get((line.benchmark, _name(line)), ())
        return aup(points, self.y_max[line.benchmark]) if points else NAN


def mix(lines: Sequence[Line], frontier: pd.DataFrame) -> Mixed:
    """Returns points and y_max of the lines of a table; `frontier` has the measured sweeps."""
    board = {(cell.model, cell.benchmark): cell.points for cell in table_2()}
    points: dict[tuple[str, str], Sequence[Point]] = {}
    y_max: dict[str, float] = {}
    for line in lines:
        if line.as_published:
            found: Sequence[Point] = board.get((line.row.identity, BENCHMARKS[line.benchmark]), ())
            best = [line.published("accuracy_pct")]
        else:
            rows = frontier[(frontier["policy"] == line.policy) & (frontier["benchmark"] == line.benchmark)]
            found, best = list(zip(rows["tpf"].astype(float), rows["accuracy_pct"].astype(float), strict=True)), []
        points[line.benchmark, _name(line)] = found
        best += [accuracy for _, accuracy in found]
        y_max[line.benchmark] = max([*best, y_max.get(line.benchmark, 0.0)])
    return Mixed(y_max, points)


def _name(line: Line) -> str:
    return line.row.identity if line.measured is None else line.policy
