"""Lengths of prompts and responses and the TPF of each benchmark: published where possible, else assumed.

Prompt lengths are assumed. The TPF is that of the paper's Tables 1 and 6 for the row that a policy stands for; a run
has that of its base, from which it starts (one that succeeds is faster at its end); all others have SDAR-8B-b32's.
Figures of a run should replace them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from lightningrl.bench.estimate.work import Lengths
from lightningrl.report.paper.printed import printed

KNOWN = {
    # 151 response tokens: the first public commit's records of static decoding at block 4 (inferred: on GSM8K).
    "gsm8k": Lengths(120, 151, 2.85),
    # Assumed: three to four times GSM8K's.
    "math500": Lengths(130, 550, 4.81),
    # Assumed: a short function and its fence.
    "mbpp": Lengths(150, 120, 2.44),
    # Assumed: the body of a function whose signature is in the prompt.
    "humaneval": Lengths(320, 120, 2.39),
    # Assumed: a statement with examples, a whole script; its TPF as MBPP's.
    "primeintellect": Lengths(600, 350, 2.44),
    # Measured for the base of the miniature's prototype.
    "gsm-mini": Lengths(30, 33, 1.64),
    # Assumed.
    "code-mini": Lengths(30, 20, 1.64),
}
OTHER = Lengths(200, 300, 3.0)
"""The assumption for all other benchmarks."""


@dataclass(frozen=True, slots=True)
class LengthOverrides:
    """What the caller assumes for all benchmarks instead; None keeps the known value.

    >>> LengthOverrides(tpf=5.0).lengths("gsm8k").tpf
    5.0
    """

    prompt_tokens: float | None = None
    response_tokens: float | None = None
    tpf: float | None = None
    kept: float = 0.65
    """Share of groups that pass the filter; the rest is sampled again (assumed: 50 to 80 % in the miniature)."""

    def lengths(self, benchmark: str, row: str = "", block_size: int | None = None) -> Lengths:
        """Returns a benchmark's lengths for the published row that a policy stands for; TPF is at most the block
        size.
        """
        found = KNOWN.get(benchmark, OTHER)
        found = replace(found, tpf=_printed_tpf().get((row, benchmark), found.tpf))
        if block_size is not None:
            found = replace(found, tpf=min(found.tpf, float(block_size)))
        overrides = {name: getattr(self, name) for name in ("prompt_tokens", "response_tokens", "tpf")}
        return replace(found, **{name: value for name, value in overrides.items() if value is not None})


@cache
def _printed_tpf() -> dict[tuple[str, str], float]:
    """Returns (published row, benchmark) -> TPF."""
    return {
        (row.identity, benchmark): value
        for table in ("table1", "table6")
        for row in printed(table)
        for (benchmark, metric), value in row.numbers.items()
        if metric == "tpf"
    }
