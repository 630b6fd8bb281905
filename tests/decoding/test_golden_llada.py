"""LLaDA's decoders against the official ones' outputs (fixtures/llada_tiny): 321 greedy decodes, forward for forward.

With the mask token allowed and the published counts, every case matches token for token, forward for forward, commit
for commit. By default the mask token is banned and no forward is spent on a block that is full: every case that then
differs is one where the mask token's probability changes a decision (the file says which), or where such forwards were.
"""

import dataclasses
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from lightningrl.config.decoding import DirectDecoding
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.decoding.proposals import OpenPositions, Proposals
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, NegEntropy
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.factor import Factor
from lightningrl.decoding.selectors.quota import Quota, step_quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.decoding.window_presets import WINDOWS
from lightningrl.inference.policy import direct_policy
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "llada_tiny"
CASES = json.loads((FOLDER / "golden_decode.json").read_text())
SCHEDULES = {"none": FullSequence, "prefix": PrefixCache, "dual": DualCache}
UNSAID = ("llada_eos-01", "llada_eos-02", "llada_eos-30")
"""Cases of which the file does not say it, but in which the mask token's probability flips a decision."""
LEAST_MARGIN = 3e-4
JUNE = ("fastdllm_v1_june2025", "dparallel")
"""Systems whose cached loops spend one more forward on a block that its first one finished."""


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


class Noting(Factor):
    """The published factor rule, which notes the cases in which the rule itself would have revealed less."""

    met: ClassVar = set()

    def __init__(self, factor, index):
        super().__init__(factor, compat=True)
        object.__setattr__(self, "index", index)

    def select(self, candidates):
        chosen = super().select(candidates)
        if not torch.equal(chosen, Factor(self.factor).select(candidates)):
            self.met.add(self.index)
        return chosen


def request_of(index, *, bans_mask, corrected):
    """The case as a request. corrected: without the published defects."""
    case = CASES[index]
    blocks = case["gen_length"] // case["block_length"]
    steps, least = case["steps"] // blocks, 1
    if not corrected:
        is_wasteful = case["system"] in JUNE and case["cache"] != "none"
        least = steps if case["system"] == "llada" else 1 + is_wasteful
    logits = {key: case[key] for key in ("logits_eos_inf", "confidence_eos_eot_inf", "eos_id", "eot_id") if key in case}
    ranking = Confidence()
    if case["system"] == "dparallel" and (case["threshold"] is not None or case["cache"] != "none"):
        ranking = NegEntropy()
    if case["factor"] is not None:
        selector = Factor(case["factor"]) if corrected else Noting(case["factor"], index)
    elif case["threshold"] is not None:
        is_entropy = case["system"] == "dparallel"
        selector = Entropy(case["threshold"]) if is_entropy else Threshold(case["threshold"], inclusive=True)
    else:
        selector = Quota(steps)
    policy = DecodePolicy(
        selector, ranking=ranking, stop=WholeCanvas(), schedule=SCHEDULES[case["cache"]](case["block_length"], least),
        logits=Logits(cfg_scale=case.get("cfg_scale") or 0.0, bans_mask=bans_mask, untempered=True, **logits),
    )  # fmt: skip
    return Request("t/test/0", 0, np.array(case["prompt"]), case["gen_length"], policy)


class Commits:
    """An observer that notes what every forward of each request revealed."""

    alternatives = 0

    def __init__(self):
        self.found = {}

    def observe(self, seen):
        for index, forward in {*zip(seen.index_n.tolist(), seen.forward_n.tolist(), strict=True)}:
            here = (seen.index_n == index) & (seen.forward_n == forward)
            commit = zip(seen.position_n[here & seen.chosen_n], seen.token_n[here & seen.chosen_n], strict=True)
            self.found[index, forward] = int(here.sum()), sorted([int(p), int(t)] for p, t in commit)


