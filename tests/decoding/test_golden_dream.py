"""Golden decodes of the official code on Dream: vanilla, Fast-dLLM v1, dParallel.

A case matches when its tokens, its forwards (query positions and the masks among them) and the positions and tokens
revealed by each of them are the official ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.golden import forwards_of

from lightningrl.decoding.logits import Logits
from lightningrl.decoding.presets import PRESETS, fitting
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, Margin, NegEntropy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache, WholeSequence
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.quota_threshold import QuotaThreshold
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.selectors.timestep import Timestep
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.decoding.window_presets import WINDOWS
from lightningrl.inference.policy import policy_of as policy_named
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "dream_tiny"
CASES = json.loads((FOLDER / "golden_decode.json").read_text())
RANKINGS = {"entropy": NegEntropy(), "maskgit_plus": Confidence(), "topk_margin": Margin()}
CACHES = {"fast_dllm_prefix": PrefixCache, "fast_dllm_dual": DualCache}
GIVEN_UP = {103, 104, 149, 150, 173, 174}
"""One step a block: the published loop leaves all but the first position of each block masked."""
WASTED = {175}
"""Blocks of one position: the published loop runs one more forward on a block that its first one finished."""


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


def rows_of(case):
    """The prompts of a case without their left padding, and how much each had."""
    if not isinstance(case["prompt"][0], list):
        return [(case["prompt"], 0)]
    pads = [row.count(0) for row in case["attention_mask"]] if "attention_mask" in case else [0] * len(case["prompt"])
    return [(row[pad:], pad) for row, pad in zip(case["prompt"], pads, strict=True)]


def policy_of(case, *, bans_mask, compat):
    """compat: with the published defects."""
    steps, logits = case["steps"], Logits(bans_mask=bans_mask, filtered_greedy=True)
    top = {"top_k": case.get("top_k", 0), "top_p": case.get("top_p", 1.0), "stop": WholeCanvas(), "logits": logits}
    if case["system"] == "dream":
        selector = Timestep(steps, case.get("eps", 1e-3))
        return DecodePolicy(selector, schedule=WholeSequence(), ranking=RANKINGS[case["alg"]], **top)
    if case["system"] == "fast_dllm_nocache":
        return DecodePolicy(QuotaThreshold(case["threshold"], steps), schedule=WholeSequence(), **top)
    size = case["block_length"]
    if case["system"] == "dparallel":
        selector = Entropy(case["threshold"], strict=True)
        return DecodePolicy(selector, schedule=FullSequence(size), ranking=NegEntropy(), **top)
    options = {"opens_first": True, "least_forwards": 1 + compat}
    if case["alg"] == "confidence_threshold":
        selector, ranking = Threshold(case["threshold"], inclusive=True), Confidence()
    else:
        steps = steps * size // case["max_new_tokens"]
        selector, ranking = Timestep(steps, opening=True, compat=compat), NegEntropy()
        options["most_forwards"] = max(2, steps) if compat else None
    return DecodePolicy(selector, schedule=CACHES[case["system"]](size, **options), ranking=ranking, **top)


def requests_of(index, **rules):
    case = CASES[index]
    policy = policy_of(case, **rules)
    return [
        Request(f"t/test/{index}", row, np.array(prompt), case["max_new_tokens"], policy, infills=True)
        for row, (prompt, _) in enumerate(rows_of(case))
    ]


def decode(model, indices, patch, **rules):
    """Of each case its rows in the golden file's words: output, forwards, number of forwards."""
    asked = [(index, request) for index in indices for request in requests_of(index, **rules)]
    found = forwards_of(model, [request for _, request in asked], patch)
    cases = {index: [] for index in indices}
    for (index, request), (got, forwards) in zip(asked, found, strict=True):
        each = []
        canvas = [*request.prompt_ids.tolist(), *[model.config.mask_token_id] * request.max_new_tokens]
        for forward in forwards:
            seen = canvas[forward["first"] : forward["last"]]
            masked = seen.count(model.config.mask_token_id)
            each.append({"q": len(seen), "masked": masked, "commit": forward["commit"]})
            for position, token in forward["commit"]:
                canvas[position] = token
        assert canvas == [*got.prompt_ids.tolist(), *got.token_ids.tolist()]
        cases[index].append((canvas, each, got))
    return cases


def golden_of(index):
    """The same of the official run, row by row and without left padding."""
    case, rows = CASES[index], rows_of(CASES[index])
    is_batch = isinstance(case["prompt"][0], list)
    for row, (_, pad) in enumerate(rows):
        forwards = []
        for forward in case["forwards"]:
            commit = forward["commit"][row] if is_batch else forward["commit"]
            masked = forward["masked"] if len(rows) == 1 else None
            commit = [[position - pad, token] for position, token in commit]
            forwards.append({"q": forward["q"] - pad, "masked": masked, "commit": commit})
        output = case["output"][row] if is_batch else case["output"]
        yield output[pad:], forwards


def official_of(index):
    """The forwards of a case of one row."""
    [(_, forwards)] = golden_of(index)
    return forwards


