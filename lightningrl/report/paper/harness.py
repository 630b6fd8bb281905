"""Table 2 by its other protocol: each row with the arguments of lm-evaluation-harness that its numbers were made with.

The d3LLM leaderboard, from which the paper took these rows, evaluates families by different tasks, prompts, shots and
stop strings; `published/harness_arguments.csv` has them as data, and the decoder with its published defects. What comes
of it stands beside the published number alone, never in a column with what our own protocol measures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from lightningrl.report.paper.printed import BENCHMARKS, points_of, printed
from lightningrl.report.published.files import HARNESS, rows

ROW, ANCHOR = "row", "anchor"
HARNESS_VERSION = "0.4.9"
"""The version that the published rows were made with; a result's file has it beside the installed one's."""
WITHOUT = {
    "Fast-dLLM-v2": "the leaderboard has no script for it, and its own evaluation is another one (threshold 1)",
    "EAGLE-3 (LLaMA-3.1)": "no script was published; ask a server (docs/endpoints.md)",
    "SDAR-8B-b32": "LightningRL's own evaluation is the protocol of config/paper.yaml",
    "LightningRL-8B-b32": "LightningRL's own evaluation is the protocol of config/paper.yaml",
}
"""Rows of Table 2 for which no arguments of the harness are published, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """How one row of Table 2 was evaluated on one benchmark."""

    row: str
    """As in the paper's table."""
    benchmark: str
    """Our name of it."""
    point: str
    """`row`: the table's number; `anchor`: the same weights at a token a forward, the first point of its AUP."""
    checkpoint: str
    """The repository of the released weights."""
    adapter: str
    """A LoRA over them; empty: none."""
    task: str
    """The harness's task."""
    shots: int
    """As the command says; a task may have fewer examples."""
    chat: bool
    """The harness renders the chat template."""
    multiturn: bool
    """Examples are turns of the chat."""
    turn: str
    """The user's turn that the evaluated model makes of the harness's text, `{prompt}`, before its own chat template;
    empty: the text is the prompt."""
    bos: bool
    """The prompt begins with the tokenizer's first token."""
    stops: bool
    """Answers are cut at the task's stop strings."""
    fenced: bool
    """What is judged is the first fenced program of an answer."""
    preset: str
    parameter: float
    options: dict[str, Any]
    """Keys of `decoding` over the preset."""
    tokens: int
    """The longest answer, or the length of the canvas."""
    temperature: float
    top_p: float
    metric: str
    """The harness's name of the number that the leaderboard is taken to show."""

    @property
    def name(self) -> str:
        """Names its file: letters, digits and hyphens.

        >>> cells()[0].name
        'llada-gsm8k'
        """
        words = "".join(each if each.isalnum() else "-" for each in self.row.lower()).strip("-")
        return f"{words}-{self.benchmark}" + (f"-{ANCHOR}" if self.point == ANCHOR else "")

    @property
    def family(self) -> str:
        """The `model_type` of the row's checkpoint.

        >>> sorted({cell.family for cell in cells()})
        ['Dream', 'llada', 'qwen2']
        """
        named = {"llada": "llada", "dream": "Dream", "qwen2": "qwen2"}
        [found] = [family for word, family in named.items() if word in self.checkpoint.lower()]
        return found

    @property
    def runs_programs(self) -> bool:
        """Whether the harness runs what the model writes, in this process's place and without a jail."""
        return self.task.startswith(("mbpp", "humaneval"))

    def published(self) -> dict[str, float]:
        """Returns the published accuracy in percent and TPF."""
        if self.point == ANCHOR:
            tpf, accuracy = points_of(self.row, BENCHMARKS[self.benchmark])[0]
            return {"accuracy_pct": accuracy, "tpf": tpf}
        numbers = next(each.numbers for each in printed("table2") if each.identity == self.row)
        return {metric: numbers[self.benchmark, metric] for metric in ("accuracy_pct", "tpf")}


@cache
def cells() -> tuple[Cell, ...]:
    """Returns every row and benchmark whose arguments are published."""
    return tuple(_cell(row) for row in rows(HARNESS))


def _cell(row: Mapping[str, str]) -> Cell:
    read = {"int": int, "float": float, "str": str, "bool": lambda text: text == "1"}
    kinds = {field.name: str(field.type) for field in fields(Cell)}
    values = {name: read[kinds[name]](text) for name, text in row.items() if name != "options"}
    turn = values["turn"].replace("\\n", "\n")
    return Cell(**values | {"turn": turn, "options": json.loads(row["options"] or "{}")})


def comparison(results: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the lines of a table of published, measured and their difference. results: files of finished cells."""
    header = ["Row", "Benchmark", "Problems", "Metric", "Published", "Measured", "Measured − published"]
    lines = [header]
    for found in results:
        label = found["row"] + (f" ({ANCHOR})" if found["point"] == ANCHOR else "")
        for metric, digits in (("accuracy_pct", 1), ("tpf", 2)):
            known, now = found["published"][metric], found["measured"][metric]
            numbers = [f"{known:.{digits}f}", f"{now:.{digits}f}", f"{now - known:+.{digits}f}"]
            lines.append([label, BENCHMARKS[found["benchmark"]], str(found["problems"]), metric, *numbers])
    return lines
