"""`lightningrl harness`: a row of Table 2 with the arguments that it was published with (extra `lm-eval`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.bench.estimate.budget import DEVICES
from lightningrl.bench.estimate.harness import cell_cost
from lightningrl.cli import options
from lightningrl.cli.harness_results import arguments_of, code_hash, folder_hash, read_result, results, tasks_hash
from lightningrl.cli.outputs import print_table, say
from lightningrl.errors import ConfigError
from lightningrl.inference.harness_answers import differing
from lightningrl.models.hub import ADAPTER
from lightningrl.report.paper.harness import ANCHOR, HARNESS_VERSION, ROW, WITHOUT, Cell, cells, comparison
from lightningrl.utils import files


def harness(
    row: Annotated[str, typer.Argument(help="A row of Table 2, like LLaDA; default: all are listed.")] = "",
    model: Annotated[Path | None, typer.Option(help="The folder of the row's checkpoint.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="The folder of the row's LoRA (D2F).")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="gsm8k, math500, mbpp or humaneval; may be repeated; default: all four.")
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
    there. Programs of MBPP and HumanEval are run by the harness itself, in no jail, so only with --run-code. Answers
    are kept as they come: the same command resumes after a kill.

    \b
    lightningrl harness
    lightningrl harness d3LLM-LLaDA --model models/d3LLM_LLaDA --benchmark gsm8k --out harness
    lightningrl harness --out harness
    """
    if not row:
        _refuse_without_row(model=model, adapter=adapter, benchmark=benchmark, anchor=anchor, tasks=tasks, limit=limit)
        _show(out)
        return
    chosen = chosen_cells(row, benchmark or (), ANCHOR if anchor else ROW)
    if model is None or out is None:
        raise ConfigError("say --model, the folder of the row's checkpoint, and --out, a folder for the numbers")
    if find_spec("lm_eval") is None:
        raise ConfigError("lm-evaluation-harness is not installed: pip install 'lightningrl[lm-eval]'")
    _check(chosen, model, adapter, tasks, run_code)
    how = {"dtype": dtype, "device": device, "batch_size": rows}
    if dtype != "stored":
        options.dtype_of(dtype, "stored")
    shared = {"settings": how | {"limit": limit}, "weights": folder_hash(model)}
    shared["adapter"] = "" if adapter is None else folder_hash(adapter, ADAPTER)
    shared["tasks"] = "" if tasks is None else tasks_hash(tasks)
    shared["harness"] = version("lm_eval")
    identities = {each.name: {"arguments": arguments_of(each), "code": code_hash(each)} | shared for each in chosen}
    missing = [cell for cell in chosen if not _is_there(out / f"{cell.name}.json", identities[cell.name])]
    if not missing:
        return
    options.require_device(device)
    from lightningrl.inference.harness_answers import AnswerFile
    from lightningrl.inference.harness_lm import run_cell
    from lightningrl.inference.harness_tasks import load_tasks

    ready = load_tasks([cell.task for cell in missing], tasks)
    for cell in missing:
        identity, path = identities[cell.name], out / f"{cell.name}.json"
        with closing(AnswerFile(out / f"{cell.name}.answers", identity)) as answers:
            if answers:
                say(f"{answers.path} has {len(answers)} answers already")
            words = {"adapter": adapter, "limit": limit, "runs_code": run_code, **how}
            found = run_cell(cell, ready[cell.task], model, answers, **words)
        told = {"row": cell.row, "benchmark": cell.benchmark, "point": cell.point} | identity | found
        files.write_json(path, told | {"model": str(model), "published_harness": HARNESS_VERSION})
        print_table(comparison([told | {"published": cell.published()}]))


