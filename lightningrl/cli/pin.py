"""`lightningrl pin`: keep the keys of finished stages through refactorings of their code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lightningrl.cli.outputs import RESULTS, say
from lightningrl.cli.stages import DEFAULT_CONFIG, Config
from lightningrl.config.experiment import Experiment, load
from lightningrl.config.machine import Code
from lightningrl.errors import ConfigError, StageError
from lightningrl.pipeline.graph import Graph
from lightningrl.pipeline.manifest import check_code, missing
from lightningrl.pipeline.pin import pins_told, write_pins
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.results.folders import find_release

Stages = Annotated[
    list[str] | None, typer.Argument(help="<kind>/<name>, with what they are made from; default: all that compute.")
]


def pin(
    stages: Stages = None,
    config: Config = DEFAULT_CONFIG,
    release: Annotated[str | None, typer.Option(help="Release to take digests from: `latest`, key or folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="The pin file; default: the config's `code.pin`.")] = None,
    results: Annotated[Path, typer.Option(help="Where --release is looked for.")] = RESULTS,
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
    experiment = load(config)
    file = out or (Path(experiment.code.pin) if experiment.code.pin else None)
    if file is None:
        raise ConfigError(
            f"{config} has no `code.pin`, so nothing says where pins go. Add `code: {{pin: "
            f"{config.stem}.pin.json}}` to it (relative to that file), or say --out FILE and add it then"
        )
    before = _planned(experiment, file)
    offered, says = {s.label: s.code for s in before if not missing(s)}, "finished under today's code"
    if release is not None:
        offered, says = _of_release(results, release, experiment)
    pins = _pinned(before, stages or [], offered, says)
    if not pins:
        raise ConfigError(f"nothing to pin: no stage of {config} is {says}")
    write_pins(file, experiment.experiment, pins)
    after = _planned(experiment, file)
    for stage in after:
        if stage.pin is not None and missing(stage):
            say(f"note: {stage.label} is pinned, but {stage.folder} is not finished")
    for label in after.unused_pins:
        say(f"note: {label} is pinned, and no stage of this experiment")
    typer.echo(f"{file}: {len(pins)} pins; commit it")
    if experiment.code.pin is None:
        say(f"note: {config} does not name it yet: code: {{pin: ...}}, relative to {config}")


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
            say(f"not pinned  {label:32} is not {says}")
    return pins


def note_pins(planned: Plan) -> None:
    """Say on stderr what is pinned, and which finished stages other code has made that are not pinned any more."""
    for line in pins_told(planned):
        say(line)
    for stage in planned:
        try:
            check_code(stage)
        except StageError as error:
            say(f"but: {error}")


def _planned(experiment: Experiment, file: Path) -> Plan:
    """The plan under a pin file, whether or not the config names it and the file is there yet."""
    return plan(experiment.model_copy(update={"code": Code(pin=str(file) if file.is_file() else None)}))


def _with_upstream(planned: Plan, labels: list[str]) -> set[str]:
    """These stages and what they are made from: a stage keeps its key only if its inputs keep theirs."""
    known = planned.by_label()
    for label in labels:
        if label not in known:
            raise StageError(f"the experiment has no stage {label!r}. It has: {', '.join(known)}")
    return {stage.label for stage in planned.upstream(*(known[label] for label in labels))}


def _of_release(results: Path, which: str, experiment: Experiment) -> tuple[dict[str, str], str]:
    asked = which if "/" in which else f"{experiment.experiment}/{which}"
    record = find_release(results, asked)
    if record.root.name != experiment.experiment:
        raise StageError(
            f"{record.folder} is a release of {record.root.name}, the config is of {experiment.experiment}."
        )
    found = Graph.from_manifests(record)
    for folder in found.gone:
        say(f"note: {folder} is not here, so its code is not known")
    for message in found.damaged:
        say(f"note: {message}")
    return {each.label: each.code for each in found}, f"in release {record.key}"
