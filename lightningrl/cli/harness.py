"""`lightningrl harness`: a row of Table 2 with the arguments that it was published with (extra `lm-eval`)."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.outputs import print_table, say
from lightningrl.errors import ConfigError
from lightningrl.report.paper.harness import ANCHOR, ROW, WITHOUT, Cell, cells, comparison
from lightningrl.utils import files


def harness(
    row: Annotated[str, typer.Argument(help="A row of Table 2, like LLaDA; left out: all are listed.")] = "",
    model: Annotated[Path | None, typer.Option(help="The folder of the row's checkpoint.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="The folder of the row's LoRA (D2F).")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="gsm8k, math500, mbpp or humaneval; may be repeated; left out: all four.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the numbers; what is there is not run again.")] = None,
    anchor: Annotated[bool, typer.Option("--anchor", help="The row's weights at one token a forward.")] = False,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let the harness run what the model writes, without a jail.")
    ] = False,
    tasks: Annotated[
        Path | None, typer.Option(help="Folder of tasks with these names, in place of the harness's own.")
    ] = None,
    limit: options.Limit = None,
    rows: Annotated[int, typer.Option(min=1, help="Responses decoded together; published: 1.")] = 1,
    dtype: Annotated[str, typer.Option(help="bfloat16 (published), float32, float64 or stored.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
) -> None:
    """Evaluate a row of Table 2 with the arguments that it was published with: tasks, prompts, shots, lengths.

    Without a row, the arguments of all rows; with --out alone, published, measured and their difference of what is
    there. Programs of MBPP and HumanEval are run by the harness itself, in no jail, so only with --run-code.

    \b
    lightningrl harness
    lightningrl harness d3LLM-LLaDA --model models/d3LLM_LLaDA --benchmark gsm8k --out harness
    lightningrl harness --out harness
    """
    if not row:
        _show(out)
        return
    chosen = chosen_cells(row, benchmark or (), ANCHOR if anchor else ROW)
    if model is None or out is None:
        raise ConfigError("say --model, the folder of the row's checkpoint, and --out, a folder for the numbers")
    _check(chosen, model, adapter, run_code)
    try:
        from lightningrl.inference.harness_lm import run_cell
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}: pip install 'lightningrl[lm-eval]'") from None
    how = {"dtype": dtype, "device": device, "batch_size": rows}
    for cell in chosen:
        settings = {
            "model": str(model),
            "adapter": str(adapter or ""),
            "limit": limit,
            "tasks": str(tasks or ""),
            **how,
        }
        path = out / f"{cell.name}.json"
        if path.exists():
            if files.read_json(path)["settings"] != settings:
                raise ConfigError(f"{path} was made with other options; name another folder, or delete it")
            say(f"{path} is there")
            continue
        found = run_cell(cell, model, adapter=adapter, tasks=tasks, limit=limit, runs_code=run_code, **how)
        told = {"row": cell.row, "benchmark": cell.benchmark, "point": cell.point, "published": cell.published()}
        files.write_json(path, told | {"arguments": arguments_of(cell), "settings": settings} | found)
        print_table(comparison([told | found]))


def chosen_cells(row: str, benchmarks: list[str] | tuple[str, ...], point: str) -> list[Cell]:
    """Returns a row's cells. Raises ConfigError for a row, benchmark or point without published arguments."""
    named = [cell for cell in cells() if cell.row == row]
    if row in WITHOUT:
        raise ConfigError(f"{row}: no arguments are published: {WITHOUT[row]}")
    if not named:
        known = list(dict.fromkeys(cell.row for cell in cells()))
        near = get_close_matches(row, known, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"found the row {row!r}, allowed: {', '.join(known)}.{meant}")
    found = [cell for cell in named if cell.point == point and (not benchmarks or cell.benchmark in benchmarks)]
    missing = set(benchmarks) - {cell.benchmark for cell in found}
    if missing or not found:
        what = f"--benchmark {', '.join(sorted(missing))}" if missing else "--anchor"
        has = ", ".join(f"{cell.benchmark} ({cell.point})" for cell in named)
        raise ConfigError(f"{row} has no published arguments for {what}; it has those of {has}")
    return found


def _check(chosen: list[Cell], model: Path, adapter: Path | None, run_code: bool) -> None:
    """Raises ConfigError for what the cells need and the user did not give."""
    cell = chosen[0]
    if not (model / "config.json").is_file():
        raise ConfigError(f"--model {model} is no checkpoint's folder; the row's is {cell.checkpoint}")
    if bool(cell.adapter) != (adapter is not None):
        told = f"needs the adapter {cell.adapter}: give its folder" if cell.adapter else "has no adapter: leave it out"
        raise ConfigError(f"--adapter: the row {cell.row} {told}")
    if not run_code and (programs := [each.benchmark for each in chosen if each.runs_programs]):
        raise ConfigError(
            f"{', '.join(programs)}: the harness runs what the model writes, without a jail. Where that is allowed to "
            "happen, give --run-code and set HF_ALLOW_CODE_EVAL=1; or name other benchmarks with --benchmark"
        )


def arguments_of(cell: Cell) -> dict[str, Any]:
    """Returns what a row was evaluated with, for a result's file."""
    return {
        name: getattr(cell, name) for name in Cell.__dataclass_fields__ if name not in ("row", "benchmark", "point")
    }


def _show(out: Path | None) -> None:
    if out is not None:
        found: list[Mapping[str, Any]] = [files.read_json(path) for path in sorted(out.glob("*.json"))]
        if not found:
            raise ConfigError(f"--out {out}: nothing was measured there yet")
        print_table(comparison(found))
        return
    lines = [["row", "benchmark", "point", "task", "shots", "chat", "tokens", "decoder", "parameter", "checkpoint"]]
    for cell in cells():
        chat = "template" if cell.chat else "own turn" if cell.turn else "none"
        numbers = [str(cell.shots), chat, str(cell.tokens), cell.preset, f"{cell.parameter:g}", cell.checkpoint]
        lines.append([cell.row, cell.benchmark, cell.point, cell.task, *numbers])
    print_table(lines)
    for row, reason in WITHOUT.items():
        typer.echo(f"{row}: none; {reason}")
