"""`lightningrl bench`: speed of the decoder, side by side with the official loop; of the judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.verbs import options
from lightningrl.verbs.people import for_people

app = typer.Typer(help="Measure speed; a command prints its ratios side by side, from one run.", no_args_is_help=True)

COLUMNS = {
    "engine": "{}", "batch": "{}", "tokens_per_s": "{:.1f}", "x official": "{:.2f}", "over_bare": "{:.3f}",
    "outside_pct": "{:.1f}", "forwards_per_s": "{:.1f}", "tokens_per_true_forward": "{:.2f}",
    "bound_tokens_per_s": "{:.0f}", "of_bound_pct": "{:.0f}", "peak_memory_mb": "{:.0f}",
}  # fmt: skip


@app.command()
def decode(
    size: Annotated[str, typer.Option(help="miniature, 0.1b, 0.3b, 1.7b, 4b, 8b: random weights.")] = "0.1b",
    block_size: Annotated[int, typer.Option(min=1, help="K.")] = 8,
    tpf: Annotated[float, typer.Option(help="Positions revealed a denoise forward.")] = 4.0,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows decoded together; several times.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of every prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of every response.")] = 128,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    forwards: Annotated[list[str] | None, typer.Option(help="spans; experimental: segments, graphs.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are told.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Our engine, fused and separate commit, by batch, beside the official loop at batch 1; random weights.

    x official: tokens/s over the official loop's. over_bare: time over that of the same forwards run bare. outside_pct:
    share of the time outside them. tokens_per_true_forward: commits counted, prefill not. bound: weights read once a
    forward at the measured bandwidth, or arithmetic at the measured peak, whichever is more.
    """
    with for_people(resumes=False):
        import torch

        from lightningrl.bench.decode import Workload, run_benchmark
        from lightningrl.bench.shapes import random_model
        from lightningrl.io import write_text

        if out is not None and out.is_dir():
            raise typer.BadParameter(f"--out: {out} is a folder, expected a file")
        options.require_device(device)
        torch.set_num_threads(threads)
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        if dtype not in kinds:
            raise typer.BadParameter(f"--dtype: found {dtype!r}, allowed: {', '.join(kinds)}")
        model = random_model(size, block_size, kinds[dtype], device)
        found = run_benchmark(
            model,
            Workload(prompt_tokens, new_tokens, tpf),
            batch or [1, 8, 32],
            repeats=repeats,
            forwards=forwards or ["spans"],
            report=lambda line: typer.echo(line, err=True),
        )
        _print(size, found)
        if out is not None:
            write_text(out, json.dumps(found, indent=1) + "\n")


def _print(size: str, found: dict[str, Any]) -> None:
    typer.echo(
        f"{size}: {found['parameters'] / 1e6:.0f} M parameters, {found['weights_mb']:.0f} MB {found['dtype']}, block "
        f"{found['block_size']}, {found['device']}, {found['threads']} threads, torch {found['torch']}; measured here: "
        f"{found['bandwidth_gb_per_s']:.1f} GB/s, {found['peak_gflop_per_s']:.0f} GFLOP/s"
    )
    base = found["lines"][0]["tokens_per_s"]
    rows = [list(COLUMNS)]
    for line in found["lines"]:
        cells = line | {"x official": line["tokens_per_s"] / base}
        rows.append([form.format(cells[name]) for name, form in COLUMNS.items()])
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


@app.command()
def judges(
    benchmark: Annotated[str, typer.Option(help="math500, gsm8k, humaneval, mbpp, ...")] = "math500",
    workers: Annotated[int, typer.Option(min=1, help="Processes that judge.")] = 2,
    mirror: options.Mirror = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many problems.")] = None,
) -> None:
    """Judgements a second: gold answers (mathematics) or official solutions (programs), and how many are right."""
    with for_people(resumes=False):
        from lightningrl.bench.judges import mathematics, solutions
        from lightningrl.benchmarks.registry import get_benchmark
        from lightningrl.evaluation.asked import problems
        from lightningrl.resolve import resolve

        chosen = get_benchmark(benchmark)
        examples = problems(chosen, "test", None, options.origins(mirror), limit)
        judge = resolve(chosen.judge)
        is_mathematics = chosen.judge.endswith(":MathJudge")
        rows = mathematics(examples, workers) if is_mathematics else solutions(examples, judge, workers)
        for row in rows:
            typer.echo(
                f"{benchmark}, {row['what']}: {row['correct']} of {row['judged']} right, {row['seconds']:.2f} s, "
                f"{row['per_s']:.1f} a second, {workers} workers"
            )
        if any(row["correct"] < row["judged"] for row in rows):
            raise typer.Exit(1)
