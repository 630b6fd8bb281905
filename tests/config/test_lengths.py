"""Lengths of systems, canvases that cannot be, adapters that are missing, servers without an address."""

from __future__ import annotations

import pytest
import yaml
from fixtures.byte_checkpoint import save_byte_checkpoint
from test_systems import NANO, experiment
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan

LLADA = {"family": "llada", "attention": "full", "qk_norm": False, "head_dim": 4, "rms_norm_eps": 1e-5}
MASKED = {"objective": "masked", "copies": 1}
ENDPOINT = {"model": "toy"}


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    """A LLaDA with blocks of 4 and 256 positions."""
    return str(save_byte_checkpoint(tmp_path_factory.mktemp("lengths") / "llada", **LLADA))


def validated(tmp_path, checkpoint, *systems, **of_checkpoint):
    tree = load(NANO).model_dump(mode="json", exclude_unset=True)
    tree |= {"checkpoints": [{"name": "llada", "checkpoint": checkpoint, "evaluate_on": [], **of_checkpoint}]}
    tree["systems"] = [{"policy": "llada", "evaluate_on": ["gsm-mini"], **each} for each in systems]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return CliRunner().invoke(app, ["validate", "--config", str(path)])


def test_a_system_has_a_length_of_its_own_in_its_key():
    entry = {"name": "x", "policy": "base"}
    usual, own = (
        plan(experiment(entry | more)).stage("evaluate", "x/gsm-mini") for more in ({}, {"max_new_tokens": 12})
    )  # fmt: skip
    assert own.config["max_new_tokens"] == 12 != usual.config["max_new_tokens"] and own.key != usual.key
    plain = plan(experiment()).stage("evaluate", "base/gsm-mini")
    assert plain.config | {"policy": "x"} == usual.config | {"policy": "x"}


def test_what_a_system_is_calibrated_and_a_base_trained_with_is_its_own_length():
    gptq = {"policy": "base", "quantizer": "gptq"}
    planned = plan(experiment({"name": "a"} | gptq, {"name": "b", "max_new_tokens": 16} | gptq))
    assert [planned.stage("quantize", name).config["max_new_tokens"] for name in "ab"] == [24, 16]
    base = {"name": "llada", "family": "llada", "pretrain": {"autoregressive": None, "diffusion": MASKED}}
    row = {"name": "llada", "decoding": {"preset": "llada"}, "thresholds": [8]}
    for own, length in (({}, 24), ({"max_new_tokens": 16}, 16)):
        stage = plan(experiment(row | own, bases=[base])).stage("pretrain", "llada")
        assert stage.config["max_new_tokens"] == {"gsm-mini": length, "code-mini": length}
    with pytest.raises(ValueError, match=r"bases\.llada\.model\.max_position_embeddings: found 256; gsm-mini alone"):
        experiment(row | {"max_new_tokens": 256}, bases=[base])


def test_each_side_of_a_replay_is_decoded_in_its_own_length():
    planned = plan(experiment({"name": "base", "max_new_tokens": 16}))
    config = planned.stage("replay", "lightningrl").config
    assert (config["base"]["max_new_tokens"], config["policy"]["max_new_tokens"]) == (16, 24)


@pytest.mark.parametrize(("change", "told"), [
    ({"max_new_tokens": 10}, "systems.x.max_new_tokens: 10 new tokens are no whole blocks of 4"),
    ({"max_new_tokens": 10}, "Ask for 8 or 12"),
    ({"max_new_tokens": 256}, "x.max_new_tokens: 1 prompt tokens and 256 new ones need 257 positions"),
    ({"decoding": {"preset": "lada"}}, "there is no preset 'lada'. Did you mean `llada`?"),
    (
        {"decoding": {"preset": "fast_dllm_v1_dual", "schedule_options": {"block_size": 32}}, "max_new_tokens": 48},
        "48 new tokens are no whole blocks of 32",
    ),
])  # fmt: skip
def test_canvases_that_cannot_be_are_refused_by_validate(llada, tmp_path, change, told):
    entry = {"name": "x", "decoding": {"preset": "llada"}, "thresholds": [4], "max_new_tokens": 12}
    assert validated(tmp_path, llada, entry).exit_code == 0
    if "fast" in change.get("decoding", {}).get("preset", ""):
        change = change | {"thresholds": [0.9], "primary_threshold": 0.9}
    done = validated(tmp_path, llada, entry | change)
    assert done.exit_code == 2 and told in done.stderr, done.output


def test_what_a_folders_config_says_wrongly_is_said_by_validate(llada, tmp_path):
    entry = {"name": "x", "decoding": {"preset": "llada"}, "thresholds": [4], "max_new_tokens": 12}
    done = validated(tmp_path, llada, entry, block_size=8)
    assert done.exit_code == 2 and "says block_size 4, the caller 8: they must agree" in done.stderr


def test_a_decoder_that_needs_an_adapter_is_noted_where_none_is_named(llada, tmp_path):
    entry = {"name": "x", "decoding": {"preset": "d2f", "schedule_options": {"block_size": 4}}, "thresholds": [0.9]}
    done = validated(tmp_path, llada, entry)
    assert (
        done.exit_code == 0
        and "d2f is for weights with D2F's LoRA, and its policy llada names no `adapter`" in done.stderr
    )
    assert "D2F" not in validated(tmp_path, llada, entry, adapter="some/adapter").stderr


def test_a_server_without_an_address_is_checked_and_not_run():
    entry = {"name": "eagle3", "published": "EAGLE-3 (LLaMA-3.1)", "endpoint": ENDPOINT, "evaluate_on": ["gsm-mini"]}
    made = experiment(entry, evaluation=load(NANO).evaluation.model_dump(mode="json"))
    assert "eagle3" not in [each.name for each in made.all_systems()]
    assert not any(stage.config.get("policy") == "eagle3" for stage in plan(made))
    asked = experiment(entry | {"endpoint": ENDPOINT | {"url": "http://127.0.0.1:1/v1"}})
    assert asked.all_systems()[-1].name == "eagle3"
    with pytest.raises(ValueError, match="leave decoding out"):
        experiment(entry | {"decoding": {"preset": "llada"}})
    done = CliRunner().invoke(
        app, ["evaluate", "--endpoint", "", "--model", "toy", "--benchmark", "gsm-mini", "--out", "x"]
    )
    assert done.exit_code == 2 and "an endpoint needs --endpoint, the server's address" in done.stderr


def test_the_papers_config_names_all_fourteen_rows_of_table_2_and_waits_for_servers():
    from lightningrl.report.paper.printed import printed

    paper = load(PACKAGE.parent / "config" / "paper.yaml")
    rows = {each.identity for each in printed("table2")}
    assert {entry.published for entry in paper.systems} | {"SDAR-8B-b32", "LightningRL-8B-b32"} == rows
    found = {system.published for system in paper.all_systems()}
    assert rows - found == {"EAGLE-3 (LLaMA-3.1)"}  # nobody's address yet
    for system in paper.all_systems():
        assert system.name.endswith("-256") == (system.max_new_tokens == 256)  # a canvas's length is in its name
