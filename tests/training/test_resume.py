"""Every trainer: four steps at once equal two, saved, and two more from the saved state, to the last bit."""

import itertools

import pytest
import torch
from fixtures.small_disk import run_on_small_disk
from fixtures.tiny import CoinJudge, make_trainer, tiny_setup

from lightningrl.config.model import Phase, Pretrain
from lightningrl.errors import CheckpointError, Interrupted, StageError
from lightningrl.training.loop import train
from lightningrl.training.state import load_state
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.supervised.pretrainer import Pretrainer
from lightningrl.utils import files


def policy_trainer(folder):
    return make_trainer(tiny_setup(folder, validate_every=1))


def grpo_trainer(folder):
    return make_trainer(tiny_setup(folder, algorithm="grpo_traj", decay=True, weight_decay=0.1, averaging=0.5))


def supervised_trainer(folder):
    return make_trainer(tiny_setup(folder, algorithm="supervised"))


def pretrainer(folder):
    """An autoregressive step, then diffusion with a decaying rate and real validations of the averaged weights."""
    setup = tiny_setup(folder)
    corpus = build_corpus(setup.tokenizer, setup.train, setup.task.render, setup.model.config.block_size)
    config = Pretrain(
        autoregressive=Phase(steps=1, sequences=3), diffusion=Phase(steps=3, sequences=3, copies=2, decay=0.5),
        averaging=0.5, validate_every=1, warmup_steps=2, mixture={"one": 2.0, "two": 1.0},
    )  # fmt: skip

    def validate(model):
        setup.model.load_state_dict(model.state_dict())
        return {"accuracy_pct": setup.validate().figures["validation_tpf"]}

    return Pretrainer(config, 3, setup.model, {"one": corpus[:4], "two": corpus[4:]}, validate)


TRAINERS = [policy_trainer, grpo_trainer, supervised_trainer, pretrainer]


FINGERPRINT = {"seed": 3}


def run(trainer, state, should_stop=lambda: False, save_every=1, fingerprint=FINGERPRINT, growing=()):
    return train(
        trainer,
        state,
        save_every=save_every,
        fingerprint=fingerprint,
        report=lambda text: None,
        timing=lambda **row: None,
        should_stop=should_stop,
        growing=growing,
    ).rows


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
def test_two_steps_and_two_resumed_equal_four_to_the_last_bit(make, cut, tmp_path):
    """Pre-training is also cut where its phases change, after the warm start, and between validations."""
    undisturbed = make(tmp_path)
    start = {name: p.clone() for name, p in undisturbed.state_dict()["model"].items()}
    rows = run(undisturbed, tmp_path / "whole")
    assert len(rows) == 4
    calls = itertools.count(1)
    with pytest.raises(Interrupted, match=f"stopped after step {cut}; run the same command again"):
        run(make(tmp_path), tmp_path / "parts", should_stop=lambda: next(calls) == cut)
    fresh = make(tmp_path)
    resumed = run(fresh, tmp_path / "parts")
    assert resumed == rows and [row["step"] for row in rows] == [1, 2, 3, 4]
    assert_bit_equal(fresh.state_dict(), undisturbed.state_dict())
    assert_bit_equal(load_state(tmp_path / "parts"), load_state(tmp_path / "whole"))
    metrics = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("parts", "whole")]
    assert metrics[0] == metrics[1]
    assert sum(not torch.equal(start[n], p) for n, p in fresh.state_dict()["model"].items()) == len(start)


