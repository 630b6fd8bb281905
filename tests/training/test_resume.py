"""Every trainer: four steps at once equal two, saved, and two more from the saved state, to the last bit."""

import itertools

import pytest
import torch
from fixtures.planning import planned_setup, planner_setup
from fixtures.small_disk import run_on_small_disk
from fixtures.tiny import CoinJudge, make_trainer, tiny_model, tiny_setup

from lightningrl.config.model import Pretrain
from lightningrl.errors import CheckpointError, Interrupted, StageError
from lightningrl.training.loop import train
from lightningrl.training.state import load_state
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.objectives.blocks import BlockDiffusion, MaskedNext
from lightningrl.training.supervised.objectives.masked import Masked
from lightningrl.training.supervised.objectives.next_token import NextToken
from lightningrl.training.supervised.pretrainer import Pretrainer
from lightningrl.utils import files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tokenizer of `tiny_setup`."""
    return tmp_path_factory.mktemp("tiny")


def policy_trainer(folder, **run):
    return make_trainer(tiny_setup(folder, **{"validate_every": 1, "prompts": 2} | run))


def grpo_trainer(folder):
    keys = {"decay": True, "weight_decay": 0.1, "averaging": 0.5, "validate_every": 2}
    return policy_trainer(folder, algorithm="grpo_traj", **keys)


def supervised_trainer(folder):
    return policy_trainer(folder, algorithm="supervised", validate_every=2)


def dparallel_trainer(folder):
    """Adapters over a block-causal model, whose moving average is validated and shipped."""
    method = {"adapter": {"rank": 2}, "schedule": "cosine", "mean_over": 2}
    return policy_trainer(folder, algorithm="dparallel", method=method, averaging=0.5, microbatch=2)


def d2f_trainer(folder):
    """All weights of a model that sees its canvas, taught by the frozen base."""
    return policy_trainer(folder, algorithm="d2f", family="llada", method={"block_size": 4}, validate_every=2)


def d3llm_trainer(folder):
    method = {"block_sizes": [4, 8], "schedule": "linear"}
    return policy_trainer(folder, algorithm="d3llm", family="dream", method=method, microbatch=2)


def pretrainer(folder):
    """An autoregressive step, then diffusion with a decaying rate and real validations of the averaged weights."""
    setup = tiny_setup(folder)
    corpus = build_corpus(setup.tokenizer, setup.train, setup.task.render, setup.model.config.block_size)
    config = Pretrain(
        autoregressive={"steps": 1, "sequences": 3},
        diffusion={"steps": 3, "sequences": 3, "copies": 2, "decay": 0.5},
        averaging=0.5, validate_every=1, warmup_steps=2, mixture={"one": 2.0, "two": 1.0},
    )  # fmt: skip

    def validate(model):
        setup.decoder.model.load_state_dict(model.state_dict())
        return {"accuracy_pct": setup.validate().figures["validation_tpf"]}

    own = tiny_setup(folder).model
    objectives = {
        "autoregressive": MaskedNext(own.config, config.autoregressive),
        "diffusion": BlockDiffusion(own.config, config.diffusion),
    }
    return Pretrainer(config, 3, own, {"one": corpus[:4], "two": corpus[4:]}, objectives, validate)


def budgeted(folder):
    """As Dream: next tokens, then masked canvases until the budget is spent, in the fourth step."""
    setup, config = tiny_setup(folder), RECIPE
    corpus = build_corpus(setup.tokenizer, setup.train, setup.task.render, 1, canvas=14)
    model = tiny_model(7, vocab_size=len(setup.tokenizer), mask_token_id=setup.tokenizer.mask_token_id, **DREAM)
    objectives = {
        "autoregressive": NextToken(model.config, config.autoregressive),
        "diffusion": Masked(model.config, config.diffusion),
    }
    corpora = {"one": corpus}
    return Pretrainer(config, 3, model, corpora, objectives, lambda model: {"accuracy_pct": 50.0}, budget=BUDGET)


DREAM = {
    "family": "Dream", "attention": "full", "logit_shift": True, "qk_norm": False, "qkv_bias": True, "block_size": 1,
}  # fmt: skip
RECIPE = Pretrain(
    autoregressive={"steps": 1, "sequences": 3}, diffusion={"steps": 99, "sequences": 3, "decay": 0.5},
    averaging=0.5, validate_every=1, warmup_steps=2,
)  # fmt: skip
BUDGET = 700


def dultra_trainer(folder):
    return make_trainer(planned_setup(folder, validate_every=2, prompts=2))


def planner_trainer(folder):
    return make_trainer(planner_setup(folder, validate_every=2))


DISTILLATIONS = [dparallel_trainer, d2f_trainer, d3llm_trainer]
PLANNED = [dultra_trainer, planner_trainer]
TRAINERS = [policy_trainer, grpo_trainer, supervised_trainer, pretrainer, budgeted, *DISTILLATIONS, *PLANNED]


def run(trainer, state, should_stop=lambda: False, save_every=1, report=lambda text: None, timing=None, **more):
    return train(
        trainer, state, save_every=save_every, fingerprint=more.pop("fingerprint", {"seed": 3}), report=report,
        timing=timing or (lambda **row: None), should_stop=should_stop, **more,
    ).rows  # fmt: skip


def stopped_after(step):
    calls = itertools.count(1)
    return lambda: next(calls) == step


def stop(trainer, state, after, **more):
    with pytest.raises(Interrupted, match=f"stopped after step {after}; run the same command again"):
        run(trainer, state, stopped_after(after), **more)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The undisturbed run of each trainer, run once: its trainer, rows and folder."""
    runs = {}

    def of(make):
        if make not in runs:
            state, trainer = tmp_path_factory.mktemp("whole"), make(folder)
            runs[make] = trainer, run(trainer, state), state
        return runs[make]

    return of


