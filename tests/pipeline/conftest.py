"""A plan of one stage kind in an empty folder, with the stage's own code replaced."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.limits import HANG_S
from small import NANO, make, nano_plan, small_plan

from lightningrl.config.experiment import Experiment, load
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.stage import Stage
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.utils.lease import lease


@pytest.fixture
def nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of nano; results go to an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    return nano_plan()


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


def _hold(folder: Path, connection: Any) -> None:
    with lease(folder):
        connection.send("held")
        connection.recv()


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Any]]:
    """Starts another process that holds the lease of a folder."""
    context, started = multiprocessing.get_context("fork"), []

    def start(folder: Path) -> Any:
        ours, theirs = context.Pipe()
        started.append((context.Process(target=_hold, args=(folder, theirs), daemon=True), ours))
        started[-1][0].start()
        assert ours.poll(HANG_S) and ours.recv() == "held"
        return started[-1][0]

    yield start
    for process, _ in started:
        process.kill()
        process.join(HANG_S)


@pytest.fixture(scope="session")
def _two_versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Plan, Plan]]:
    root = tmp_path_factory.mktemp("two")
    plans = small_plan(), small_plan(grpo_traj={"learning_rate": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for planned in plans:
            make(planned, patch)
    return root, plans


@pytest.fixture
def two_versions(
    _two_versions: tuple[Path, tuple[Plan, Plan]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Plan, Plan]:
    """The plans of two versions of one experiment, both finished in the working directory's results/; the second has
    another learning rate of grpo-traj."""
    root, plans = _two_versions
    shutil.copytree(root / "results", tmp_path / "results", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return plans


@pytest.fixture
def data(nano):
    return nano.stage("data", "gsm-mini")


@pytest.fixture
def finished(nano, data, entry, write_outputs):
    """A stage that has run."""
    entry(write_outputs)
    assert run_stage(nano, data) is True
    return data


@pytest.fixture
def tokenizer(nano, finished):
    """A stage whose inputs are finished."""
    run_stage(nano, nano.stage("data", "code-mini"))
    return nano.stage("tokenizer", "tokenizer")
