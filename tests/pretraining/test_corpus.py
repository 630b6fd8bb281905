"""Training sequences: prompt, answer, end token, pads to the block grid."""

import numpy as np
import pytest
from fixtures.tiny import tiny_examples, tiny_setup

from lightningrl.errors import BenchmarkError
from lightningrl.tokenization import encode_prompts, encode_texts
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.types import Example


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return tiny_setup(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("block_size", [1, 3, 4, 8])
def test_sequences_are_prompt_answer_end_and_fewer_pads_than_a_block(setup, block_size):
    tokenizer, examples = setup.tokenizer, tiny_examples("train", 7)
    prompts = encode_prompts(tokenizer, [e.messages for e in examples])
    answers = encode_texts(tokenizer, [e.solution for e in examples])
    pad_counts = set()
    for found, prompt, answer in zip(
        build_corpus(tokenizer, examples, lambda e: e.messages, block_size), prompts, answers, strict=True
    ):
        np.testing.assert_array_equal(found.prompt_ids, prompt)
        ids = found.response_ids.tolist()
        pads = len(ids) - len(answer) - 1
        assert ids == [*answer.tolist(), tokenizer.eos_token_id, *[tokenizer.pad_token_id] * pads]
        assert 0 <= pads < block_size and (len(prompt) + len(ids)) % block_size == 0
        assert found.response_ids.dtype == np.int64
        pad_counts.add(pads)
    assert len(pad_counts) == min(block_size, len(pad_counts)) and (block_size == 1 or len(pad_counts) > 1)


def test_an_example_without_a_worked_answer_is_named(setup):
    unsolved = Example("t/train/999", ({"role": "user", "content": "q"},), {})
    with pytest.raises(BenchmarkError, match=r"t/train/999 has no worked answer: its benchmark cannot be trained on"):
        build_corpus(setup.tokenizer, [*tiny_examples("train", 2), unsolved], lambda e: e.messages, 4)
