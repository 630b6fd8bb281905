"""Requests that come and go at any time get the tokens that they get alone, and leave no page behind."""

import numpy as np
import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint

from lightningrl.errors import DecodeError
from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.serving.live import LiveDecoder


def alone(llm, request, policy):
    return llm.decoder.decode([request], policy)[0]


def drive(live, requests, policy, seed, cancelled=()):
    """Submits requests at random turns, cancels some of them some turns later, and returns what ended by number."""
    rng = np.random.default_rng(seed)
    begins = np.sort(rng.integers(0, 30, len(requests)))
    ends = {begins[i] + int(rng.integers(0, 25)): i for i in cancelled}
    found, numbers, turn = {}, {}, 0
    while len(numbers) < len(requests) or live.is_busy or any(end >= turn for end in ends):
        for i in np.flatnonzero(begins == turn).tolist():
            numbers[i] = live.submit(requests[i], policy)
        if turn in ends:
            live.cancel(numbers[ends[turn]])
        for result in live.turn():
            assert result.error is None
            found[next(i for i, n in numbers.items() if n == result.index)] = result.trajectory
        turn += 1
        assert turn < 5000
    return found


def assert_equal(found, expected):
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert found.reveal_step.tolist() == expected.reveal_step.tolist()
    assert found.response_len == expected.response_len
    np.testing.assert_allclose(found.behaviour_logp, expected.behaviour_logp, rtol=0, atol=1e-4)
    assert found.stats == expected.stats


@pytest.mark.parametrize("pages", [None, 17], ids=["roomy", "tight"])
@pytest.mark.parametrize(
    "words", [{"parameter": 0.3}, {"parameter": 0.2, "temperature": 1.0, "seed": 4}, {"preset": "mbd"}], ids=str
)
def test_whoever_comes_and_goes_meanwhile_a_response_is_the_one_it_is_alone(llm, words, pages):
    policy = policy_of(**words)
    # A few share a prompt of several pages, and so pages; with few pages, rows give theirs up.
    texts = [("the same words for several " * 3)[: 70 - i % 2] if i % 3 == 0 else "x" * (7 * i) for i in range(14)]
    requests = [llm.request(t, uid=f"prompt/{i}", max_new_tokens=60 + i, policy=policy) for i, t in enumerate(texts)]
    budget = None if pages is None else pages * llm.decoder.page_bytes
    live = LiveDecoder(llm, policy, rows=4, memory_bytes=budget)
    cancelled = (0, 4, 6, 9)
    found = drive(live, requests, policy, seed=1, cancelled=cancelled)
    assert set(range(14)) - set(cancelled) <= found.keys()
    for i, trajectory in found.items():
        assert_equal(trajectory, alone(llm, requests[i], policy))
    assert live.free_pages == live.pages == (64 if pages is None else pages) and live.decoding_rows == 0
    assert (live.preemptions > 0) == (pages is not None), "rows give pages up where there are few, and there alone"


def test_the_row_that_computes_a_shared_prompt_leaves_and_another_one_goes_on_with_it(tmp_path):
    """The prompt is longer than what one forward prefills, so that its first row can leave in the midst of it."""
    llm = LLM(save_byte_checkpoint(tmp_path, max_position_embeddings=6000))
    policy = policy_of(parameter=0.3)
    requests = [llm.request("lorem ipsum " * 400, uid=f"prompt/{i}", max_new_tokens=8) for i in range(3)]
    live = LiveDecoder(llm, policy, rows=3)
    numbers = [live.submit(request, policy) for request in requests]
    live.turn()
    run = live._scheduler
    assert run is not None and run.rows.waits.sum() == 2, "nobody waits for the shared prompt"
    assert live.cancel(numbers[0]) and not live.cancel(numbers[0])
    assert run.rows.waits.sum() == 1
    found = {}
    while live.is_busy:
        found |= {result.index: result.trajectory for result in live.turn()}
    assert found.keys() == set(numbers[1:])
    for number, request in zip(numbers[1:], requests[1:], strict=True):
        assert_equal(found[number], alone(llm, request, policy))
    assert live.free_pages == live.pages


def test_a_view_never_runs_ahead_of_the_response_and_its_finished_blocks_stay(llm):
    policy = policy_of(parameter=0.3)
    live = LiveDecoder(llm, policy, rows=2)
    request = llm.request("Hello", uid="prompt/0", max_new_tokens=30)
    number, views, found = live.submit(request, policy), [], None
    while live.is_busy:
        found = next((result.trajectory for result in live.turn()), None)
        views += live.view([number]).values()
    assert found is not None and len(views) == found.stats.denoise_forwards + found.stats.prefill_forwards - 1
    assert any(0 < (view.reveal == 0).sum() < 4 for view in views) and views[-1].finished >= 24
    for view in views:
        ids, shown = found.token_ids[: len(view.ids)], view.reveal > 0
        assert shown[: view.finished].all()
        assert (view.ids[shown] == ids[shown]).all() and (view.ids[~shown] == llm.model.config.mask_token_id).all()
        assert (view.reveal[shown] == found.reveal_step[: len(ids)][shown]).all()
        assert view.stats.denoise_forwards == view.reveal.max(initial=0)
    assert live.view([number]) == {}


def test_what_is_longer_than_the_context_is_refused_and_so_is_a_budget_for_less_than_a_row(llm):
    policy = policy_of(parameter=0.3)
    live = LiveDecoder(llm, policy, rows=2, context=64)
    with pytest.raises(DecodeError, match="more than the 64 positions"):
        live.submit(llm.request("x" * 40, uid="prompt/0", max_new_tokens=40), policy)
    assert not live.is_busy
    with pytest.raises(DecodeError, match="raise the memory budget or lower the context"):
        LiveDecoder(llm, policy, memory_bytes=llm.decoder.page_bytes)


def test_a_canvas_whose_blocks_are_as_long_as_the_response_waits_for_those_of_another_length(tmp_path):
    """The schedule `whole_sequence` has blocks of the response's length: requests of several lengths cannot share a
    forward, but all are decoded, in the order in which they came."""
    llm = LLM(save_byte_checkpoint(tmp_path, family="llada", attention="full", qk_norm=False, num_key_value_heads=4,
                                   head_dim=4))  # fmt: skip
    policy = policy_of("quota", 4, schedule="whole_sequence", stop="whole_canvas")
    requests = [llm.request("hi", uid=f"prompt/{i}", max_new_tokens=n, policy=policy) for i, n in enumerate((8, 16, 8))]
    live = LiveDecoder(llm, policy, rows=4)
    found = drive(live, requests, policy, seed=0)
    assert list(found) == [0, 1, 2]
    for i, request in enumerate(requests):
        assert_equal(found[i], alone(llm, request, policy))
    assert live.free_pages == live.pages
