"""D2F and d3LLM against the official code's outputs on Dream (fixtures/d2f_tiny, d3llm_tiny): 390 greedy decodes.

With the mask token allowed and the published defects, every case matches token for token, forward for forward, commit
for commit; what an early stop of d3LLM fills, the file notes as commits of the forward before, and the cases in which
it did are listed. By default the mask token is banned and the defects are fixed; every case that then differs does so
because of one of the two.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, NegEntropy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.schedules.multi_block import BlockPipeline, MultiBlock
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.skip_threshold import SkipThreshold
from lightningrl.decoding.stops import FinishBlock, InsideBlock, WholeCanvas
from lightningrl.decoding.window_rows import WindowRows
from lightningrl.models.checkpoint import load_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = {name: json.loads((FIXTURES / name / "golden_decode.json").read_text()) for name in ("d2f_tiny", "d3llm_tiny")}
FILLED = [
    230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240, 241, 242, 244, 245, 246, 248, 249, 250, 251, 253, 254, 255,
    256, 257, 258, 259, 261, 262, 265,
]  # fmt: skip
"""The cases of d3LLM in whose file positions behind the stop token stand that no forward revealed there."""


@pytest.fixture(scope="module")
def model():
    return load_model(FIXTURES / "dream_tiny", dtype=torch.float64)


def request_of(name, index, *, bans_mask, corrected):
    """The case as a request. corrected: without the published defects."""
    case = CASES[name][index]
    shares = case["block_size"], case["block_add_threshold"], case["decoded_token_threshold"]
    if name == "d2f_tiny":
        ranking = NegEntropy() if case.get("sampling_strategy") == "neg_entropy" else Confidence()
        schedule, logits = BlockPipeline(*shares, drops_rest=not corrected), Logits(bans_mask=bans_mask)
        policy = DecodePolicy(
            SkipThreshold(case["skip_threshold"]), ranking=ranking, schedule=schedule, stop=FinishBlock(), logits=logits
        )
    else:
        every = case.get("refresh_interval") or 0
        schedule = MultiBlock(*shares, case.get("cache_delay_iter"), every if every < 10000 else 0, not corrected)
        policy = DecodePolicy(
            Entropy(case["threshold"], strict=True), ranking=NegEntropy(), schedule=schedule,
            stop=InsideBlock() if case["early_stop"] else WholeCanvas(),
            logits=Logits(bans_mask=bans_mask, untempered=True),
        )  # fmt: skip
    return Request("t/test/0", 0, np.array(case["prompt"]), case["max_new_tokens"], policy)


class Noting:
    """An observer of what every forward of each request revealed, which also notes what the engine planned."""

    alternatives = 0

    def __init__(self):
        self.commits, self.forwards, self.fills = {}, {}, {}

    def observe(self, seen):
        for index, forward, position, token in zip(
            seen.index_n[seen.chosen_n].tolist(), seen.forward_n[seen.chosen_n].tolist(),
            seen.position_n[seen.chosen_n].tolist(), seen.token_n[seen.chosen_n].tolist(), strict=True,
        ):  # fmt: skip
            self.commits.setdefault((index, forward), []).append([position, token])

    def spans(self, run, schedule, slots_B, spans_of=WindowRows.spans):
        at = run.progress(slots_B)
        first_B, last_B, denoises_B, refreshes_B = spans = spans_of(run, schedule, slots_B)
        full_BJ = at.share_before_BJ(run.rows.size) >= schedule.decoded_token_threshold
        for i, slot in enumerate(slots_B.tolist()):
            assert denoises_B[i]
            count, rows = int(at.open_B[i] - at.first_B[i]) // run.rows.size, run.rows
            stored, twice = run.planned[slot][0], max(int(rows.left[slot] - at.stored_B[i]), int(rows.twice[slot]))
            self.forwards.setdefault(rows.item[slot].index, []).append({
                "start": int(first_B[i]), "q": int(last_B[i] - first_B[i]), "cached": int(at.stored_B[i]),
                "store": stored - int(at.stored_B[i]), "refreshes": bool(refreshes_B[i]),
                "entries": int(at.stored_B[i]) + twice if first_B[i] else 0,
                "full": full_BJ[i, :count].tolist(), "masks": at.masks_BJ[i, :count].tolist(),
            })  # fmt: skip
        return spans

    def fill(self, run, schedule, slot, fill_of=WindowRows._fill):
        self.fills[run.rows.item[slot].index] = int(run.rows.denoise_forwards[slot])
        return fill_of(run, schedule, slot)


def decode(model, name, indices, **rules):
    """Trajectory, planned forwards, commits and the forward after which it was last filled, of each case. Cases with
    one end token are one run, whatever their lengths, block sizes and schedules."""
    found = {}
    for eos in sorted({CASES[name][index]["eos_token_id"] for index in indices}):
        mine = [index for index in indices if CASES[name][index]["eos_token_id"] == eos]
        requests, noting = [request_of(name, index, **rules) for index in mine], Noting()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WindowRows, "spans", lambda *given, noting=noting: noting.spans(*given))
            patch.setattr(WindowRows, "_fill", lambda *given, noting=noting: noting.fill(*given))
            decoded = BlockDecoder(model, [eos], rows=64).decode(requests, requests[0].policy, noting)
        for at, (index, got) in enumerate(zip(mine, decoded, strict=True)):
            steps = range(1, got.stats.denoise_forwards + 1)
            commits = [sorted(noting.commits.get((at, step), [])) for step in steps]
            found[index] = got, noting.forwards[at], commits, noting.fills.get(at)
    return found


def output_of(name, case, got):
    """What the official code returns: D2F cuts at the first end token."""
    ids, eos = case["output"][len(case["prompt"]) :], case["eos_token_id"]
    if name == "d2f_tiny" and eos in ids:
        return ids[: ids.index(eos) + 1], got.response_ids.tolist()
    return ids, got.token_ids.tolist()


@pytest.fixture(scope="module")
def published(model):
    return {name: decode(model, name, range(len(cases)), bans_mask=False, corrected=False)
            for name, cases in CASES.items()}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_golden_decode_matches_token_for_token_and_forward_for_forward(published, name):
    assert len(CASES[name]) == {"d2f_tiny": 124, "d3llm_tiny": 266}[name]
    for index, (got, forwards, _, filled) in published[name].items():
        case = CASES[name][index]
        expected, output = output_of(name, case, got)
        assert (index, output) == (index, expected)
        assert (index, got.stats.denoise_forwards, len(forwards)) == (index, case["nfe"], case["nfe"])
        assert got.stats.commit_forwards == got.stats.prefill_forwards == 0
        assert got.exact_cache == (case.get("cache_delay_iter") is None)
        for mine, theirs in zip(forwards, case["forwards"], strict=True):
            same = [key for key in ("start", "q", "cached", "store") if key in theirs]
            assert [mine[key] for key in same] == [theirs[key] for key in same]
            if name == "d3llm_tiny" and "cached" in theirs:
                kind = "refresh" if mine["refreshes"] else "cached" if mine["start"] or mine["store"] else "full"
                assert (kind, mine["entries"]) == (theirs["kind"], theirs["cache_entries"])
            if not case.get("early_stop"):  # which counts blocks that it has emptied as full
                column = 2 if name == "d2f_tiny" else 1
                blocks = theirs["blocks"][1:]  # without the prompt
                assert mine["full"] == [block[column] for block in blocks]
                assert mine["masks"] == [block[column + 1] for block in blocks]
        if name == "d3llm_tiny":  # it counts the round in which it finds that nothing is left
            assert case["reported_nfe"] == case["nfe"] + (filled == case["nfe"])


def test_every_golden_commit_matches_but_what_an_early_stop_has_filled(published):
    """Positions behind the first stop token that no forward revealed are fills: they hold that token."""
    filled = []
    for name, cases in CASES.items():
        for index, (got, _, commits, _) in published[name].items():
            case, eos, is_stopped = cases[index], cases[index]["eos_token_id"], False
            known = {}
            for mine, forward in zip(commits, case["forwards"], strict=True):
                if mine == forward["commit"]:
                    known |= dict(mine)
                    continue
                is_stopped = True
                known |= dict(mine)
                stop = min(position for position, token in known.items() if token == eos)
                assert [each for each in mine if each[0] <= stop] == [e for e in forward["commit"] if e[0] <= stop]
                assert {token for position, token in forward["commit"] if position > stop} <= {eos}
                known |= dict(forward["commit"])
            if is_stopped:
                assert case["early_stop"] and got.stop == "eos"
                filled.append(index)
    assert sorted(filled) == FILLED


def test_the_reference_decodes_the_golden_cases_like_the_engine(model, published):
    """Every seventeenth, of which some stop early."""
    for name, cases in CASES.items():
        for index in range(0, len(cases), 17):
            request = request_of(name, index, bans_mask=False, corrected=False)
            found, got = (
                decode_one(model, request, request.policy, [cases[index]["eos_token_id"]]),
                published[name][index][0],
            )
            assert (found.token_ids.tolist(), found.stats) == (got.token_ids.tolist(), got.stats)
            assert found.reveal_step.tolist() == got.reveal_step.tolist()


@pytest.mark.parametrize(("name", "banned", "corrected"), [("d2f_tiny", 0, 24), ("d3llm_tiny", 2, 93)])
def test_with_our_defaults_every_case_that_differs_is_explained_by_the_banned_mask_or_by_a_mended_defect(
    model, published, name, banned, corrected
):
    """One of the two alone makes it differ from what was published."""

    def differing(indices, **rules):
        found = decode(model, name, indices, **rules)
        return [i for i in indices if not is_same(found[i], published[name][i])]

    def is_same(one, other):
        return one[0].token_ids.tolist() == other[0].token_ids.tolist() and one[2] == other[2]

    differs = differing(range(len(CASES[name])), bans_mask=True, corrected=True)
    by_mask = differing(differs, bans_mask=True, corrected=False)
    by_defect = differing(differs, bans_mask=False, corrected=True)
    assert sorted({*by_mask, *by_defect}) == differs
    for index in by_defect:
        case = CASES[name][index]
        has_rest = name == "d2f_tiny" and case["max_new_tokens"] % case["block_size"]
        assert has_rest or case.get("cache_delay_iter") is not None or case["early_stop"]
    assert (len(by_mask), len(by_defect)) == (banned, corrected)