def is_golden(index, rows):
    for (output, forwards, _), (official, expected) in zip(rows, golden_of(index), strict=True):
        known = [e if e["masked"] is not None else e | {"masked": f["masked"]} for e, f in zip(expected, forwards)]  # noqa: B905
        if (output, forwards) != (official, known) or len(forwards) != len(expected):
            return False
    return True


@pytest.fixture(scope="module")
def published(model):
    with pytest.MonkeyPatch.context() as patch:
        return decode(model, range(len(CASES)), patch, bans_mask=False, compat=True)


def test_every_golden_decode_matches_token_for_token_forward_for_forward_commit_for_commit(published):
    assert len(CASES) == 216
    for index, rows in published.items():
        for (output, forwards, got), (official, expected) in zip(rows, golden_of(index), strict=True):
            assert (index, output) == (index, official)
            assert (index, len(forwards)) == (index, CASES[index]["nfe"])
            for forward, each in zip(forwards, expected, strict=True):
                each["masked"] = forward["masked"] if each["masked"] is None else each["masked"]
                assert (index, forward) == (index, each)
            assert got.stats.denoise_forwards == CASES[index]["nfe"]
            assert got.stats.commit_forwards == got.stats.prefill_forwards == 0
        assert is_golden(index, rows)


def test_with_our_defaults_every_case_that_differs_is_explained_by_the_banned_mask_or_by_a_corrected_defect(
    model, published, monkeypatch
):
    """Each of the two is applied alone to every case that differs with both: a case that either alone leaves as it is
    would be unexplained. The corrected ones are those with the marks: a block given up with masks in it, a forward on
    a block that is full. The mask's are those in which its probability, taken from a confidence, decides something."""
    ours = decode(model, range(len(CASES)), monkeypatch, bans_mask=True, compat=False)
    differs = [index for index, rows in ours.items() if not is_golden(index, rows)]
    banned = decode(model, differs, monkeypatch, bans_mask=True, compat=True)
    corrected = decode(model, differs, monkeypatch, bans_mask=False, compat=False)
    by_mask = {index for index in differs if not is_golden(index, banned[index])}
    by_defect = {index for index in differs if not is_golden(index, corrected[index])}
    assert by_mask | by_defect == set(differs)
    left = {i for i, case in enumerate(CASES) if model.config.mask_token_id in np.ravel(case["output"]).tolist()}
    cached = {i for i, case in enumerate(CASES) if case["system"] in CACHES}
    wasted = {i for i in cached - left if not all(forward["commit"] for forward in CASES[i]["forwards"])}
    wasted &= {i for i in cached if CASES[i]["alg"] == "confidence_threshold"}
    assert (left, wasted) == (GIVEN_UP, WASTED) and by_defect == left | wasted
    for index in wasted:
        [(output, forwards, _)] = ours[index]
        assert output == CASES[index]["output"] and len(forwards) == len(CASES[index]["forwards"]) // 2
    for index in left:
        [(output, forwards, _)] = corrected[index]
        assert model.config.mask_token_id not in output and forwards[0] == official_of(index)[0]
    for index in by_mask - by_defect:
        [(_, forwards, _)] = banned[index]
        first = next(a for a, b in zip(forwards, official_of(index), strict=False) if a != b)
        assert first["commit"], "the first forward that differs has the same canvas and reveals something else"
    assert (len(by_mask), len(by_defect)) == (0, 7)


@pytest.mark.parametrize("index", [45, 50, 55, 60, 103, 175, 180])
def test_the_reference_gives_golden_cases_too(model, index):
    for request, (official, forwards) in zip(requests_of(index, bans_mask=False, compat=True), golden_of(index)):  # noqa: B905
        got = decode_one(model, request, request.policy, ())
        assert [*got.prompt_ids.tolist(), *got.token_ids.tolist()] == official
        assert got.stats.denoise_forwards == len(forwards)


def test_presets_are_the_decoders_of_the_golden_cases():
    """Each of Dream's presets is the decoder of some case, its lengths and thresholds aside, but for Fast-dLLM's factor
    rule, which its Dream code has not, and `origin`, which reveals by chance (test_dream_laws.py)."""
    decoders = {kind_of(policy_of(case, bans_mask=True, compat=False)) for case in CASES}
    for name in set(fitting("full", True)) - {*WINDOWS}:
        pieces = dict(PRESETS[name]["decoding"])
        selector, options = pieces.pop("selector"), pieces.pop("selector_options")
        policy = policy_named(selector, PRESETS[name].get("parameter", 4), options, **pieces)
        assert (kind_of(policy) in decoders) == (not name.endswith(("_factor", "_origin"))), name


def kind_of(policy):
    opens_first = getattr(policy.schedule, "opens_first", None)
    strict = getattr(policy.selector, "strict", None), getattr(policy.selector, "inclusive", None)
    opening = getattr(policy.selector, "opening", None)
    kinds = type(policy.selector), policy.ranking, type(policy.schedule), policy.stop
    return *kinds, opens_first, strict, opening
