"""`lightningrl score` and `lightningrl compare`: judge responses of any engine, and compare records. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightningrl.cli import options
from lightningrl.cli.errors import user_errors
from lightningrl.cli.outputs import Overwrite, check_out

if TYPE_CHECKING:
    from lightningrl.types import EvalRecord

Responses = Annotated[Path, typer.Argument(help="JSON lines: one response each.")]
BenchmarkName = Annotated[str, typer.Option(help="gsm8k, math500, mbpp, humaneval, ... or module:attribute.")]
Out = Annotated[Path, typer.Option(help="The records; the summary goes beside them (OUT with .summary.json).")]
DataFile = Annotated[Path | None, typer.Option("--data", help="Problems of a data stage (test.jsonl).")]
Split = Annotated[str, typer.Option(help="test, validation or train.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many problems are asked about.")]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="Policy name for lines that give none (default: the file's name).")
]
Threshold = Annotated[float | None, typer.Option(help="Threshold for lines that give none.")]
Order = Annotated[
    str | None,
    typer.Option(help="Which numbering bare-number ids follow, for benchmarks that have two: official or paper."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that judge.")]


def score(
    responses: Responses,
    benchmark: BenchmarkName,
    out: Out,
    data: DataFile = None,
    split: Split = "test",
    mirror: options.Mirror = None,
    limit: Limit = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    order: Order = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
) -> None:
    """Judge responses made by any engine: records and a summary.

    A line is at least {"uid": "gsm8k/test/00017", "response": "..."}; rows of `lightningrl generate` (id, text,
    counts) and records of ours are taken as they are. Figures that need counts a line lacks are left out. The
    benchmark's judge is proved first.

    An id may be a bare number where it can mean one problem only. The test problems of gsm8k and mbpp are numbered
    otherwise by their authors than by the paper: say which with --order.

    Records gather in OUT.partial and are moved into place when all are judged; stopped or killed, the same command
    goes on.

    \b
    lightningrl score answers.jsonl --benchmark gsm8k --out records.jsonl
    """
    with user_errors():
        from lightningrl.benchmarks.registry import get_benchmark
        from lightningrl.evaluation import external, problems, scoring, uid_numbering
        from lightningrl.evaluation.selfcheck import self_check
        from lightningrl.pipeline.code_digest import digest
        from lightningrl.utils import files
        from lightningrl.utils.registry import resolve

        summary_file = out.parent / f"{out.name}.summary.json"
        check_out(out, overwrite, inputs=[responses], beside=[summary_file])
        chosen, origins = get_benchmark(benchmark), options.origins(mirror)
        examples = problems.load_problems(chosen, split, data, origins, limit)
        uid_of_number = uid_numbering.uid_of_number(chosen.name, split, examples, order, origins)
        if note := uid_numbering.unused_order_note(chosen.name, split, order):
            typer.echo(f"note: {note}", err=True)
        file = external.read_responses(responses, policy, threshold, uid_of_number)
        scoring.check_uids(file.responses, examples)
        if note := file.note():
            typer.echo(f"note: {responses}: {note}", err=True)

        def make_judge() -> Any:
            judge = resolve(chosen.judge)(workers=workers)
            try:
                self_check(chosen.name, examples, judge)
            except BaseException:
                judge.close()
                raise
            return judge

        identity = {"benchmark": benchmark, "judge": chosen.judge, "problems": problems.fingerprint(examples)}
        identity["code"] = digest([chosen.judge.partition(":")[0]])  # verdicts of another judge are not gone on from

        def finish(rows: list[dict[str, Any]]) -> None:
            check_out(out, overwrite, inputs=[responses], beside=[summary_file])
            files.write_json(summary_file, external.summaries(rows, examples))
            files.write_jsonl(out, rows)

        scoring.judge_all(file.responses, examples, make_judge, out, identity, finish)
        for summary in files.read_json(summary_file):
            _show(summary)
            doubt = uid_numbering.wrong_order_note(chosen.name, split, summary)
            for note in [*external.notes(summary, file.failed), *([doubt] if doubt else [])]:
                typer.echo(f"  note: {note}")


def _show(summary: dict[str, Any]) -> None:
    def number(name: str, form: str = "{:.2f}") -> str:
        return "unknown" if summary[name] is None else form.format(summary[name])

    from lightningrl.evaluation.external import counted

    at = "" if summary["threshold"] is None else f" at {summary['threshold']:g}"
    status = ", ".join(f"{count} {name}" for name, count in summary["status"].items() if count)
    typer.echo(
        f"{summary['policy']}{at}: accuracy {summary['accuracy_pct']:.1f} % [{summary['accuracy_pct_low']:.1f}, "
        f"{summary['accuracy_pct_high']:.1f}], compat {number('compat_accuracy_pct', '{:.1f}')}; TPF {number('tpf')} "
        f"(true {number('tpf_true')}, paper's {number('tpf_paper')}); forwards a problem "
        f"{number('forwards_per_problem', '{:.1f}')}; truncated {number('truncated_pct', '{:.1f} %')}; "
        f"{counted(summary['n_samples'], 'response')} to {counted(summary['n_problems'], 'problem')}: {status}"
    )


Base = Annotated[Path, typer.Argument(help="Records of the model that is compared with.")]
Others = Annotated[list[Path], typer.Argument(help="Records of others on the same problems.")]
Primary = Annotated[float, typer.Option(help="The threshold of the single numbers.")]
YMax = Annotated[float | None, typer.Option("--y-max", help="For AUP, percent; left out: the best accuracy found.")]
Replicates = Annotated[int, typer.Option(min=1, help="Of the bootstrap over problems.")]


def compare(
    base: Base,
    others: Others,
    threshold: Primary = 0.9,
    y_max: YMax = None,
    bootstrap: Replicates = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Compare records of models on the same problems: accuracy, TPF, AUP, with paired 95 % intervals over problems.

    Records without counts of tokens and forwards are compared by accuracy alone.

    AUP is over all thresholds in the files, under one y_max; anchored AUP has the base's y_min = y_1 - 5 for all.

    \b
    lightningrl compare base/records.jsonl trained/records.jsonl
    """
    with user_errors(resumes=False):
        from lightningrl.errors import StageError
        from lightningrl.report.frontier import Evaluation, collect, groups
        from lightningrl.types import EvalRecord
        from lightningrl.utils.files import read_jsonl

        evaluations, benchmark, has_counts = [], "", True
        names = _names([base, *others])
        for number, path in enumerate([base, *others]):
            try:
                records = [EvalRecord.from_json(row) for row in read_jsonl(path)]
            except TypeError as error:
                raise StageError(f"{path}: these are no records ({error}); `lightningrl score` makes them") from None
            if not records:
                raise StageError(f"{path}: there are no records in it")
            has_counts = has_counts and all(r.denoise_forwards and r.response_tokens for r in records)
            records = [_filled(record, threshold) for record in records]
            benchmark = benchmark or records[0].uid.split("/")[0]
            role = "rival" if number else "before"
            evaluations.append(Evaluation(names[number], role, "", benchmark, records, names[0]))
        limits = None if y_max is None else {benchmark: y_max}
        [group] = groups(evaluations, threshold, bootstrap, seed, limits)
        for row in collect([group], "compare").headline.to_dict("records"):
            faster = group.difference("tokens_TN", "forwards_TN", row["policy"], names[0])
            _compare_line(row, faster if has_counts else None)
        if not has_counts:
            typer.echo("note: no TPF and no AUP: there are records without counts of tokens and forwards")


