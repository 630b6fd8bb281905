"""Golden decodes of the official code of Fast-dLLM v2: `generate` of its hub file and `batch_sample` of its evaluation.

A case matches when its tokens, its forwards (kind, query positions, the cached ones before them, the masks among them)
and the positions and tokens revealed by each of them are the official ones.
"""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fixtures.golden import forwards_of

from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.sub_block import SubBlocks
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import FinishBlock, FinishBlockBehindCommits, InsideBlock
from lightningrl.models.checkpoint import load_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = json.loads((FIXTURES / "fastdllm_v2_tiny" / "golden_decode.json").read_text())
STOPS = {"generate": InsideBlock(), "batch_sample": FinishBlock()}
BATCHES = [index for index, case in enumerate(CASES) if isinstance(case["prompt"][0], list)]
PAD = 126
SINGLE = [index for index in range(len(CASES)) if index not in BATCHES]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fast_dllm_v2")
    shutil.copy(FIXTURES / "fastdllm_v2_tiny" / "config.json", folder)
    shutil.copy(FIXTURES / "dream_tiny" / "model.safetensors", folder)
    return load_model(folder)


def requests_of(index, *, bans_mask, compat):
    case = CASES[index]
    schedule = SubBlocks(case["small_block_size"], case["use_block_cache"], compat)
    stop = FinishBlockBehindCommits() if compat and case["function"] == "batch_sample" else STOPS[case["function"]]
    logits = Logits(bans_mask=bans_mask)
    policy = DecodePolicy(Threshold(case["threshold"]), schedule=schedule, stop=stop, logits=logits)
    prompts = case["prompt"] if index in BATCHES else [case["prompt"]]
    new = case["max_new_tokens"]
    return [Request(f"t/test/{index}", row, np.array(p), new, policy) for row, p in enumerate(prompts)]