def decode(model, indices, patch, **rules):
    """Output and forwards of each case in the golden file's words, all of one block length in one run."""
    found, spans_of = {}, Scheduler._spans
    for size in sorted({CASES[index]["block_length"] for index in indices}):
        mine = [index for index in indices if CASES[index]["block_length"] == size]
        requests, commits, forwards = [request_of(i, **rules) for i in mine], Commits(), {}

        def noted(run, slots_B, forwards=forwards):
            spans = spans_of(run, slots_B)
            for slot, first, last in zip(slots_B.tolist(), spans[0].tolist(), spans[1].tolist(), strict=True):
                item = run.rows.item[slot]
                forwards.setdefault(item.index, []).append({"start": first, "q": last - first, "kv": item.canvas.end})
            return spans

        patch.setattr(Scheduler, "_spans", noted)
        decoder = BlockDecoder(model, ())
        trajectories = decoder.decode(requests, requests[0].policy, commits)
        for at, (index, got) in enumerate(zip(mine, trajectories, strict=True)):
            each = [
                forward | dict(zip(("masked", "commit"), commits.found.get((at, number), (0, [])), strict=True))
                for number, forward in enumerate(forwards[at], 1)
            ]
            found[index] = [*CASES[index]["prompt"], *got.token_ids.tolist()], each, got.stats, decoder.ledger
    return found


@pytest.fixture(scope="module")
def published(model):
    """What every case gives with all as published, and which of them meet the factor rule's off-by-one."""
    Noting.met.clear()
    with pytest.MonkeyPatch.context() as patch:
        found = decode(model, range(321), patch, bans_mask=False, corrected=False)
    return found, [index in Noting.met for index in range(321)]


def is_not_golden(index, output, forwards):
    return (output, forwards) != (CASES[index]["output"], CASES[index]["forwards"])


def test_every_golden_decode_matches_token_for_token_forward_for_forward_commit_for_commit(published):
    """All of one block length are one run, whatever their lengths, schedules, selectors and rules."""
    assert len(CASES) == 321 and min(case["min_margin"] for case in CASES) >= LEAST_MARGIN
    for index, (output, forwards, stats, _) in published[0].items():
        case = CASES[index]
        assert (case["id"], output) == (case["id"], case["output"])
        assert (case["id"], forwards) == (case["id"], case["forwards"])
        assert (case["id"], stats.denoise_forwards) == (case["id"], case["nfe"])
        assert stats.commit_forwards == stats.prefill_forwards == 0


def test_the_engine_computes_the_positions_and_keys_of_the_official_forwards(model, monkeypatch):
    """From the ledger, with each case alone: kinds, query positions, keys. A twin is not a forward of its own."""
    for index in range(0, 321, 23):
        case = CASES[index]
        _, _, _, ledger = decode(model, [index], monkeypatch, bans_mask=False, corrected=False)[index]
        parts = [part for forward in ledger.forwards for part in forward.parts]
        expected = [(f["q"], f["kv"], len(f["commit"])) for f in case["forwards"]]
        assert [(part.query_tokens, part.kv_tokens, part.revealed) for part in parts] == expected
        is_refresh = [case["cache"] != "none" and f["start"] == 0 for f in case["forwards"]]
        assert [part.kind for part in parts] == ["refresh" if full else "denoise" for full in is_refresh]


def test_with_our_defaults_every_case_that_differs_is_explained_by_the_banned_mask_or_by_a_corrected_defect(
    model, published, monkeypatch
):
    """A case is explained by one of the two if that alone makes it differ, and it must then bear the mark: the file
    says that the mask token flips a decision (it says nothing of the cases with options for the end token: `UNSAID`);
    forwards were spent on full blocks; or the factor rule revealed a position that fails its bound. A case without a
    mark must not differ."""
    found = decode(model, range(321), monkeypatch, bans_mask=True, corrected=True)
    differs = [i for i, (output, forwards, *_) in found.items() if is_not_golden(i, output, forwards)]
    reasons, corrects = {}, {"the mask token is banned": (True, False), "a defect is corrected": (False, True)}
    for reason, (bans_mask, corrected) in corrects.items():
        alone = decode(model, differs, monkeypatch, bans_mask=bans_mask, corrected=corrected)
        for index in differs:
            if is_not_golden(index, *alone[index][:2]):
                reasons.setdefault(index, set()).add(reason)
    assert sorted(reasons) == sorted(differs), "each alone leaves these as they are"
    for index, case in enumerate(CASES):
        wasted = sum(not forward["commit"] for forward in case["forwards"])
        is_marked = {
            "the mask token is banned": case.get("same_if_mask_banned") is False or case["id"] in UNSAID,
            "a defect is corrected": bool(wasted) or published[1][index],
        }
        marks = {reason for reason, marked in is_marked.items() if marked}
        assert (case["id"], reasons.get(index, set())) == (case["id"], marks)
        if wasted and reasons[index] == {"a defect is corrected"}:
            output, forwards, stats, _ = found[index]
            useful = [forward for forward in case["forwards"] if forward["commit"]]
            assert (output, forwards) == (case["output"], useful) and stats.denoise_forwards == case["nfe"] - wasted
    counts = Counter(reason for each in reasons.values() for reason in each)
    assert counts == {"the mask token is banned": 8, "a defect is corrected": 91}


