"""Tables as text: CSV (every number, full precision), Markdown and LaTeX (booktabs), and a view for the terminal.

They are pure functions of the collected tables: `main` shows the headline, `frontier` every threshold. An estimate is
followed by its 95 % interval in brackets, headers carry units, and the notes say what the numbers depend on (y_max, the
anchor, thresholds, n). The statistics are in `frontier.collect`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from lightningrl.report.formats import csv_text
from lightningrl.report.page import html_page
from lightningrl.utils.files import write_text
from lightningrl.utils.numbers import shortest

Cell = Callable[[Any], str]

DOUBLE_DAGGER = "‡"
"""The mark of numbers that are a server's word."""
WORD = {"tpf": "tpf_reported", "aup": "aup_reported", "response_tokens_mean": "response_tokens_reported_mean"}
"""Numbers that are counted here -> what a server says of them."""
MINUS, MISSING = "\u2212", "\u2013"
"""A true minus sign, and the en dash that printed tables use for "does not apply"."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "τ": r"$\tau$", "Δ": r"$\Delta$", MINUS: "$-$",
    MISSING: "--", "†": r"\dag{}", "‡": r"\ddag{}", "×": r"$\times$", "±": r"$\pm$",
}  # fmt: skip


WORK_NOTE = (
    "TPF with commits: response tokens over all forwards but a prefill that reveals nothing. Positions: query "
    "positions that the model computed, prefill included, for each response token."
)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A finished table: its text cells and the numbers behind them."""

    name: str
    """The file name without its ending."""
    caption: str
    notes: tuple[str, ...]
    """Lines under the table."""
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    n_text_columns: int = 1
    """How many columns from the left have names; the others have numbers and are set flush right."""

    def csv(self) -> str:
        return csv_text(self.data)

    def markdown(self, heading: str = "**{}**") -> str:
        """Returns GitHub's pipe table between caption and notes."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        rule = ["---" if c < self.n_text_columns else "---:" for c in range(len(self.header))]
        pipe = (f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))
        return "\n".join([heading.format(self.caption), "", *pipe, "", *(f"- {note}" for note in self.notes), ""])

    def latex(self) -> str:
        """Returns a `table` environment, which needs only the booktabs package.

        Intervals and units are set small below, so that ten columns fit on a page; a name that repeats in the first
        column is left out.
        """
        columns = "l" * self.n_text_columns + "r" * (len(self.header) - self.n_text_columns)
        lines = [
            r"\begin{table}[t]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(self.caption)}}}", rf"\label{{tab:{self.name}}}", rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule", *self._two_lines(self.header, " ("), r"\midrule",
        ]  # fmt: skip
        previous = None
        for row in self.rows:
            if previous is not None:
                lines.append(r"\addlinespace" if row[0] != previous else r"\addlinespace[1pt]")
            lines += self._two_lines(("" if row[0] == previous else row[0], *row[1:]), " [")
            previous = row[0]
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes:
            notes = "\\\\\n".join(map(escape, self.notes))
            lines += [r"\par\smallskip", rf"\begin{{minipage}}{{\linewidth}}\scriptsize {notes}\end{{minipage}}"]
        return "\n".join([*lines, r"\end{table}", ""])

    def _two_lines(self, cells: Sequence[str], mark: str) -> list[str]:
        """Returns one or two LaTeX rows: in number columns what follows `mark` (interval, unit) is set small below."""
        names = [(cell, "", "") for cell in cells[: self.n_text_columns]]
        split = names + [cell.partition(mark) for cell in cells[self.n_text_columns :]]
        rows = [" & ".join(escape(above) for above, _, _ in split) + r" \\"]
        if any(below for _, _, below in split):
            small = (rf"{{\scriptsize {escape(mark.strip() + below)}}}" if below else "" for _, _, below in split)
            rows.append(" & ".join(small) + r" \\")
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """Tables below one another (as published, as measured, the difference), and one long table of all their numbers."""

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
        return "\n".join([f"## {self.caption}", "", *(part.markdown("### {}") for part in self.parts)])

    def latex(self) -> str:
        """Returns a `table` environment for each part."""
        return "\n".join(
            replace(part, name=f"{self.name}-{number}", caption=f"{self.caption}. {part.caption}.").latex()
            for number, part in enumerate(self.parts, 1)
        )


def write(table: Table | Sections, out_dir: Path) -> list[Path]:
    """Writes `name`.csv, .md, .tex and .html into `out_dir`; returns their paths."""
    paths, markdown = [], table.markdown()
    page = html_page(table.name, markdown)
    for suffix, text in (("csv", table.csv()), ("md", markdown), ("tex", table.latex()), ("html", page)):
        paths.append(Path(out_dir) / f"{table.name}.{suffix}")
        write_text(paths[-1], text)
    return paths


def main(headline: pd.DataFrame) -> Table:
    """Returns the headline table, with a row for each (benchmark, policy) at the primary threshold."""
    columns = [
        ("Benchmark", attrgetter("benchmark")),
        ("Policy", attrgetter("policy")),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        *_compat(headline),
        ("Δ accuracy (points)", interval("accuracy_difference", 1, sign=True)),
        ("TPF (tokens/forward)", interval("tpf", 2)),
        *(work := across_families(headline)),
        ("Forwards (per problem)", interval("forwards_per_problem", 1)),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("AUP", interval("aup", 1)),
        ("Anchored AUP", interval("aup_anchored", 1)),
        ("Δ anchored AUP", interval("aup_anchored_difference", 1, sign=True)),
        *_by_word(headline),
    ]
    notes = [
        *headline_notes(headline),
        *word_notes(headline),
        "TPF: response tokens over denoise forwards, ratio of sums; prefill and commits not counted. AUP (TPF x "
        "percent) as published: first rectangle unweighted. Anchored AUP: one y_min and y_max for all, all weighted.",
        *([WORK_NOTE] if work else []),
        f"Brackets: 95 % intervals over problems (accuracy: Wilson; others: {headline['n_bootstrap'].max():,} "
        "bootstrap replicates); Δ is against the base, paired by problem.",
    ]
    return build_table("main", "Accuracy, parallelism and AUP at the primary threshold.", notes, columns, headline, 2)


def frontier(table: pd.DataFrame) -> Table:
    """Returns the table of every threshold of every policy, with an asterisk at the primary one."""
    columns = [
        ("Benchmark", attrgetter("benchmark")),
        ("Policy", attrgetter("policy")),
        ("Threshold τ", lambda row: f"{shortest(row.threshold)}{'*' if row.is_primary else ''}"),
        ("Accuracy (%)", interval("accuracy_pct", 1)),
        *_compat(table),
        ("TPF (tokens/forward)", interval("tpf", 2)),
        ("TPF, mean of ratios", plain("tpf_mean", 2)),
        ("TPF with commits", plain("tpf_true", 2)),
        *(work := _positions(table)),
        ("Forwards (per problem)", interval("forwards_per_problem", 1)),
        ("Response (tokens)", plain("response_tokens_mean", 1)),
        ("Truncated (%)", plain("truncated_pct", 1)),
        *_by_word(table),
    ]
    notes = [
        *word_notes(table),
        "* the primary threshold. TPF: response tokens over denoise forwards, ratio of sums unless marked.",
        *([WORK_NOTE] if work else []),
        *(f"{benchmark}: {_sizes(rows)}." for benchmark, rows in table.groupby("benchmark", sort=False)),
        "Brackets: 95 % intervals over problems (accuracy: Wilson; others: bootstrap).",
    ]
    return build_table("frontier", "Every threshold of the sweep.", notes, columns, table, 2)


def console(headline: pd.DataFrame) -> str:
    """Returns the headline table for a terminal, at most 110 columns wide: estimates above roles and intervals."""
    columns = (  # title, column, digits, sign, width
        ("accuracy %", "accuracy_pct", 1, False, 13), ("Δ points", "accuracy_difference", 1, True, 14),
        ("TPF", "tpf", 2, False, 14), ("forwards", "forwards_per_problem", 1, False, 14),
        ("tokens", "response_tokens_mean", 1, False, 8), ("AUP", "aup", 1, False, 15),
        ("anchored AUP", "aup_anchored", 1, False, 15),
    )  # fmt: skip
    lines = [f"{'':<16}" + "".join(f"{title:>{width}}" for title, *_, width in columns)]
    for benchmark, rows in headline.groupby("benchmark", sort=False):
        lines += ["", f"{benchmark} ".ljust(16 + sum(width for *_, width in columns), "─")]
        for row in rows.itertuples():
            name = str(row.policy)
            above, beneath = name if len(name) <= 16 else name[:15] + "…", f"  {row.role}"
            above, beneath = f"{above:<16}", f"{beneath:<16}"
            for _, key, digits, sign, width in columns:
                key, mark = shown_key(row, key)
                above += f"{number(getattr(row, key), digits, sign) + mark:>{width}}"
                beneath += f"{_bracket(*_ends(row, key), digits, sign):>{width}}"
            lines += [above, beneath.rstrip()]
    told = [*headline_notes(headline), *word_notes(headline)]
    notes = "\n".join(textwrap.fill(note, 110, subsequent_indent="  ") for note in told)
    return "\n".join([*lines, "", notes, "Brackets: 95 % intervals over problems; Δ against the base, paired."])


def number(value: float, digits: int, sign: bool = False) -> str:
    """Returns the value with fixed decimals and a true minus sign, or a dash for NaN."""
    if pd.isna(value):
        return MISSING
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def escape(text: str) -> str:
    """Returns the text escaped for LaTeX; a leading bracket is guarded, as it would be an option after a row end."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def build_table(
    name: str, caption: str, notes: Sequence[str], columns: Sequence[tuple[str, Cell]], data: pd.DataFrame, n_text: int
) -> Table:
    """Returns the table with a row for each row of `data`. columns: titles, and what makes a cell of a row."""
    rows = tuple(tuple(cell(row) for _, cell in columns) for row in data.itertuples())
    return Table(name, caption, tuple(notes), tuple(title for title, _ in columns), rows, data, n_text)