def decode(model, indices, patch, **rules):
    """Of each case its rows: the tokens of prompt and response, the forwards in the golden file's words, the
    trajectory. All of one block size and stop token are one run."""
    found, runs = {index: [] for index in indices}, {}
    for index in indices:
        runs.setdefault((CASES[index]["block_size"], CASES[index]["stop_token"]), []).append(index)
    config = model.config
    for (size, stop), mine in runs.items():
        model.config = dataclasses.replace(config, block_size=size)
        asked = [(index, request) for index in mine for request in requests_of(index, **rules)]
        results = forwards_of(model, [request for _, request in asked], patch, [stop])
        for (index, request), (got, forwards) in zip(asked, results, strict=True):
            length = -(-(len(request.prompt_ids) + len(got.token_ids)) // size) * size
            canvas = np.full(length, config.mask_token_id)
            canvas[: len(request.prompt_ids)] = request.prompt_ids
            each = [words(CASES[index], forward, canvas, config.mask_token_id) for forward in forwards]
            found[index].append(([*request.prompt_ids.tolist(), *got.token_ids.tolist()], each, got))
    model.config = config
    return found


def words(case, forward, canvas, mask_id):
    """A forward in the golden file's words; what it reveals is written into the canvas."""
    first, last, start = forward["first"], forward["last"], forward["start"]
    said = {"kind": "denoise", "q": last - first, "past": start, "masked": 0}
    if last > start:
        block = canvas[start : start + case["block_size"]]
        said["masked"] = int((canvas[first:last] == mask_id).sum())
        said["sub"] = int(np.argmax(block == mask_id)) // case["small_block_size"]
        if case["use_block_cache"]:
            said["kind"] = "block" if forward["refreshes"] else "sub"
    else:
        said |= {"kind": "prefill" if forward["enters"] else "commit", "past": first}
    for position, token in forward["commit"]:
        canvas[position] = token
    return said | {"commit": forward["commit"]}


def official(index):
    """Output and forwards of the official run, up to the stop token that ended it. What it committed behind that token
    is left out: the official record lacks some of it, and has pads there. In `batch_sample` a stop token at a block's
    first position, where a commit predicted it, ends nothing."""
    case = CASES[index]
    output, stops = case["output"], official_stops(index)
    end = stops[0] + 1 if stops else len(output)
    if set(output[end:]) - {PAD}:
        assert case["function"] == "batch_sample" and not stops[0] % case["block_size"]
        end = len(output)
    return output[:end], until(case["forwards"], end)


def official_stops(index):
    """The positions of stop tokens in the official response."""
    case = CASES[index]
    return [i for i in range(len(case["prompt"]), len(case["output"])) if case["output"][i] == case["stop_token"]]


def until(forwards, end):
    return [f | {"commit": [each for each in f["commit"] if each[0] < end]} for f in forwards]


@pytest.fixture(scope="module")
def published(model):
    with pytest.MonkeyPatch.context() as patch:
        return decode(model, range(len(CASES)), patch, bans_mask=False, compat=True)


def test_every_golden_decode_of_one_row_matches_token_for_token_forward_for_forward_commit_for_commit(published):
    assert (len(CASES), len(SINGLE)) == (231, 210)
    for index in SINGLE:
        [(output, forwards, got)], (expected, of_code) = published[index], official(index)
        assert (index, output[: len(expected)]) == (index, expected)
        stops = official_stops(index)
        assert got.response_len + len(got.prompt_ids) == (stops[0] + 1 if stops else len(expected))
        assert (index, until(forwards, len(expected))) == (index, of_code)
        assert (index, len(forwards)) == (index, CASES[index]["nfe"])


def test_a_row_of_an_official_batch_gives_what_it_gives_alone_up_to_the_shorter_length_or_the_stop(published):
    """Rows share the official loops, so their number of forwards and the length are not each row's own; the tokens
    are."""
    assert len(BATCHES) == 21
    rows = 0
    for index in BATCHES:
        case = CASES[index]
        for (output, _, got), expected in zip(published[index], case["output"], strict=True):
            begin = len(got.prompt_ids)
            official = expected[begin:]
            if case["stop_token"] in official:
                official = official[: official.index(case["stop_token"]) + 1]
            length, rows = min(len(official), got.response_len), rows + 1
            assert length > 0 and (index, output[begin:][:length]) == (index, official[:length])
    assert rows == 45


def test_with_our_defaults_every_case_that_differs_is_explained_by_the_length_by_the_stop_or_by_the_banned_mask(
    model, published, monkeypatch
):
    """What is corrected: as many blocks as hold max_new_tokens, no commit of the last one, and, in `batch_sample`, a
    stop token that a commit reveals counts. Without the ban, ours and the official run are then one up to where the
    shorter of them ends. With it, a case whose tokens or forwards differ before that is the mask's."""
    ours = decode(model, SINGLE, monkeypatch, bans_mask=True, compat=False)
    unbanned = decode(model, SINGLE, monkeypatch, bans_mask=False, compat=False)
    reasons = Counter()
    for index in SINGLE:
        case, [(output, forwards, got)] = CASES[index], unbanned[index]
        [(_, official_forwards, _)] = published[index]
        begin, size = len(case["prompt"]), case["block_size"]
        stops = [i for i in range(begin, len(output)) if output[i] == case["stop_token"]]
        last = official_forwards[-1]["kind"] == "commit" and got.stop == "length"
        shared = min(len(official_forwards) - last, len(forwards))
        assert (index, forwards[:shared]) == (index, official_forwards[:shared])
        if got.stop == "eos":
            assert shared == len(forwards)
            if len(official_forwards) > shared:
                reasons["the stop"] += 1
                assert case["function"] == "batch_sample" and stops[0] % size == 0
        else:
            assert len(output) == -(-(begin + case["max_new_tokens"]) // size) * size
            assert shared == len(official_forwards) - last, "ours goes on where the official length ends"
            reasons["the length"] += output[begin:] != case["output"][begin:]
        [(banned_output, banned_forwards, _)] = ours[index]
        if (banned_output, banned_forwards) != (output, forwards):
            reasons["the mask"] += 1
            at = next(i for i, (a, b) in enumerate(zip(banned_forwards, forwards, strict=False)) if a != b)
            assert banned_forwards[at]["commit"] != forwards[at]["commit"], "the same canvas until then"
    assert reasons == {"the length": 146, "the stop": 7}, "the mask decides nothing here"
