"""Measure speed; a command prints its ratios side by side, from one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import bench_gpu, options
from lightningrl.cli.outputs import Overwrite, check_out, print_table, say
from lightningrl.errors import ConfigError
from lightningrl.utils.files import write_text

if TYPE_CHECKING:
    import torch

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

Size = Annotated[str, typer.Option(help="miniature, 0.1b, 0.3b, 1.7b, 4b, 8b: random weights.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")]
Out = Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")]

COLUMNS = {
    "engine": "{}", "batch": "{}", "tokens_per_s": "{:.1f}", "x official": "{:.2f}", "over_bare": "{:.3f}",
    "outside_pct": "{:.1f}", "forwards_per_s": "{:.1f}", "tokens_per_true_forward": "{:.2f}",
    "bound_tokens_per_s": "{:.0f}", "of_bound_pct": "{:.0f}", "peak_memory_mb": "{:.0f}",
}  # fmt: skip
TRAIN_COLUMNS = {
    "rows": "{}", "token_forwards": "{}", "forwards": "{}", "seconds": "{:.2f}", "positions_per_s": "{:.0f}",
    "peak_memory_mb": "{:.0f}",
}  # fmt: skip
TURN_COLUMNS = {
    "batch": "{}", "block_size": "{}", "denoise_ms": "{:.3f}", "denoise_turns": "{}", "fused_ms": "{:.3f}",
    "fused_turns": "{}",
}  # fmt: skip
PHASE_COLUMNS = {
    "phase": "{}", "seconds": "{:.2f}", "positions": "{:.0f}", "positions_per_s": "{:.0f}", "of_peak_pct": "{:.1f}",
}  # fmt: skip
STATE_COLUMNS = {
    "share": "{:.3f}", "positions": "{:.0f}", "seconds": "{:.3f}", "over_draws": "{:.2f}", "of_batches": "{:.2f}",
    "together": "{:.2f}",
}  # fmt: skip
ROLLOUT_COLUMNS = {
    "way": "{}", "forwards": "{}", "row_turns": "{}", "busy_pct": "{:.1f}", "prefilled": "{}", "positions": "{}",
    "seconds": "{:.2f}",
}  # fmt: skip
LEAST_OF_BOUND_PCT = 95
LARGEST_LOGP_GAP = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}
"""Nats, by the weights' precision; rounding differs with the shapes of the products."""


def _prepare(out: Path | None, overwrite: bool, device: str, threads: int, dtype: str) -> torch.dtype:
    """Checks what was asked for and returns the precision; the threads are torch's from here on."""
    import torch

    check_out(out, overwrite)
    options.require_device(device)
    torch.set_num_threads(threads)
    return options.dtype_of(dtype)


def _print(columns: dict[str, str], lines: list[dict[str, Any]]) -> None:
    print_table([list(columns), *([form.format(line[name]) for name, form in columns.items()] for line in lines)])


def _write(out: Path | None, found: dict[str, Any]) -> None:
    if out is not None:
        write_text(out, json.dumps(found, indent=1) + "\n")