def plain(key: str, digits: int) -> Cell:
    """Returns the function that writes a number of a row."""
    return lambda row: number(getattr(row, key), digits)


def interval(key: str, digits: int, sign: bool = False) -> Cell:
    """Returns the function that writes an estimate, with its interval in brackets if it has one."""
    return lambda row: estimate_text(getattr(row, key), *_ends(row, key), digits, sign)


def estimate_text(value: float, low: float, high: float, digits: int, sign: bool = False) -> str:
    """Returns a value and its interval, if that is known, in brackets."""
    return f"{number(value, digits, sign)} {_bracket(low, high, digits, sign)}".rstrip()


def _ends(row: Any, key: str) -> tuple[float, float]:
    return getattr(row, f"{key}_low", float("nan")), getattr(row, f"{key}_high", float("nan"))


def _bracket(low: float, high: float, digits: int, sign: bool) -> str:
    return "" if pd.isna(low) else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def _compat(data: pd.DataFrame) -> list[tuple[str, Cell]]:
    """Returns the published grader's column if it has any verdict."""
    if data["compat_accuracy_pct"].isna().all():
        return []
    return [("Published grader (%)", plain("compat_accuracy_pct", 1))]


def across_families(data: pd.DataFrame) -> list[tuple[str, Cell]]:
    """Returns the columns that stand beside TPF where the rows are of models of several families, whose forwards are
    not the same work: TPF with commits, and positions per token. Older collected tables do not say the family."""
    families = {name for names in data.get("family", pd.Series(dtype=str)).dropna() for name in str(names).split()}
    return [("TPF with commits", plain("tpf_true", 2)), *_positions(data)] if len(families) > 1 else []


