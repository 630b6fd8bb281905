"""The evaluation of one checkpoint on one benchmark without an experiment, with a stage's sweep, records and summary.

Its folder gets `selfcheck.json` before anything is decoded, `records.jsonl` and `summary.json` when all thresholds are
done, and `state/`, where records gather. The same command resumes from there; other settings are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.answering import Task
from lightningrl.benchmarks.protocol import Benchmark, PromptOptions
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.evaluation.metrics import EvalSummary, summarise
from lightningrl.evaluation.selfcheck import self_check
from lightningrl.evaluation.sweep import Loaded, Sweep
from lightningrl.inference.llm import LLM
from lightningrl.judges.protocol import Judge
from lightningrl.types import Example
from lightningrl.utils import files


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """The problems, samples and splits of an evaluation without an experiment."""

    benchmark: Benchmark
    examples: Sequence[Example]
    prompt: PromptOptions
    thresholds: Sequence[float]
    samples: int
    max_new_tokens: int
    shard: int
    """Problems decoded as one batch: the most that is lost when the process is stopped."""


def evaluate(
    llm: LLM,
    judge: Judge,
    spec: EvaluationSpec,
    policy: Callable[[float], DecodePolicy],
    settings: dict[str, Any],
    folder: Path,
    report: Callable[[str], None],
    timing: Callable[..., None],
) -> list[EvalSummary]:
    """Returns one summary for each threshold; the folder then holds the files that the module names.

    settings: JSON that identifies the evaluation, without its thresholds. Its `benchmark`, `problems` (their hash),
    `judge` (a digest of its code) and `sandbox` (the jail level, or None) identify the self-check. Raises StageError
    when the judge fails its self-check, and ConfigError when the folder belongs to other settings.
    """
    _same_settings(folder / "state" / "settings.json", settings)
    _check_judge(folder / "selfcheck.json", judge, spec, settings)
    task = Task(
        lambda example: spec.benchmark.render(example, spec.prompt), judge, spec.max_new_tokens, spec.prompt.compat
    )
    sweep = Sweep(
        name=llm.folder.name, examples=spec.examples, samples=spec.samples, shard=spec.shard, cache=folder / "state",
        load=lambda: Loaded(llm.decoder, llm.tokenizer, task), policy=policy, report=report, timing=timing,
        should_stop=lambda: False,
    )  # fmt: skip
    thresholds = sorted({*spec.thresholds, *sweep.complete()})  # records of earlier thresholds stay
    found = [sweep.at(threshold) for threshold in thresholds]
    files.write_jsonl(folder / "records.jsonl", (record.to_json() for records, _ in found for record in records))
    summaries = [summarise(records) for records, _ in found]
    rows = [summary.to_json() | {"engine": engine} for summary, (_, engine) in zip(summaries, found, strict=True)]
    files.write_json(folder / "summary.json", rows)
    return summaries


def _check_judge(path: Path, judge: Judge, spec: EvaluationSpec, settings: dict[str, Any]) -> None:
    """Runs the judge's self-check, unless this very judge has passed it on these problems."""
    of = {name: settings[name] for name in ("benchmark", "problems", "judge", "sandbox")}
    if not path.exists() or files.read_json(path).get("of") != of:
        files.write_json(path, {"of": of, **self_check(spec.benchmark.name, spec.examples, judge)})


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    folder = path.parent.parent
    if path.exists() and any(path.parent.glob("threshold-*.jsonl")):  # else there is nothing to protect
        before = files.read_json(path)
        changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if changed:
            raise ConfigError(
                f"{folder} was begun with another {', '.join(changed)}. Name another folder with --out, or delete this "
                "one."
            )
    elif (folder / "records.jsonl").exists():
        raise ConfigError(f"{folder}/records.jsonl already exists, and was not made here. Name another with --out.")
    else:
        files.write_json(path, settings)
