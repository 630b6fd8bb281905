"""The real `train` stage, eight steps, killed by real signals at random moments: what it ends with is byte-equal.

A nano-like experiment with one benchmark and one run; its data and base are made once. The whole DAG under Snakemake is
killed in tests/workflow/test_kill.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from fixtures.killing import finish, start
from fixtures.limits import HANG_S, wait_for

from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.utils.files import read_jsonl
from lightningrl.utils.lease import lease

SEED = 20261
TESTS = Path(__file__).parents[1]
CONFIG = f"""
extends: {PACKAGE.parent / "config" / "nano.yaml"}
experiment: killed
benchmarks:
  - {{name: gsm-mini, train: 60, validation: 4, test: 2, max_new_tokens: 24}}
pretrain:
  autoregressive: {{steps: 2, sequences: 4}}
  diffusion: {{steps: 2, sequences: 4, copies: 2}}
  validate_every: 2
runs:
  - {{name: r, role: after, algorithm: lightningrl, benchmark: gsm-mini, steps: 8, prompts: 2, responses: 4, updates: 2,
     max_rounds: 2, method: {{filter_all_wrong: false}}, threshold: 0.03, learning_rate: 1.0e-4, validate_every: 2,
     save_every: 2}}
  - {{name: d, role: rival, algorithm: dparallel, benchmark: gsm-mini, steps: 6, sequences: 3, microbatch: 2,
     method: {{data: {{keep: all, problems: 8, shard: 2}}, adapter: {{rank: 2}}}}, threshold: 0.03,
     learning_rate: 1.0e-3, validate_every: 3, save_every: 2}}
decoding: {{selector: "fixtures.held:Held"}}
report: {{replays: []}}
"""
BEFORE = (("data", "--name", "gsm-mini"), ("selfcheck", "--name", "gsm-mini"), ("tokenizer",), ("pretrain",))
TRAIN = ("train", "--config", "killed.yaml", "--name", "r")
TIMING = "results/killed/train/r-*/state/timing.jsonl"
RESULTS = ("model.safetensors", "metrics.jsonl", "selection.json")


@dataclass(frozen=True)
class Run:
    """A folder with a finished base, in which the training is begun, killed and gone on with."""

    root: Path

    @property
    def stage(self) -> Path:
        [folder] = (self.root / "results/killed/train").glob("r-*")
        return folder

    @property
    def gate(self) -> Path:
        return self.root / "gate"

    def steps(self) -> int:
        """Steps taken since the first start, those after a resume too; -1 before the start."""
        return max((path.read_bytes().count(b"\n") for path in self.root.glob(TIMING)), default=0) - 1

    def hold_after(self, steps: int) -> None:
        """Whoever trains next holds once, in the rollouts of the step after so many (fixtures/held.py)."""
        for mark in self.root.glob("held-*"):
            mark.unlink()
        self.gate.write_text(f"{TIMING} {steps + 1}")

    def wait_until_held(self, processes: int, has_ended: Callable[[], bool]) -> None:
        wait_for(lambda: len(list(self.root.glob("held-*"))) == processes or has_ended(), "all at the gate")

    def begin_and_hold(self, steps: int):
        self.hold_after(steps)
        process = start(self.root, *TRAIN)
        self.wait_until_held(1, lambda: not process.is_alive())
        assert process.is_alive(), (self.root / "output.log").read_text()[-3000:]
        return process

    def end(self) -> dict[str, bytes]:
        """Go on to the end; the results' bytes by name."""
        code, said = finish(self.root, *TRAIN)
        assert code == 0, said[-3000:]
        assert not (self.stage / "state").exists() and not list(self.stage.rglob("*.tmp"))
        return {p.name: p.read_bytes() for p in self.stage.iterdir() if p.name not in ("timing.jsonl", "manifest.json")}


