"""The decoder on a model whose answers are written down: worked examples, and its errors."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, tiny_config, tiny_model

from lightningrl.answering import Answer
from lightningrl.decoding import tpf_variants
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.block import FusedCommit, SeparateCommit
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import InsideBlock
from lightningrl.errors import DecodeError
from lightningrl.evaluation.records import to_record
from lightningrl.models.transformer import Transformer
from lightningrl.types import EvalRecord, Example, Verdict

STOP, GARBAGE = 20, 21
USUAL, INSIDE = DecodePolicy(Threshold(0.9)), DecodePolicy(Threshold(0.9), stop=InsideBlock())


class Scripted(Transformer):
    """Answers denoise forward n (one row) with script[n - 1][position] = (token, confidence)."""

    def __init__(self, script):
        super().__init__(tiny_config())
        self.script, self.forward_number, self.positions = script, 0, None

    def hidden(self, ids_BQ, positions_BQ, attend):
        self.ids, self.positions = ids_BQ[0], positions_BQ[0]
        return torch.zeros(*ids_BQ.shape, 16, dtype=torch.float64)

    def log_probs(self, hidden, temperature=1.0):
        answers = self.script[self.forward_number]
        self.forward_number += 1
        masked = [int(p) for p in self.positions[(self.ids == MASK_ID).nonzero().flatten()]]
        assert sorted(answers) == masked, f"forward {self.forward_number} sees masks at {masked}"
        table = torch.full((len(masked), 24), 0.0, dtype=torch.float64)
        for row, position in enumerate(masked):
            token, confidence = answers[position]
            table[row, :23] = (1 - confidence) / 22
            table[row, token] = confidence
        return table.log()


def decoded(script, prompt, new=9, policy=USUAL):
    """The trajectory and the kinds of forwards; a prompt is its ids or their number."""
    decoder = BlockDecoder(Scripted(script), [STOP])
    ids = np.arange(prompt) if isinstance(prompt, int) else np.array(prompt)
    [got] = decoder.decode([Request("t/test/0", 2, ids, new)], policy)
    return got, [part.kind for forward in decoder.ledger.forwards for part in forward.parts]


def worked_example(cache):
    """B = 4, P = 6, reveal steps [1, 1, 2, 2, 3, 4]; slot 10 the stop token, slot 11 text after it."""
    script = [
        {6: (1, 0.95), 7: (2, 0.95)},
        {8: (3, 0.95), 9: (4, 0.95), 10: (5, 0.3), 11: (6, 0.2)},
        {10: (STOP, 0.8), 11: (6, 0.2)},
        {11: (GARBAGE, 0.2)},
    ]
    return decoded(script, 6, 30, DecodePolicy(Threshold(0.9), schedule=cache))


@pytest.mark.parametrize(
    ("cache", "commits", "tpf_true", "kinds"),
    [
        (FusedCommit(), 0, 1.25, ["prefill", "denoise", "fused", "denoise", "denoise"]),
        (SeparateCommit(), 1, 1.0, ["prefill", "denoise", "commit", "denoise", "denoise", "denoise"]),
    ],
)
def test_worked_example(cache, commits, tpf_true, kinds):
    """By hand: 5 tokens up to and including the stop, 6 emitted, 4 denoise forwards, one commit (of the mixed block;
    the last is not committed), one prefill. strict TPF 5/4 = 1.25; with the commit 5/5 = 1.
    """
    got, found_kinds = worked_example(cache)
    assert got.token_ids.tolist() == [1, 2, 3, 4, STOP, GARBAGE]
    assert got.response_ids.tolist() == [1, 2, 3, 4, STOP]
    assert got.reveal_step.tolist() == [1, 1, 2, 2, 3, 4]
    np.testing.assert_allclose(np.exp(got.behaviour_logp), [0.95, 0.95, 0.95, 0.95, 0.8, 0.2], rtol=1e-6)
    stats = got.stats
    assert (stats.response_tokens, stats.emitted_tokens, stats.denoise_forwards) == (5, 6, 4)
    assert (stats.commit_forwards, stats.prefill_forwards) == (commits, 1)
    assert (stats.tpf, stats.tpf_true, got.stop) == (1.25, tpf_true, "eos")
    assert found_kinds == kinds


def test_every_published_definition_of_tokens_per_forward_on_the_worked_example():
    """By hand, from slots 6..11 = 1 2 3 4 STOP GARBAGE at steps 1 1 2 2 3 4, two decoded blocks, 6 prompt tokens:

    visible 5 (all but STOP), emitted 6, up to the stop 5; steps 4, up to the stop 3. LMDeploy: 4 denoise, 1 commit, and
    the prefill denoises as 6 is off the grid: 5. generate.py: 1 prefill, 4 denoise, 2 commits: 7.
    """
    got, kinds = worked_example(SeparateCommit())
    assert (tpf_variants.visible_tokens(got, [STOP]), tpf_variants.distinct_steps(got)) == (5, 4)
    assert (got.response_len, tpf_variants.response_steps(got)) == (5, 3)
    assert (tpf_variants.lmdeploy_forwards(got), tpf_variants.generate_py_forwards(got)) == (5, 7)
    # If GARBAGE were a special token it would not be visible.
    assert (tpf_variants.tpf_paper(got, [STOP]), tpf_variants.tpf_paper(got, [STOP, GARBAGE])) == (5 / 4, 4 / 4)
    assert Counter(kinds) == {"prefill": 1, "denoise": 4, "commit": 1}, "generate.py alone commits the last block too"


def test_a_stop_token_in_the_first_mixed_block_ends_the_response():
    """The published engine ignores it there. The rest of the block is still revealed."""
    script = [{5: (STOP, 0.95), 6: (1, 0.2), 7: (2, 0.3)}, {6: (1, 0.2), 7: (2, 0.3)}, {6: (4, 0.1)}]
    got, _ = decoded(script, 5, 30)
    assert (got.token_ids.tolist(), got.response_len, got.stats.denoise_forwards) == ([STOP, 4, 2], 1, 3)
    assert got.stats.tpf == 1 / 3


def test_stopping_inside_the_block_saves_the_forwards_that_would_only_fill_it():
    """The stop token at place 1 of a block of 4, all below tau but it and its left: 1 forward instead of 3."""
    script = [
        {4: (1, 0.95), 5: (STOP, 0.95), 6: (2, 0.3), 7: (3, 0.2)},
        {6: (2, 0.3), 7: (3, 0.2)},
        {7: (3, 0.2)},
    ]
    (finished, _), (cut, _) = (decoded(script, 4, policy=policy) for policy in (USUAL, INSIDE))
    assert (finished.stats.denoise_forwards, cut.stats.denoise_forwards) == (3, 1)
    assert finished.response_ids.tolist() == cut.response_ids.tolist() == [1, STOP]
    assert cut.token_ids.tolist() == [1, STOP, MASK_ID, MASK_ID] and cut.reveal_step.tolist() == [1, 1, 0, 0]
    assert (cut.stop, cut.stats.emitted_tokens, finished.stats.emitted_tokens) == ("eos", 2, 4)
    assert (cut.stats.tpf, finished.stats.tpf) == (2, 2 / 3)


def test_stopping_inside_the_block_waits_for_what_is_left_of_the_stop_token():
    script = [
        {4: (1, 0.3), 5: (STOP, 0.95), 6: (2, 0.2), 7: (STOP, 0.95)},
        {4: (1, 0.2), 6: (2, 0.3)},
        {4: (1, 0.2)},
    ]
    got, _ = decoded(script, 4, policy=INSIDE)
    assert (got.token_ids.tolist(), got.reveal_step.tolist()) == ([1, STOP, 2, STOP], [3, 1, 2, 1])
    assert got.response_len == 2, "the first of two stop tokens ends it"


def test_record_of_an_answer_counts_tokens_by_step_over_all_decoded_positions():
    script = [{4: (1, 0.95), 5: (2, 0.95), 6: (STOP, 0.3), 7: (3, 0.2)}, {6: (STOP, 0.95), 7: (3, 0.95)}]
    example = Example("t/test/0", ({"role": "user", "content": "q"},), {})
    record = to_record("base", 0.9, Answer(example, decoded(script, 4)[0], "text", Verdict(True, 1.0, "ok", "4")))
    assert record.tokens_by_step == [2, 2] and sum(record.tokens_by_step) == record.emitted_tokens == 4
    assert (record.response_tokens, record.denoise_forwards, record.sample, record.stop) == (3, 2, 2, "eos")
    assert EvalRecord.from_json(record.to_json()) == record


def test_temperature_divides_the_logits_before_the_softmax():
    model = tiny_model(3, torch.float64)
    hidden = torch.randn(5, 16, dtype=torch.float64)
    logits = model.logits(hidden).tolist()
    for temperature in (0.5, 1.0, 2.0):
        found = model.log_probs(hidden, temperature)
        for row in range(5):
            weights = [math.exp(v / temperature) for v in logits[row][:MASK_ID]]
            expected = [math.log(w / sum(weights)) for w in weights]
            assert found[row, :MASK_ID].tolist() == pytest.approx(expected, abs=1e-12)
            assert found[row, MASK_ID] == -math.inf
    found = model.to(torch.bfloat16).log_probs(hidden.to(torch.bfloat16))
    assert found.dtype == torch.float32, "half precision is normalised in more"
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5))


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        ([], 5, "t/test/1: the prompt is empty; give at least one token"),
        ([1.5], 5, "t/test/1: prompt_ids are float64, expected token ids"),
        ([1], 0, "t/test/1: max_new_tokens is 0, expected at least 1"),
        ([1, -1, 2], 4, "t/test/1: a prompt token lies outside the vocabulary"),
        ([1, 24, 2], 4, "t/test/1: a prompt token lies outside the vocabulary"),
        ([1] * 6, 11, "t/test/1: 6 prompt tokens and 11 new ones need 20 positions, the model has 16"),
    ],
)
def test_a_request_that_cannot_be_decoded_says_why(prompt, new, message):
    decoder = BlockDecoder(tiny_model(0, max_position_embeddings=16), ())
    fits = Request("t/test/0", 0, np.arange(6), 10)
    with pytest.raises(DecodeError, match=message):
        decoder.decode([fits, Request("t/test/1", 0, np.array(prompt), new)], USUAL)
    assert len(decoder.decode([fits], USUAL)[0].token_ids) == 10
