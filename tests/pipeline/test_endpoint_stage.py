"""A server in an experiment: asked, judged, collected and shown beside our own systems, and its word marked as such."""

from __future__ import annotations

import csv
import json

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.openai_server import reply, serve
from typer.testing import CliRunner

from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.cli.app import app
from lightningrl.config.experiment import Experiment
from lightningrl.errors import StageError
from lightningrl.pipeline import runner
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import run_stage
from lightningrl.report.series import SPEED_COLUMNS
from lightningrl.tokenization import load_tokenizer
from lightningrl.utils import files

SECRET = "sk-very-secret-0123456789"
NAME = "eagle3/gsm-mini"
PROBLEMS = 6


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of six gsm-mini problems with a tiny base and a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)
    monkeypatch.setenv("TOY_KEY", SECRET)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    save_byte_checkpoint(tmp_path / "model", max_position_embeddings=512)
    mask = load_tokenizer(tmp_path / "model").mask_token_id

    def make(url, samples=1, temperature=0.0, **endpoint):
        keys = {"url": url, "model": "served", "api_key_env": "TOY_KEY", "retries": 0, "lossless": True} | endpoint
        return plan(Experiment.model_validate({
            "experiment": "t",
            "benchmarks": [{"name": "gsm-mini", "train": 8, "validation": 2, "test": PROBLEMS, "max_new_tokens": 16}],
            "base": {"checkpoint": str(tmp_path / "model"), "block_size": 4, "mask_token_id": mask},
            "evaluation": {
                "thresholds": [0.02, 0.9], "primary_threshold": 0.02, "samples": samples, "temperature": temperature,
            },
            "speed": {"benchmarks": ["gsm-mini"], "prompts": 3, "warmup": 1, "batch": 2, "repeats": 2},
            "systems": [{"name": "eagle3", "published": "LightningRL-8B-b32", "endpoint": keys}],
            "report": {"bootstrap": 50, "tables": ["main", "frontier", "table7"], "figures": ["frontier"]},
        }))  # fmt: skip

    return make


@pytest.fixture
def problems():
    return {GSM_MINI.render(e, PromptOptions())[-1]["content"]: e for e in GSM_MINI.load({"test": PROBLEMS}, 0)["test"]}


def run(made, *labels):
    for label in labels:
        kind, _, name = label.partition("/")
        run_stage(made, made.stage(kind, name))


def answering(found, tokens=8, **counts):
    """A server that is right in all but the first problem."""
    first = next(iter(found))

    def answer(call):
        gold = 0 if call.prompt == first else found[call.prompt].gold["answer"]
        return reply(f"so \\boxed{{{gold}}}", tokens=tokens, choice={"meta_info": counts})

    return answer


def rows_of(path):
    with open(path, newline="") as text:
        return {row["policy"]: row for row in csv.DictReader(text)}


def test_from_the_config_to_tables(planned, problems):
    """Six answers of 8 tokens in 2 forwards: TPF 4 by the server's word, accuracy 5 of 6; ours has its own."""
    counts = {"spec_verify_ct": 2, "spec_accept_token_num": 6, "spec_draft_token_num": 12}
    with serve(answering(problems, **counts)) as server:
        made = planned(server.url)
        run(made, "data/gsm-mini", "selfcheck/gsm-mini", "checkpoint/base", f"evaluate/{NAME}")
        assert len(server.calls) == PROBLEMS and all(SECRET in call.headers["authorization"] for call in server.calls)
        run(made, f"speed/{NAME}")
        run(made, f"evaluate/{NAME}")  # it is there
        assert len(server.calls) == PROBLEMS + 2 + 2 * 3  # a warm-up of one batch of two, two repetitions of three
    folder = made.stage("evaluate", NAME).folder
    records = list(files.read_jsonl(folder / "records.jsonl"))
    assert [record["correct"] for record in records] == [False] + 5 * [True]
    assert {record["policy"] for record in records} == {"eagle3"} and records[1]["status"] == "ok"
    assert {(r["denoise_forwards"], r["response_tokens"], r["tokens_by_step"] == []) for r in records} == {
        (None, None, True)
    }
    assert records[1]["reported"] == {
        "completion_tokens": 8, "prompt_tokens": 3, "forwards": 2, "accepted": 6, "drafted": 12, "doubts": [],
        "model": "served", "lossless": True, "response_tokens_by": None,
    }  # fmt: skip
    [summary] = files.read_json(folder / "summary.json")
    assert summary["tpf"] is None and summary["reported"]["tpf_reported"] == 4.0
    for path in (path for path in (folder.parents[2]).rglob("*") if path.is_file() and path.suffix != ".safetensors"):
        assert SECRET not in path.read_text(errors="replace"), path
    manifest = (folder / "manifest.json").read_text()
    assert server.url not in manifest and '"model": "served"' in manifest

    speed = files.read_json(made.stage("speed", NAME).folder / "speed.json")
    assert set(SPEED_COLUMNS) - {"role", "published"} <= set(speed)
    assert (speed["tokens"], speed["tokens_by"], speed["tpf_reported"]) == (24, "the server's word", 4.0)
    assert speed["device"] == "endpoint served" and speed["tokens_per_second"] == pytest.approx(24 / speed["seconds"])

    run(made, "evaluate/base/gsm-mini", "collect/frontier", "table/main", "table/frontier", "figure/frontier")
    headline = rows_of(made.stage("collect", "frontier").folder / "headline.csv")
    mine, ours = headline["eagle3"], headline["base"]
    assert (float(mine["tpf_reported"]), mine["tpf"], mine["aup"], mine["aup_anchored"]) == (4.0, "", "", "")
    assert ours["tpf_reported"] == ours["reported_samples"] == "" and float(ours["tpf"]) > 1
    assert float(ours["aup"]) == 0.0  # of a random model
    accuracy = 500 / 6
    # From (1, accuracy) on: without drafts it would have taken a forward a token. Its own accuracy is y_max: weight 1.
    assert float(mine["aup_reported"]) == pytest.approx(accuracy + 3 * accuracy)
    assert float(mine["y_max"]) == pytest.approx(accuracy)
    table = (made.stage("table", "main").folder / "main.md").read_text()
    line = next(line for line in table.splitlines() if "eagle3" in line and line.startswith("|"))
    assert "TPF‡" in table and "4.00 [4.00, 4.00]" in line and "‡ eagle3 on gsm-mini: forwards told of 6 of 6" in table
    drawn = rows_of(made.stage("figure", "frontier").folder / "frontier.csv")
    assert (
        float(drawn["eagle3"]["tpf"]) == 4.0 and drawn["eagle3"]["tpf_reported"] != "" == drawn["base"]["tpf_reported"]
    )

    shown = str(made.stage("table", "main").folder / "main.csv")
    for column in ("accuracy_pct", "tpf_reported"):
        done = CliRunner().invoke(app, ["explain", shown, "--cell", f"eagle3/gsm-mini:{column}"])
        assert done.exit_code == 0 and f"evaluate/{NAME}" in done.stdout.replace(" ", "/"), done.output
    done = CliRunner().invoke(app, ["compare", *(str(made.stage("evaluate", name).folder / "records.jsonl")
                                                 for name in ("base/gsm-mini", NAME))])  # fmt: skip
    assert done.exit_code == 0 and "no TPF and no AUP" in done.stdout and "+83.3" in done.stdout, done.output

    run(made, "collect/table7", "table/table7")
    table = (made.stage("table", "table7").folder / "table7.md").read_text()
    assert "endpoint served" in table


