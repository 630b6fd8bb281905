"""`lightningrl plan`: memory, seconds and GPU-hours that an experiment will need, before it is run."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.bench.costs import Lengths, Shares
from lightningrl.bench.estimate.budget import MEASURED, Estimate, LengthOverrides, device_of, shapes_of
from lightningrl.bench.estimate.ladder import ladder
from lightningrl.bench.estimate.memory_table import memory_by_size
from lightningrl.bench.overheads import ON_PROCESSOR, Overheads
from lightningrl.cli.options import Threads
from lightningrl.cli.outputs import Overwrite, check_out, print_table
from lightningrl.cli.stages import DEFAULT_CONFIG, Config
from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.targets import markdown, targets
from lightningrl.utils.files import write_json

Share = float | None


def plan_budget(
    config: Config = DEFAULT_CONFIG,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, or cpu: this processor, measured now.")] = "h100",
    gpus: Annotated[
        int | None,
        typer.Option(min=1, help="Number of GPUs in one process group; default: as many as a training has processes."),
    ] = None,
    model_size: Annotated[str | None, typer.Option(help="1.7b, 4b, 8b, ...; default: the experiment's base.")] = None,
    prompt_tokens: Annotated[
        float | None,
        typer.Option(min=1, help="Mean number of prompt tokens; default: what is known of each benchmark."),
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option(min=1, help="Mean number of response tokens; default: what is known of each benchmark."),
    ] = None,
    tpf: Annotated[float | None, typer.Option(min=1, help="Tokens per denoise forward; default: the base's.")] = None,
    kept: Annotated[float, typer.Option(min=0.01, max=1, help="Share of groups that pass the filter.")] = 0.65,
    update_share: Annotated[Share, typer.Option(help="Share of the peak arithmetic that the update reaches.")] = None,
    rollout_share: Annotated[Share, typer.Option(help="Share of the peak arithmetic that rollouts reach.")] = None,
    bandwidth_share: Annotated[Share, typer.Option(help="Share of the memory bandwidth that rollouts reach.")] = None,
    rows_busy: Annotated[Share, typer.Option(help="Share of rows at work, on average.")] = None,
    reserve: Annotated[Share, typer.Option(help="Share of the card's memory that is left free.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option(help="Activations recomputed in the backward; default: as resources say.")
    ] = None,
    as_targets: Annotated[
        bool, typer.Option("--targets", help="Instead: what each table and figure needs, as a Markdown table.")
    ] = False,
    ladder_of: Annotated[
        str | None,
        typer.Option("--ladder", metavar="TARGET", help="Instead: hours of a target before, by default, with options."),
    ] = None,
    turn_ms: Annotated[
        float | None, typer.Option(min=0, help="Milliseconds of a forward of few rows, which launches bound.")
    ] = None,
    tails: Annotated[float | None, typer.Option(min=0, help="Tails a step; default: one.")] = None,
    longest_tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens of a step's longest response; default: the benchmark's limit.")
    ] = None,
    memory_table: Annotated[
        bool, typer.Option("--memory-table", help="Instead: GB at each point for 1.7B, 4B and 8B, as a Markdown table.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Instead: formulas beside a small run on this CPU.")] = False,
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Memory, seconds and GPU-hours of an experiment, from formulas; nothing runs and no weights are needed.

    Formulas: bench/costs.py and bench/overheads.py. What cannot be known is a named assumption, printed, and
    most are an option here. Not counted: communication, supervised controls, pre-training, imports of checkpoints, the
    stages distill_data, speed, probe, replay and selfcheck, and `lightningrl harness`, which says its own cost.
    """
    check_out(out, overwrite, inputs=[config])
    told = {
        "--targets": as_targets,
        "--ladder": ladder_of is not None,
        "--memory-table": memory_table,
        "--check": check,
    }
    if len(instead := [name for name, is_said in told.items() if is_said]) > 1:
        raise ConfigError(f"{' and '.join(instead)} each show something instead of the plan: give one of them")
    wrong: list[str] = []
    if check:
        found, wrong = _check(
            model_size or "miniature", prompt_tokens or 30, response_tokens or 64, tpf or 3.0, threads
        )
    else:
        experiment, measured = load(config), gpu == "cpu"
        if measured:
            import torch

            torch.set_num_threads(threads)
        shares = {
            "update": update_share, "rollout": rollout_share, "bandwidth": bandwidth_share, "rows_busy": rows_busy,
            "reserve": reserve,
        }  # fmt: skip
        assumed = {name: value for name, value in shares.items() if value is not None}
        checkpointing = experiment.resources.checkpoint_activations if checkpointing is None else checkpointing
        told = {"turn_s": None if turn_ms is None else turn_ms / 1e3, "tails": tails, "longest_tokens": longest_tokens}
        overheads = replace(
            ON_PROCESSOR if measured else Overheads(), **{name: v for name, v in told.items() if v is not None}
        )
        estimate = Estimate(
            experiment, shapes_of(experiment, model_size), device_of(gpu), 1 if measured else gpus,
            replace(MEASURED if measured else Shares(), **assumed),
            LengthOverrides(prompt_tokens, response_tokens, tpf, kept), checkpointing and not measured, overheads,
        )  # fmt: skip
        found = estimate.to_json()
        hours = f"{found['device']['name'].split()[0]} hours"
        if ladder_of is not None:
            found = _show_ladder(ladder_of, estimate, hours)
        elif memory_table:
            typer.echo(memory_by_size(estimate), nl=False)
        elif as_targets:
            typer.echo(markdown(targets(plan(experiment), found), hours), nl=False)
        else:
            for show in (_show_model, _show_memory, _show_runs, _show_quantizations, _show_evaluations):
                show(found)
    if out is not None:
        write_json(out, found)
    if wrong:
        typer.echo(f"not equal, which is a defect: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)


def _show_ladder(target: str, estimate: Estimate, unit: str) -> dict[str, Any]:
    """Prints a pipe table of a target's hours, as docs/benchmarks.md has it; returns the hours by words."""
    made, found = plan(estimate.experiment), {}
    known = [*(stage.target for stage in (*made.of("table"), *made.of("figure"))), "all"]
    if target not in known:
        near = get_close_matches(target, known, 1)
        raise ConfigError(
            f"--ladder: found {target!r}, allowed: {', '.join(known)}{f'. Did you mean {near[0]!r}?' if near else ''}"
        )
    typer.echo(f"| `{target}` | {unit} |\n| --- | ---: |")
    for words, rung in ladder(estimate):
        by_name = {each.name: each.gpu_hours for each in targets(made, rung.to_json())}
        found[words] = by_name[target]
        typer.echo(f"| {words} | {by_name[target]:,.0f} |")
    return found


def _check(
    size: str, prompt_tokens: float, response_tokens: float, tpf: float, threads: int
) -> tuple[dict[str, Any], list[str]]:
    """Prints the formulas beside what was counted and measured; returns them, and what must be equal and is not."""
    from lightningrl.bench.estimate.check import check

    found = check(size, 8, Lengths(prompt_tokens, response_tokens, tpf), 16, threads)
    shares = ", ".join(f"{name} {found['shares'][name]:g}" for name in ("update", "reference", "rollout"))
    typer.echo(
        f"{size}, random weights, on {found['device']}: {found['peak_operations_per_s'] / 1e9:.0f} GFLOP/s and "
        f"{found['bytes_per_s'] / 1e9:.1f} GB/s measured now; shares of the peak counted on: {shares}"
    )
    rows = [["", "predicted", "counted", "ratio"]]
    for name, (predicted, counted) in (found["exact"] | found["about"]).items():
        rows.append([name, f"{predicted:,.0f}", f"{counted:,}", f"{predicted / counted:.3f}"])
    for name, (predicted, measured) in found["seconds"].items():
        rows.append([f"seconds of {name}", f"{predicted:.2f}", f"{measured:.2f}", f"{predicted / measured:.2f}"])
    print_table(rows)
    return found, [name for name, (predicted, counted) in found["exact"].items() if predicted != counted]


def _show_model(found: dict[str, Any]) -> None:
    device = found["device"]
    assumed = ", ".join(f"{name} {value}" for name, value in found["assumed"].items() if value is not None)
    typer.echo(
        f"{found['experiment']}, on {device['name']} "
        f"({device['operations_per_s'] / 1e12:.4g} TFLOP/s, {device['bytes_per_s'] / 1e12:.3g} TB/s)"
    )
    for name, model in found["models"].items():
        typer.echo(
            f"{name}: {model['parameters']:,} parameters ({model['trunk_matrices']:,} in the layers' matrices), block "
            f"{model['block_size']}"
        )
    typer.echo(f"assumed: {assumed}")
    of_bases: dict[tuple[str, str], dict[str, float]] = {}
    for row in found["runs"].values():
        of_bases.setdefault((row["base"], row["benchmark"]), row["lengths"])
    for (base, benchmark), lengths in of_bases.items():
        typer.echo(
            f"assumed of {base} on {benchmark}: {lengths['prompt_tokens']:g} prompt tokens, "
            f"{lengths['response_tokens']:g} response tokens, {lengths['tpf']:g} tokens per forward"
        )


def _show_memory(found: dict[str, Any]) -> None:
    for name, row in found["memory"].items():
        alike = [other for other, figures in found["memory"].items() if figures == row]
        if alike[0] != name:
            continue
        typer.echo(f"\nMemory on each of {row['devices']}: {', '.join(alike)}; {row['rows']} rows decode together")
        unit, size = ("GB", 1e9) if row["peak_bytes"] > 1e9 else ("MB", 1e6)
        lines = [(f"resident: {what}", value) for what, value in row["resident"].items()]
        for point, parts in row["points"].items():
            if point in ("rollout", row["peak_at"]) or point.startswith("update"):
                added = ((what, value) for what, value in parts.items() if what not in row["resident"])
                lines += [(f"{point}: {what}", value) for what, value in added]
            lines.append((f"{point} in all", row["point_bytes"][point]))
        for what, value in row["update_bytes"].items():
            fits = "fits" if row["update_fits"][what] else "does not fit"
            positions = row["longest_response_positions" if "longest" in what else "micro_batch_positions"]
            words = what.replace("_", " ")
            lines.append((f"update in all, {words} ({positions:,.0f} positions): {fits}", value))
        verdict = "fits" if row["fits"] else "DOES NOT FIT"
        if row["fits"] and not row["update_fits"]["longest_response_with_checkpointing"]:
            verdict = "fits, BUT NOT a response at the length limit; a lower microbatch_positions splits it"
        without = f"{row['budget_bytes'] / size:,.1f} {unit} without the reserve"
        lines.append((f"most at a time, in {row['peak_at']}, of {without}: {verdict}", row["peak_bytes"]))
        lines += [(f"disk: {what}", value) for what, value in row["disk"].items()]
        print_table([["what", unit], *([what, f"{value / size:.2f}"] for what, value in lines)])


def _show_runs(found: dict[str, Any]) -> None:
    lines = [["run", "phase", "seconds", "positions", "TFLOP", "bound by", "GPU-hours"]]
    for name, row in found["runs"].items():
        for phase in (*row["step"], row["validation"]):
            positions, operations = f"{phase['positions']:,.0f}", f"{phase['operations'] / 1e12:,.1f}"
            lines.append([name, phase["name"], f"{phase['seconds']:.1f}", positions, operations, phase["bound"], ""])
        times = f"a step on {row['devices']}; {row['steps']} steps, {row['validation']['times']} validations"
        lines.append([name, times, f"{row['step_s']:.1f}", "", "", "", f"{row['gpu_hours']:.1f}"])
    if found["runs"]:
        typer.echo("\nOne RL step on each device, and the whole run")
        print_table(lines)


def _show_quantizations(found: dict[str, Any]) -> None:
    lines = [["quantised", "by", "positions", "seconds", "GB", "fits", "GPU-hours"]]
    for name, row in found["quantizations"].items():
        positions, size, fits = f"{row['tokens']:,.0f}", f"{row['bytes'] / 1e9:.2f}", "yes" if row["fits"] else "no"
        seconds, hours = f"{row['seconds']:,.1f}", f"{row['gpu_hours']:.2f}"
        lines.append([name, row["quantizer"], positions, seconds, size, fits, hours])
    if found["quantizations"]:
        typer.echo("\nQuantising, one device each; formulas: bench/estimate/quantization.py")
        print_table(lines)


def _show_evaluations(found: dict[str, Any]) -> None:
    typer.echo("\nEvaluations, one device each; forwards and positions of a response at the primary threshold")
    header = ["evaluation", "problems", "longest", "forwards", "positions each", "positions", "thresholds"]
    lines = [[*header, "seconds per threshold", "bound by", "GPU-hours"]]
    for name, row in found["evaluations"].items():
        problems, thresholds, point = str(row["problems"] * row["samples"]), str(row["thresholds"]), row["point"]
        if point is None:
            lines.append([name, problems, "", "", "", "", thresholds, "", "a server", "0, nothing here"])
            continue
        cost = [""] * 4  # by likelihood nothing is decoded
        if "forwards_per_response" in row:
            forwards, positions = row["forwards_per_response"], row["positions_per_response"]
            cost = [str(row["longest"]), f"{forwards:,.0f}", f"{positions / forwards:,.0f}", f"{positions:,.0f}"]
        seconds, hours = f"{point['seconds']:.1f}", f"{row['gpu_hours']:.2f}"
        lines.append([name, problems, *cost, thresholds, seconds, point["bound"], hours])
    print_table(lines)
    if found["not_estimated"]:
        typer.echo(f"not estimated: {', '.join(found['not_estimated'])} (supervised)")
    typer.echo(f"in all {found['gpu_hours']:.1f} GPU-hours")