def _names(paths: list[Path]) -> list[str]:
    """Each file's own name, or its folder's where that is `records`; with the file's number where two share one."""
    names = [path.parent.name if path.stem == "records" and path.parent.name else path.stem for path in paths]
    return [f"{name} (file {n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def _filled(record: EvalRecord, threshold: float) -> EvalRecord:
    """With a threshold, and with counts of 1 where there are none: nothing made of those is shown."""
    counts = {"response_tokens": 1, "denoise_forwards": 1, "commit_forwards": 0}
    lacking = {name: value for name, value in counts.items() if getattr(record, name) is None}
    at = threshold if record.threshold is None else record.threshold
    return replace(record, threshold=at, **lacking)


def _compare_line(row: Mapping[Any, Any], tpf_difference: tuple[float, float, float] | None) -> None:
    """tpf_difference: with its interval; None: nothing is known of speed."""

    def with_interval(name: str, form: str) -> str:
        low, high = (form.format(row[f"{name}_{end}"]) for end in ("low", "high"))
        return f"{form.format(row[name])} [{low}, {high}]"

    line = f"{row['policy']}: accuracy {with_interval('accuracy_pct', '{:.1f}')} %"
    if tpf_difference is not None:
        line += f", TPF {with_interval('tpf', '{:.2f}')}"
        line += f", AUP {with_interval('aup', '{:.1f}')}, anchored {with_interval('aup_anchored', '{:.1f}')}"
    if row["accuracy_difference"] == row["accuracy_difference"]:  # not the base itself
        line += f"; against the base {with_interval('accuracy_difference', '{:+.1f}')} points"
        if tpf_difference is not None:
            line += ", TPF {:+.2f} [{:+.2f}, {:+.2f}]".format(*tpf_difference)
            line += f", anchored AUP {with_interval('aup_anchored_difference', '{:+.1f}')}"
    if tpf_difference is None:
        typer.echo(f"{line} ({row['n_problems']} problems)")
        return
    line += f" (threshold {row['threshold']:g}; y_max {row['y_max']:.1f}, y_min {row['y_min']:.1f}, "
    typer.echo(line + f"thresholds {row['thresholds']}, {row['n_problems']} problems)")