def leaves(value, path=""):
    """Every tensor and plain value of a state, by its path."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, f"{path}/{key}")]
    return [(path, value)]


def assert_bit_equal(one, other):
    for (path, a), (other_path, b) in itertools.zip_longest(leaves(one), leaves(other), fillvalue=(None, None)):
        assert path == other_path
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), path
        else:
            assert a == b, path


@pytest.mark.parametrize(("make", "cut"), [*((make, 2) for make in TRAINERS), (pretrainer, 1), (pretrainer, 3)])
def test_two_steps_and_two_resumed_equal_four_to_the_last_bit(make, cut, whole, folder, tmp_path):
    """Pre-training is also cut where its phases change, after the warm start, and between validations."""
    undisturbed, rows, state = whole(make)
    start = {name: p.detach().clone() for name, p in make(folder).trained.items()}
    stop(make(folder), tmp_path, cut)
    fresh = make(folder)
    assert run(fresh, tmp_path) == rows and [row["step"] for row in rows] == [1, 2, 3, 4]
    assert_bit_equal(fresh.state_dict(), undisturbed.state_dict())
    assert_bit_equal(load_state(tmp_path), load_state(state))
    if make is policy_trainer:
        assert load_state(state)["trainer"].keys() >= {"watch", "selection", "algorithm", "cursor"}
    assert (tmp_path / "metrics.jsonl").read_bytes() == (state / "metrics.jsonl").read_bytes()
    assert not any(torch.equal(start[name], p) for name, p in fresh.trained.items())
    if make in DISTILLATIONS:  # what is frozen is the base's, and is not in the states
        assert load_state(state)["trainer"]["model"].keys() == start.keys()


@pytest.mark.parametrize("make", TRAINERS)
def test_the_same_run_twice_is_equal_to_the_last_bit(make, whole, folder, tmp_path):
    """A run that is finished and asked again does nothing and has all its rows."""
    trainer, (other, rows, _) = make(folder), whole(make)
    assert run(trainer, tmp_path, save_every=3) == rows
    assert_bit_equal(trainer.state_dict(), other.state_dict())
    again = make(folder)
    again.step = None
    assert run(again, tmp_path) == rows


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_kill_between_saves_loses_only_the_steps_since_and_ends_equal(killed_after, whole, folder, tmp_path):
    """Saved every 2 steps; KeyboardInterrupt out of the step stands for the kill."""
    dying = policy_trainer(folder)
    original, count = dying.step, itertools.count(1)

    def step():
        if next(count) > killed_after:
            raise KeyboardInterrupt
        return original()

    dying.step = step
    with pytest.raises(KeyboardInterrupt):
        run(dying, tmp_path, save_every=2)
    saved = load_state(tmp_path)
    assert (len(saved["rows"]) if saved else 0) == killed_after // 2 * 2
    assert run(policy_trainer(folder), tmp_path, save_every=2) == whole(policy_trainer)[1]
    assert_bit_equal(load_state(tmp_path), load_state(whole(policy_trainer)[2]))


def test_states_are_saved_every_so_many_steps_at_the_end_and_at_once_when_it_should_stop(whole, folder, tmp_path):
    """A stop asked for in the last step lets the run end. Progress says that a run was resumed; metrics have no
    seconds, and timing has only them."""
    stop(policy_trainer(folder), tmp_path, 1, save_every=100)
    assert len(load_state(tmp_path)["rows"]) == len(list(files.read_jsonl(tmp_path / "metrics.jsonl"))) == 1
    saved, said, timings, trainer = [], [], [], policy_trainer(folder)
    original = trainer.state_dict
    trainer.state_dict = lambda: saved.append(trainer.steps_done) or original()
    keys = {"report": said.append, "timing": lambda **row: timings.append(row)}
    rows = run(trainer, tmp_path, stopped_after(3), save_every=3, **keys)
    assert saved == [3, 4] and rows == whole(policy_trainer)[1]
    assert said[0] == "resumed after step 1" and said[-1].startswith("step 4/4")
    assert not any(key.endswith(("_s", "seconds")) for row in rows for key in row)
    assert [row["step"] for row in timings] == [2, 3, 4]
    assert all(value >= 0 for row in timings for value in row.values()) and "rollout_s" in timings[0]


def test_judges_are_asked_in_the_same_order_by_a_resumed_run(folder, tmp_path):
    """The rollouts of the steps after a resume are the same texts: they depend on the state alone."""

    class Recorder(CoinJudge):
        def __init__(self):
            self.texts = []

        def judge(self, examples, responses):
            self.texts.append([(e.uid, r) for e, r in zip(examples, responses, strict=True)])
            return super().judge(examples, responses)

    whole, first, second = Recorder(), Recorder(), Recorder()
    run(policy_trainer(folder, judge=whole), tmp_path / "whole")
    stop(policy_trainer(folder, judge=first), tmp_path / "parts", 2)
    run(policy_trainer(folder, judge=second), tmp_path / "parts")
    assert first.texts + second.texts == whole.texts


def test_a_changed_config_is_refused_before_the_trainer_is_touched(whole, folder, tmp_path):
    stop(policy_trainer(folder), tmp_path, 2, fingerprint={"run": {"kl": 0.01}})
    fresh = policy_trainer(folder)
    fresh.load_state_dict = fresh.step = None
    with pytest.raises(CheckpointError, match=r"step-000002 is of another config: run\.kl was 0\.01, is 0\.1\. Go on"):
        run(fresh, tmp_path, fingerprint={"run": {"kl": 0.1}})
    rows = run(policy_trainer(folder), tmp_path, fingerprint={"run": {"kl": 0.01, "role": "x"}})
    assert rows == whole(policy_trainer)[1]


def test_a_run_that_grows_where_nothing_depends_on_its_length_equals_the_longer_one(whole, folder, tmp_path):
    """Two steps, finished, and then four: no rate decays, and every step is validated, so the last one is as others.
    A rate that decays depends on the number of steps, which is why growing must be asked for."""
    short, long = {"run": {"steps": 2}}, {"run": {"steps": 4}}
    _, rows, state = whole(policy_trainer)
    assert run(policy_trainer(folder, steps=2), tmp_path, fingerprint=short) == rows[:2]
    with pytest.raises(CheckpointError, match=r"run\.steps was 2, is 4"):
        run(policy_trainer(folder), tmp_path, fingerprint=long)
    assert run(policy_trainer(folder), tmp_path, fingerprint=long, growing=["run.steps"]) == rows
    assert_bit_equal(load_state(tmp_path), load_state(state))
    rates = []
    for trainer in (policy_trainer(folder, decay=True, warmup_updates=0, steps=steps) for steps in (2, 4)):
        trainer.steps_done = 1
        rates.append(trainer._rate())
    assert rates == [0.5, 0.75]


def test_two_trainers_of_one_folder_are_one_too_many(whole, folder, tmp_path):
    """The second is asked for in the middle of the first one's step."""
    first, refused = policy_trainer(folder), []
    original = first.step

    def step():
        if not refused:
            with pytest.raises(StageError, match=r" is being made by process \d+ on .*Wait for it") as error:
                run(policy_trainer(folder), tmp_path)
            refused.append(error)
        return original()

    first.step = step
    assert run(first, tmp_path) == whole(policy_trainer)[1] and refused
    assert_bit_equal(load_state(tmp_path), load_state(whole(policy_trainer)[2]))


