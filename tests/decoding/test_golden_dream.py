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
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.rankings import Confidence, Margin, NegEntropy
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache, WholeSequence
from lightningrl.decoding.selectors.entropy import Entropy
from lightningrl.decoding.selectors.quota_threshold import QuotaThreshold
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.selectors.timestep import Timestep
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "dream_tiny"
CASES = json.loads((FOLDER / "golden_decode.json").read_text())
RANKINGS = {"entropy": NegEntropy(), "maskgit_plus": Confidence(), "topk_margin": Margin()}
CACHES = {"fast_dllm_prefix": PrefixCache, "fast_dllm_dual": DualCache}
GIVEN_UP = {103, 104, 149, 150, 173, 174}
"""One step a block: the published loop leaves all but the first position of each block masked."""
WASTED = {148}
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
