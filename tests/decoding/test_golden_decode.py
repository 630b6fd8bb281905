"""The decoder against the official one's outputs (fixtures/sdar_tiny/golden_decode.json): 120 greedy decodes.

The official decoder has a quirk (fixtures/official_decoder.py): it can overwrite fixed tokens. Ours cannot, so it may
differ where that happened and nowhere else; `QUIRK` lists those cases. They all have a quota of 2
and a ranking by confidence; a single mask is left where the prompt leaves an odd number, or the threshold does.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.official_decoder import official_decode

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, Position
from lightningrl.decoding.schedules.block import FusedCommit, Recompute, SeparateCommit
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
        for index in np.unique(seen.index_n).tolist():
            self.counts.setdefault(index, []).append(int((seen.index_n == index).sum()))


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


def of_block_size(model, case):
    model.config = dataclasses.replace(model.config, block_size=case["block_size"])
    return model


def policy_of(case, cache):
    steps = case["denoising_steps"]
    if case["strategy"] == "low_confidence_dynamic":
        return DecodePolicy(Threshold(case["threshold"], steps=steps), schedule=cache)
    ranking = {"sequential": Position(), "low_confidence_static": Confidence()}[case["strategy"]]
    return DecodePolicy(Quota(steps), ranking=ranking, schedule=cache)


def request_of(case, cache):
    return Request("t/test/0", 0, np.array(case["prompt"]), case["gen_length"], policy_of(case, cache))


def alone(model, case, cache):
    """Output, and forwards in the golden file's words, with our kinds."""
    decoder, masks = BlockDecoder(of_block_size(model, case), ()), Masks()
    request = request_of(case, cache)
    got = decoder.decode([request], request.policy, masks)[0]
    forwards, masked = [], iter(masks.counts[0])
    for forward in decoder.ledger.forwards:
        (part,) = forward.parts
        denoises = part.kind in ("denoise", "fused")
        forwards.append({"kind": part.kind, "q": part.query_tokens, "masked": next(masked) if denoises else 0})
    return [*case["prompt"], *got.token_ids.tolist()], forwards, got.stats


def together(model, cache):
    """(index, output, masks of each denoise forward, stats) of all cases: a batch a block size, a policy a request."""
    for size in (4, 8):
        mine = [index for index, case in enumerate(CASES) if case["block_size"] == size]
        requests, masks = [request_of(CASES[index], cache) for index in mine], Masks()
        decoder = BlockDecoder(of_block_size(model, CASES[mine[0]]), ())
        for at, got in enumerate(decoder.decode(requests, requests[0].policy, masks)):
            yield mine[at], [*CASES[mine[at]]["prompt"], *got.token_ids.tolist()], masks.counts[at], got.stats


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
        assert (index, found.output) == (index, case["output"])
        assert (index, found.forwards) == (index, case["forwards"])
    assert [index for index, found in enumerate(with_quirk) if found.overwritten] == QUIRK


def test_the_decoder_matches_all_decodes_but_those_proven_to_meet_the_quirk(model, without_quirk):
    """Token for token and forward for forward, but the last block's commit: nothing would read it.

    And where the official decoder met the quirk, ours does what the official one would do without it.
    """
    different = []
    for index, case in enumerate(CASES):
        output, forwards, stats = alone(model, case, SeparateCommit())
        as_official = [f | {"kind": "store"} if f["kind"] in ("prefill", "commit") else f for f in forwards]
        as_official.append({"kind": "store", "q": case["block_size"], "masked": 0})
        if (output, as_official) != (case["output"], case["forwards"]):
            different.append(index)
        expected = without_quirk[index]
        assert (index, output) == (index, expected.output)
        assert (index, as_official) == (index, expected.forwards)
        kinds = [f["kind"] for f in forwards]
        assert [kinds.count(kind) for kind in ("prefill", "denoise", "commit")] == [
            stats.prefill_forwards, stats.denoise_forwards, stats.commit_forwards,
        ]  # fmt: skip
    assert different == QUIRK, "the quirk changes tokens in every case that meets it"


def fused_forwards(case, official):
    """What the official decoder's forwards become when a block is committed by the next one's first denoise forward."""
    size, forwards, previous = case["block_size"], [], None
    for forward in official:
        if forward["kind"] == "denoise":
            decoded = any(f["kind"] != "prefill" for f in forwards)
            fused = {"kind": "fused", "q": 2 * size, "masked": forward["masked"]}
            forwards.append(fused if previous == "store" and decoded else forward)
        elif previous is None:
            forwards.append(forward | {"kind": "prefill"})
        previous = forward["kind"]
    return forwards


def test_fused_commit_gives_the_same_tokens_in_prefill_and_denoise_forwards_alone(model, without_quirk):
    """Of a case: 1 prefill if the prompt fills a block, the denoise forwards of the official decoder, no commit."""
    for index, output, masked, stats in together(model, FusedCommit()):
        case, expected = CASES[index], without_quirk[index]
        denoise = [f["masked"] for f in expected.forwards if f["kind"] == "denoise"]
        assert (index, output, masked) == (index, expected.output, denoise)
        assert (stats.denoise_forwards, stats.commit_forwards) == (len(denoise), 0)
        assert stats.prefill_forwards == (len(case["prompt"]) >= case["block_size"])
        assert stats.tpf_true == stats.tpf
    for index in range(0, 120, 7):
        output, forwards, _ = alone(model, CASES[index], FusedCommit())
        expected = fused_forwards(CASES[index], without_quirk[index].forwards)
        assert (index, output, forwards) == (index, without_quirk[index].output, expected)


def test_recomputing_everything_gives_the_same_tokens_in_denoise_forwards_alone(model, without_quirk):
    for index, output, masked, stats in together(model, Recompute()):
        denoise = [f["masked"] for f in without_quirk[index].forwards if f["kind"] == "denoise"]
        assert (index, output, masked) == (index, without_quirk[index].output, denoise)
        assert (stats.prefill_forwards, stats.commit_forwards) == (0, 0)


def test_golden_cases_have_every_strategy_and_reveal_several_tokens_a_forward_somewhere():
    """Else the threshold would not have been tested, only the quota."""
    assert {(c["strategy"], c["block_size"], c["denoising_steps"]) for c in CASES} == {
        (s, b, n)
        for s in ("sequential", "low_confidence_static", "low_confidence_dynamic")
        for b, n in ((4, 2), (4, 4), (8, 4), (8, 8))
    }
    dynamic = [
        c for c in CASES if c["strategy"] == "low_confidence_dynamic" and c["denoising_steps"] == c["block_size"]
    ]
    tpf = [(len(c["output"]) - len(c["prompt"])) / sum(f["kind"] == "denoise" for f in c["forwards"]) for c in dynamic]
    assert len(dynamic) == 36 and sum(value > 1 for value in tpf) >= 10 and max(tpf) > 1.5
