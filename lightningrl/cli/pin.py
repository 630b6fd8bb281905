"""`lightningrl pin`: keep the keys of finished stages through refactorings of their code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightningrl.cli.errors import user_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightningrl.config.experiment import Experiment
    from lightningrl.pipeline.plan import Plan


def pin(
    stages: Annotated[
        list[str] | None,
        typer.Argument(help="<kind>/<name>, with what they are made from; left out: all that compute."),
    ] = None,
    config: Annotated[Path, typer.Option("--config", help="The experiment's YAML file.")] = Path("config/config.yaml"),
    release: Annotated[
        str | None, typer.Option(help="Take digests from this release's manifests (`latest`, a key, a folder).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The pin file; left out: the config's `code.pin`.")] = None,
    results: Annotated[Path, typer.Option(help="Where --release is looked for.")] = Path("results"),
) -> None:
    """Write the config's `code.pin`: the code that finished stages were made with, so that they keep their keys.

    A refactoring of a pinned stage's code reruns nothing, and what is made later under the pin says in its manifest
    which code was pinned and which ran. Config and inputs still count. Pins that are there already stay as they are;
    delete a line of the file to take one back. Self-checks, tables, figures and releases are pinned only when named.

    With --release, digests are those of a release's manifests: also after the code was edited.

    \b
    lightningrl pin --config config/paper.yaml                       # before the edit
    lightningrl pin --config config/paper.yaml --release latest      # after it
    """
    with user_errors():
        from lightningrl.config.experiment import load
        from lightningrl.errors import ConfigError
        from lightningrl.pipeline.manifest import missing
        from lightningrl.pipeline.pin import write_pins

        experiment = load(config)
        file = out or (Path(experiment.code.pin) if experiment.code.pin else None)
        if file is None:
            raise ConfigError(
                f"{config} has no `code.pin`, so nothing says where pins go. Add `code: {{pin: "
                f"{config.stem}.pin.json}}` to it (relative to that file), or say --out FILE and add it then"
            )
        before = _planned(experiment, file)
        if release is not None:
            offered, says = _of_release(results, release, experiment)
        else:
            offered, says = {s.label: s.code for s in before if not missing(s)}, "finished under today's code"
        pins = _pinned(before, stages or [], offered, says)
        if not pins:
            raise ConfigError(f"nothing to pin: no stage of {config} is {says}")
        write_pins(file, experiment.experiment, pins)
        after = _planned(experiment, file)
        for stage in after:
            if stage.pin is not None and missing(stage):
                typer.echo(f"note: {stage.label} is pinned, but {stage.folder} is not finished", err=True)
        for label in after.unused_pins:
            typer.echo(f"note: {label} is pinned, and no stage of this experiment", err=True)
        typer.echo(f"{file}: {len(pins)} pins; commit it")
        if experiment.code.pin is None:
            typer.echo(f"note: {config} does not name it yet: code: {{pin: ...}}, relative to {config}", err=True)


def _pinned(before: Plan, stages: list[str], offered: Mapping[str, str], says: str) -> dict[str, str]:
    """The pins there are with those of the stages asked for, said one by one. offered: digest by stage; says: whose."""
    pins, wanted = dict(before.pins), _with_upstream(before, stages)
    for stage in before:
        label = stage.label
        if (label not in wanted) if stages else stage.spec.pinned_by_name:
            continue
        if label in pins:
            other = offered.get(label, pins[label])
            now = "" if other == pins[label] else f"; {other[:12]} is {says}"
            typer.echo(f"kept        {label:32} {pins[label][:12]}  (pinned before{now})")
        elif label in offered:
            pins[label] = offered[label]
            typer.echo(f"pinned      {label:32} {pins[label][:12]}")
        else:
            typer.echo(f"not pinned  {label:32} is not {says}", err=True)
    return pins


def note_pins(planned: Plan) -> None:
    """Say on stderr what is pinned, and which finished stages other code has made that are not pinned any more."""
    from lightningrl.errors import StageError
    from lightningrl.pipeline.manifest import check_code
    from lightningrl.pipeline.pin import pins_told

    for line in pins_told(planned):
        typer.echo(line, err=True)
    for stage in planned:
        try:
            check_code(stage)
        except StageError as error:
            typer.echo(f"but: {error}", err=True)


def _planned(experiment: Experiment, file: Path) -> Plan:
    """The plan under a pin file, whether or not the config names it and the file is there yet."""
    from lightningrl.config.code import Code
    from lightningrl.pipeline.plan import plan

    return plan(experiment.model_copy(update={"code": Code(pin=str(file) if file.is_file() else None)}))


def _with_upstream(planned: Plan, labels: list[str]) -> set[str]:
    """These stages and what they are made from: a stage keeps its key only if its inputs keep theirs."""
    from lightningrl.errors import StageError

    known = planned.by_label()
    for label in labels:
        if label not in known:
            raise StageError(f"the experiment has no stage {label!r}. It has: {', '.join(known)}")
    return {stage.label for stage in planned.upstream(*(known[label] for label in labels))}


def _of_release(results: Path, which: str, experiment: Experiment) -> tuple[dict[str, str], str]:
    from lightningrl.errors import StageError
    from lightningrl.pipeline.graph import Graph
    from lightningrl.results.folders import find_release

    asked = which if "/" in which else f"{experiment.experiment}/{which}"
    record = find_release(results, asked)
    if record.root.name != experiment.experiment:
        raise StageError(
            f"{record.folder} is a release of {record.root.name}, the config is of {experiment.experiment}."
        )
    found = Graph.from_manifests(record)
    for folder in found.gone:
        typer.echo(f"note: {folder} is not here, so its code is not known", err=True)
    for message in found.damaged:
        typer.echo(f"note: {message}", err=True)
    return {each.label: each.code for each in found}, f"in release {record.key}"
