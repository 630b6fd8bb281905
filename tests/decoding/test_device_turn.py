"""Whole turns on the device (decoding/device_turn.py), on the CPU: the kernels' twins run, and nothing is captured."""

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, RANKED, same
from fixtures.tiny import requests_of, tiny_model, twin

from lightningrl.config.decoding import FORWARDS as KEYS
from lightningrl.decoding import device_turn, engine
from lightningrl.decoding.device_turn import DeviceTurns, shapes
from lightningrl.decoding.engine import FORWARDS, BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.block import SeparateCommit
from lightningrl.decoding.selectors.cumulative_entropy import CumulativeEntropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.scripted import Scripted
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock
from lightningrl.errors import DecodeError
from lightningrl.models import static_forward

STOPS = (7,)
LENGTHS = [1, 4, 6, 8, 11, 3, 17]
SELECTORS = [Threshold(0.25), Threshold(0.3, True, 3), Quota(3), Scripted(2.5)]


@pytest.fixture
def turns(monkeypatch):
    """The rows of each turn on the device."""
    ran, run = [], DeviceTurns.run

    def noted(self, rows, slots_B, *others):
        ran.append(len(slots_B))
        return run(self, rows, slots_B, *others)

    monkeypatch.setattr(DeviceTurns, "run", noted)
    return ran


def both(model, requests, policy, spare_bytes=0, memory_bytes=None, **options):
    """The trajectories of plain forwards and of turns are the same, and so are the forwards; returns the kinds."""
    plain = BlockDecoder(model, STOPS, memory_bytes=memory_bytes, **options)
    memory_bytes = None if memory_bytes is None else memory_bytes + spare_bytes
    device = BlockDecoder(model, STOPS, memory_bytes=memory_bytes, forwards="turns", **options)
    same(device.decode(requests, policy), plain.decode(requests, policy))
    assert [forward.parts for forward in device.ledger.forwards] == [f.parts for f in plain.ledger.forwards]
    assert device.ledger.preemptions == plain.ledger.preemptions
    return [{part.kind for part in forward.parts} for forward in device.ledger.forwards]


