"""What stages read of a data stage, and the judge of its answers. No torch."""

from __future__ import annotations

from pathlib import Path

from lightningrl.benchmarks.protocol import example_from_json
from lightningrl.judges.protocol import Judge
from lightningrl.types import Example
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def read_examples(path: Path) -> list[Example]:
    """The problems of a split. Raises StageError or BenchmarkError when the file is missing or damaged."""
    return [example_from_json(row) for row in files.read_jsonl(path)]


def make_judge(reference: str, workers: int) -> Judge:
    """The judge of a benchmark, `module:attribute`; `workers`: processes of its own at a time."""
    return resolve(reference)(workers=workers)