def test_a_server_that_fails_stops_the_stage_and_loses_nothing(planned, problems):
    bad, first = [True], next(iter(problems))
    good = answering(problems)
    with serve(lambda call: call.send(500, "oops") if bad[0] and call.prompt == first else good(call)) as server:
        made = planned(server.url, concurrency=1)
        run(made, "data/gsm-mini", "selfcheck/gsm-mini")
        with pytest.raises(StageError, match="1 of 6 requests failed"):
            run(made, f"evaluate/{NAME}")
        assert not made.stage("evaluate", NAME).manifest.exists()
        some = planned(server.url, concurrency=1, max_failed_pct=20.0)
        run(some, f"evaluate/{NAME}")
        folder = some.stage("evaluate", NAME).folder
        lost = next(files.read_jsonl(folder / "records.jsonl"))
        assert (lost["status"], lost["correct"], lost["value"]) == ("no_answer", False, None)
        assert lost["detail"] == "the server replied 500: 'oops'"
        [summary] = files.read_json(folder / "summary.json")
        assert summary["status"]["no_answer"] == summary["reported"]["no_answer"] == 1 and summary["n_samples"] == 6
        assert summary["truncated_pct"] == 0.0
        bad[0], before = False, len(server.calls)
        run(made, f"evaluate/{NAME}")
        assert len(server.calls) == before + 1  # the other five are in the journal, which both share
    assert made.stage("evaluate", NAME).manifest.exists()


def test_several_samples_have_seeds_of_their_own(planned, problems):
    with serve(answering(problems)) as server:
        made = planned(server.url, samples=2, temperature=0.7)
        run(made, "data/gsm-mini", "selfcheck/gsm-mini", f"evaluate/{NAME}")
    assert len({call.body["seed"] for call in server.calls}) == 2 * PROBLEMS
    assert {(call.body["temperature"], call.body["max_tokens"]) for call in server.calls} == {(0.7, 16)}
    records = list(files.read_jsonl(made.stage("evaluate", NAME).folder / "records.jsonl"))
    assert [record["sample"] for record in records] == [0, 1] * PROBLEMS


def test_a_speed_needs_the_servers_tokens(planned, problems):
    with serve(answering(problems, tokens=None)) as server:
        made = planned(server.url)
        run(made, "data/gsm-mini")
        with pytest.raises(StageError, match="does not count the tokens of gsm-mini/test/0000"):
            run(made, f"speed/{NAME}")


def test_the_same_id_twice_is_told(planned, problems):
    good = answering(problems)
    with serve(lambda call: good(call) | {"id": "always the same"}) as server:
        made = planned(server.url)
        run(made, "data/gsm-mini", "selfcheck/gsm-mini", f"evaluate/{NAME}")
    [summary] = files.read_json(made.stage("evaluate", NAME).folder / "summary.json")
    assert summary["reported"]["doubted"] == 6 and summary["reported"]["doubts"] == ["another reply has the same id"]
    assert json.dumps(summary)