def _positions(data: pd.DataFrame) -> list[tuple[str, Cell]]:
    """Returns the column of positions per token if any row knows it; older collected tables do not have it."""
    known = "positions_per_token" in data and data["positions_per_token"].notna().any()
    return [("Positions (per token)", interval("positions_per_token", 1))] if known else []


def shown_key(row: Any, key: str) -> tuple[str, str]:
    """Returns the column that is shown for a number, and a mark where that is a server's word in place of ours."""
    instead = WORD.get(key, "")
    told = pd.isna(getattr(row, key)) and not pd.isna(getattr(row, instead, float("nan")))
    return (instead, DOUBLE_DAGGER) if told else (key, "")


def _by_word(data: pd.DataFrame) -> list[tuple[str, Cell]]:
    """Returns the columns of a server's word, if any row has some."""
    titles = {"tpf_reported": ("TPF", 2), "response_tokens_reported_mean": ("Response (tokens)", 1)}
    titles |= {"aup_reported": ("AUP", 1)}
    known = [name for name in titles if name in data and data[name].notna().any()]
    return [(f"{titles[name][0]}{DOUBLE_DAGGER}", interval(name, titles[name][1])) for name in known]


def word_notes(data: pd.DataFrame) -> list[str]:
    """Returns a line for each server in the table: what of it was not counted here."""
    if "reported_samples" not in data or data["reported_samples"].isna().all():
        return []
    notes = [
        f"{DOUBLE_DAGGER} by the word of the server that answered: its tokens over the forwards that it tells, which "
        "nobody counted here; of speculative decoding, the verifications of drafts without those that propose them."
    ]
    for (benchmark, policy), rows in data[data["reported_samples"].notna()].groupby(
        ["benchmark", "policy"], sort=False
    ):
        counted, doubted = int(rows["reported_samples"].sum()), int(rows["reported_doubted"].sum())
        missing = int(rows["status_no_answer"].sum()) if "status_no_answer" in rows else 0
        parts = [f"forwards told of {counted:,} of {int(rows['n_samples'].sum()):,} answers"]
        parts += [f"{doubted:,} with contradictory counts, which are left out"] if doubted else []
        parts += [f"{missing:,} without an answer, counted as wrong"] if missing else []
        notes.append(f"{DOUBLE_DAGGER} {policy} on {benchmark}: {'; '.join(parts)}.")
    return notes


