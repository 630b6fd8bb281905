"""`lightningrl evaluate --endpoint URL --model NAME`: a server's answers on one benchmark, without an experiment."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lightningrl.benchmarks.fetch import Origins
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.cli.options import require_finite
from lightningrl.cli.outputs import say, summary_line
from lightningrl.config.endpoint import Endpoint
from lightningrl.errors import ConfigError
from lightningrl.evaluation import problems
from lightningrl.evaluation.selfcheck import self_check
from lightningrl.inference.endpoint.request import Sampling
from lightningrl.judges.protocol import Judge
from lightningrl.pipeline import system
from lightningrl.pipeline.code_digest import digest
from lightningrl.utils import files
from lightningrl.utils.lease import lease, patiently
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

MAX_NEW_TOKENS = 8192
OURS = {"temperature": 0.0, "seed": 0}
"""The options of decoding that a server takes, and their defaults."""


def evaluate_endpoint(
    endpoint: Endpoint,
    benchmark: str,
    out: Path,
    origins: Origins,
    *,
    split: str,
    data: Path | None,
    limit: int | None,
    prompt: PromptOptions,
    thresholds: Sequence[float],
    samples: int,
    max_new_tokens: int | None,
    workers: int,
    decoding: Mapping[str, Any],
) -> None:
    """Writes records.jsonl, summary.json, selfcheck.json and run.json into `out`, and prints a line per threshold.

    decoding: the options of decoding that the user gave. Raises ConfigError for those that a server has of its own,
    and what asking and judging raise; the same command then resumes.
    """
    from lightningrl.evaluation.endpoint import EndpointEvaluation, summary_of

    if strange := sorted(set(decoding) - set(OURS)):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
        raise ConfigError(f"{named}: a server decodes in its own way; leave it out, or see --extra-body")
    if len(set(thresholds)) > 1 and not endpoint.parameter:
        raise ConfigError(
            "--threshold: several, but the server takes none; name its field with --parameter, or one alone"
        )
    if endpoint.parameter and not thresholds:
        raise ConfigError(f"--parameter {endpoint.parameter}: say its values with --threshold")
    for each in thresholds:
        require_finite("--threshold", each)
    chosen, at = get_benchmark(benchmark), OURS | dict(decoding)
    problems.check_prompt(chosen, prompt)
    endpoint.secret()  # asked for now, used later
    examples = problems.load_problems(chosen, split, data, origins, limit)
    sampling = Sampling(max_new_tokens or MAX_NEW_TOKENS, at["temperature"], at["seed"])
    told = endpoint.science() | {"max_failed_pct": endpoint.max_failed_pct}
    settings = {
        "endpoint": told, "benchmark": benchmark, "problems": problems.fingerprint(examples), "samples": samples,
        "prompt": {"style": prompt.style, "shots": prompt.shots, "compat": prompt.compat},
        "max_new_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed,
        "judge": digest([chosen.judge.partition(":")[0]]),
    }  # fmt: skip

    def make_judge() -> Judge:
        judge = resolve(chosen.judge)(workers=workers)
        try:
            found = self_check(chosen.name, examples, judge)
            files.write_json(out / "selfcheck.json", {"benchmark": benchmark, **found})
        except BaseException:
            judge.close()
            raise
        return judge

    rows = list[dict[str, Any]]()
    evaluation = EndpointEvaluation(
        name=endpoint.model, endpoint=endpoint, examples=examples, samples=samples, sampling=sampling,
        render=lambda example: chosen.render(example, prompt), cache=out / "state", make_judge=make_judge,
        identity={name: settings[name] for name in ("benchmark", "problems", "judge")}, compat=prompt.compat,
        report=say, timing=lambda **row: rows.append(row),
    )  # fmt: skip
    with lease(out / "state", wait=patiently(say)):
        if (out / "records.jsonl").exists() and not (out / "run.json").exists():
            raise ConfigError(f"{out}/records.jsonl already exists, and was not made here. Name another with --out.")
        if (out / "run.json").exists() and (before := files.read_json(out / "run.json").get("settings")) != settings:
            changed = sorted(key for key in settings if (before or {}).get(key) != settings[key])
            raise ConfigError(f"{out} holds an evaluation with another {', '.join(changed)}. Name another with --out.")
        found = [evaluation.at(threshold) for threshold in sorted(set(thresholds)) or [0.0]]
        summaries = [summary_of(records) for records in found]
        files.write_jsonl(out / "records.jsonl", (record.to_json() for records in found for record in records))
        files.write_json(out / "summary.json", summaries)
        facts = {
            "command": sys.argv, "settings": settings, "url": endpoint.url, "replies": rows,
            "git": system.git_state(), "python": sys.version.split()[0], "packages": system.versions(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }  # fmt: skip
        if rows or not (out / "run.json").exists():  # else nothing was asked now: it tells of the run that did
            files.write_json(out / "run.json", facts)  # how the folder came to be
    for summary in summaries:
        title = f"threshold {shortest(summary['threshold'])}" if endpoint.parameter else endpoint.model
        typer.echo(summary_line(title, summary))
        typer.echo(f"  {word_line(summary['reported'])}")


def word_line(reported: Mapping[str, Any]) -> str:
    """Returns what a server says of its answers, as a line."""

    def number(name: str, form: str = "{:.1f}") -> str:
        return "unknown" if reported[name] is None else form.format(reported[name])

    line = (
        f"by the server's word: TPF {number('tpf_reported', '{:.2f}')} ({reported['n_counted']} answers with counts), "
    )
    line += f"{number('completion_tokens_mean')} tokens per answer, {number('accepted_mean')} of them accepted drafts"
    if reported["doubted"]:
        line += f"; {reported['doubted']} answers with contradictory counts, such as: {'; '.join(reported['doubts'])}"
    if reported["no_answer"]:
        line += f"; {reported['no_answer']} without an answer, counted as wrong"
    return line
