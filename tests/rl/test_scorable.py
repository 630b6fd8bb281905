"""Trajectories without an exact likelihood are refused before anything is decoded."""

from dataclasses import dataclass, replace

import pytest
from fixtures.tiny import make_trainer, tiny_config, tiny_setup

from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import ConfigError
from lightningrl.rl.likelihood import check_scorable


@dataclass(frozen=True)
class Stale(FusedCommit):
    is_exact = False


def with_schedule(schedule):
    return DecodePolicy(Threshold(0.9), schedule=schedule)


@pytest.mark.parametrize("schedule", [FusedCommit(), SeparateCommit(), Recompute()])
def test_the_block_schedules_are_scored(schedule):
    check_scorable(tiny_config(), [with_schedule(schedule)], accepts_inexact_caches=False)


def test_stale_caches_are_refused_unless_they_are_accepted():
    policies = [with_schedule(FusedCommit()), with_schedule(Stale())]
    with pytest.raises(ConfigError, match=r"stale keys and values.*accept_inexact_caches"):
        check_scorable(tiny_config(), policies, accepts_inexact_caches=False)
    check_scorable(tiny_config(), policies, accepts_inexact_caches=True)


@pytest.mark.parametrize("accepts", [False, True])
def test_a_canvas_or_another_attention_is_refused_in_any_case(accepts):
    with pytest.raises(ConfigError, match="block by block"):
        check_scorable(tiny_config(), [with_schedule(FullSequence(4))], accepts)
    with pytest.raises(ConfigError, match="with full attention"):
        check_scorable(tiny_config(attention="full"), [with_schedule(FusedCommit())], accepts)


def test_a_trainer_asks_before_its_first_step(tmp_path):
    setup = tiny_setup(tmp_path)
    with pytest.raises(ConfigError, match="block by block"):
        make_trainer(replace(setup, policy=replace(setup.policy, schedule=FullSequence(4))))
