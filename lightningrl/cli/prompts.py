"""`lightningrl prompts`: a benchmark's prompts as JSON lines, for `generate` or any other engine. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.cli import options
from lightningrl.cli.outputs import Overwrite, check_out
from lightningrl.evaluation import problems
from lightningrl.utils import files


def prompts(
    benchmark: options.Benchmark,
    out: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
    data: options.DataFile = None,
    split: options.Split = "test",
    mirror: options.Mirror = None,
    limit: options.Limit = None,
    style: options.Style = "default",
    shots: options.Shots = 0,
    plugins: options.Plugins = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a benchmark's prompts: {"id": uid, "messages": [...]} a line, what a judge needs left out.

    A last turn of the assistant's is the beginning of the answer: the prompt ends with it. Answers come back to
    `lightningrl score` under the same id.

    \b
    lightningrl prompts --benchmark gsm8k --out prompts.jsonl
    lightningrl generate MODEL prompts.jsonl --out answers.jsonl
    lightningrl score answers.jsonl --benchmark gsm8k --out records.jsonl
    """
    check_out(out, overwrite, inputs=[] if data is None else [data])
    chosen, wording = get_benchmark(benchmark, plugins or ()), PromptOptions(style=style, shots=shots)
    problems.check_prompt(chosen, wording)
    examples = problems.load_problems(chosen, split, data, options.origins(mirror), limit)
    rows = [{"id": example.uid, "messages": chosen.render(example, wording)} for example in examples]
    if out is None:
        typer.echo("".join(files.canonical_json(row) + "\n" for row in rows), nl=False)
    else:
        files.write_jsonl(out, rows)
        typer.echo(f"{out}: {len(rows)} prompts", err=True)
