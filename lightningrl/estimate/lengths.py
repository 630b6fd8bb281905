"""What responses to a benchmark's problems are like: published where it is, else assumed; for a run's own figures to
replace.

Prompt lengths are assumed. TPF: the base's at threshold 0.9 (LightningRL, Table 1, SDAR-8B-b32), which a run starts
from; a run that succeeds is faster at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightningrl.estimate.work import Lengths

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

    def lengths(self, benchmark: str) -> Lengths:
        """Of a benchmark by its name."""
        found = KNOWN.get(benchmark, OTHER)
        said = {name: getattr(self, name) for name in ("prompt_tokens", "response_tokens", "tpf")}
        return replace(found, **{name: value for name, value in said.items() if value is not None})
