"""How tokens a second are measured."""

from __future__ import annotations

from pydantic import Field

from lightningrl.config.section import Section


class Speed(Section):
    """Wall-clock tokens a second (Table 7): measured only where a table or figure asks for it, at
    `evaluation.primary_threshold`."""

    benchmarks: list[str] = []
    """On which benchmarks; left out: those that the table asks for."""
    prompts: int = Field(100, gt=0)
    """Test problems, the first ones; all where a benchmark has fewer."""
    warmup: int = Field(3, ge=0)
    """The first of them are decoded once before anything counts."""
    batch: int = Field(1, gt=0)
    """Problems decoded together; the next ones begin when the last of these has ended."""
    repeats: int = Field(3, gt=0)
    """How often all of them are decoded; the median counts."""
