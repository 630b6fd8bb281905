"""`lightningrl evaluate MODEL`: records and summary of one checkpoint on one benchmark, without an experiment."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.benchmarks.choices import is_choice
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.cli import options
from lightningrl.cli.outputs import say, summary_line
from lightningrl.cli.stages import DEFAULT_CONFIG, Config, Key, MaxMinutes, Name, make_stage
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.evaluation import problems
from lightningrl.pipeline import system
from lightningrl.pipeline.code_digest import digest
from lightningrl.sandbox.probe import probe
from lightningrl.utils import files
from lightningrl.utils.lease import lease, patiently
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

Thresholds = Annotated[
    list[float] | None, typer.Option("--threshold", help="The selector's parameter; several: a sweep. [default: 0.9]")
]
MOST_NEW_TOKENS = 8192
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="Longest response, rounded up to the block grid; default: 8192, or what the model has room for."
    ),
]


@options.endpoint_options()
@options.decoding_options()
def evaluate(
    model: Annotated[Path | None, typer.Argument(help="A checkpoint's folder. Without it, a stage is made.")] = None,
    config: Config = DEFAULT_CONFIG,
    name: Name = None,
    key: Key = None,
    max_minutes: MaxMinutes = None,
    part: Annotated[str | None, typer.Option("--part", help="A stage: decode only the 2nd of 8 parts: 2/8.")] = None,
    benchmark: Annotated[str | None, options.BENCHMARK] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the records and the summary, and to resume from.")
    ] = None,
    split: options.Split = "test",
    data: options.DataFile = None,
    mirror: options.Mirror = None,
    limit: options.Limit = None,
    threshold: Thresholds = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses a problem.")] = 1,
    max_new_tokens: MaxNewTokens = None,
    style: options.Style = "default",
    shots: options.Shots = 0,
    compat: Annotated[bool, typer.Option("--compat", help="The published code's prompts, a newline less.")] = False,
    shard: Annotated[int, typer.Option(min=1, help="Problems of a batch: what is lost at most by a stop.")] = 250,
    workers: options.Workers = 1,
    **given: Any,
) -> None:
    """With a MODEL, --benchmark and --out, no experiment is needed. The benchmark's judge is proved first (official
    answers right, empty and `exit()` wrong). Records gather in OUT/state by problem and sample; stopped or killed, the
    same command resumes; one more --threshold costs only itself. OUT then has records.jsonl, summary.json and run.json.
    With --endpoint and --model in place of MODEL, a server that speaks the OpenAI API answers.

    \b
    lightningrl evaluate --config config/config.yaml --name base/gsm-mini
    lightningrl evaluate --endpoint http://127.0.0.1:30000/v1 --model NAME --benchmark gsm8k --out eagle3-gsm8k
    lightningrl evaluate models/SDAR-8B-Chat-b32 --block-size 32 --benchmark gsm8k --out sdar-gsm8k --device cuda
    """
    endpoint = options.endpoint_of(given)
    if endpoint is not None:
        from lightningrl.cli.endpoint import evaluate_endpoint

        if model is not None:
            raise ConfigError(f"found the checkpoint {model} and --endpoint; one of them answers, leave the other out")
        if benchmark is None or out is None:
            raise ConfigError("with --endpoint, say --benchmark and --out")
        evaluate_endpoint(
            endpoint, benchmark, out, options.origins(mirror), split=split, data=data, limit=limit,
            prompt=PromptOptions(style=style, shots=shots, compat=compat), thresholds=threshold or [], samples=samples,
            max_new_tokens=max_new_tokens, workers=workers, decoding=options.asked(given),
        )  # fmt: skip
        return
    if model is None:
        make_stage("evaluate", config, name, key, max_minutes, part)
        return
    if benchmark is None or out is None:
        raise ConfigError("with a MODEL, say --benchmark and --out; without one, --config and --name of a stage")
    from lightningrl.evaluation import direct
    from lightningrl.inference.policy import direct_policy
    from lightningrl.tokenization import encode_prompts

    decoding = options.decoding_of(options.asked(given) | {"threshold": (threshold or [None])[0]})
    chosen = get_benchmark(benchmark, decoding.plugins)
    if is_choice(chosen):
        raise ConfigError(
            f"--benchmark: {benchmark} is answered by likelihood and nothing is decoded; an experiment's evaluation "
            "does that (--config), or lm-evaluation-harness with our model (docs/lm-eval.md)"
        )
    prompt = PromptOptions(style=style, shots=shots, compat=compat)
    problems.check_prompt(chosen, prompt)
    words = decoding.identity()
    words["options"] = words.pop("selector_options")
    thresholds = sorted(set(threshold or [decoding.threshold]))
    for each in thresholds:
        direct_policy(decoding, each)  # what is wrong on the command line is said before anything is loaded
    examples = problems.load_problems(chosen, split, data, options.origins(mirror), limit)
    llm, judge_class = options.open_llm(model, decoding), resolve(chosen.judge)
    if max_new_tokens is None:
        prompts = encode_prompts(llm.tokenizer, [chosen.render(example, prompt) for example in examples], compat)
        grid = direct_policy(decoding, thresholds[0])
        max_new_tokens = max(1, llm.tokens_left(max(map(len, prompts)), grid, MOST_NEW_TOKENS))
    spec = direct.EvaluationSpec(chosen, examples, prompt, thresholds, samples, max_new_tokens, shard)
    settings = {
        "judge": digest([chosen.judge.partition(":")[0]]),
        "sandbox": probe().require() if judge_class.needs_jail else None,
        "model": llm.fingerprint, "benchmark": benchmark, "problems": problems.fingerprint(examples), "policy": words,
        "prompt": {"style": style, "shots": shots, "compat": compat}, "samples": samples,
        "max_new_tokens": max_new_tokens, "shard": shard,
    }  # fmt: skip
    judge, rows = judge_class(workers=workers), list[dict[str, Any]]()
    try:
        with lease(out / "state", wait=patiently(say)):
            summaries = direct.evaluate(
                llm, judge, spec, lambda at: direct_policy(decoding, at), settings, out, say,
                lambda **row: rows.append(row),
            )  # fmt: skip
            if rows or not (out / "run.json").exists():  # else nothing was decoded now: it tells of the run that did
                facts = {
                    "command": sys.argv, "model_folder": str(llm.folder), "settings": settings, "shards": rows,
                    "git": system.git_state(), "python": sys.version.split()[0], "packages": system.versions(),
                    "hardware": system.hardware(), "peak_memory_bytes": system.peak_memory_bytes(),
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                }  # fmt: skip
                files.write_json(out / "run.json", facts)  # how the folder came to be
    except DecodeError as error:
        raise DecodeError(str(error).replace("max_new_tokens", "--max-new-tokens")) from None
    finally:
        judge.close()
    for summary in summaries:
        typer.echo(summary_line(f"threshold {shortest(summary.threshold)}", asdict(summary)))
    if seconds := sum(row["decode_seconds"] for row in rows):
        tokens = sum(row["response_tokens"] for row in rows)
        where = f"up to {rows[0]['rows']} rows together on {rows[0]['device']}, prefill included"
        typer.echo(f"{tokens / seconds:.0f} tokens/s ({tokens} tokens decoded now, {where})")