@app.command()
def decode(
    size: Size = "0.1b",
    block_size: Annotated[int, typer.Option(min=1, help="K.")] = 8,
    tpf: Annotated[float, typer.Option(help="Positions revealed a denoise forward.")] = 4.0,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows decoded together; several times.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every response.")] = 128,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Device = "cpu",
    threads: options.Threads = 2,
    forwards: Annotated[
        list[str] | None, typer.Option(help="spans; experimental: turns, graphs, segments, gathered.")
    ] = None,
    repeats: Repeats = 3,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Our engine, fused and separate commit, by batch, beside the official loop at batch 1; random weights.

    x official: tokens/s over the official loop's. over_bare: time over that of the same forwards run bare. outside_pct:
    share of the time outside them. tokens_per_true_forward: commits counted, prefill not. bound: weights read once a
    forward at the measured bandwidth, or arithmetic at the measured peak, whichever is more.
    """
    from lightningrl.bench.decode import Workload, run_benchmark
    from lightningrl.bench.random_model import random_model

    model = random_model(size, block_size, _prepare(out, overwrite, device, threads, dtype), device)
    found = run_benchmark(
        model, Workload(prompt_tokens, new_tokens, tpf), batch or [1, 8, 32], repeats=repeats,
        forwards=forwards or ["spans"], report=say,
    )  # fmt: skip
    typer.echo(
        f"{size}: {found['parameters'] / 1e6:.0f} M parameters, {found['weights_mb']:.0f} MB {found['dtype']}, block "
        f"{found['block_size']}, {found['device']}, {found['threads']} threads, torch {found['torch']}; measured here: "
        f"{found['bandwidth_gb_per_s']:.1f} GB/s, {found['peak_gflop_per_s']:.0f} GFLOP/s"
    )
    official = found["lines"][0]["tokens_per_s"]
    _print(COLUMNS, [line | {"x official": line["tokens_per_s"] / official} for line in found["lines"]])
    _write(out, found)


@app.command()
def turn(
    block_size: Annotated[int, typer.Option(min=1, help="K.")] = 32,
    tpf: Annotated[float, typer.Option(help="Positions revealed a denoise forward.")] = 4.0,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows decoded together; several times.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every response.")] = 512,
    repeats: Repeats = 5,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Processor time of a decoder's turn on the host, where the device's part is a stub (decoding.forwards: graphs).

    What CUDA's driver takes for two copies, a launch and a wait is not in it. Model and device do not matter.
    """
    import torch

    from lightningrl.bench.decode import Workload
    from lightningrl.bench.random_model import random_model
    from lightningrl.bench.turn import host_time

    model = random_model("miniature", block_size, _prepare(out, overwrite, "cpu", 1, "float32"), "cpu")
    workload = Workload(prompt_tokens, new_tokens, tpf)
    lines = [host_time(model, workload, count, repeats) for count in batch or [1]]
    _print(TURN_COLUMNS, lines)
    _write(out, {"threads": torch.get_num_threads(), "torch": torch.__version__, "lines": lines})


@app.command()
def rollouts(
    prompts: Annotated[int, typer.Option(min=1, help="Groups that a step wants.")] = 8,
    responses: Annotated[int, typer.Option(min=1, help="Responses of a group.")] = 8,
    max_rounds: Annotated[int, typer.Option(min=1, help="As runs.max_rounds.")] = 4,
    kept: Annotated[float, typer.Option(min=0, max=1, help="Share of groups that pass the filter.")] = 0.65,
    rows: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 32,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every prompt.")] = 64,
    mean_tokens: Annotated[float, typer.Option(min=1, help="About the mean number of tokens of a response.")] = 24.0,
    new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a response.")] = 256,
    judge_ms: Annotated[float, typer.Option(min=0, help="Milliseconds that judging a group takes.")] = 0.0,
    size: Size = "miniature",
    block_size: Annotated[int, typer.Option(min=1, help="K.")] = 8,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16.")] = "float32",
    device: Device = "cpu",
    threads: options.Threads = 1,
    repeats: Repeats = 3,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """The rollouts of a step: rounds with a barrier each, as they were, beside one refilled stream; 4 tokens per
    forward.

    row_turns: rows, summed over forwards; busy_pct: of all slots; prefilled: prompt positions computed. Groups that
    fail the filter are drawn beforehand, and the judge is a pause.
    """
    from lightningrl.bench.random_model import random_model
    from lightningrl.bench.rollouts import Step, run_benchmark

    model = random_model(size, block_size, _prepare(out, overwrite, device, threads, dtype), device)
    step = Step(prompts, responses, max_rounds, kept, rows, prompt_tokens, mean_tokens, new_tokens, 4.0, judge_ms / 1e3)
    found = run_benchmark(model, step, repeats, say)
    typer.echo(
        f"{size}: {found['dtype']}, block {block_size}, {device}, {found['threads']} threads, torch {found['torch']}; "
        f"{found['rounds']} rounds, {found['responses']} responses, {found['parted']} not equal, by rounding"
    )
    _print(ROLLOUT_COLUMNS, found["lines"])
    _write(out, found)


@app.command()
def train(
    checkpoint: Annotated[Path | None, typer.Option(help="Train on its responses to gsm-mini.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="With --checkpoint: problems to answer.")] = 64,
    threshold: Annotated[float, typer.Option(help="With --checkpoint: confidence to reveal at.")] = 0.9,
    size: Size = "0.1b",
    block_size: Annotated[int | None, typer.Option(min=1, help="K; default: 32, or the checkpoint's.")] = None,
    histogram: Annotated[
        str | None, typer.Option(metavar="COUNTS", help="Blocks that took 1, 2, ... denoise steps: '[3, 5, 2]'.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Trajectories drawn.")] = 1,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every drawn prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a response.")] = 512,
    positions: Annotated[int, typer.Option(min=1, help="The most positions of a forward; a row may have more.")] = 8192,
    recompute: Annotated[bool, typer.Option("--recompute", help="Activation checkpointing.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16, of random weights.")] = "float32",
    device: Device = "cpu",
    threads: options.Threads = 2,
    repeats: Repeats = 3,
    plugins: options.Plugins = None,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Forward and backward of the likelihood: packed, beside one row a denoise step (TraceRL); same trajectories.

    Drawn trajectories: a parametric law of denoise steps per block, mean 8 at block 32 (4 tokens per forward), and
    random weights. Bound: the ratio of token-forwards that a formula gives for the trajectories. Exit code 1 when the
    two ways give different log-probabilities, or the ratio of counted token-forwards is below 95 % of the bound.
    """
    from lightningrl.bench.random_model import random_model
    from lightningrl.bench.train import run_benchmark
    from lightningrl.bench.trajectories import BLOCK_SIZE, STEPS_OF_1000_BLOCKS, drawn, recorded

    precision = _prepare(out, overwrite, device, threads, dtype)
    steps = STEPS_OF_1000_BLOCKS if histogram is None else _histogram(histogram)
    if checkpoint is not None:
        model, trajectories = recorded(
            checkpoint, prompts, max_new_tokens=new_tokens, threshold=threshold, block_size=block_size, device=device,
            plugins=plugins or (),
        )  # fmt: skip
    else:
        model = random_model(size, block_size or BLOCK_SIZE, precision, device)
        trajectories = drawn(
            count, prompt_tokens=prompt_tokens, new_tokens=new_tokens, block_size=model.config.block_size,
            vocab=model.config.vocab_size - 1, histogram=steps,
        )  # fmt: skip
    model.checkpoint_activations = recompute
    found = run_benchmark(model, trajectories, positions=positions, repeats=repeats, report=say)
    typer.echo(
        f"{checkpoint or size}: {found['parameters'] / 1e6:.1f} M parameters, {found['dtype']}, block "
        f"{found['block_size']}, {found['device']}, {found['threads']} threads, torch {found['torch']}\n"
        f"{found['trajectories']} trajectories, {found['actions']} actions, {found['steps_per_block']:.2f} denoise "
        f"steps per block, at most {found['most_steps']}"
    )
    _print(TRAIN_COLUMNS, found["lines"])
    typer.echo(
        f"token-forwards: {found['token_ratio']:.3f} times fewer packed, {found['of_bound_pct']:.1f} % of the bound "
        f"{found['bound_ratio']:.3f} (at least {LEAST_OF_BOUND_PCT} %)\n"
        f"seconds: {found['time_ratio']:.3f} times fewer packed, {found['of_token_ratio_pct']:.1f} % of what "
        f"token-forwards say (77 % or more is within 1.3 times; above 100 % the packed forward gains more)\n"
        f"same numbers: log-probabilities differ by {found['logp_gap']:.1e} nats at most, gradients by "
        f"{found['gradient_gap']:.1e} of their norm"
    )
    _write(out, found)
    if found["of_bound_pct"] < LEAST_OF_BOUND_PCT or not found["logp_gap"] <= LARGEST_LOGP_GAP[found["dtype"]]:
        raise typer.Exit(1)


def _histogram(text: str) -> list[int]:
    try:
        counts = json.loads(text)
    except ValueError:
        counts = None
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts) or not sum(counts):
        raise ConfigError(f"--histogram: found {text}, expected a list of counts such as '[3, 5, 2]'")
    return counts


@app.command()
def states(
    checkpoint: Annotated[Path | None, typer.Option(help="Train on its responses to gsm-mini.")] = None,
    threshold: Annotated[float, typer.Option(help="With --checkpoint: confidence to reveal at.")] = 0.9,
    size: Size = "miniature",
    count: Annotated[int, typer.Option(min=2, help="Trajectories in all.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a random model's prompts.")] = 30,
    new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a response.")] = 48,
    tpf: Annotated[float, typer.Option(min=1, help="Positions that a random model reveals a forward.")] = 1.64,
    share: Annotated[
        list[float] | None, typer.Option(min=0.01, max=1, help="Share of the states that is scored; may be repeated.")
    ] = None,
    batches: Annotated[int, typer.Option(min=2, help="Batches of trajectories.")] = 8,
    draws: Annotated[int, typer.Option(min=2, help="Draws of the states of each batch.")] = 8,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16, of random weights.")] = "float32",
    device: Device = "cpu",
    threads: options.Threads = 1,
    plugins: options.Plugins = None,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """An update on a part of the states (`runs.state_share`): positions, seconds, and the noise of its gradient.

    over_draws: standard deviation of the gradient over draws of the states, of the mean gradient's norm. of_batches: of
    the standard deviation over batches of trajectories. together: of both, over that of batches alone.
    """
    from lightningrl.bench.random_model import random_model
    from lightningrl.bench.states import decoded, run_benchmark
    from lightningrl.bench.trajectories import recorded

    precision = _prepare(out, overwrite, device, threads, dtype)
    if checkpoint is not None:
        model, trajectories = recorded(
            checkpoint, count, max_new_tokens=new_tokens, threshold=threshold, block_size=None, device=device,
            plugins=plugins or (),
        )  # fmt: skip
    else:
        model = random_model(size, 8 if size == "miniature" else 32, precision, device)
        trajectories = decoded(model, count, prompt_tokens, new_tokens, tpf)
    found = run_benchmark(model, trajectories, share or [1, 1 / 2, 1 / 3], batches=batches, draws=draws, report=say)
    typer.echo(
        f"{checkpoint or size}: {found['parameters'] / 1e6:.2f} M parameters, {found['dtype']}, block "
        f"{found['block_size']}, {found['device']}, {found['threads']} threads, torch {found['torch']}\n"
        f"{found['trajectories']} trajectories, {found['actions']} actions, {batches} batches, {draws} draws of each; "
        f"standard deviation over batches: {found['over_batches']:.2f} of the mean gradient's norm"
    )
    _print(STATE_COLUMNS, found["lines"])
    _write(out, found)


@app.command()
def phases(
    folder: Annotated[Path, typer.Argument(help="A finished training: results/<experiment>/train/<run>-<key>.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16: what it computed in.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda: what it ran on; its peak is measured now.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, as the run had.")] = 1,
    plugins: options.Plugins = None,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Where the seconds of a training run went: medians of a step by phase, and the share of the machine's peak.

    Operations of the layers' matrices alone are counted (attention and the head are not), so shares are low.
    """
    import torch

    from lightningrl.bench.phases import phases as measure

    precision = _prepare(out, overwrite, device, threads, dtype)
    found = measure(folder, torch.device(device), precision, plugins or ())
    typer.echo(
        f"{folder.name}: {found['parameters'] / 1e6:.2f} M parameters; peak measured here "
        f"{found['peak_operations_per_s'] / 1e9:.0f} GFLOP/s; rollouts {found['rollout_tokens_per_s']:.0f} tokens/s; "
        f"at most {found['peak_memory_bytes'] / 1e6:.0f} MB; decoder and trainer differ by "
        f"{found['logp_gap_mean']:.1e} nats per token in the worst step's mean, {found['logp_gap_max']:.1e} at most"
    )
    _print(PHASE_COLUMNS, found["phases"])
    _write(out, found)


@app.command()
def judges(
    benchmark: options.Benchmark = "math500",
    workers: options.Workers = 2,
    mirror: options.Mirror = None,
    plugins: options.Plugins = None,
    limit: options.Limit = None,
) -> None:
    """Judgements a second: gold answers (mathematics) or official solutions (programs), and how many are right."""
    from lightningrl.bench.judges import mathematics, solutions
    from lightningrl.benchmarks.registry import get_benchmark
    from lightningrl.evaluation.problems import load_problems
    from lightningrl.utils.registry import resolve

    chosen = get_benchmark(benchmark, plugins or ())
    examples = load_problems(chosen, "test", None, options.origins(mirror), limit)
    is_mathematics = chosen.judge.endswith(":MathJudge")
    rows = mathematics(examples, workers) if is_mathematics else solutions(examples, resolve(chosen.judge), workers)
    for row in rows:
        cpu = f", {row['cpu_ms']:.1f} ms of processor time each" if "cpu_ms" in row else ""
        typer.echo(
            f"{benchmark}, {row['what']}: {row['correct']} of {row['judged']} right, {row['seconds']:.2f} s, "
            f"{row['per_s']:.1f} a second, {workers} workers{cpu}"
        )
    if any(row["correct"] < row["judged"] for row in rows):
        raise typer.Exit(1)


app.command()(bench_gpu.gpu)
app.command("gpu-page")(bench_gpu.gpu_page)
