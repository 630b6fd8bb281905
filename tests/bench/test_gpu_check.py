"""`lightningrl bench gpu`: what a processor can try of it, that it goes on where it was left, and the page it makes."""

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lightningrl.bench.gpu import cases, parts
from lightningrl.bench.gpu.page import END, START, section, written
from lightningrl.bench.gpu.parts import PARTS, Case, Setting, Skipped, finished, recorded, run_part
from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.training import shards

ROOT = PACKAGE.parent


@pytest.fixture
def tiny(tmp_path):
    """The check on this processor, in sizes that take seconds."""
    return Setting(tmp_path / "out", "cpu", "miniature", small=True, config=tmp_path / "none.yaml")


def figures(setting, part):
    return {row["case"]: row.get("figures") for row in recorded(setting.out / f"{part}.jsonl")}


def test_sums_run_in_deterministic_mode_here_and_the_mode_is_given_back(tiny):
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        assert cases.cumsum(tiny) == {"runs": True} and torch.get_deterministic_debug_mode() == 0
    finally:
        torch.set_deterministic_debug_mode(before)


def test_one_of_eight_ranks_holds_an_eighth_and_its_update_runs_without_the_others(tiny):
    """Real FSDP2 over a group whose other ranks are not there; each point has its peak, in the order of a step."""
    found = cases.memory(tiny, 8)
    points = ["policy sharded", "reference sharded", "replica", "rollout", "backward", "optimiser step"]
    assert list(found["peak_bytes"]) == points and all(value > 0 for value in found["peak_bytes"].values())
    assert found["masters_and_moments_bytes"] == pytest.approx(12 * 689_216 / 8, rel=0.1)
    assert not torch.distributed.is_initialized()


def test_a_shard_is_made_without_the_whole_model():
    """The rows of an eighth, random, in the precision that the policy or the reference has."""
    torch.distributed.init_process_group("fake", store=cases.FakeStore(), rank=0, world_size=8)
    try:
        for is_trained, dtype in ((True, torch.float32), (False, torch.bfloat16)):
            model = cases._one_shard("miniature", 4, "bfloat16", torch.device("cpu"), is_trained=is_trained)
            own = list(shards.local_state(dict(model.named_parameters())).values())
            whole, held = sum(p.numel() for p in model.parameters()), sum(tensor.numel() for tensor in own)
            assert whole / 8 <= held < whole / 7 and all(tensor.dtype == dtype for tensor in own)
            assert all(tensor.isfinite().all() for tensor in own)
    finally:
        torch.distributed.destroy_process_group()


def test_turns_are_counted_with_modes_on_and_off_and_what_needs_a_gpu_is_skipped_visibly(tiny):
    told = []
    assert run_part("turns", tiny, told.append)
    rows = recorded(tiny.out / "turns.jsonl")
    assert [row["case"] for row in rows] == [case.name for case in PARTS["turns"]] and len(rows) == 8
    for row in rows:
        if row["case"].startswith("graphs"):
            assert row["skipped"] == "needs a CUDA device: CUDA graphs"
        else:
            assert row["figures"]["ms a turn"] > 0 and row["figures"]["aten calls a turn"] > 50
    for part in ("tests", "flex", "gap", "two-gpus", "evaluate", "speed"):
        assert run_part(part, tiny, told.append) and "skipped" in recorded(tiny.out / f"{part}.jsonl")[0]
    assert any("needs real weights" in line for line in told) and any("needs two GPUs" in line for line in told)


def test_commands_that_it_starts_are_understood(tiny, monkeypatch):
    """`bench decode` and `bench train`, run here in this process."""

    def called(words, out=None):
        done = CliRunner().invoke(app, words[3:])
        assert done.exit_code == 0, done.output
        assert out is not None
        return json.loads(out.read_text())

    monkeypatch.setattr(cases, "_called", called)
    tiny.out.mkdir()
    threads = torch.get_num_threads()
    try:
        assert len(cases.bench_decode(tiny, 1, "spans")["lines"]) == 3
        assert cases.bench_train(tiny)["of_bound_pct"] >= 95
    finally:
        torch.set_num_threads(threads)


