"""Pin files: found beside the config that names them, refused when they are none; what `lightningrl pin` says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small import NANO, run

from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError, Interrupted, StageError
from lightningrl.pipeline import runner
from lightningrl.pipeline.graph import read_record
from lightningrl.pipeline.manifest import identity
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.pipeline.sharded_evaluation import check_marks, marker
from lightningrl.pipeline.stage import Stage
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.results.prune import cache_of
from lightningrl.utils.files import write_json


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nano with a pin file, in a folder that is not the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(f"extends: {NANO}\ncode: {{pin: mine.pin.json}}\n")
    return path


def write(config: Path, tree: object) -> None:
    (config.parent / "mine.pin.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))


def test_a_pin_takes_the_place_of_todays_code_in_its_stages_key_only(config: Path, tmp_path: Path) -> None:
    """The file is beside the config that names it, also when that is extended."""
    write(config, {"experiment": "nano", "pinned": {"train/grpo-traj": "0" * 64}})
    child = tmp_path / "child.yaml"
    child.write_text("extends: configs/mine.yaml\n")
    ours, plain = plan(load(child)), plan(load(NANO))
    changed = {a.label for a, b in zip(ours, plain, strict=True) if a.key != b.key}
    assert {"train/grpo-traj", "evaluate/grpo-traj/gsm-mini", "collect/frontier"} <= changed
    assert not changed & {"train/lightningrl", "pretrain/base", "evaluate/base/gsm-mini"}
    write(config, {"experiment": "nano", "pinned": {stage.label: stage.live_code for stage in plain}})
    assert [stage.key for stage in plan(load(config))] == [stage.key for stage in plain], "today's code, pinned"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (None, r"mine\.pin\.json does not exist.*lightningrl pin"),
        ("{", "is not JSON"),
        ({"experiment": "nano", "pinned": {"train/grpo-traj": "abc"}}, "is no pin file: expected"),
        ({"experiment": "other", "pinned": {}}, r"pins the experiment 'other', this one is 'nano'"),
    ],
)
def test_what_is_no_pin_file_is_refused(config: Path, tree: object, message: str) -> None:
    if tree is not None:
        write(config, tree)
    with pytest.raises(ConfigError, match=message):
        plan(load(config))


def test_a_pin_of_no_stage_is_said(config: Path) -> None:
    write(config, {"experiment": "nano", "pinned": {"train/ppo": "0" * 64}})
    assert plan(load(config)).unused_pins == ["train/ppo"]
    for verb in ("stages", "validate"):
        assert "train/ppo is pinned there, and no stage" in run(verb, "--config", config).stderr


@pytest.mark.parametrize(
    ("stage", "is_named", "messages"),
    [
        ((), True, ("not pinned  train/grpo-traj", "nothing to pin: no stage of")),
        ((), False, ("Add `code: {pin: nano.pin.json}`",)),
        (("train/ppo",), True, ("no stage 'train/ppo'. It has: data/gsm-mini",)),
    ],
)
def test_what_cannot_be_pinned_is_said(
    config: Path, stage: tuple[str, ...], is_named: bool, messages: tuple[str, ...]
) -> None:
    said = run("pin", *stage, "--config", config if is_named else NANO, status=2).stderr
    assert all(message in said for message in messages)


def test_an_unknown_release_is_answered_with_what_there_is(config: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = run("pin", "--config", config, "--release", "latest", status=2)
    assert "there are: none that is finished" in done.stderr


# What other code makes under a pin


PINNED = "d" * 64


@pytest.fixture
def under(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Plan, Stage]]:
    """nano's plan and a stage, pinned to `PINNED` or not; `live` is the digest of its code today. Unpinned with no
    other `live`, it has the same key: as if the pin and the edit had been taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)

    def planned(label: str = "data/gsm-mini", pinned: bool = False, live: str = PINNED) -> tuple[Plan, Stage]:
        kind, name = label.split("/", 1)
        monkeypatch.setattr(Stage, "live_code", property(lambda s: live if f"{s.kind}/{s.name}" == label else "0" * 64))
        write_json(tmp_path / "mine.pin.json", {"experiment": "nano", "pinned": {label: PINNED} if pinned else {}})
        (tmp_path / "mine.yaml").write_text(f"extends: {NANO}\ncode: {{pin: mine.pin.json}}\n")
        found = plan(load(tmp_path / "mine.yaml"))
        return found, found.stage(kind, name)

    return planned