@pytest.mark.parametrize("number", [0, 1])
def test_rows_of_unequal_prompts_together_give_what_the_official_left_padded_batch_gives(model, number):
    golden = json.loads((FOLDER / "golden_batch.json").read_text())[number]
    size = golden["block_length"]
    steps = golden["steps"] * size // golden["gen_length"]
    policy = DecodePolicy(Quota(steps), schedule=FullSequence(size), stop=WholeCanvas(), logits=Logits(bans_mask=False))
    requests = [Request(f"t/{i}", 0, np.array(p), golden["gen_length"]) for i, p in enumerate(golden["prompts"])]
    found = BlockDecoder(model, ()).decode(requests, policy)
    assert [got.token_ids.tolist() for got in found] == golden["output"]
    assert {got.stats.denoise_forwards for got in found} == {golden["nfe"]}


def test_selection_rules_on_single_rows_are_the_official_ones_at_exact_equality_too():
    units = json.loads((FOLDER / "selector_units.json").read_text())
    tried = Counter()
    for unit in units["selectors"]:
        confidence, entropy = (torch.tensor([unit[name]], dtype=torch.float64) for name in ("confidence", "entropy"))
        is_open, parameter = torch.ones_like(confidence, dtype=torch.bool), unit["parameter"]
        ranking, selector = {
            "factor": (Confidence(), partial(Factor, parameter, compat=True)),
            "threshold": (Confidence(), partial(Threshold, parameter, inclusive=True)),
            "entropy": (NegEntropy(), partial(Entropy, parameter)),
            "quota": (Confidence(), None),
        }[unit["rule"]]
        score = ranking.score(OpenPositions(is_open, confidence, entropy))
        proposals = Proposals(is_open, confidence, entropy, score, torch.tensor([0]))
        if unit["rule"] == "quota":
            chosen = proposals.best(torch.tensor([parameter]))
        else:
            chosen = selector().select(proposals)
        assert chosen[0].nonzero()[:, 0].tolist() == sorted(unit["chosen"]), unit
        tried[unit["rule"]] += 1
    assert sum(tried.values()) == 104 and len(tried) >= 3
    for table in (each for each in units["quotas"] if each["masks"]):
        steps = torch.arange(table["steps"])
        expected = [max(1, quota) for quota in table["quota"]]  # ours never ask for nothing: no mask is left then
        assert step_quota(table["masks"], table["steps"], steps).tolist() == expected


def preset_of(case, *, corrected):
    """The preset that a case is decoded by, or None: it has none, or options of its own."""
    if case.get("cfg_scale") or "eos_id" in case:
        return None
    name = {"llada": "llada", "dparallel": "dparallel_llada"}.get(case["system"], "fast_dllm_v1")
    if case["system"] == "dparallel":
        is_static, name = case["threshold"] is None, name + f"_{case['cache']}" * (case["cache"] != "none")
        return None if is_static else name
    if case["system"] == "llada":
        return name
    rule = "factor" if case["factor"] is not None else "threshold" if case["threshold"] is not None else "static"
    if not corrected and rule == "threshold" and case["system"] in JUNE and case["cache"] != "none":
        return f"{name}_{case['cache']}_june2025"
    name = f"{name}_{case['cache']}" + f"_{rule}" * (rule != "threshold")
    return name if name in PRESETS else None


def test_presets_are_the_decoders_of_the_golden_cases():
    """A preset with the case's parameter gives the case's policy as ours is by default, the block's size aside."""
    met = set()
    for index, case in enumerate(CASES):
        for corrected in (True, False):
            name = preset_of(case, corrected=corrected)
            if name is None or (not corrected and "june" not in name):
                continue
            mine = request_of(index, bans_mask=True, corrected=corrected).policy
            parameter = next(getattr(mine.selector, each) for each in mine.selector.__dataclass_fields__)
            theirs = direct_policy(DirectDecoding(preset=name, threshold=parameter))
            size = dataclasses.replace(mine.schedule, block_size=None)
            assert (case["id"], name, theirs) == (case["id"], name, dataclasses.replace(mine, schedule=size))
            met.add(name)
    assert met == {*fitting("full", False)} - {"llada_random"} - {*WINDOWS}