@pytest.mark.parametrize("make", TRAINERS)
def test_the_same_run_twice_is_equal_to_the_last_bit(make, tmp_path):
    one, two = make(tmp_path), make(tmp_path)
    assert run(one, tmp_path / "one") == run(two, tmp_path / "two")
    assert_bit_equal(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_kill_between_saves_loses_only_the_steps_since_and_ends_equal(killed_after, tmp_path):
    """Saved every 2 steps; KeyboardInterrupt out of the step stands for the kill."""
    whole = run(policy_trainer(tmp_path), tmp_path / "whole", save_every=2)
    dying = policy_trainer(tmp_path)
    original, count = dying.step, itertools.count(1)

    def step():
        if next(count) > killed_after:
            raise KeyboardInterrupt
        return original()

    dying.step = step
    with pytest.raises(KeyboardInterrupt):
        run(dying, tmp_path / "killed", save_every=2)
    saved = load_state(tmp_path / "killed")
    assert (len(saved["rows"]) if saved else 0) == killed_after // 2 * 2
    fresh = policy_trainer(tmp_path)
    assert run(fresh, tmp_path / "killed", save_every=2) == whole
    assert_bit_equal(load_state(tmp_path / "killed"), load_state(tmp_path / "whole"))


def test_should_stop_saves_at_once_whatever_save_every_says(tmp_path):
    with pytest.raises(Interrupted):
        run(policy_trainer(tmp_path), tmp_path / "state", should_stop=lambda: True, save_every=100)
    assert len(load_state(tmp_path / "state")["rows"]) == 1
    assert len(list(files.read_jsonl(tmp_path / "state" / "metrics.jsonl"))) == 1


def test_a_stop_asked_for_in_the_last_step_lets_the_run_end(tmp_path):
    calls = itertools.count(1)
    assert len(run(policy_trainer(tmp_path), tmp_path / "state", should_stop=lambda: next(calls) == 4)) == 4


def test_a_finished_run_asked_again_does_nothing_and_has_all_its_rows(tmp_path):
    rows = run(policy_trainer(tmp_path), tmp_path / "state")
    again = policy_trainer(tmp_path)
    again.step = None
    assert run(again, tmp_path / "state") == rows


def test_states_are_saved_every_so_many_steps_and_at_the_end(tmp_path):
    saved, trainer = [], policy_trainer(tmp_path)
    original = trainer.state_dict
    trainer.state_dict = lambda: saved.append(trainer.steps_done) or original()
    run(trainer, tmp_path / "state", save_every=3)
    assert saved == [3, 4]


def test_progress_says_that_a_run_was_resumed(tmp_path):
    calls, said = itertools.count(1), []
    with pytest.raises(Interrupted):
        run(policy_trainer(tmp_path), tmp_path / "state", should_stop=lambda: next(calls) == 2)
    train(policy_trainer(tmp_path), tmp_path / "state", save_every=1, fingerprint=FINGERPRINT, report=said.append,
          timing=lambda **row: None, should_stop=lambda: False)  # fmt: skip
    assert said[0] == "resumed after step 2" and said[-1].startswith("step 4/4")


def test_metrics_have_no_seconds_and_timing_has_only_them(tmp_path):
    timings = []
    train(policy_trainer(tmp_path), tmp_path / "state", save_every=9, fingerprint={}, report=lambda t: None,
          timing=lambda **row: timings.append(row), should_stop=lambda: False)  # fmt: skip
    rows = load_state(tmp_path / "state")["rows"]
    assert not any(key.endswith(("_s", "seconds")) for row in rows for key in row)
    assert [row["step"] for row in timings] == [1, 2, 3, 4]
    assert all(value >= 0 for row in timings for value in row.values()) and "rollout_s" in timings[0]


def test_judges_are_asked_in_the_same_order_by_a_resumed_run(tmp_path):
    """The rollouts of steps 3 and 4 are the same texts after a resume: they depend on the state alone."""

    class Recorder(CoinJudge):
        def __init__(self):
            self.texts = []

        def judge(self, examples, responses):
            self.texts.append([(e.uid, r) for e, r in zip(examples, responses, strict=True)])
            return super().judge(examples, responses)

    whole, first, second = Recorder(), Recorder(), Recorder()
    run(make_trainer(tiny_setup(tmp_path, judge=whole)), tmp_path / "whole")
    calls = itertools.count(1)
    with pytest.raises(Interrupted):
        run(make_trainer(tiny_setup(tmp_path, judge=first)), tmp_path / "parts", lambda: next(calls) == 2)
    run(make_trainer(tiny_setup(tmp_path, judge=second)), tmp_path / "parts")
    assert first.texts + second.texts == whole.texts


def stopped_after(step):
    calls = itertools.count(1)
    return lambda: next(calls) == step


def test_a_changed_config_is_refused_before_the_trainer_is_touched(tmp_path):
    with pytest.raises(Interrupted):
        run(policy_trainer(tmp_path), tmp_path / "state", stopped_after(2), fingerprint={"run": {"kl": 0.01}})
    fresh = policy_trainer(tmp_path)
    fresh.load_state_dict = fresh.step = None
    with pytest.raises(CheckpointError, match=r"step-000002 is of another config: run\.kl was 0\.01, is 0\.1\. Go on"):
        run(fresh, tmp_path / "state", fingerprint={"run": {"kl": 0.1}})
    whole = run(policy_trainer(tmp_path), tmp_path / "whole")
    assert run(policy_trainer(tmp_path), tmp_path / "state", fingerprint={"run": {"kl": 0.01, "role": "x"}}) == whole


def test_a_run_that_grows_where_nothing_depends_on_its_length_equals_the_longer_one(tmp_path):
    """Two steps, finished, and then four: no rate decays, and every step is validated, so the last one is as others."""

    def trainer(steps):
        return make_trainer(tiny_setup(tmp_path, validate_every=1, steps=steps))

    short, long = {"run": {"steps": 2}}, {"run": {"steps": 4}}
    whole = run(trainer(4), tmp_path / "whole", fingerprint=long)
    assert run(trainer(2), tmp_path / "grown", fingerprint=short) == whole[:2]
    with pytest.raises(CheckpointError, match=r"run\.steps was 2, is 4"):
        run(trainer(4), tmp_path / "grown", fingerprint=long)
    assert run(trainer(4), tmp_path / "grown", fingerprint=long, growing=["run.steps"]) == whole
    assert_bit_equal(load_state(tmp_path / "grown"), load_state(tmp_path / "whole"))


def test_a_rate_that_decays_depends_on_the_number_of_steps_which_is_why_growing_must_be_asked_for(tmp_path):
    grown, whole = (make_trainer(tiny_setup(tmp_path, decay=True, warmup_updates=0, steps=steps)) for steps in (2, 4))
    rates = []
    for trainer in (grown, whole):
        trainer.step()
        trainer.step()
        rates.append(trainer.optimiser.param_groups[0]["lr"])
    assert rates[0] != rates[1]


def test_two_trainers_of_one_folder_are_one_too_many(tmp_path):
    """The second is asked for in the middle of the first one's step."""
    first, refused = policy_trainer(tmp_path), []
    original = first.step

    def step():
        if not refused:
            with pytest.raises(StageError, match=r"state is being made by process \d+ on .*Wait for it") as error:
                run(policy_trainer(tmp_path), tmp_path / "state")
            refused.append(error)
        return original()

    first.step = step
    assert run(first, tmp_path / "state") == run(policy_trainer(tmp_path), tmp_path / "whole") and refused
    assert_bit_equal(load_state(tmp_path / "state"), load_state(tmp_path / "whole"))


TRAINING_ON_A_DISK_THAT_FILLS_UP = """
import sys
from pathlib import Path
import torch
from fixtures.tiny import make_trainer, tiny_setup
from lightningrl.errors import StageError
from lightningrl.training.loop import train
from lightningrl.training.state import load_state

disk, other = Path(sys.argv[1]), Path(sys.argv[2])

def run(state):
    trainer = make_trainer(tiny_setup(other))
    return train(trainer, state, save_every=1, fingerprint={}, report=lambda text: None, timing=lambda **row: None,
                 should_stop=lambda: False).rows

whole = run(other / "whole")
size = sum(path.stat().st_size for path in (other / "whole" / "step-000004").iterdir())
filler = disk / "filler"
filler.write_bytes(bytes(2_000_000 - 2 * size - size // 2))  # two states fit and a half
try:
    run(disk / "state")
    raise SystemExit("the disk was large enough")
except StageError as error:
    print(error)
assert sorted(p.name for p in (disk / "state").glob("*step*")) == ["step-000001", "step-000002"]
assert load_state(disk / "state")["rows"] == whole[:2]
filler.unlink()
assert run(disk / "state") == whole
model, expected = (load_state(folder)["trainer"]["model"] for folder in (disk / "state", other / "whole"))
assert model.keys() == expected.keys() and all(torch.equal(model[name], expected[name]) for name in model)
"""


def test_a_training_whose_disk_fills_up_says_so_and_ends_equal_when_there_is_space_again(tmp_path):
    said = run_on_small_disk(tmp_path / "disk", "2000000", TRAINING_ON_A_DISK_THAT_FILLS_UP, tmp_path)
    assert "step-000003: no space left on the disk" in said and "free some space and run the same command again" in said