def _sizes(rows: pd.DataFrame) -> str:
    samples = sorted(set(rows["n_samples"]))
    text = f"n = {rows['n_problems'].iloc[0]:,} problems, {' or '.join(f'{count:,}' for count in samples)} samples"
    return text + (" a policy" if "thresholds" in rows else " a threshold")


def headline_notes(headline: pd.DataFrame) -> list[str]:
    """Returns one line for each benchmark: n, thresholds, y_max, anchor."""
    notes = []
    for benchmark, rows in headline.groupby("benchmark", sort=False):
        shown = _told_by_policy(rows["policy"], list(map(shortest, rows["threshold"])))
        swept = _told_by_policy(rows["policy"], [thresholds.replace(" ", ", ") for thresholds in rows["thresholds"]])
        line = f"{benchmark}: {_sizes(rows)}; shown at τ = {shown}; AUP over τ = {swept}; y_max = "
        line += f"{number(rows['y_max'].iloc[0], 1)} %"
        anchors = [
            f"y_min = {number(y_min, 1)} % (from {base})"
            for base, y_min in dict.fromkeys(zip(rows["base"], rows["y_min"], strict=True))
            if base
        ]
        notes.append("; ".join([line, *anchors]) + ".")
    return notes


def _told_by_policy(policies: Iterable[str], values: Iterable[str]) -> str:
    """Returns the value that all have, or each value with the policies that have it."""
    found: dict[str, list[str]] = {}
    for policy, value in zip(policies, values, strict=True):
        found.setdefault(value, []).append(policy)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in found.items())
