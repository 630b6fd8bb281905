"""`lightningrl plan`: memory, seconds and GPU-hours that an experiment will need, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli.errors import user_errors
from lightningrl.cli.outputs import Overwrite, check_out

GB, MB = 1e9, 1e6


def plan_budget(
    config: Annotated[Path, typer.Option("--config", help="The experiment's YAML file.")] = Path("config/config.yaml"),
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, or cpu: this processor, measured now.")] = "h100",
    gpus: Annotated[
        int | None,
        typer.Option(min=1, help="How many, in one process group; left out: as many as a training has processes."),
    ] = None,
    model_size: Annotated[str | None, typer.Option(help="1.7b, 4b, 8b, ...; left out: the experiment's base.")] = None,
    prompt_tokens: Annotated[float | None, typer.Option(min=1, help="Of a prompt, mean; left out: known.")] = None,
    response_tokens: Annotated[float | None, typer.Option(min=1, help="Of a response, mean; left out: known.")] = None,
    tpf: Annotated[float | None, typer.Option(min=1, help="Tokens per denoise forward; left out: the base's.")] = None,
    kept: Annotated[float, typer.Option(min=0.01, max=1, help="Share of groups that pass the filter.")] = 0.65,
    update_share: Annotated[float | None, typer.Option(help="Of peak arithmetic, in the update.")] = None,
    rollout_share: Annotated[float | None, typer.Option(help="Of peak arithmetic, in rollouts.")] = None,
    bandwidth_share: Annotated[float | None, typer.Option(help="Of memory bandwidth, in rollouts.")] = None,
    rows_busy: Annotated[float | None, typer.Option(help="Share of rows at work, on average.")] = None,
    reserve: Annotated[float | None, typer.Option(help="Share of the card's memory that is left free.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option(help="Activations recomputed in the backward; left out: as resources say.")
    ] = None,
    targets: Annotated[
        bool, typer.Option("--targets", help="Instead: what each table and figure needs, as a Markdown table.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Instead: formulas beside a small run on this CPU.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, of --check and of --gpu cpu.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Memory, seconds and GPU-hours of an experiment, from formulas; nothing runs and no weights are needed.

    Formulas: bench/costs.py. What cannot be known is a named assumption, printed, and
    an option here. Not counted: judging, communication, loading, supervised controls.
    """
    with user_errors(resumes=False):
        from lightningrl.utils.files import write_json

        check_out(out, overwrite, inputs=[config])
        if check:
            found = _check(model_size or "miniature", prompt_tokens, response_tokens, tpf, threads)
        else:
            shares = {
                "update": update_share, "rollout": rollout_share, "bandwidth": bandwidth_share, "rows_busy": rows_busy,
                "reserve": reserve,
            }  # fmt: skip
            lengths = {"prompt_tokens": prompt_tokens, "response_tokens": response_tokens, "tpf": tpf, "kept": kept}
            found = _estimate(config, gpu, gpus, model_size, shares, lengths, checkpointing, threads)
            _show_targets(config, found) if targets else _show(found)
        if out is not None:
            write_json(out, found)


def _estimate(
    config: Path, gpu: str, gpus: int | None, size: str | None, shares: dict[str, Any], lengths: dict[str, Any],
    checkpointing: bool | None, threads: int,
) -> dict[str, Any]:  # fmt: skip
    from dataclasses import replace

    from lightningrl.bench.costs import Shares
    from lightningrl.bench.estimate.budget import MEASURED, Estimate, LengthOverrides, device_of, shapes_of
    from lightningrl.config.experiment import load

    experiment = load(config)
    if gpu == "cpu":
        import torch

        torch.set_num_threads(threads)
    usual = MEASURED if gpu == "cpu" else Shares()
    assumed = replace(usual, **{name: value for name, value in shares.items() if value is not None})
    overrides = LengthOverrides(**lengths)
    single, resources = gpu == "cpu", experiment.resources
    checkpointing = resources.checkpoint_activations if checkpointing is None else checkpointing
    estimate = Estimate(
        experiment, shapes_of(experiment, size), device_of(gpu), 1 if single else gpus, assumed, overrides,
        checkpointing and not single,
    )  # fmt: skip
    return estimate.to_json()


def _show(found: dict[str, Any]) -> None:
    _show_model(found)
    _show_memory(found)
    _show_runs(found)
    _show_evaluations(found)


def _show_targets(config: Path, found: dict[str, Any]) -> None:
    from lightningrl.config.experiment import load
    from lightningrl.pipeline.plan import plan
    from lightningrl.pipeline.targets import markdown, targets

    device = found["device"]["name"].split()[0]
    typer.echo(markdown(targets(plan(load(config)), found), f"{device} hours"), nl=False)


