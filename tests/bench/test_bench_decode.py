"""The decoding benchmark: what it compares is comparable."""

import json

import pytest
import torch
from fixtures.naive import naive_decode, naive_threshold
from fixtures.tiny import requests_of, tiny_model
from typer.testing import CliRunner

from lightningrl.bench.decode import OfficialLoop, Workload, variants_of
from lightningrl.bench.machine import watched
from lightningrl.cli.app import app
from lightningrl.decoding.selectors.threshold import Threshold


def test_the_official_loop_decodes_what_the_naive_decoder_does_and_stores_every_block():
    model = tiny_model(4, torch.float64)
    for request in requests_of([1, 4, 6, 9], 14):
        loop = OfficialLoop(model, 40)
        got = loop.decode(request, Threshold(0.25))
        want = naive_decode(model, request, naive_threshold(0.25))
        assert got.tolist() == [*request.prompt_ids.tolist(), *want.tokens]
        assert loop.forwards == len(want.states) + want.blocks + (len(request.prompt_ids) >= 4)


def test_all_variants_decode_the_same_tokens_with_the_forwards_their_plans_say():
    """Blocks of 4, two tokens per step: 2 denoise forwards per block; 5 whole blocks of 8 + 20 tokens."""
    model = tiny_model(3, block_size=4)
    variants = variants_of(model, Workload(8, 20, 2.0), [1, 3], repeats_at_1=1)
    counts = {(v.name, v.batch): v.decode() for v in variants}
    assert counts["official loop", 1] == (20, 15, 16)
    assert counts["ours, fused", 1] == (20, 10, 11)
    assert counts["ours, separate", 1] == (20, 14, 15)
    assert counts["ours, fused", 3] == (60, 30, 11)


def test_replay_runs_the_recorded_forwards_again_and_the_bound_counts_them():
    model = tiny_model(3)
    [_, fused, _] = variants_of(model, Workload(8, 8, 2.0), [1], repeats_at_1=1)
    fused.record()
    assert not {"hidden", "log_probs"} & set(model.__dict__), "the model is as it was"
    trunk = [call[0].numel() for call in fused.calls if len(call) == 3]
    heads = [len(call[0]) for call in fused.calls if len(call) == 1]
    assert (trunk, heads) == ([8, 4, 4, 8, 4], [4, 2, 4, 2])
    counted = []
    with watched(model, hidden=lambda ids, *_: counted.append(ids.numel())):
        fused.replay()
    assert counted == trunk
    numbers = sum(p.numel() for p in model.model.layers.parameters())
    reading, counting = fused.least_seconds(1.0, 1e30), fused.least_seconds(1e30, 1.0)
    assert reading == 5 * 4 * numbers + 4 * model.lm_head.weight.nbytes
    assert counting == 2 * (numbers * 28 + model.lm_head.weight.numel() * 12)


def test_command_prints_the_ratios_and_writes_the_figures(tmp_path):
    out = tmp_path / "figures.json"
    asked = ["bench", "decode", "--size", "miniature", "--batch", "2", "--new-tokens", "16", "--prompt-tokens", "8"]
    done = CliRunner().invoke(app, [*asked, "--repeats", "1", "--threads", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "x official" in done.stdout and "ours, separate" in done.stdout
    found = json.loads(out.read_text())
    assert [line["engine"] for line in found["lines"]] == ["official loop", "ours, fused", "ours, separate"]
    assert found["lines"][1]["tokens_per_true_forward"] == 4.0


def test_forwards_of_static_shape_are_measured_beside_plain_ones_and_against_their_bare_forwards():
    model = tiny_model(3)
    variants = variants_of(model, Workload(8, 8, 2.0), [1], repeats_at_1=1, kinds=("spans", "turns"))
    plain, turns = variants[1], variants[2]
    assert (plain.name, turns.name) == ("ours, fused", "ours, fused, turns")
    assert plain.record() == turns.record()
    assert [len(call) for call in turns.calls] == [len(call) for call in plain.calls]


def test_command_prints_the_processor_time_of_a_turn(tmp_path):
    """How long it is depends on the machine; how many turns there are does not: blocks of 8, four tokens per step."""
    out = tmp_path / "turn.json"
    asked = [
        "bench",
        "turn",
        "--block-size",
        "8",
        "--new-tokens",
        "32",
        "--repeats",
        "2",
        "--batch",
        "1",
        "--batch",
        "3",
    ]
    done = CliRunner().invoke(app, [*asked, "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = json.loads(out.read_text())["lines"]
    assert [(line["batch"], line["denoise_turns"], line["fused_turns"]) for line in lines] == [(1, 10, 6), (3, 10, 6)]
    assert all(line["denoise_ms"] > 0 and line["fused_ms"] > 0 for line in lines) and "denoise_ms" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((words, words[0]) for words in (["--threads", "0"], ["--batch", "0"], ["--repeats", "0"], ["--out", "."])),
        (["--device", "mps"], "--device"),
        (["--size", "9b"], "there is no size '9b'; take one of miniature, 0.1b"),
    ],
)
def test_words_of_no_use_are_refused_before_anything_is_measured(words, message):
    done = CliRunner().invoke(app, ["bench", "decode", "--threads", "1", *words])  # torch keeps their number
    assert done.exit_code == 2 and message in done.stderr
