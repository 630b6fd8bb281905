"""The benchmarks by name, as `module:attribute` of their Benchmark objects. Other packages use their own such path."""

from __future__ import annotations

from collections.abc import Iterable

from lightningrl.benchmarks.checked import checked
from lightningrl.benchmarks.protocol import Benchmark
from lightningrl.config.registries import member, usable

BENCHMARKS: dict[str, str] = {
    "gsm-mini": "lightningrl.benchmarks.gsm_mini:GSM_MINI",
    "code-mini": "lightningrl.benchmarks.code_mini:CODE_MINI",
    "gsm8k": "lightningrl.benchmarks.gsm8k:GSM8K",
    "math500": "lightningrl.benchmarks.math500:MATH500",
    "mbpp": "lightningrl.benchmarks.mbpp:MBPP",
    "humaneval": "lightningrl.benchmarks.humaneval:HUMANEVAL",
    "primeintellect": "lightningrl.benchmarks.primeintellect:PRIMEINTELLECT",
    "piqa": "lightningrl.benchmarks.piqa:PIQA",
    "winogrande": "lightningrl.benchmarks.winogrande:WINOGRANDE",
    "arc-easy": "lightningrl.benchmarks.arc:ARC_EASY",
    "arc-challenge": "lightningrl.benchmarks.arc:ARC_CHALLENGE",
    "hellaswag": "lightningrl.benchmarks.hellaswag:HELLASWAG",
    "mmlu": "lightningrl.benchmarks.mmlu:MMLU",
}

PHRASES: dict[str, str] = {"gsm-mini": "lightningrl.benchmarks.gsm_phrasing:phrases"}
"""For benchmarks whose answers consist of phrases: a function (example, response) -> [(role, words)]."""


def get_benchmark(name: str, plugins: Iterable[str] = ()) -> Benchmark:
    """Returns a benchmark by its registered name, or that of a plug-in, or `module:attribute` path.

    Raises ConfigError where there is none, and BenchmarkError for an object that is no benchmark.
    """
    return checked(member("benchmark", name, "--benchmark", usable(plugins)))