def _is_there(path: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a cell is finished. Raises ConfigError when it is, but by other arguments, weights or code."""
    if not path.exists():
        return False
    if other := differing(read_result(path), identity):
        raise ConfigError(f"{path} was made with other {', '.join(other)}; name another folder, or delete it")
    say(f"{path} is there")
    return True


def _refuse_without_row(**given: Any) -> None:
    """Raises ConfigError for options that say how to run a row, where no row is named."""
    if said := [f"--{name}" for name, value in given.items() if value]:
        raise ConfigError(f"{', '.join(said)}: name a row; `lightningrl harness` lists them")


def chosen_cells(row: str, benchmarks: list[str] | tuple[str, ...], point: str) -> list[Cell]:
    """Returns a row's cells. Raises ConfigError for a row, benchmark or point without published arguments."""
    named = [cell for cell in cells() if cell.row == row]
    if row in WITHOUT:
        raise ConfigError(f"{row}: no arguments are published: {WITHOUT[row]}")
    if not named:
        known = list(dict.fromkeys(cell.row for cell in cells()))
        folded = {each.lower(): each for each in known}
        near = [folded[each] for each in get_close_matches(row.lower(), folded, 1)]
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"found the row {row!r}, allowed: {', '.join(known)}.{meant}")
    found = [cell for cell in named if cell.point == point and (not benchmarks or cell.benchmark in benchmarks)]
    missing = set(benchmarks) - {cell.benchmark for cell in found}
    if missing or not found:
        what = f"--benchmark {', '.join(sorted(missing))}" if missing else "--anchor"
        has = ", ".join(f"{cell.benchmark} ({cell.point})" for cell in named)
        raise ConfigError(f"{row} has no published arguments for {what}; it has those of {has}")
    return found


def _check(chosen: list[Cell], model: Path, adapter: Path | None, tasks: Path | None, run_code: bool) -> None:
    """Raises ConfigError for what the cells need and the user did not give, before torch or the harness is asked."""
    cell = chosen[0]
    if not (model / "config.json").is_file():
        raise ConfigError(f"--model {model} is no checkpoint's folder; the row's is {cell.checkpoint}")
    if bool(cell.adapter) != (adapter is not None):
        told = f"needs the adapter {cell.adapter}: give its folder" if cell.adapter else "has no adapter: leave it out"
        raise ConfigError(f"--adapter: the row {cell.row} {told}")
    if adapter is not None and not (adapter / ADAPTER[0]).is_file():
        raise ConfigError(f"--adapter {adapter} is no adapter's folder; the row's is {cell.adapter}")
    if tasks is not None and not tasks.is_dir():
        raise ConfigError(f"--tasks {tasks} is no folder")
    if not run_code and (programs := [each.benchmark for each in chosen if each.runs_programs]):
        raise ConfigError(
            f"{', '.join(programs)}: the harness runs what the model writes, without a jail. Where that is allowed to "
            "happen, give --run-code and set HF_ALLOW_CODE_EVAL=1; or name other benchmarks with --benchmark"
        )
    from lightningrl.inference.policy import require_fitting
    from lightningrl.models.config_file import family_named, family_of

    for each in chosen:
        if type(family_of(model)) is not type(family_named(each.family)):
            found = files.read_json(model / "config.json").get("model_type")
            raise ConfigError(
                f"--model {model} has the model_type {found!r}; the row {each.row} is of {each.checkpoint}, "
                f"whose model_type is {each.family!r}"
            )
        require_fitting(model, each.preset)


def _show(out: Path | None) -> None:
    if out is not None:
        print_table(comparison(results(out)))
        return
    columns: str = "row,benchmark,point,task,shots,chat,tokens,decoder,parameter,H100 hours,checkpoint"
    lines: list[list[str]] = [[*columns.split(",")]]
    device, all_hours = DEVICES["h100"], 0.0
    for cell in cells():
        chat = "template" if cell.chat else "own turn" if cell.turn else "none"
        all_hours += (hours := cell_cost(cell, device).seconds / 3600)
        numbers = [str(cell.shots), chat, str(cell.tokens), cell.preset, f"{cell.parameter:g}", f"{hours:.1f}"]
        numbers.append(cell.checkpoint)
        lines.append([cell.row, cell.benchmark, cell.point, cell.task, *numbers])
    print_table(lines)
    typer.echo(f"in all {all_hours:,.0f} hours of one {device.name}, by the formulas of bench/estimate/harness.py")
    for row, reason in WITHOUT.items():
        typer.echo(f"{row}: none; {reason}")
