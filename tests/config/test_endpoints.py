"""Systems that a server answers for: what they are when everything is filled in, and entries that cannot be."""

from __future__ import annotations

import pytest
import yaml
from test_systems import NANO, experiment
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.endpoint import RESERVED, Endpoint
from lightningrl.config.experiment import load
from lightningrl.pipeline.plan import plan

ENDPOINT = {"url": "http://127.0.0.1:30000/v1", "model": "toy"}


def entry(name="eagle3", endpoint=None, **keys):
    return {"name": name, "endpoint": ENDPOINT | (endpoint or {}), **keys}


def planned(*entries, **keys):
    return plan(experiment(*entries, **keys))


def test_a_server_is_a_row_that_is_compared_with_none():
    *others, system = experiment(entry(published="EAGLE-3 (LLaMA-3.1)")).all_systems()
    assert len(others) == 5 and (system.name, system.base, system.policy) == ("eagle3", "eagle3", "")
    assert (system.role, system.algorithm, system.published) == ("released", "endpoint", "EAGLE-3 (LLaMA-3.1)")
    assert (system.thresholds, system.primary_threshold, system.series) == ([0.0], 0.0, "")
    swept = entry(endpoint={"parameter": "steps"}, thresholds=[4, 8], primary_threshold=8)
    assert experiment(swept).all_systems()[-1].primary_threshold == 8
    assert experiment(entry(thresholds=[0.7])).all_systems()[-1].primary_threshold == 0.7


def test_only_what_decides_the_answers_is_in_the_key():
    def stage(endpoint=None, **keys):
        return planned(entry(endpoint=endpoint), **keys).stage("evaluate", "eagle3/gsm-mini")

    usual = stage()
    for key, value in {
        "url": "https://elsewhere:1/v1", "api_key_env": "SOME_KEY", "api_key_file": "key", "concurrency": 3,
        "timeout_s": 5.0, "retries": 0,
    }.items():  # fmt: skip
        assert stage({key: value}).key == usual.key, key
    for key, value in {
        "model": "other", "extra_body": {"top_p": 0.9}, "stop": ["x"], "reply_model": "y", "forwards_at": "a.b",
        "tokenizer": "folder",
    }.items():  # fmt: skip
        assert stage({key: value}).key != usual.key, key
    allowing = stage({"max_failed_pct": 5.0})
    assert allowing.key != usual.key and allowing.cache == usual.cache  # the answers are the same
    evaluation = load(NANO).evaluation.model_dump(mode="json")
    assert stage(evaluation=evaluation | {"temperature": 0.5}).key != usual.key
    assert stage(evaluation=evaluation | {"shard": 7, "precision": "bfloat16"}).key == usual.key  # nothing is decoded
    assert "30000" not in str(usual.preimage)


def test_no_edit_of_a_decoder_asks_a_server_again():
    made = planned(entry(published="SDAR-8B-b32"), report={"tables": ["table7"], "figures": []},
                   speed={"benchmarks": ["gsm-mini"]})  # fmt: skip
    for kind in ("evaluate", "speed"):
        stage = made.stage(kind, "eagle3/gsm-mini")
        counts = "lightningrl/decoding/tpf_variants.py"  # arithmetic on the counts of an answer
        folders = {name.split("/")[1] for name in stage.sources if name != counts}
        assert not folders & {"models", "decoding", "training", "rl", "quantization", "report"}, stage.label
        assert set(stage.inputs) == {"data"} and stage.size == "endpoint" and not stage.spec.in_parts
    assert (
        made.stage("evaluate", "base/gsm-mini").sources.keys().isdisjoint({"lightningrl/inference/endpoint/client.py"})
    )
    assert list(made.stage("evaluate", "eagle3/gsm-mini").after) == ["selfcheck/gsm-mini"]


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ({"url": "127.0.0.1:30000"}, "expected an address like"),
        ({"url": "ftp://host/v1"}, "expected an address like"),
        ({"url": "http://host:99999/v1"}, "which is no address"),
        ({"url": "http://host/v1/chat/completions"}, "without `/completions`"),
        ({"url": "http://me:hunter2@host/v1"}, "may not hold a user, a password"),
        ({"url": "http://host/v1?key=hunter2"}, "may not hold a user, a password"),
        ({"api_key_env": "sk-hunter2"}, "the name of an environment variable"),
        ({"api_key_env": "A", "api_key_file": "b"}, "give one of them"),
        ({"chat": False}, "name the `tokenizer`"),
        ({"extra_body": {"Temperature": 1}}, "set by evaluation.temperature"),
        ({"extra_body": {"api_key": "hunter2"}}, "set by endpoint.api_key_env"),
        ({"parameter": "seed"}, "set otherwise already"),
        ({"modle": "x"}, "Did you mean `model`?"),
        ({"concurrency": 0}, "greater than 0"),
        ({"model": ""}, "at least 1 character"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_and_no_secret_is_told(tmp_path, endpoint, message):
    tree = {"extends": str(NANO), "systems": [entry(endpoint=endpoint)]}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "e.yaml")])
    assert done.exit_code == 2 and message in done.stderr and "hunter2" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(policy="base")], "systems.eagle3.policy: an endpoint answers"),
        ([entry(quantizer="rtn")], "systems.eagle3.quantizer: an endpoint answers"),
        ([entry(decoding={"preset": "sdar_static"})], "systems.eagle3.decoding: an endpoint answers"),
        ([entry(thresholds=[0.5, 0.9])], "the server would be asked the same"),
        ([entry(endpoint={"parameter": "steps"})], "say what `endpoint.parameter`"),
        ([entry(thresholds=[0.5], primary_threshold=0.9)], "allowed: one of its thresholds"),
        ([entry(name="base")], "two systems are named 'base'"),
        ([entry(), entry()], "two systems are named 'eagle3'"),
        ([entry(), {"name": "eagle3", "policy": "base"}], "two systems are named 'eagle3'"),
        ([entry(evaluate_on=["nope"])], "evaluate_on"),
    ],
)
def test_entries_that_cannot_be(entries, message):
    with pytest.raises(ValueError, match=message):
        experiment(*entries)


def test_a_server_cannot_be_looked_into():
    with pytest.raises(ValueError, match=r"report.probes.*eagle3"):
        experiment(entry(), report={"probes": ["eagle3", "lightningrl"]})


def test_validate_asks_for_the_key_before_anything_runs_and_plan_costs_nothing(tmp_path, monkeypatch):
    keyed = {"extends": str(NANO), "systems": [entry(endpoint={"api_key_env": "TOY_KEY"})]}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(keyed))
    monkeypatch.delenv("TOY_KEY", raising=False)
    done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "e.yaml")])
    assert done.exit_code == 2 and "the environment variable TOY_KEY" in done.stderr
    monkeypatch.setenv("TOY_KEY", "sk-hunter2-hunter2")
    done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "e.yaml")])
    assert done.exit_code == 0 and "hunter2" not in done.output, done.output
    done = CliRunner().invoke(app, ["plan", "--config", str(tmp_path / "e.yaml")])
    line = next(line for line in done.stdout.splitlines() if line.startswith("eagle3/gsm-mini"))
    assert "a server" in line and "0, nothing here" in line


def test_every_reserved_field_says_what_sets_it():
    for name in RESERVED:
        with pytest.raises(ValueError, match=f"'{name}' is set by"):
            Endpoint(**ENDPOINT, extra_body={name: 1})
