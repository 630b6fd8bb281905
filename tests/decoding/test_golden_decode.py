"""The decoder against the official one's outputs (fixtures/sdar_tiny/golden_decode.json): 120 greedy decodes.

The official decoder has a quirk (fixtures/official_decoder.py): it can overwrite fixed tokens. Ours cannot, so it may
differ where that happened and nowhere else; `QUIRK` lists those cases. They all have a quota of 2
and a ranking by confidence; a single mask is left where the prompt leaves an odd number, or the threshold does.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.decodes import CACHES
from fixtures.official_decoder import official_decode

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, Position
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "sdar_tiny"
CASES = json.loads((FOLDER / "golden_decode.json").read_text())
QUIRK = [
    4, 5, 8, 9, 10, 11, 12, 13, 24, 25, 28, 29, 30, 31, 32, 33,
    84, 85, 88, 89, 90, 91, 92, 93, 104, 105, 108, 109, 110, 111, 112, 113,
]  # fmt: skip


class Masks:
    """An observer that notes how many positions each request had open in each of its denoise forwards."""

    alternatives = 0

    def __init__(self):
        self.counts = {}

    def observe(self, seen):
        for index, count in zip(*np.unique(seen.index_n, return_counts=True), strict=True):
            self.counts.setdefault(int(index), []).append(int(count))


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


def of_block_size(model, case):
    model.config = dataclasses.replace(model.config, block_size=case["block_size"])
    return model


def request_of(case, cache):
    steps, schedule = case["denoising_steps"], CACHES[cache]
    if case["strategy"] == "low_confidence_dynamic":
        policy = DecodePolicy(Threshold(case["threshold"], steps=steps), schedule=schedule)
    else:
        ranking = {"sequential": Position(), "low_confidence_static": Confidence()}[case["strategy"]]
        policy = DecodePolicy(Quota(steps), ranking=ranking, schedule=schedule)
    return Request("t/test/0", 0, np.array(case["prompt"]), case["gen_length"], policy)


def alone(model, case, cache):
    """Output, and forwards in the golden file's words, with our kinds."""
    decoder, masks, request = BlockDecoder(of_block_size(model, case), ()), Masks(), request_of(case, cache)
    got = decoder.decode([request], request.policy, masks)[0]
    forwards, masked = [], iter(masks.counts[0])
    for forward in decoder.ledger.forwards:
        (part,) = forward.parts
        denoises = part.kind in ("denoise", "fused")
        forwards.append({"kind": part.kind, "q": part.query_tokens, "masked": next(masked) if denoises else 0})
    return [*case["prompt"], *got.token_ids.tolist()], forwards


@pytest.fixture(scope="module")
def with_quirk(model):
    return [official_decode(of_block_size(model, case), case, quirk=True) for case in CASES]


@pytest.fixture(scope="module")
def without_quirk(model, with_quirk):
    """Where nothing was overwritten the switch has done nothing."""
    return [
        official_decode(of_block_size(model, case), case, quirk=False) if found.overwritten else found
        for case, found in zip(CASES, with_quirk, strict=True)
    ]


def test_the_naive_decoder_with_the_quirk_matches_all_120_decodes_token_for_token_and_forward_for_forward(with_quirk):
    assert len(CASES) == 120
    for index, (case, found) in enumerate(zip(CASES, with_quirk, strict=True)):
        assert (index, found.output, found.forwards) == (index, case["output"], case["forwards"])
    assert [index for index, found in enumerate(with_quirk) if found.overwritten] == QUIRK


@pytest.mark.parametrize("cache", CACHES)
def test_the_decoder_matches_all_decodes_but_those_proven_to_meet_the_quirk(cache, model, without_quirk):
    """And where the official decoder met the quirk, ours does what the official one would do without it. The forwards:
    a prefill if the prompt fills a block and is kept, the official denoise forwards, and, separate, a commit a block
    but the last, which nothing would read. All cases of a block size are one batch, with a policy each."""
    different = []
    for size in (4, 8):
        mine = [index for index, case in enumerate(CASES) if case["block_size"] == size]
        requests, masks = [request_of(CASES[index], cache) for index in mine], Masks()
        decoder = BlockDecoder(of_block_size(model, CASES[mine[0]]), ())
        found = decoder.decode(requests, requests[0].policy, masks)
        for at, (index, got) in enumerate(zip(mine, found, strict=True)):
            case, expected, stats = CASES[index], without_quirk[index], got.stats
            output, kinds = [*case["prompt"], *got.token_ids.tolist()], [f["kind"] for f in expected.forwards]
            different += [index] if output != case["output"] else []
            denoise = [f["masked"] for f in expected.forwards if f["kind"] == "denoise"]
            assert (index, output, masks.counts[at]) == (index, expected.output, denoise)
            prefills = len(case["prompt"]) >= size and cache != "recompute"
            commits = kinds.count("store") - (kinds[0] == "store") - 1 if cache == "separate" else 0
            counted = (stats.prefill_forwards, stats.denoise_forwards, stats.commit_forwards)
            assert (index, counted) == (index, (prefills, len(denoise), commits))
    assert sorted(different) == QUIRK, "the quirk changes tokens in every case that meets it"


def test_the_forwards_are_the_official_ones_one_by_one_but_the_last_blocks_commit(model, without_quirk):
    for case, expected in list(zip(CASES, without_quirk, strict=True))[::7]:
        output, forwards = alone(model, case, "separate")
        stores = [f | {"kind": "store"} if f["kind"] in ("prefill", "commit") else f for f in forwards]
        last = {"kind": "store", "q": case["block_size"], "masked": 0}
        assert (output, [*stores, last]) == (expected.output, expected.forwards)


def test_golden_cases_have_every_strategy_and_reveal_several_tokens_a_forward_somewhere():
    """Else the threshold would not have been tested, only the quota."""
    strategies = ("sequential", "low_confidence_static", "low_confidence_dynamic")
    shapes = itertools.product(strategies, ((4, 2), (4, 4), (8, 4), (8, 8)))
    assert {(c["strategy"], (c["block_size"], c["denoising_steps"])) for c in CASES} == set(shapes)
    dynamic = [c for c in CASES if c["strategy"] == strategies[2] and c["denoising_steps"] == c["block_size"]]
    tpf = [(len(c["output"]) - len(c["prompt"])) / sum(f["kind"] == "denoise" for f in c["forwards"]) for c in dynamic]
    assert len(dynamic) == 36 and sum(value > 1 for value in tpf) >= 10 and max(tpf) > 1.5
