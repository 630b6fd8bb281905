"""What the plan asks of benchmarks, tables and figures once their names are looked up (`config.registries`)."""

from __future__ import annotations

from collections.abc import Mapping

from lightningrl.benchmarks.protocol import SPLITS
from lightningrl.config.tasks import Benchmark
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve


def judge_of(benchmark: str) -> str:
    """The judge that a benchmark (`module:attribute`) names."""
    return resolve(benchmark).judge


def check_problems(reference: str, asked: Benchmark) -> None:
    """Raise ConfigError for a wording, a number of worked examples, a split, or an open size that it has not."""
    found, prompt = resolve(reference), asked.prompt
    for what, value, allowed in (("style", prompt.style, found.styles), ("shots", prompt.shots, found.shots)):
        if value not in allowed:
            raise ConfigError(
                f"benchmarks.{asked.name}.prompt.{what}: found {value!r}, allowed: {', '.join(map(str, allowed))}"
            )
    if prompt.shots and prompt.style != "default":
        raise ConfigError(
            f"benchmarks.{asked.name}.prompt: found shots {prompt.shots} and style {prompt.style!r}; worked examples "
            "go with the style `default` only"
        )
    for split in SPLITS:
        if getattr(asked, split) and not has(reference, asked, split):
            raise ConfigError(
                f"benchmarks.{asked.name}.{split}: found {getattr(asked, split)}, it has no such problems"
            )
    if not found.sources and None in (asked.train, asked.validation, asked.test):
        raise ConfigError(
            f"benchmarks.{asked.name}: it is generated without end; say how many train, validation and test problems"
        )


def has(reference: str, asked: Benchmark, split: str) -> bool:
    """Whether an experiment has problems of a split: the benchmark has them, and some are asked for."""
    return split in getattr(resolve(reference), "splits", SPLITS) and getattr(asked, split) != 0


def collected(kind: str, name: str) -> list[str]:
    """Which collected tables a table or figure is made of; an outsider's own is given the frontier."""
    inputs: Mapping[str, Mapping[str, tuple[str, ...]]] = resolve("lightningrl.report.registry:INPUTS")
    return list(inputs[kind].get(name, ("frontier",)))
