"""Which benchmarks exist: name -> `module:attribute` of its Benchmark object. Outsiders give their own such path."""

from __future__ import annotations

from importlib import import_module

from lightningrl.benchmarks.protocol import Benchmark
from lightningrl.errors import BenchmarkError

BENCHMARKS: dict[str, str] = {
    "gsm-mini": "lightningrl.benchmarks.gsm_mini:GSM_MINI",
    "code-mini": "lightningrl.benchmarks.code_mini:CODE_MINI",
    "gsm8k": "lightningrl.benchmarks.gsm8k:GSM8K",
    "math500": "lightningrl.benchmarks.math500:MATH500",
    "mbpp": "lightningrl.benchmarks.mbpp:MBPP",
    "humaneval": "lightningrl.benchmarks.humaneval:HUMANEVAL",
    "primeintellect": "lightningrl.benchmarks.primeintellect:PRIMEINTELLECT",
}

PHRASES: dict[str, str] = {"gsm-mini": "lightningrl.benchmarks.gsm_phrasing:phrases"}
"""Of those whose answers are put in phrases: a function (example, response) -> [(what it is for, words)]."""

MEMBERS = ("name", "licence", "citation", "judge", "sources", "styles", "shots", "load", "render", "signature")
"""What every benchmark has: see `protocol.Benchmark`."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of a registered name or of a `module:attribute` path. Raises BenchmarkError when there is none."""
    path = BENCHMARKS.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise BenchmarkError(
            f"there is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}, or give your own as module:attribute."
        )
    try:
        found = getattr(import_module(module_name), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise BenchmarkError(f"benchmark {path!r} cannot be imported ({error}); check its spelling.") from error
    missing = [member for member in MEMBERS if not hasattr(found, member)]
    if missing:
        raise BenchmarkError(f"{path} is no benchmark: it lacks {', '.join(missing)} (see docs/add-a-benchmark.md).")
    return found