@pytest.mark.parametrize("cache", ["fused", "separate"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_turns_decode_the_same_tokens_in_the_same_forwards(cache, temperature, selector, turns):
    model, requests = tiny_model(2, torch.float64), requests_of(LENGTHS, 21)
    kinds = both(model, requests, DecodePolicy(selector, temperature, schedule=CACHES[cache]), rows=3)
    assert len(turns) == sum("prefill" not in each for each in kinds) >= 3


@pytest.mark.parametrize("ranking", RANKED)
def test_every_ranking_and_mixtures_of_policies_in_one_turn(ranking, turns):
    """Rows of one forward have their own thresholds, temperatures and stop rules."""
    policies = [
        DecodePolicy(Threshold(tau, steps=steps), temperature, ranking=RANKED[ranking], stop=stop, seed=3)
        for tau, steps, temperature, stop in (
            (0.2, None, 0.0, InsideBlock()), (-1.2, 2, 0.7, InsideBlock()), (0.9, 3, 2.0, FinishBlock()),
        )
    ]  # fmt: skip
    plain = requests_of(LENGTHS, 21)
    requests = [Request(r.uid, r.sample, r.prompt_ids, 21, policies[i % 3]) for i, r in enumerate(plain)]
    both(tiny_model(5, torch.float64), requests, policies[0], rows=4)
    assert max(turns) > 1


def test_rows_that_give_their_pages_up_and_come_back(turns):
    """What the device knows of a row is sent anew when another path has worked on it, or another row has its slot."""
    model, requests = tiny_model(4, torch.float64), requests_of([5, 9, 2, 13, 7], 30)
    page = BlockDecoder(model, (), page_tokens=4).page_bytes
    policy, preempted = DecodePolicy(Threshold(0.3), 1.0), []
    for pages in (11, 16):
        kinds = both(model, requests, policy, page, pages * page, rows=4, page_tokens=4)
        preempted.append(any("recompute" in each for each in kinds))
    assert turns and any(preempted)


@pytest.mark.parametrize(
    "policy",
    [
        DecodePolicy(Factor(1.0)), DecodePolicy(CumulativeEntropy(3.0)), DecodePolicy(Threshold(0.3), 1.0, top_k=3),
        DecodePolicy(Threshold(0.3), 1.0, top_p=0.9),
    ],
    ids=["factor", "entropy", "top_k", "top_p"],
)  # fmt: skip
def test_what_no_turn_can_do_takes_the_other_path(policy, turns):
    both(tiny_model(2, torch.float64), requests_of(LENGTHS, 21), policy, rows=3)
    assert not turns


def test_an_observed_decode_takes_the_other_path(turns):
    class Observer:
        alternatives, seen = 2, 0

        def observe(self, seen):
            self.seen += 1

    observer = Observer()
    decoder = BlockDecoder(tiny_model(2, torch.float64), (), forwards="turns")
    decoder.decode(requests_of([5], 9), DecodePolicy(Threshold(0.3)), observer)
    assert observer.seen and not turns


def test_weights_that_were_changed_or_replaced_are_those_that_the_next_stream_decodes_with():
    """In place, as `publish` does it, and by other tensors, as `assign` does."""
    model, requests, policy = tiny_model(2, torch.float64), requests_of([5, 9], 12), DecodePolicy(Threshold(0.3))
    decoder = BlockDecoder(model, STOPS, forwards="turns")
    before = decoder.decode(requests, policy)
    for seed, assign in ((7, False), (8, True)):
        other = tiny_model(seed, torch.float64)
        model.load_weights(other.weights(), assign=assign)
        expected = BlockDecoder(twin(other), STOPS).decode(requests, policy)
        same(decoder.decode(requests, policy), expected)
        assert expected[0].token_ids.tolist() != before[0].token_ids.tolist()
    model.usable_vocab = 11
    found = decoder.decode(requests, policy)
    same(found, BlockDecoder(model, STOPS).decode(requests, policy))
    assert max(one.token_ids.max() for one in found) < 11


def test_rows_of_another_stream_are_not_taken_for_the_last_ones():
    """Admissions are counted anew, so that a row may have an old one's number and as many forwards."""
    model, policy = tiny_model(2, torch.float64), DecodePolicy(Threshold(0.3))
    decoder, requests = BlockDecoder(model, STOPS, forwards="turns"), requests_of([3, 9], 12, seed=1)
    decoder.decode(requests_of([3, 9], 12), policy)
    decoder.pool.turns._known = {0: (1, 0), 1: (2, 0)}
    same(decoder.decode(requests, policy), BlockDecoder(model, STOPS).decode(requests, policy))


@pytest.fixture
def captures(monkeypatch):
    """Graphs are captured into a list, with what memory pool; replaying one runs the code."""
    made = []

    def captured(run, pool):
        made.append(pool)
        return run

    monkeypatch.setattr(device_turn, "captured", captured)
    monkeypatch.setattr(static_forward, "captured", captured)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    return made


def graphs_of(model, **options):
    """A decoder of graphs, of which nothing but the capturing asks for a GPU."""
    decoder = BlockDecoder(model, STOPS, forwards="turns", **options)
    decoder.forwards = "graphs"
    return decoder


def test_graphs_of_all_sizes_are_captured_at_the_start_in_one_memory_pool_and_none_later(captures, monkeypatch):
    model, requests, policy = tiny_model(2, torch.float64), requests_of(LENGTHS, 21), DecodePolicy(Threshold(0.3), 1.0)
    decoder, turn, at_start = graphs_of(model, rows=3), engine.Scheduler._turn, []

    def noted(scheduler):
        at_start.append(len(captures))
        return turn(scheduler)

    monkeypatch.setattr(engine.Scheduler, "_turn", noted)
    found = decoder.decode(requests, policy)
    assert set(at_start) == {len(captures)} == {len(shapes(3))} and len(set(map(id, captures))) == 1
    assert decoder.pool.turns._replays.keys() == shapes(3)
    same(found, BlockDecoder(model, STOPS, rows=3).decode(requests, policy))
    decoder.decode(requests[:2], policy)
    assert len(captures) == len(shapes(3)), "kept for later streams"


def test_hidden_states_alone_are_captured_where_something_asked_needs_the_other_path(captures):
    model, requests, policy = tiny_model(2, torch.float64), requests_of(LENGTHS, 21), DecodePolicy(Factor(1.0))
    decoder = graphs_of(model, rows=3)
    found = decoder.decode(requests, policy)
    assert decoder.pool.static._captured == {1, 2, 4, 8} and len(captures) == 4
    same(found, BlockDecoder(model, STOPS, rows=3).decode(requests, policy))


def test_a_turns_blocks_are_those_of_its_rows_whatever_their_number(captures):
    """33 rows, separate commits: sizes that are filled up, quarters of pending blocks among them."""
    model, requests = tiny_model(2, torch.float64, num_hidden_layers=1), requests_of([4 + i % 9 for i in range(33)], 9)
    policy = DecodePolicy(Threshold(0.3), schedule=SeparateCommit())
    same(
        graphs_of(model, rows=33).decode(requests, policy), BlockDecoder(model, STOPS, rows=33).decode(requests, policy)
    )


def test_a_name_means_the_same_in_the_config():
    assert KEYS == FORWARDS


def test_what_needs_a_gpu_is_refused_without_one_with_what_to_take_instead():
    with pytest.raises(
        DecodeError, match="forwards is 'graphs', which are CUDA's, and the model is on cpu: take 'spans'"
    ):
        BlockDecoder(tiny_model(), (), forwards="graphs")
    with pytest.raises(DecodeError, match="take bfloat16 or float16, and the weights are float32"):
        BlockDecoder(tiny_model(), (), forwards="segments")


def test_float32_agrees_but_for_near_ties():
    model, requests = tiny_model(2), requests_of([1, 4, 6, 8, 11, 3, 17], 21)
    for temperature in (0.0, 1.0):
        policy = DecodePolicy(Threshold(0.25), temperature)
        plain, device = (
            BlockDecoder(model, STOPS, forwards=each).decode(requests, policy) for each in ("spans", "turns")
        )
        for one, other in zip(plain, device, strict=True):
            np.testing.assert_array_equal(one.token_ids, other.token_ids)
            np.testing.assert_allclose(one.behaviour_logp, other.behaviour_logp, atol=1e-5)
            np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-5)
