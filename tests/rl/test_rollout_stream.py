"""One refilled stream keeps what rounds with barriers keep, whatever ends first and however slow the judge is."""

import threading
import time

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.limits import wait_for
from fixtures.rounds import in_rounds
from fixtures.tiny import CoinJudge, make_trainer, tiny_setup
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.errors import SandboxUnavailable
from lightningrl.rl.rollout import PromptOrder
from lightningrl.rl.rollout_stream import asked_by
from lightningrl.types import Example, Verdict


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    wanted=st.integers(1, 6), max_rounds=st.integers(1, 5), fails=st.lists(st.booleans(), min_size=30, max_size=30),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_prompts_are_asked_for_as_rounds_would_and_never_one_that_they_would_not(wanted, max_rounds, fails, order):
    kept = asked = rounds = 0
    while kept < wanted and rounds < max_rounds:
        ends = asked + wanted - kept
        kept, asked, rounds = kept + fails[asked:ends].count(False), ends, rounds + 1
    # Groups become known in any order, each only once it is asked for.
    known, failed, reached = set(), set(), asked_by((), wanted, max_rounds)
    while pending := [place for place in range(reached[0]) if place not in known]:
        place = order.choice(pending)
        known.add(place)
        failed |= {place} if fails[place] else set()
        before, reached = reached, asked_by(failed, wanted, max_rounds)
        assert before[0] <= reached[0] <= asked
    assert reached == (asked, rounds)


class Judge(CoinJudge):
    """A coin that raises over some problems, has no value for some, and takes its time; it notes who calls."""

    def __init__(self, raises=(), unscored=(), seconds=lambda: 0.0):
        self.raises, self.unscored, self.seconds, self.threads = raises, unscored, seconds, set()

    def judge(self, examples, responses):
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds())
        if examples[0].uid in self.raises:
            raise RuntimeError("the server is gone")
        verdicts = super().judge(examples, responses)
        if examples[0].uid in self.unscored:
            verdicts[-1] = Verdict(False, None, "gold_error", detail="no answer")
        return verdicts


HARD = {"raises": ("t/train/002", "t/train/009"), "unscored": ("t/train/004", "t/train/011")}


def setup_of(folder, judge=None, long=(5,), **run):
    """Fourteen prompts, of which some do not fit the model; a filter that most of the others fail."""
    run = {"method": {"filter_accuracy": [0.3, 0.6], "filter_tpf_range": 0.0}} | run
    setup = tiny_setup(folder, dtype=torch.float64, judge=judge or Judge(**HARD), train=14, **run)
    for index in long:
        words = ({"role": "user", "content": "2 pens" + " and 2 cups" * 60},)
        setup.train[index] = Example(setup.train[index].uid, words, {"answer": "0"})
    return setup


def rows(groups):
    return [(a.example.uid, a.trajectory.sample, a.text, a.verdict) for group in groups for a in group]


@pytest.mark.parametrize("run", [
    {"prompts": 4, "responses": 3, "max_rounds": 4}, {"prompts": 3, "responses": 2, "max_rounds": 1},
    {"prompts": 6, "responses": 2, "max_rounds": 3},
])  # fmt: skip
def test_the_kept_set_is_that_of_rounds(folder, run):
    """Groups, their order, rounds, losses and the cursor, in two steps; prompts that are refused, that the judge fails
    on, and that it has no value for. Six prompts in three rounds go past the seam of a pass."""
    trainer = make_trainer(setup_of(folder, **run))
    places = iter(PromptOrder(14, trainer.setup.seed).take(200))
    total, lost = 0, 0
    for step in (1, 2):
        drawn = trainer._draw(step)
        sampled, kept, rounds, taken, losses = in_rounds(trainer.setup, trainer.algorithm, places, step)
        assert rows(drawn.sampled.answers) == rows(sampled) and rows(drawn.kept.answers) == rows(kept)
        same(drawn.sampled.trajectories, [a.trajectory for group in sampled for a in group])
        assert drawn.rounds == rounds
        assert {name: count for name, count in drawn.losses.counts().items() if count} == losses
        total, lost = total + len(taken), lost + sum(losses.values())
        assert trainer.order.cursor == total
    assert lost or run["max_rounds"] == 1


def test_an_undisturbed_judge_and_a_slow_one_give_the_same_forwards(folder):
    """What shares a forward with what is counted in turns; were it by the clock, last bits would differ by run."""
    found, chance = [], np.random.default_rng(0)
    for seconds in (lambda: 0.0, lambda: float(chance.choice([0.0, 0.002, 0.02]))):
        trainer = make_trainer(setup_of(folder, Judge(seconds=seconds), prompts=4, responses=3, max_rounds=4))
        drawn = trainer._draw(1)
        found.append(([f.parts for f in trainer.setup.decoder.ledger.forwards], rows(drawn.kept.answers)))
    assert found[0] == found[1] and len(found[0][1]) > 0


def test_the_judge_works_while_the_decoder_goes_on_and_no_thread_is_left(folder):
    """The first call ends only when more forwards have been run, and a prompt that takes a failed one's place is
    decoded beside others that were asked for before."""
    setup = setup_of(folder, Judge(), prompts=6, responses=2, max_rounds=4)
    forwards, judge, seen = setup.decoder.ledger.forwards, setup.task.judge, []

    def until_more():
        if not seen:
            before = len(forwards)
            seen.append(before)
            wait_for(lambda: len(forwards) > before, "a forward beside the judge")
        return 0.0

    judge.seconds = until_more
    drawn = make_trainer(setup)._draw(1)
    assert seen and drawn.rounds > 1
    assert len(judge.threads) == 1 and threading.main_thread() not in judge.threads
    assert not any(thread.is_alive() for thread in judge.threads)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SandboxUnavailable])
def test_an_interrupt_and_an_error_of_the_users_leave_no_thread_and_no_group(folder, error):
    setup = setup_of(folder, Judge(), prompts=6, responses=2, max_rounds=4)
    trainer, stream, judge = make_trainer(setup), setup.decoder.stream, setup.task.judge
    before = set(threading.enumerate())
    if error is SandboxUnavailable:
        judge.judge = lambda *_: (_ for _ in ()).throw(SandboxUnavailable("no jail"))
    else:

        def interrupted(*arguments, **options):
            for number, outcome in enumerate(stream(*arguments, **options)):
                if number == 5:
                    raise KeyboardInterrupt
                yield outcome

        setup.decoder.stream = interrupted
    with pytest.raises(error):
        trainer._draw(1)
    assert set(threading.enumerate()) == before and trainer.order.cursor == 0
    setup.decoder.stream = stream
    vars(judge).pop("judge", None)
    again, other = trainer._draw(1), make_trainer(setup_of(folder, Judge(), prompts=6, responses=2, max_rounds=4))
    assert rows(again.kept.answers) == rows(other._draw(1).kept.answers)


def test_a_step_without_anything_that_fits_ends(folder):
    setup = setup_of(folder, long=range(14), prompts=3, responses=2, max_rounds=3)
    drawn = make_trainer(setup)._draw(1)
    assert (drawn.sampled.answers, drawn.rounds) == ([], 3)
    assert (drawn.losses.rows_refused, drawn.losses.groups_refused) == (18, 9)
