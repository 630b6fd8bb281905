"""Forwards of static shape (models/static_forward.py), on the CPU, where a gather stands in for the paged kernel."""

import dataclasses
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, STOPS, same
from fixtures.tiny import block_span, requests_of, tiny_model
from torch.nn.attention import varlen

from lightningrl.decoding.engine import BlockDecoder, most_segments
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.models import static_forward
from lightningrl.models.attention import PagedKV
from lightningrl.models.checkpoint import load_model


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_static_forwards_decode_the_same(cache, temperature):
    model, requests = tiny_model(2, torch.float64), requests_of([1, 4, 6, 8, 11, 3, 17], 21)
    policy = DecodePolicy(Threshold(0.25), temperature, schedule=CACHES[cache])
    spans, static = (
        BlockDecoder(model, STOPS, rows=3, forwards=forwards).decode(requests, policy)
        for forwards in ("spans", "gathered")
    )
    same(static, spans)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_no_forward_behind_prefill_is_larger_than_the_sizes_that_are_captured(cfg_scale):
    """Prompts within their first block, so that nothing is prefilled; with guidance each row has a twin."""
    model, requests = tiny_model(2, torch.float64), requests_of([1, 2, 3, 2, 1], 21)
    policy = DecodePolicy(Threshold(0.25), logits=Logits(cfg_scale=cfg_scale))
    decoder = BlockDecoder(model, STOPS, rows=4, forwards="gathered")
    decoder.decode(requests, policy)
    most, largest = most_segments(4, [DecodePolicy(Threshold(0.5)), policy]), max(decoder.pool.static._buffers)
    assert largest <= static_forward.size_of(most)
    assert not cfg_scale or largest > static_forward.size_of(most // 2), "the twins are seen"


@pytest.mark.parametrize("forwards", ["gathered", "turns"])
def test_a_request_off_the_models_grid_is_refused_alone(forwards):
    """LLaDA's grid begins at the prompt's end: of prompts of 4 and 5 tokens, only the first is on blocks of 4."""
    model, policy = tiny_model(2, torch.float64), DecodePolicy(Threshold(0.25), schedule=FullSequence(8))
    spans, static = (
        list(BlockDecoder(model, STOPS, forwards=each).stream(requests_of([4, 5], 8), policy))
        for each in ("spans", forwards)
    )
    found = {each.index: each for each in static}
    same([found[0].trajectory], [each.trajectory for each in spans if each.index == 0])
    assert re.search(f"'{forwards}'.*blocks of 4 .*FullSequence.*positions 5 to 13 .*take 'spans'", str(found[1].error))
    small = dataclasses.replace(requests_of([8], 8)[0], policy=dataclasses.replace(policy, schedule=DualCache(2)))
    beside = BlockDecoder(model, STOPS, forwards=forwards).stream([small, *requests_of([4], 8)], policy)
    found = {each.index: each for each in beside}
    assert re.search("DualCache.*take 'spans'", str(found[0].error)) and found[1].trajectory is not None


def test_a_schedule_that_computes_parts_of_blocks_is_refused():
    with pytest.raises(DecodeError, match=r"computes 4 positions from 2 on, .*whole blocks of 4"):
        static_forward.Segments.of([block_span([[0, 1]], [2], 4, 4, 8)], np.arange(4), 4, 2)


def test_buffers_are_of_few_sizes_and_filling_up_touches_no_other_page():
    model = tiny_model(2, torch.float64)
    cache = PagedKV(2, 5, 8, 2, 8, model.lm_head.weight)
    static = static_forward.SegmentForwards(model, cache, 2, static_forward.gathered)
    for rows in range(1, 3):
        for blocks in (1, 2, 4):
            span = block_span([[0, 1], [2, 3]][:rows], [0] * rows, 4 * blocks, 4, 8)
            hidden = static.hidden([span], np.arange(rows * 4 * blocks) % 20)
            assert hidden.shape == (rows * 4 * blocks, 16)
    assert set(static._buffers) == {1, 2, 4, 8}
    static.hidden([block_span([[0, 1]], [0], 12, 4, 8)], np.arange(12))  # 3 blocks in a buffer of 4
    assert cache.keys[:, 32:36].abs().sum() > 0, "the spare page takes what fills the buffer up"
    assert cache.keys[:, 36:].abs().sum() == 0
    before = cache.keys[:, :32].clone()
    static.hidden([block_span([[4, 4]], [0], 4, 4, 8)], np.arange(4))
    assert torch.equal(cache.keys[:, :32], before)


def test_kernels_that_are_not_there_are_refused_with_what_to_install(monkeypatch):
    with pytest.raises(DecodeError, match="forwards is 'fast', expected one of spans"):
        BlockDecoder(tiny_model(), (), forwards="fast")
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(DecodeError, match="flash-attn is not installed"):
        static_forward.paged_kernel()


def test_the_package_steps_in_where_torch_has_no_block_tables(monkeypatch):
    """It is asked, by position and name, for what its paged kernel documents; torch's own is preferred where it can."""

    def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, *, cache_seqlens, block_table, causal):
        assert (k, v, causal) == (None, None, False)
        return static_forward.gathered(q, k_cache, v_cache, block_table, cache_seqlens)

    package = types.ModuleType("flash_attn")
    package.__dict__["flash_attn_with_kvcache"] = flash_attn_with_kvcache
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: None)
    kernel = static_forward.paged_kernel()
    torch.manual_seed(0)
    q, keys, values = torch.randn(2, 4, 4, 8), torch.randn(3, 8, 2, 8), torch.randn(3, 8, 2, 8)
    pages, used = torch.tensor([[0, 1], [2, 2]], dtype=torch.int32), torch.tensor([12, 4], dtype=torch.int32)
    assert torch.equal(kernel(q, keys, values, pages, used), static_forward.gathered(q, keys, values, pages, used))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert static_forward.paged_kernel().__qualname__.startswith("_torch_varlen")