def fill(context: StageContext) -> None:
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"):
        write_json(context.folder / name, name)


def stop(context: StageContext) -> None:
    (context.state / "step-000004").mkdir(parents=True)
    raise Interrupted("saved")


def test_a_cache_filled_by_other_code_under_a_pin_is_its_own(under) -> None:
    def cache(**how: object) -> Path:
        return under("evaluate/base/gsm-mini", **how)[1].cache

    assert cache(pinned=True, live="e" * 64) not in (cache(), cache(pinned=True, live="f" * 64))
    assert cache(pinned=True) == cache()


@pytest.mark.parametrize("after", [{}, {"pinned": True}, {"pinned": True, "live": "f" * 64}])
def test_a_state_left_by_other_code_under_a_pin_is_refused(under, entry, after) -> None:
    planned, stage = under(pinned=True, live="e" * 64)
    entry(stop)
    with pytest.raises(Interrupted):
        run_stage(planned, stage)
    entry(fill)
    again, same = under(**after)
    assert same.folder == stage.folder
    with pytest.raises(StageError, match=r"state was left by other code \(digest e{12}\).*delete .*code\.json"):
        run_stage(again, same)
    assert (stage.folder / "state" / "step-000004").is_dir()
    (stage.folder / "state" / "code.json").unlink()
    run_stage(again, same)
    starts = json.loads(same.manifest.read_text())["run"]["starts"]
    assert [start["code"] for start in starts] == ["e" * 64, same.live_code]


def test_a_state_is_gone_on_from_by_the_code_that_left_it_and_an_empty_one_by_any(under, entry) -> None:
    planned, stage = under(pinned=True, live="e" * 64)
    entry(stop)
    with pytest.raises(Interrupted):
        run_stage(planned, stage)
    entry(fill)
    run_stage(planned, stage)
    stage.manifest.unlink()

    def stop_early(context: StageContext) -> None:
        raise Interrupted("nothing to save yet")

    entry(stop_early)
    with pytest.raises(Interrupted):
        run_stage(planned, stage)
    entry(fill)
    assert run_stage(*under())


def test_what_other_code_made_is_an_error_once_the_pin_is_taken_away(under, entry) -> None:
    planned, stage = under(pinned=True, live="e" * 64)
    entry(fill)
    run_stage(planned, stage)
    assert cache_of(read_record(stage.folder)) == stage.cache, "its own, also when it is pruned"
    assert not run_stage(*under(pinned=True)), "under the pin it is what was asked for"
    under(pinned=True, live="e" * 64)
    said = run("validate", "--config", "mine.yaml").stderr
    assert "* 1 stages pinned by mine.pin.json; today's code is another for data/gsm-mini" in said
    later, same = under()
    assert same.folder == stage.folder
    for asked in (same, later.stage("selfcheck", "gsm-mini")):
        with pytest.raises(
            StageError, match=rf"{stage.folder} was made under a pin by other code .*Delete that folder"
        ):
            run_stage(later, asked)
    for verb in ("stages", "validate"):
        said = run(verb, "--config", "mine.yaml").stderr
        assert f"but: {stage.folder} was made under a pin" in said
    shutil.rmtree(same.folder)
    assert run_stage(later, same)


def test_a_part_decoded_by_other_code_does_not_count_as_done(under) -> None:
    _, stage = under("evaluate/base/gsm-mini", pinned=True, live="e" * 64)
    mark = {"part": 1, "of": 2, "cache": stage.cache.as_posix(), "inputs": identity(stage)}
    write_json(marker(stage, (1, 2)), mark)
    write_json(marker(stage, (2, 2)), mark | {"part": 2, "inputs": "of other content"})
    check_marks(stage, 2)
    assert marker(stage, (1, 2)).exists() and not marker(stage, (2, 2)).exists()
    with pytest.raises(
        StageError, match=r"1-of-2\.json says that a part of evaluate base/gsm-mini is done, but by other"
    ):
        check_marks(under("evaluate/base/gsm-mini")[1], 2)
