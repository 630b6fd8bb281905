"""A plan of one stage kind in an empty folder, with the stage's own code replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightningrl.config.experiment import Experiment, load
from lightningrl.provenance import runner
from lightningrl.provenance.digest import PACKAGE
from lightningrl.provenance.plan import Plan, plan
from lightningrl.provenance.stage import Stage
from lightningrl.stages.context import StageContext

NANO = PACKAGE.parent / "config" / "nano.yaml"


@pytest.fixture
def nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of nano; results go to an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    return plan(load(NANO))


@pytest.fixture
def with_resources() -> Callable[..., Plan]:
    def make(**resources: object) -> Plan:
        tree = load(NANO).model_dump()
        return plan(Experiment.model_validate(tree | {"resources": tree["resources"] | resources}))

    return make


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[StageContext], None]], None]:
    """Replaces what every stage runs."""

    def replace(run: Callable[[StageContext], None]) -> None:
        monkeypatch.setattr(runner, "resolve", lambda reference: run)

    return replace


@pytest.fixture
def write_outputs(nano: Plan) -> Callable[[StageContext], None]:
    """A stage that writes its files' names into them, as JSON."""
    by_folder: dict[Path, Stage] = {stage.folder: stage for stage in nano}

    def run(context: StageContext) -> None:
        for name in by_folder[context.folder].files:
            path = context.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(name))

    return run
