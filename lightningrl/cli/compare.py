"""`lightningrl compare`: records of models on the same problems, side by side. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.errors import StageError
from lightningrl.report.frontier import Evaluation, collect, groups
from lightningrl.types import EvalRecord
from lightningrl.utils.files import read_jsonl
from lightningrl.utils.numbers import shortest

COUNTS = {"response_tokens": 1, "denoise_forwards": 1, "commit_forwards": 0}
"""Stand in for counts that a record lacks: nothing made of them is shown."""


def compare(
    base: Annotated[Path, typer.Argument(help="Records of the model that is compared with.")],
    others: Annotated[list[Path], typer.Argument(help="Records of others on the same problems.")],
    threshold: Annotated[float, typer.Option(help="The threshold of the single numbers.")] = 0.9,
    y_max: Annotated[
        float | None, typer.Option(help="The accuracy in percent that AUP is relative to; default: the best one found.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=1, help="Replicates of the bootstrap over problems.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare records of models on the same problems: accuracy, TPF, AUP, with paired 95 % intervals over problems.

    Records without counts of tokens and forwards are compared by accuracy alone.

    AUP is over all thresholds in the files, under one y_max; anchored AUP has the base's y_min = y_1 - 5 for all.

    \b
    lightningrl compare base/records.jsonl trained/records.jsonl
    """
    options.require_finite("--threshold", threshold)
    files = {name: _records(path) for name, path in zip(_names([base, *others]), [base, *others], strict=True)}
    has_counts = all(r.denoise_forwards and r.response_tokens for records in files.values() for r in records)
    evaluations, first = list[Evaluation](), next(iter(files))
    benchmark = files[first][0].uid.split("/")[0]
    for name, records in files.items():
        role = "before" if name == first else "rival"
        filled = [_filled(record, threshold) for record in records]
        evaluations.append(Evaluation(name, role, "", benchmark, filled, first))
    limits = None if y_max is None else {benchmark: y_max}
    [group] = groups(evaluations, threshold, bootstrap, seed, limits)
    for row in collect([group], "compare").headline.to_dict("records"):
        faster = group.difference("tokens_TN", "forwards_TN", row["policy"], first)
        typer.echo(_line(row, faster if has_counts else None))
    if not has_counts:
        typer.echo("note: no TPF and no AUP: there are records without counts of tokens and forwards")


def _names(paths: list[Path]) -> list[str]:
    """Each file's own name, or its folder's where that is `records`; with the file's number where two share one."""
    names = [path.parent.name if path.stem == "records" and path.parent.name else path.stem for path in paths]
    return [f"{name} (file {n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def _records(path: Path) -> list[EvalRecord]:
    try:
        records = [EvalRecord.from_json(row) for row in read_jsonl(path)]
    except TypeError as error:
        raise StageError(f"{path}: these are no records ({error}); `lightningrl score` makes them") from None
    if not records:
        raise StageError(f"{path}: there are no records in it")
    return records


def _filled(record: EvalRecord, threshold: float) -> EvalRecord:
    """With a threshold, and with counts, where there are none."""
    lacking = {name: value for name, value in COUNTS.items() if getattr(record, name) is None}
    return replace(record, threshold=threshold if record.threshold is None else record.threshold, **lacking)


def _line(row: Mapping[Any, Any], tpf_difference: tuple[float, float, float] | None) -> str:
    """tpf_difference: with its interval; None: nothing is known of speed."""

    def with_interval(name: str, form: str) -> str:
        low, high = (form.format(row[f"{name}_{end}"]) for end in ("low", "high"))
        return f"{form.format(row[name])} [{low}, {high}]"

    line, is_base = f"{row['policy']}: accuracy {with_interval('accuracy_pct', '{:.1f}')} %", row["role"] == "before"
    against = f"; against the base {with_interval('accuracy_difference', '{:+.1f}')} points"
    if tpf_difference is None:
        return line + ("" if is_base else against) + f" ({row['n_problems']} problems)"
    line += f", TPF {with_interval('tpf', '{:.2f}')}"
    line += f", AUP {with_interval('aup', '{:.1f}')}, anchored {with_interval('aup_anchored', '{:.1f}')}"
    if not is_base:
        line += against + ", TPF {:+.2f} [{:+.2f}, {:+.2f}]".format(*tpf_difference)
        line += f", anchored AUP {with_interval('aup_anchored_difference', '{:+.1f}')}"
    line += f" (threshold {shortest(row['threshold'])}; y_max {row['y_max']:.1f}, y_min {row['y_min']:.1f}, "
    return line + f"thresholds {row['thresholds']}, {row['n_problems']} problems)"
