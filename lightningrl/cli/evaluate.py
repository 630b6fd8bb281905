"""`lightningrl evaluate MODEL`: records and summary of one checkpoint on one benchmark, without an experiment."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lightningrl.evaluation.metrics import EvalSummary
    from lightningrl.inference.llm import LLM

Model = Annotated[Path | None, typer.Argument(help="A checkpoint's folder. Left out: a stage of an experiment.")]
BenchmarkName = Annotated[str | None, typer.Option(help="gsm8k, math500, mbpp, humaneval, ... or module:attribute.")]
Out = Annotated[Path | None, typer.Option(help="Folder for records.jsonl and summary.json, and to go on with.")]
Split = Annotated[str, typer.Option(help="test, validation or train.")]
DataFile = Annotated[Path | None, typer.Option("--data", help="Problems of a data stage (test.jsonl) instead.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many problems.")]
Thresholds = Annotated[
    list[float] | None, typer.Option("--threshold", help="The selector's parameter; several times: a sweep. [0.9]")
]
Samples = Annotated[int, typer.Option(min=1, help="Responses a problem.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest response, rounded up to the block grid.")]
Style = Annotated[str, typer.Option(help="The prompt's wording.")]
Shots = Annotated[int, typer.Option(help="Worked examples before the problem.")]
Compat = Annotated[bool, typer.Option("--compat", help="The published code's prompts: one newline less at the end.")]
Shard = Annotated[int, typer.Option(min=1, help="Problems decoded as one batch: what is lost at most by a stop.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that judge.")]


def run(model: Path, benchmark: str | None, out: Path | None, **given: Any) -> None:
    """Evaluate a checkpoint directly; `given` are the verb's options by name."""
    from lightningrl.benchmarks.protocol import PromptOptions
    from lightningrl.benchmarks.registry import get_benchmark
    from lightningrl.cli import options
    from lightningrl.errors import ConfigError
    from lightningrl.evaluation import direct
    from lightningrl.evaluation import problems as tasks
    from lightningrl.pipeline.code_digest import digest
    from lightningrl.sandbox.probe import probe
    from lightningrl.utils.lease import lease, patiently
    from lightningrl.utils.registry import resolve

    if benchmark is None or out is None:
        raise ConfigError("with a MODEL, say --benchmark and --out; without one, --config and --name of a stage")
    chosen = get_benchmark(benchmark)
    prompt = PromptOptions(style=given["style"], shots=given["shots"], compat=given["compat"])
    tasks.check_prompt(chosen, prompt)
    named = ("selector", "ranking", "schedule", "stop", "temperature", "top_k", "top_p", "seed")
    words = {name: given[name] for name in named}
    words["options"] = options.selector_options_of(given["selector_options"])

    def policy(threshold: float) -> Any:
        return options.policy_from(**words, parameter=threshold)

    thresholds = sorted(set(given["threshold"] or [0.9]))
    for threshold in thresholds:
        policy(threshold)  # what is wrong on the command line is said before anything is loaded
        is_probability = given["selector"] == "threshold" and given["ranking"] == "confidence"
        if is_probability and not 0 < threshold < 1:
            raise ConfigError(f"--threshold: a threshold is a probability within (0, 1), found {threshold:g}")
    origins = options.origins(given["mirror"])
    examples = tasks.load_problems(chosen, given["split"], given["data"], origins, given["limit"])
    spec = direct.EvaluationSpec(
        chosen, examples, prompt, thresholds, given["samples"], given["max_new_tokens"], given["shard"]
    )
    memory = None if given["memory_mb"] is None else given["memory_mb"] * 1_000_000
    llm = options.open_llm(
        model, given["block_size"], given["dtype"], given["device"], rows=given["rows"], memory_bytes=memory
    )
    needs_jail = resolve(chosen.judge).needs_jail
    settings = {
        "judge": digest([chosen.judge.partition(":")[0]]), "sandbox": probe().require() if needs_jail else None,
        "model": llm.fingerprint, "benchmark": benchmark, "problems": tasks.fingerprint(examples), "policy": words,
        "prompt": {name: getattr(prompt, name) for name in ("style", "shots", "compat")},
        "samples": spec.samples, "max_new_tokens": spec.max_new_tokens, "shard": spec.shard,
    }  # fmt: skip
    judge = resolve(chosen.judge)(workers=given["workers"])
    rows: list[dict[str, Any]] = []
    try:
        with lease(out / "state", wait=patiently(lambda line: typer.echo(line, err=True))):
            summaries = direct.evaluate(
                llm, judge, spec, policy, settings, out, lambda line: typer.echo(line, err=True),
                lambda **row: rows.append(row),
            )  # fmt: skip
            if rows or not (out / "run.json").exists():  # else nothing was decoded now: it tells of the run that did
                _describe(out, llm, settings, rows)
    finally:
        judge.close()
    _show(summaries, rows)


def _describe(out: Path, llm: LLM, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """run.json: how the folder came to be, times and machine included."""
    from lightningrl.pipeline import system
    from lightningrl.utils import files

    facts = {
        "command": sys.argv, "model_folder": str(llm.folder), "settings": settings, "git": system.git_state(),
        "python": sys.version.split()[0], "packages": system.versions(), "hardware": system.hardware(),
        "peak_memory_bytes": system.peak_memory_bytes(), "shards": rows,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip
    files.write_json(out / "run.json", facts)


def _show(summaries: list[EvalSummary], rows: list[dict[str, Any]]) -> None:
    for summary in summaries:
        compat = "" if summary.compat_accuracy_pct is None else f", compat {summary.compat_accuracy_pct:.1f}"
        status = ", ".join(f"{count} {name}" for name, count in summary.status.items() if count)
        paper = "" if summary.tpf_paper is None else f", paper's {summary.tpf_paper:.2f}"
        typer.echo(
            f"threshold {summary.threshold:g}: accuracy {summary.accuracy_pct:.1f} % "
            f"[{summary.accuracy_pct_low:.1f}, {summary.accuracy_pct_high:.1f}]{compat}; TPF {summary.tpf:.2f} "
            f"[{summary.tpf_low:.2f}, {summary.tpf_high:.2f}] (true {summary.tpf_true:.2f}{paper}); "
            f"{summary.forwards_per_problem:.1f} forwards, {summary.response_tokens_mean:.1f} tokens an answer; "
            f"{summary.truncated_pct:.1f} % truncated; {summary.n_problems} problems, {summary.n_samples} answers: "
            f"{status}"
        )
    seconds = sum(row["decode_seconds"] for row in rows)
    if seconds:
        tokens = sum(row["response_tokens"] for row in rows)
        where = f"up to {rows[0]['rows']} rows together on {rows[0]['device']}, prefill included"
        typer.echo(f"{tokens / seconds:.0f} tokens/s ({tokens} tokens decoded now, {where})")