ON_A_DISK_THAT_FILLS_UP = """
import sys
from pathlib import Path
import torch
from fixtures.tiny import make_trainer, tiny_setup
from lightningrl.errors import StageError
from lightningrl.training.loop import train
from lightningrl.training.state import load_state
from lightningrl.utils import files

disk, other = Path(sys.argv[1]), Path(sys.argv[2])

def run(state):
    trainer = make_trainer(tiny_setup(other, prompts=2))
    return train(trainer, state, save_every=1, fingerprint={}, report=lambda text: None, timing=lambda **row: None,
                 should_stop=lambda: False).rows

def refused(write, *arguments):
    try:
        write(*arguments)
    except StageError as error:
        return print(error)
    raise SystemExit("the disk was large enough")

whole = run(other / "whole")
parts = [*(other / "whole" / "step-000004").iterdir(), max((other / "whole").glob("chosen-*.pt"))]
size = sum(path.stat().st_size for path in parts)
filler, state = disk / "filler", disk / "state"
filler.write_bytes(bytes(2_000_000 - 2 * size - size // 2))  # two states fit and a half
for _ in range(2):
    refused(run, state)
    assert sorted(p.name for p in state.glob("*step*")) == ["step-000001", "step-000002"]
    assert load_state(state)["rows"] == whole[:2]
refused(files.write_jsonl, disk / "rows.jsonl", [{"x": "y" * 1000}] * 2000)
assert not list(disk.glob(".*"))
filler.unlink()
assert run(state) == whole
model, expected = (load_state(folder)["trainer"]["model"] for folder in (state, other / "whole"))
assert model.keys() == expected.keys() and all(torch.equal(model[name], expected[name]) for name in model)
"""


def test_a_training_whose_disk_fills_up_says_so_keeps_its_states_and_ends_equal_when_there_is_space_again(tmp_path):
    """A tmpfs that is really full."""
    said = run_on_small_disk(tmp_path / "disk", "2000000", ON_A_DISK_THAT_FILLS_UP, tmp_path).splitlines()
    assert len(said) == 3 and all("no space left on the disk" in line for line in said)
    assert all("step-000003: " in line for line in said[:2]) and "rows.jsonl: " in said[2]
    assert all("free some space and run the same command again" in line for line in said)