def documented_varlen(q, keys, values, cu_q, cu_k, max_q, max_k, *, enable_gqa, seqused_k, block_table):
    """What torch documents of varlen_attn with a block table, sequence by sequence."""
    assert cu_q.dtype == cu_k.dtype == seqused_k.dtype == block_table.dtype == torch.int32
    assert len(cu_q) == len(cu_k) == len(seqused_k) + 1 and int(cu_q[-1]) == len(q) and int(seqused_k.max()) <= max_k
    mixed = torch.empty_like(q)
    for row, used in enumerate(seqused_k.tolist()):
        here = slice(int(cu_q[row]), int(cu_q[row + 1]))
        assert here.stop - here.start <= max_q
        k, v = (table[block_table[row].long()].flatten(0, 1)[:used].transpose(0, 1)[None] for table in (keys, values))
        one = q[here].transpose(0, 1)[None]
        found = torch.nn.functional.scaled_dot_product_attention(one, k, v, enable_gqa=enable_gqa)
        mixed[here] = found[0].transpose(0, 1)
    return mixed


def test_torchs_variable_length_kernel_is_called_as_it_is_documented():
    """The kernel itself wants a GPU; what it is given does not: the documented meaning gives the gather's numbers."""
    generator = torch.Generator().manual_seed(0)
    noise = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    q, keys, values = noise(3, 4, 6, 8), noise(5, 8, 2, 8), noise(5, 8, 2, 8)
    pages = torch.tensor([[4, 0], [2, 2], [1, 3]], dtype=torch.int32)
    used = torch.tensor([12, 4, 16], dtype=torch.int32)
    found = static_forward._torch_varlen(documented_varlen)(q, keys, values, pages, used)
    torch.testing.assert_close(found, static_forward.gathered(q, keys, values, pages, used), rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("forwards", ["segments", "turns", "graphs"])
def test_paged_kernels_decode_the_same_on_a_gpu(forwards):
    """bf16 kernels round differently: most responses agree token for token, and all log-probabilities nearly."""
    model = tiny_model(2, torch.bfloat16, head_dim=64, hidden_size=64).cuda()
    requests, policy = requests_of([1, 4, 6, 8, 11, 3, 17], 21), DecodePolicy(Threshold(0.25))
    spans = BlockDecoder(model, (), rows=4).decode(requests, policy)
    static = BlockDecoder(model, (), rows=4, forwards=forwards).decode(requests, policy)
    pairs = zip(spans, static, strict=True)
    equal = [(one, other) for one, other in pairs if one.token_ids.tolist() == other.token_ids.tolist()]
    assert len(equal) >= 4
    for one, other in equal:
        np.testing.assert_allclose(one.behaviour_logp, other.behaviour_logp, atol=0.1)


@pytest.mark.gpu
def test_golden_decodes_of_the_official_decoder_on_a_gpu():
    """float32, matrix products in full precision: the CPU's and the official decoder's tokens."""
    folder = Path(__file__).parents[1] / "fixtures" / "sdar_tiny"
    model = load_model(folder, device="cuda")
    for case in json.loads((folder / "golden_decode.json").read_text()):
        if case["strategy"] == "low_confidence_dynamic" and case["denoising_steps"] == case["block_size"]:
            model.config = dataclasses.replace(model.config, block_size=case["block_size"])
            request = Request("t/test/0", 0, np.array(case["prompt"]), case["gen_length"])
            [got] = BlockDecoder(model, ()).decode([request], DecodePolicy(Threshold(case["threshold"])))
            assert [*case["prompt"], *got.token_ids.tolist()] == case["output"]
