"""`lightningrl score`: judge responses of any engine. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightningrl.benchmarks.registry import get_benchmark
from lightningrl.cli import options
from lightningrl.cli.outputs import Overwrite, check_out, say, summary_line
from lightningrl.evaluation import external, problems, scoring, uid_numbering
from lightningrl.evaluation.selfcheck import self_check
from lightningrl.pipeline.code_digest import digest
from lightningrl.utils import files
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

Order = Annotated[
    str | None,
    typer.Option(help="Which numbering bare-number ids follow, for benchmarks that have two: official or paper."),
]


def score(
    responses: Annotated[Path, typer.Argument(help="JSON lines: one response each.")],
    benchmark: options.Benchmark,
    out: Annotated[Path, typer.Option(help="The records; the summary goes beside them (OUT with .summary.json).")],
    data: options.DataFile = None,
    split: options.Split = "test",
    mirror: options.Mirror = None,
    limit: options.Limit = None,
    policy: Annotated[str | None, typer.Option(help="Name of lines that give none (default: the file's name).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Threshold for lines that give none.")] = None,
    order: Order = None,
    workers: options.Workers = 1,
    plugins: options.Plugins = None,
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
    options.require_finite("--threshold", threshold)
    summary_file = out.parent / f"{out.name}.summary.json"
    check_out(out, overwrite, inputs=[responses], beside=[summary_file])
    chosen, origins = get_benchmark(benchmark, plugins or ()), options.origins(mirror)
    examples = problems.load_problems(chosen, split, data, origins, limit)
    uid_of_number = uid_numbering.uid_of_number(chosen.name, split, examples, order, origins)
    if note := uid_numbering.unused_order_note(chosen.name, split, order):
        say(f"note: {note}")
    file = external.read_responses(responses, policy, threshold, uid_of_number)
    scoring.check_uids(file.responses, examples)
    if note := file.note():
        say(f"note: {responses}: {note}")

    def make_judge() -> Any:
        judge = resolve(chosen.judge)(workers=workers)
        try:
            self_check(chosen.name, examples, judge)
        except BaseException:
            judge.close()
            raise
        return judge

    def finish(rows: list[dict[str, Any]]) -> None:
        check_out(out, overwrite, inputs=[responses], beside=[summary_file])
        files.write_json(summary_file, external.summaries(rows, examples))
        files.write_jsonl(out, rows)

    identity = {"benchmark": benchmark, "judge": chosen.judge, "problems": problems.fingerprint(examples)}
    identity["code"] = digest([chosen.judge.partition(":")[0]])  # verdicts of another judge are not gone on from
    scoring.judge_all(file.responses, examples, make_judge, out, identity, finish)
    for summary in files.read_json(summary_file):
        at = "" if summary["threshold"] is None else f" at {shortest(summary['threshold'])}"
        typer.echo(summary_line(f"{summary['policy']}{at}", summary))
        doubt = uid_numbering.wrong_order_note(chosen.name, split, summary)
        for note in [*external.notes(summary, file.failed), *([doubt] if doubt else [])]:
            typer.echo(f"  note: {note}")
