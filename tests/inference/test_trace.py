"""A trace is its trajectory, seen from inside."""

import dataclasses
import json

import numpy as np
import pytest
from fixtures.traced import save_tiny

from lightningrl.inference.llm import LLM
from lightningrl.inference.policy import policy_of
from lightningrl.inference.trace import Recorder, policy_in_words, text_pieces, token_text, trace_of, trace_response

PROMPT = "How many cups? 3 pens"
POLICIES = {
    "greedy": policy_of("threshold", 0.12),
    "sampled": policy_of("threshold", 0.2, temperature=1.0, top_k=9, seed=3),
    "inside_block": policy_of("quota", 2, temperature=1.0, seed=1, stop="inside_block"),
    "separate": policy_of("threshold", 0.12, schedule="separate"),
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return LLM(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module", params=POLICIES)
def made(llm, request):
    policy = POLICIES[request.param]
    [completion] = llm.generate([PROMPT], policy, max_new_tokens=30)
    return completion, trace_response(llm, PROMPT, policy, name="tiny", max_new_tokens=30)


def test_a_trace_is_its_trajectory(made):
    completion, trace = made
    happened = completion.trajectory
    assert [token.forward for token in trace.tokens] == happened.reveal_step.tolist()
    assert trace.forwards == happened.stats.denoise_forwards
    assert (trace.response_tokens, trace.stop) == (happened.response_len, happened.stop)
    assert trace.tpf == pytest.approx(happened.stats.tpf, abs=1e-6)
    blocks = (len(happened.prompt_ids) + np.arange(len(happened.token_ids))) // happened.block_size
    assert [token.block for token in trace.tokens] == (blocks - blocks[0] + 1).tolist()
    for at, token in enumerate(trace.tokens):
        assert (token.guess is None) == (token.forward == 0)
        if token.guess is not None:
            assert (token.guess.position, token.guess.token_id) == (at, happened.token_ids[at])
            assert token.guess.probability == pytest.approx(float(np.exp(happened.behaviour_logp[at])), abs=2e-6)
            assert token.guess.entropy_nats == pytest.approx(float(happened.entropy[at]), abs=2e-6)


def test_each_forward_parts_the_open_positions_into_revealed_and_left(made):
    _, trace = made
    for forward, left in enumerate(trace.left_masked, start=1):
        revealed = {at for at, token in enumerate(trace.tokens) if token.forward == forward}
        [block] = {trace.tokens[at].block for at in revealed}
        later = {at for at, t in enumerate(trace.tokens) if t.block == block and (t.forward > forward or not t.forward)}
        assert revealed
        assert [guess.position for guess in left] == sorted(later)


def test_alternatives_are_the_likeliest_first_and_have_texts(made):
    _, trace = made
    guesses = [t.guess for t in trace.tokens if t.guess] + [guess for left in trace.left_masked for guess in left]
    for guess in guesses:
        shares = [share for _, share in guess.alternatives]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and sum(shares) < 1 + 1e-5
        assert {guess.token_id, *(token for token, _ in guess.alternatives)} <= set(trace.vocabulary)
        if "greedy" in trace.policy:
            assert guess.alternatives[0] == (guess.token_id, guess.probability)


def test_pieces_are_the_text_and_all_of_it_is_json(llm, made):
    completion, trace = made
    ids = completion.trajectory.token_ids.tolist()
    assert trace.text == llm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    kept = [t.text for t in trace.tokens[: trace.response_tokens] if not t.special]
    assert "".join(kept) == completion.text
    assert len(json.loads(json.dumps(dataclasses.asdict(trace), allow_nan=False))["left_masked"]) == trace.forwards


def test_several_requests_are_traced_by_index(llm):
    policy, prompts = POLICIES["greedy"], ["3 pens", "2 cups and 2 cups", "5 figs"]
    requests = [llm.request(p, uid=f"prompt/{i}", max_new_tokens=20) for i, p in enumerate(prompts)]
    recorder = Recorder((0, 2))
    happened = llm.decoder.decode(requests, policy, recorder)
    assert sorted(recorder.seen) == [0, 2]
    for index in (0, 2):
        trace = trace_of(llm.tokenizer, prompts[index], happened[index], recorder.seen[index], name="t", policy=policy)
        assert [t.guess.token_id for t in trace.tokens] == happened[index].token_ids.tolist()


def by_bytes(ids):
    return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["", "plain", "né à 東京 🙂🙂", "🙂", "a\ufffdb"])
def test_byte_level_pieces_are_whole_characters_and_bytes_that_are_no_text_lose_nothing(text):
    pieces = text_pieces(by_bytes, list(text.encode()))
    assert "".join(pieces) == text
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)
    for ids in ([0xF0, 0x9F], [0xFF, 97, 0xFF], [97, 0xE6, 0x9D]):
        pieces = text_pieces(by_bytes, ids)
        assert (len(pieces), "".join(pieces)) == (len(ids), by_bytes(ids))


def test_pieces_of_a_byte_level_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.encode("ça 🙂!").ids
    pieces = text_pieces(tokenizer.decode, ids)
    assert [piece for piece in pieces if piece] == ["ç", "a", " ", "🙂", "!"]
    assert len(pieces) == len(ids)


def test_a_part_of_a_character_is_shown_in_the_tokenizers_spelling():
    class Halves:
        def decode(self, ids, **_):
            return "\ufffd" if ids == [1] else "x"

        def convert_ids_to_tokens(self, token):
            return "Ã"

    assert (token_text(Halves(), 1), token_text(Halves(), 2)) == ("Ã", "x")


def test_a_policy_in_words_says_what_is_unusual():
    assert policy_in_words(policy_of("factor", 0.5, stop="inside_block")) == "factor 0.5, greedy, stop inside block"
    assert "top-p 0.9" in policy_in_words(policy_of(top_p=0.9, temperature=0.5))
