"""The problems that a tool works on: those of a data stage's file, or the benchmark's own. No torch."""

from __future__ import annotations

from pathlib import Path

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.protocol import Benchmark, PromptOptions, example_from_json, example_to_json
from lightningrl.config.tasks import Prompt
from lightningrl.errors import BenchmarkError, ConfigError
from lightningrl.types import Example
from lightningrl.utils import files


def load_problems(
    benchmark: Benchmark, split: str, file: Path | None, origins: Origins, limit: int | None
) -> list[Example]:
    """Returns the first `limit` problems of a split, from a data stage's file or by the benchmark's own loader.

    Raises BenchmarkError when there are none.
    """
    if file is not None:
        examples = [example_from_json(row) for row in files.read_jsonl(file)]
    else:
        rows = {source.key: obtain(source, origins).rows for source in benchmark.sources}
        if not rows and limit is None:
            raise BenchmarkError(f"{benchmark.name} is generated without end: say how many problems with --limit")
        sizes = {name: None if rows else limit if name == split else 0 for name in {"train", "validation", split}}
        examples = benchmark.load(sizes, 0, rows)[split]
    if not examples:
        raise BenchmarkError(f"{benchmark.name} has no {split} problems")
    return examples[:limit]


def check_prompt(benchmark: Benchmark, prompt: PromptOptions | Prompt, where: str = "--") -> None:
    """Raises ConfigError, which begins with `where` and the key, for a wording or a number of worked examples that the
    benchmark does not have."""
    for what, value, allowed in (("style", prompt.style, benchmark.styles), ("shots", prompt.shots, benchmark.shots)):
        if value not in allowed:
            raise ConfigError(f"{where}{what}: found {value!r}, allowed: {', '.join(map(str, allowed))}")
    if prompt.shots and prompt.style != "default":
        told = f"worked examples go with the style `default` only, found style {prompt.style!r}"
        raise ConfigError(f"{where}shots: {told}")


def fingerprint(examples: list[Example]) -> str:
    """Returns the sha256 of the problems, gold data included."""
    return files.sha256_text(files.canonical_json([example_to_json(example) for example in examples]))