def _check(
    size: str, prompt_tokens: float | None, response_tokens: float | None, tpf: float | None, threads: int
) -> dict[str, Any]:
    from lightningrl.bench.costs import Lengths
    from lightningrl.bench.estimate.check import check

    lengths = Lengths(prompt_tokens or 30, response_tokens or 64, tpf or 3.0)
    found = check(size, 8, lengths, 16, threads)
    typer.echo(
        f"{size}, random weights, on {found['device']}: {found['peak_operations_per_s'] / 1e9:.0f} GFLOP/s and "
        f"{found['bytes_per_s'] / GB:.1f} GB/s measured now; shares of the peak counted on: update "
        f"{found['shares']['update']:g}, reference {found['shares']['reference']:g}, rollout "
        f"{found['shares']['rollout']:g}"
    )
    rows = [["", "predicted", "counted", "ratio"]]
    for name, (predicted, counted) in (found["exact"] | found["about"]).items():
        rows.append([name, f"{predicted:,.0f}", f"{counted:,}", f"{predicted / counted:.3f}"])
    for name, (predicted, measured) in found["seconds"].items():
        rows.append([f"seconds of {name}", f"{predicted:.2f}", f"{measured:.2f}", f"{predicted / measured:.2f}"])
    _print(rows)
    wrong = [name for name, (predicted, counted) in found["exact"].items() if predicted != counted]
    if wrong:
        typer.echo(f"not equal, which is a defect: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)
    return found


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
    told = set()
    for row in found["runs"].values():
        lengths, base = row["lengths"], row["base"]
        if (base, row["benchmark"]) not in told:
            told.add((base, row["benchmark"]))
            typer.echo(
                f"assumed of {base} on {row['benchmark']}: {lengths['prompt_tokens']:g} prompt tokens, "
                f"{lengths['response_tokens']:g} response tokens, {lengths['tpf']:g} tokens per forward"
            )


def _show_memory(found: dict[str, Any]) -> None:
    for name, row in found["memory"].items():
        alike = [other for other, figures in found["memory"].items() if figures == row]
        if alike[0] != name:
            continue
        typer.echo(f"\nMemory on each of {row['devices']}: {', '.join(alike)}; {row['rows']} rows decode together")
        unit, size = ("GB", GB) if row["peak_bytes"] > GB else ("MB", MB)
        lines = [["what", unit]]
        for part in ("resident", "rollout", "update"):
            lines += [[f"{part}: {what}", f"{value / size:.2f}"] for what, value in row[part].items()]
        lines.append(["rollout in all", f"{row['rollout_bytes'] / size:.2f}"])
        for what, value in row["update_bytes"].items():
            fits = "fits" if row["update_fits"][what] else "does not fit"
            positions = row["longest_response_positions" if "longest" in what else "micro_batch_positions"]
            words = what.replace("_", " ")
            lines.append([f"update in all, {words} ({positions:,.0f} positions): {fits}", f"{value / size:.2f}"])
        verdict = "fits" if row["fits"] else "DOES NOT FIT"
        if row["fits"] and not row["update_fits"]["longest_response_with_checkpointing"]:
            verdict = "fits, BUT NOT a response at the length limit; a lower microbatch_positions splits it"
        without = f"{row['budget_bytes'] / size:,.1f} {unit} without the reserve"
        lines.append([f"most at a time, of {without}: {verdict}", f"{row['peak_bytes'] / size:.2f}"])
        _print(lines)


def _show_runs(found: dict[str, Any]) -> None:
    if found["runs"]:
        typer.echo("\nOne RL step on each device, and the whole run")
    lines = [["run", "phase", "seconds", "positions", "TFLOP", "bound by", "GPU-hours"]]
    for name, row in found["runs"].items():
        for phase in (*row["step"], row["validation"]):
            lines.append([name, phase["name"], f"{phase['seconds']:.1f}", f"{phase['positions']:,.0f}",
                          f"{phase['operations'] / 1e12:,.1f}", phase["bound"], ""])  # fmt: skip
        times = f"{row['steps']} steps, {row['validation']['times']} validations"
        lines.append(
            [
                name,
                f"a step on {row['devices']}; {times}",
                f"{row['step_s']:.1f}",
                "",
                "",
                "",
                f"{row['gpu_hours']:.1f}",
            ]
        )
    if found["runs"]:
        _print(lines)


def _show_evaluations(found: dict[str, Any]) -> None:
    typer.echo("\nEvaluations, one device each")
    lines = [["evaluation", "problems", "thresholds", "seconds a threshold", "bound by", "GPU-hours"]]
    for name, row in found["evaluations"].items():
        point = row["point"]
        lines.append([name, str(row["problems"] * row["samples"]), str(row["thresholds"]), f"{point['seconds']:.1f}",
                      point["bound"], f"{row['gpu_hours']:.2f}"])  # fmt: skip
    _print(lines)
    if found["not_estimated"]:
        typer.echo(f"not estimated: {', '.join(found['not_estimated'])} (supervised)")
    typer.echo(f"in all {found['gpu_hours']:.1f} GPU-hours")


def _print(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