def test_the_stages_that_it_asks_for_are_in_its_experiment():
    """`evaluate` and `speed` among them."""
    made = {(stage.kind, stage.name) for stage in plan(load(ROOT / "config" / "gpu-check.yaml")).stages}
    assert {("evaluate", "timed/gsm-mini"), ("speed", "timed/gsm-mini")} <= made
    for part in ("stages", "evaluate", "speed"):
        for case in PARTS[part]:
            kind, *rest = case.given.get("words", ["train", "--name", "timed"])
            assert any(k == kind and (not rest or name == rest[-1]) for k, name in made), case.name


def test_a_kill_costs_the_case_it_hits_and_what_failed_or_was_skipped_is_tried_again(tiny, monkeypatch):
    calls, fails = [], {"second": RuntimeError("out of memory"), "third": Skipped("not here")}

    def measure(setting, name):
        calls.append(name)
        if name in fails:
            raise fails[name]
        return {"ms": 1.5}

    monkeypatch.setattr(cases, "measure", measure, raising=False)
    names = ("first", "second", "third")
    monkeypatch.setitem(PARTS, "some", [Case(name, "measure", {"name": name}) for name in names])
    told = []
    assert not run_part("some", tiny, told.append)
    path = tiny.out / "some.jsonl"
    assert finished(path, "cpu", "miniature") == {"first"} and "RuntimeError: out of memory" in path.read_text()
    with path.open("a") as file:
        file.write('{"case": "second", "figu')  # cut off by a kill
    fails.clear()
    assert run_part("some", tiny, told.append) and calls == ["first", "second", "third", "second", "third"]
    assert finished(path, "cpu", "miniature") == set(names) and "some: first: done before" in told


def test_what_does_not_fit_into_a_parts_time_is_stopped_or_left_for_another_call(tiny, monkeypatch):
    monkeypatch.setattr(cases, "wait", lambda setting: time.sleep(30), raising=False)
    monkeypatch.setitem(PARTS, "some", [Case("long", "wait"), Case("next", "wait")])
    told = []
    assert not run_part("some", tiny, told.append, limit_s=0.5)
    assert "still running when the part's time was over" in told[0] and "left for another call" in told[1]
    assert [row["case"] for row in recorded(tiny.out / "some.jsonl")] == ["long"]


def test_an_unknown_part_is_answered_with_those_there_are():
    done = CliRunner().invoke(app, ["bench", "gpu", "--part", "nonsense", "--device", "cpu"])
    assert done.exit_code == 2 and "allowed: first, memory, tests, turns" in done.stderr


def line(case, kind="cuda", **rest):
    return json.dumps(
        {"case": case, "seconds": 2.0, "size": "8b", "device": "A card", "kind": kind, "torch": "2", **rest}
    )


def test_the_page_has_every_figure_and_says_what_was_not_measured(tmp_path):
    (tmp_path / "first.jsonl").write_text(
        line("peaks", error="RuntimeError: x")
        + "\n"
        + line("peaks", figures={"gb_per_s": 3000.0, "by": [{"a": 2}]})
        + "\n"
    )
    (tmp_path / "gap.jsonl").write_text(line(PARTS["gap"][0].name, skipped="needs real weights") + "\n")
    text, kinds = section(tmp_path)
    assert kinds == {"cuda"} and "| first | peaks | gb_per_s 3000; by 1: a 2 | 2.0 |" in text
    assert "Measured on: A card, torch 2, 8b." in text
    assert "gap: decoder and trainer over real weights: skipped: needs real weights" in text
    assert "two-gpus: three steps, a kill, a resume: not asked for yet" in text
    page = written(f"before\n{START}old\n{END}\nafter\n", tmp_path)
    assert page == f"before\n{START}{text}{END}\nafter\n"
    assert START in (ROOT / "docs" / "benchmarks.md").read_text()


def test_figures_of_a_processor_never_get_onto_the_page(tmp_path):
    (tmp_path / "first.jsonl").write_text(line("peaks", kind="cpu", figures={"gb_per_s": 3.0}) + "\n")
    with pytest.raises(ConfigError, match="are of cpu; the page's section is for a GPU's"):
        written(START + END, tmp_path)
    with pytest.raises(ConfigError, match="has no figures"):
        section(Path(tmp_path / "nothing"))


@pytest.mark.gpu
@pytest.mark.parametrize("part", ["first", "memory", "turns", "flex"])
def test_small_parts_on_a_gpu(tmp_path, part):
    setting = Setting(tmp_path, "cuda", "miniature", small=True)
    assert run_part(part, setting, print), parts.recorded(tmp_path / f"{part}.jsonl")
