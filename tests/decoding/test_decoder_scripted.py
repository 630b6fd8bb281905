"""The decoder on a model whose answers are written down: worked examples, and its errors."""

import math

import numpy as np
import pytest
import torch
from fixtures.tiny import MASK_ID, tiny_config, tiny_model

from lightningrl.decoding.caches.fused import FusedCommit
from lightningrl.decoding.caches.separate import SeparateCommit
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import Policy, Request
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.models.sdar import SDAR
from lightningrl.stages.evaluate import to_record

STOP, GARBAGE = 20, 21


class Scripted(SDAR):
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


def test_worked_example():
    """B = 4, P = 6; slots 6..11 revealed at [1, 1, 2, 2, 3, 4]; slot 10 the stop token, slot 11 text after it.

    By hand: 5 tokens up to and including the stop, 6 emitted, 4 denoise forwards, one commit (of the mixed block;
    the last is not committed), one prefill. strict TPF 5/4 = 1.25; with the commit 5/5 = 1.
    """
    script = [
        {6: (1, 0.95), 7: (2, 0.95)},
        {8: (3, 0.95), 9: (4, 0.95), 10: (5, 0.3), 11: (6, 0.2)},
        {10: (STOP, 0.8), 11: (6, 0.2)},
        {11: (GARBAGE, 0.2)},
    ]
    for cache, commits, tpf_true in ((FusedCommit(), 0, 1.25), (SeparateCommit(), 1, 1.0)):
        decoder = BlockDecoder(Scripted(script), [STOP])
        request = Request("t/test/0", 0, np.arange(6), 30)
        got = decoder.decode([request], Policy(Threshold(0.9), cache=cache))[0]
        assert got.token_ids.tolist() == [1, 2, 3, 4, STOP, GARBAGE]
        assert got.response_ids.tolist() == [1, 2, 3, 4, STOP]
        assert got.reveal_step.tolist() == [1, 1, 2, 2, 3, 4]
        np.testing.assert_allclose(np.exp(got.behaviour_logp), [0.95, 0.95, 0.95, 0.95, 0.8, 0.2], rtol=1e-6)
        stats = got.stats
        assert (stats.response_tokens, stats.emitted_tokens, stats.denoise_forwards) == (5, 6, 4)
        assert (stats.commit_forwards, stats.prefill_forwards) == (commits, 1)
        assert (stats.tpf, stats.tpf_true, got.stop) == (1.25, tpf_true, "eos")
        kinds = [part.kind for forward in decoder.ledger.forwards for part in forward.parts]
        separate = ["prefill", "denoise", "commit", "denoise", "denoise", "denoise"]
        fused = ["prefill", "denoise", "fused", "denoise", "denoise"]
        assert kinds == (separate if commits else fused)


def test_a_stop_token_in_the_first_mixed_block_ends_the_response():
    """The published engine ignores it there. The rest of the block is still revealed."""
    script = [{5: (STOP, 0.95), 6: (1, 0.2), 7: (2, 0.3)}, {6: (1, 0.2), 7: (2, 0.3)}, {6: (4, 0.1)}]
    got = BlockDecoder(Scripted(script), [STOP]).decode(
        [Request("t/test/0", 0, np.arange(5), 30)], Policy(Threshold(0.9))
    )[0]
    assert (got.token_ids.tolist(), got.response_len, got.stats.denoise_forwards) == ([STOP, 4, 2], 1, 3)
    assert got.stats.tpf == 1 / 3


def test_the_first_of_two_stop_tokens_ends_the_response():
    script = [{4: (1, 0.95), 5: (STOP, 0.95), 6: (2, 0.95), 7: (STOP, 0.95)}]
    got = BlockDecoder(Scripted(script), [STOP]).decode(
        [Request("t/test/0", 0, np.arange(4), 9)], Policy(Threshold(0.9))
    )[0]
    assert (got.response_len, got.stats.emitted_tokens) == (2, 4)


def test_record_of_an_answer_counts_tokens_by_step_over_all_decoded_positions():
    from lightningrl.answering import Answer
    from lightningrl.types import EvalRecord, Example, Verdict

    script = [{4: (1, 0.95), 5: (2, 0.95), 6: (STOP, 0.3), 7: (3, 0.2)}, {6: (STOP, 0.95), 7: (3, 0.95)}]
    got = BlockDecoder(Scripted(script), [STOP]).decode(
        [Request("t/test/0", 2, np.arange(4), 9)], Policy(Threshold(0.9))
    )[0]
    example = Example("t/test/0", ({"role": "user", "content": "q"},), {})
    record = to_record("base", 0.9, Answer(example, got, "text", Verdict(True, 1.0, "ok", "4")))
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


def test_half_precision_logits_are_normalised_in_float32():
    model = tiny_model(3).to(torch.bfloat16)
    found = model.log_probs(torch.randn(5, 16, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5))


def test_empty_prompt_is_refused():
    with pytest.raises(DecodeError, match=r"t/test/1: the prompt is empty; give at least one token"):
        Request("t/test/1", 0, np.array([], dtype=np.int64), 5)


def test_a_budget_of_no_tokens_is_refused():
    with pytest.raises(DecodeError, match=r"t/test/1: max_new_tokens is 0, expected at least 1"):
        Request("t/test/1", 0, np.array([1]), 0)


def test_a_request_longer_than_the_model_is_refused_and_one_that_just_fits_is_decoded():
    model = tiny_model(0, max_position_embeddings=16)
    fits, too_long = (Request("t/test/7", 0, np.arange(6), new) for new in (10, 11))
    assert len(BlockDecoder(model, ()).decode([fits], Policy(Threshold(0.1)))[0].token_ids) == 10
    with pytest.raises(
        DecodeError, match=r"t/test/7: 6 prompt tokens and 11 new ones need 20 positions, the model has 16"
    ):
        BlockDecoder(model, ()).decode([fits, too_long], Policy(Threshold(0.1)))


@pytest.mark.parametrize("token", [-1, 24])
def test_a_prompt_token_outside_the_vocabulary_is_refused(token):
    request = Request("t/test/9", 0, np.array([1, token, 2]), 4)
    with pytest.raises(DecodeError, match=r"t/test/9: a prompt token lies outside the vocabulary"):
        BlockDecoder(tiny_model(), ()).decode([request], Policy(Threshold(0.1)))
