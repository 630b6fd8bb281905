"""What responses to a benchmark's problems are like: published where it is, else assumed; for a run's own figures to
replace.

Prompt lengths are assumed. TPF: as the paper's Tables 1 and 6 print it for the row that a policy stands for, of a run
for its base's, which it starts from (one that succeeds is faster at its end); else SDAR-8B-b32's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from lightningrl.bench.estimate.work import Lengths
from lightningrl.report.paper.printed import printed

KNOWN = {
    # 151 response tokens: the first public commit's records of static decoding at block 4 (inferred: of GSM8K).
    "gsm8k": Lengths(120, 151, 2.85),
    # Assumed: three to four times GSM8K's.
    "math500": Lengths(130, 550, 4.81),
    # Assumed: a short function and its fence.
    "mbpp": Lengths(150, 120, 2.44),
    # Assumed: the body of a function whose signature is in the prompt.
    "humaneval": Lengths(320, 120, 2.39),
    # Assumed: a statement with examples, a whole script; its TPF as MBPP's.
    "primeintellect": Lengths(600, 350, 2.44),
    # The miniature's: its prototype's base, measured.
    "gsm-mini": Lengths(30, 33, 1.64),
    # Assumed.
    "code-mini": Lengths(30, 20, 1.64),
}
OTHER = Lengths(200, 300, 3.0)
"""For a benchmark that nobody has measured."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller says instead, of all benchmarks; None: as it is known.

    >>> Said(tpf=5.0).lengths("gsm8k").tpf
    5.0
    """

    prompt_tokens: float | None = None
    response_tokens: float | None = None
    tpf: float | None = None
    kept: float = 0.65
    """Share of rolled-out groups that pass the filter; the rest is resampled (assumed: 50 to 80 % in the miniature)."""

    def lengths(self, benchmark: str, row: str = "", block_size: int | None = None) -> Lengths:
        """Of a benchmark by its name, for the published row that a policy stands for; TPF at most the block size."""
        found = KNOWN.get(benchmark, OTHER)
        found = replace(found, tpf=_printed_tpf().get((row, benchmark), found.tpf))
        if block_size is not None:
            found = replace(found, tpf=min(found.tpf, float(block_size)))
        said = {name: getattr(self, name) for name in ("prompt_tokens", "response_tokens", "tpf")}
        return replace(found, **{name: value for name, value in said.items() if value is not None})


@cache
def _printed_tpf() -> dict[tuple[str, str], float]:
    """(published row, benchmark) -> TPF."""
    return {
        (row.identity, benchmark): value
        for table in ("table1", "table6")
        for row in printed(table)
        for (benchmark, metric), value in row.numbers.items()
        if metric == "tpf"
    }
