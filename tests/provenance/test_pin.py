"""Pin files: found beside the config that names them, refused when they are none; what `lightningrl pin` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightningrl import cli
from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.provenance.digest import PACKAGE
from lightningrl.provenance.plan import plan

NANO = PACKAGE.parent / "config" / "nano.yaml"


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


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_pin_takes_the_place_of_todays_code_in_its_stages_key_only(config: Path) -> None:
    write(config, {"experiment": "nano", "pinned": {"train/grpo-traj": "0" * 64}})
    ours, plain = plan(load(config)), plan(load(NANO))
    changed = {f"{a.kind}/{a.name}" for a, b in zip(ours, plain, strict=True) if a.key != b.key}
    assert {"train/grpo-traj", "evaluate/grpo-traj/gsm-mini", "collect/frontier"} <= changed
    assert not changed & {"train/lightningrl", "pretrain/base", "evaluate/base/gsm-mini"}


def test_a_pin_of_todays_code_changes_no_key(config: Path) -> None:
    plain = plan(load(NANO))
    write(config, {"experiment": "nano", "pinned": {f"{s.kind}/{s.name}": s.live_code for s in plain}})
    assert [s.key for s in plan(load(config))] == [s.key for s in plain]


def test_the_file_is_beside_the_config_that_names_it_also_when_it_is_extended(config: Path, tmp_path: Path) -> None:
    write(config, {"experiment": "nano", "pinned": {"train/grpo-traj": "0" * 64}})
    child = tmp_path / "child.yaml"
    child.write_text("extends: configs/mine.yaml\n")
    assert plan(load(child)).stage("train", "grpo-traj").pin == "0" * 64


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
        done = run(verb, "--config", config)
        assert done.exit_code == 0 and "train/ppo is pinned there, and no stage" in done.stderr


def test_pinning_says_what_is_not_finished(config: Path) -> None:
    done = run("pin", "--config", config)
    assert done.exit_code == 2
    assert "not pinned  train/grpo-traj" in done.stderr
    assert "nothing to pin: no stage of" in done.stderr and "Traceback" not in done.stderr


def test_without_a_place_for_pins_it_says_where_to_name_one(config: Path) -> None:
    done = run("pin", "--config", NANO)
    assert done.exit_code == 2 and "Add `code: {pin: nano.pin.json}`" in done.stderr


def test_an_unknown_stage_is_answered_with_the_known_ones(config: Path) -> None:
    done = run("pin", "train/ppo", "--config", config)
    assert done.exit_code == 2 and "no stage 'train/ppo'. It has: data/gsm-mini" in done.stderr


def test_an_unknown_release_is_answered_with_what_there_is(config: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = run("pin", "--config", config, "--release", "latest")
    assert done.exit_code == 2 and "there are: none that is finished" in done.stderr