@pytest.fixture(scope="module")
def based(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, tokenizer and base, made once."""
    root = tmp_path_factory.mktemp("based")
    (root / "killed.yaml").write_text(CONFIG)
    for verb, *options in BEFORE:
        code, said = finish(root, verb, "--config", "killed.yaml", *options)
        assert code == 0, said[-3000:]
    return root


class Whole(NamedTuple):
    """An undisturbed run."""

    stage: Path
    results: dict[str, bytes]
    step_s: float


@pytest.fixture(scope="module")
def whole(based: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = Run(shutil.copytree(based, tmp_path_factory.mktemp("whole") / "run"))
    results = run.end()
    assert set(RESULTS) <= results.keys()
    assert results["metrics.jsonl"].count(b"\n") == 8
    seconds = [row["seconds"] for row in read_jsonl(run.stage / "timing.jsonl") if "step" in row]
    return Whole(run.stage, results, sum(seconds) / len(seconds))


@pytest.fixture
def fresh(based: Path, tmp_path: Path):
    numbers = iter(range(1000))
    return lambda: Run(shutil.copytree(based, tmp_path / f"run{next(numbers)}"))


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_at_a_random_moment_and_resumed_it_ends_byte_equal(kills, whole, fresh) -> None:
    draw, killed, resumed = random.Random(SEED + kills), 0, 0
    while killed < kills:
        run, steps = fresh(), draw.randint(0, 7)
        process = start(run.root, *TRAIN)
        wait_for(lambda run=run, steps=steps, p=process: run.steps() >= steps or not p.is_alive(), f"{steps} steps")
        time.sleep(draw.uniform(0.0, whole.step_s))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            continue  # it had ended: no kill
        killed += 1
        resumed += any(run.stage.glob("state/step-*"))
        assert run.end() == whole.results
        shutil.rmtree(run.root)
    assert resumed >= kills // 2, "most kills were after the first save, so that there was something to resume"


def test_a_second_trainer_waits_sigterm_saves_and_a_damaged_state_is_named_then_gone_without(whole, fresh) -> None:
    run = fresh()
    said = run.root / "output.log"
    first = run.begin_and_hold(3)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    run.hold_after(7)  # lines of timing.jsonl: three steps of the first, the second's start, and its steps 3, 4, 5
    with lease(run.stage / "state"):
        second = start(run.root, *TRAIN)
        wait_for(lambda: f"is being made by process {os.getpid()} on " in said.read_text(), said.read_text)
    run.wait_until_held(1, lambda: not second.is_alive())
    os.kill(second.pid, signal.SIGTERM)
    second.join(HANG_S)
    assert second.exitcode == 75, said.read_text()[-3000:]
    run.gate.unlink()
    assert "resumed after step 2" in said.read_text() and "interrupted: stopped after step 6" in said.read_text()
    newest = sorted(run.stage.glob("state/step-*"))[-1]
    part = newest / "state-0-of-1.pt"
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    code, text = finish(run.root, *TRAIN)
    assert code == 2 and f"{newest.name}/state-0-of-1.pt is damaged" in text and f"{newest.name} to resume from" in text
    assert part.read_bytes() == data, "nothing is removed but by the user"
    shutil.rmtree(newest)
    assert run.end() == whole.results
    assert "resumed after step 4" in said.read_text()


def test_a_distillation_killed_in_its_data_and_in_its_steps_ends_byte_equal(fresh) -> None:
    """The base's answers are kept shard by shard, the steps as any training's; the adapter's files are compared too."""
    undisturbed, run = fresh(), fresh()
    stages = {kind: (kind, "--config", "killed.yaml", "--name", "d") for kind in ("distill_data", "train")}
    begun = {"distill_data": "state/shard-000002.json", "train": "state/step-000002/*"}
    for kind, command in stages.items():
        code, said = finish(undisturbed.root, *command)
        assert code == 0, said[-3000:]
        process, pattern = start(run.root, *command), f"results/killed/{kind}/d-*/{begun[kind]}"
        wait_for(lambda p=process, at=pattern: any(run.root.glob(at)) or not p.is_alive(), pattern)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        code, said = finish(run.root, *command)
        assert code == 0, said[-3000:]
        both = [next(each.root.glob(f"results/killed/{kind}/d-*")) for each in (undisturbed, run)]
        one, other = (
            {
                path.name: path.read_bytes()
                for path in folder.iterdir()
                if path.name not in ("timing.jsonl", "manifest.json")
            }
            for folder in both
        )
        assert one == other and len(one) > 1
    assert {"adapter_model.safetensors", "model.safetensors"} <= one.keys()


class Launched:
    """The training as two processes under torchrun, in a session of their own."""

    COMMAND = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lightningrl")

    def __init__(self, run: Run, hold_after: int | None = None):
        """hold_after: returns when they hold after so many steps."""
        if hold_after is not None:
            run.hold_after(hold_after)
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), str(TESTS), os.environ.get("PYTHONPATH")]))
        self.log = open(run.root / "launched.log", "ab")
        self.process = psutil.Popen(
            [*self.COMMAND, *TRAIN], cwd=run.root, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip
        if hold_after is not None:
            run.wait_until_held(2, lambda: self.process.poll() is not None)

    def ranks(self) -> list[psutil.Process]:
        return [child for child in self.process.children() if TRAIN[0] in child.cmdline()]

    def end(self) -> int:
        try:
            return self.process.wait(HANG_S)
        finally:
            self.log.close()


def test_all_processes_of_a_launch_wait_for_another_holder_of_the_folder(whole, fresh) -> None:
    """The second waits with the first, goes on with it, and ends with it where nothing is left to do."""
    run = fresh()
    folder, said = run.root / "results/killed/train" / whole.stage.name, run.root / "launched.log"
    with lease(folder / "state"):
        waiting = Launched(run)
        wait_for(lambda: f"is being made by process {os.getpid()} on " in said.read_text(), said.read_text)
        shutil.copytree(whole.stage, folder, dirs_exist_ok=True)
    assert waiting.end() == 0, said.read_text()[-3000:]
    assert "already finished" in said.read_text()
    shutil.rmtree(folder)
    with lease(folder / "state"):
        waiting = Launched(run)
        wait_for(lambda: said.read_text().count("is being made by") == 2, said.read_text)
    assert waiting.end() == 0, said.read_text()[-3000:]
    assert run.steps() == -1 and (folder / "manifest.json").is_file()


def test_two_processes_killed_and_stopped_go_on_to_the_bytes_of_an_undisturbed_run(fresh) -> None:
    """A rank that dies ends the other, in bounded time; SIGTERM to the launcher lets both save; nothing is left. Their
    state is not taken for one of one process."""
    undisturbed, run = fresh(), fresh()
    said = run.root / "launched.log"
    assert Launched(undisturbed).end() == 0, (undisturbed.root / "launched.log").read_text()[-3000:]
    expected = undisturbed.end()
    for steps, disturb in ((3, signal.SIGKILL), (5, signal.SIGTERM)):
        launched = Launched(run, hold_after=steps)
        ranks = launched.ranks()
        assert len(ranks) == 2
        (ranks[1] if disturb == signal.SIGKILL else launched.process).send_signal(disturb)
        assert launched.end() != 0
        _, alive = psutil.wait_procs(ranks, timeout=HANG_S)
        assert not alive, "no process is left behind"
        run.gate.unlink()
        assert list(run.stage.glob("state/step-*")) and not (run.stage / "model.safetensors").exists(), disturb
    code, text = finish(run.root, *TRAIN)
    assert code == 2 and "names state-0-of-2.pt, state-1-of-2.pt, expected state-0-of-1.pt" in text, text[-500:]
    assert Launched(run).end() == 0, said.read_text()[-3000:]
    assert "interrupted: stopped after step" in said.read_text() and said.read_text().count("resumed after step") == 2
    assert run.end() == expected
