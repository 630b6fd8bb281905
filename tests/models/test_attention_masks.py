"""Who sees whom: the block-diffusion masks, read off the attention itself, and what follows from them."""

import numpy as np
import pytest
import torch
from fixtures.launches import counting
from fixtures.naive import Masked, dense_block_mask
from fixtures.tiny import MASK_ID, block_span, tiny_model

from lightningrl.models import attention
from lightningrl.models.attention import PagedAttention, PagedKV, unique_writes
from lightningrl.models.packed_attention import PackedBlocks
from lightningrl.models.packed_layout import PackedLayout, Segment


def visible(attend, positions):
    """(Q, Q) bool: with equal scores and one-hot values, a query's output is positive where it sees."""
    zeros, values = torch.zeros(1, 1, positions, positions), torch.eye(positions)[None, None]
    weights = attend(0, zeros, zeros, values)[0, 0]
    seen = weights > 0
    torch.testing.assert_close(weights, seen / seen.sum(-1, keepdim=True))
    return seen


def packed(block_size, clean, blocks):
    """The attention of one segment: clean positions, and copies of these blocks."""
    return PackedBlocks(PackedLayout(block_size, [Segment(clean, np.array(blocks))]))


def doubled_mask(length, block_size):
    """SDAR's, [noisy | clean]: own block, own half; noisy sees earlier clean, clean sees clean up to its own."""

    def sees(q, k):
        noisy_q, noisy_k = q < length, k < length
        block_q, block_k = q % length // block_size, k % length // block_size
        own = block_q == block_k and noisy_q == noisy_k
        return own or (not noisy_k and (block_q > block_k if noisy_q else block_q >= block_k))

    return torch.tensor([[sees(q, k) for k in range(2 * length)] for q in range(2 * length)])


@pytest.mark.parametrize(
    ("length", "block_size", "count"), [(8, 4, 96), (12, 4, 192), (8, 8, 128), (8, 1, 72), (64, 32, 6144), (6, 4, 56)]
)
def test_packed_attention_is_the_doubled_mask(length, block_size, count):
    """Counts of True: B^2 (nb + nb(nb-1)/2 + nb(nb+1)/2), nb = L / B; (6, 4), where the last block is short, by row
    4 4 4 4 6 6 noisy, 4 4 4 4 6 6 clean (our copy of the short block has two slots more)."""
    blocks, mask = -(-length // block_size), doubled_mask(length, block_size)
    seen = visible(packed(block_size, length, range(blocks)), length + blocks * block_size)
    swapped = torch.cat([torch.arange(length, 2 * length), torch.arange(length)])  # ours is [clean | copies]
    assert torch.equal(seen[swapped][:, swapped], mask) and int(mask.sum()) == count


def test_paged_attention_sees_its_own_rows_positions_up_to_the_end_of_each_querys_block():
    """Blocks of 2, pages of 4. Row 0 holds pages 2 and 0 and computes positions 4..7; row 1 holds page 1, 0..3."""
    cache = PagedKV(1, 3, 4, 1, 8, torch.zeros(()))
    cache.values[0, 8:12, 0] = torch.eye(8)[:4]  # positions 0..3 of row 0, in its first page
    first, second = block_span([[2, 0]], [4], 4, 2, 4), block_span([[1, 0]], [0], 4, 2, 4)
    values = torch.cat([torch.eye(8)[4:], torch.eye(8)[:4]])[None, None]
    attend = PagedAttention(cache, [first, second])
    seen = attend(0, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), values)[0, 0] > 0
    assert seen.int().tolist() == [[1] * n + [0] * (8 - n) for n in (6, 6, 8, 8, 2, 2, 4, 4)]
    torch.testing.assert_close(cache.values[0, :, 0], torch.cat([torch.eye(8)[4:], *[torch.eye(8)[:4]] * 2]))


@torch.no_grad()
def test_a_packed_forward_is_the_dense_forward_of_the_clean_sequence_and_of_each_noisy_blocks_state():
    """One row of three blocks with one copy of each."""
    model, generator = tiny_model(3, torch.float64), torch.Generator().manual_seed(0)
    clean = torch.randint(0, MASK_ID, (1, 12), generator=generator)
    noisy = torch.where(torch.rand(1, 12, generator=generator) < 0.5, MASK_ID, clean)

    def dense(ids):
        mask = dense_block_mask(ids.shape[1], 4)[None, None]
        return model.logits(model.hidden(ids, torch.arange(ids.shape[1])[None], Masked(mask)))[0]

    positions = torch.arange(12).repeat(2)[None]
    found = model.logits(model.hidden(torch.cat([clean, noisy], 1), positions, packed(4, 12, range(3))))[0]
    torch.testing.assert_close(found[:12], dense(clean), rtol=0, atol=1e-12)
    for block in range(3):
        state = torch.cat([clean[:, : 4 * block], noisy[:, 4 * block : 4 * block + 4]], dim=1)
        torch.testing.assert_close(found[12 + 4 * block : 16 + 4 * block], dense(state)[-4:], rtol=0, atol=1e-12)


@torch.no_grad()
def test_rotary_angles_are_as_exact_as_the_models_precision_allows():
    """Float64 weights get float64 angles, also after a float32 forward filled the cache of angles."""
    model = tiny_model(0, torch.float32)
    ids, positions = torch.arange(12)[None], torch.arange(100, 112)[None]
    attend = Masked(dense_block_mask(12, 4)[None, None])
    low = model.hidden(ids, positions, attend)
    high = model.double().hidden(ids, positions, attend)
    fresh = tiny_model(0, torch.float32).double().hidden(ids, positions, attend)
    assert torch.equal(high, fresh)
    torch.testing.assert_close(low.double(), high, rtol=0, atol=1e-4)


@torch.no_grad()
def test_shifting_all_positions_changes_nothing():
    """RoPE is relative: the logits depend on distances only."""
    model = tiny_model(1, torch.float64)
    ids, attend = torch.arange(12)[None], Masked(dense_block_mask(12, 4)[None, None])
    here, there = (model.hidden(ids, torch.arange(s, s + 12)[None], attend) for s in (0, 64))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-11)
    spread = model.hidden(ids, 2 * torch.arange(12)[None], attend)
    assert (here - spread).abs().max() > 1e-3


@torch.no_grad()
def test_a_spans_mask_is_made_once_for_all_layers_and_added_to_scores_as_it_is(monkeypatch):
    """Two blocks, the first of which does not see the second; a span without a mask has none."""
    model, made, make = tiny_model(1, torch.float64, num_hidden_layers=3), [], attention._mask

    def noted(*given):
        made.append(make(*given))
        return made[-1]

    monkeypatch.setattr(attention, "_mask", noted)
    cache = PagedKV(3, 4, 8, 2, 8, model.lm_head.weight)
    spans = [block_span([[0, 1]], [0], 8, 4, 8), block_span([[2, 3]], [0], 4, 4, 8)]
    positions = torch.cat([torch.arange(8), torch.arange(4)])[None]
    model.hidden(positions % 20, positions, PagedAttention(cache, spans))
    [mask] = made
    assert mask.dtype == torch.float64 and mask.shape == (1, 1, 16, 8) and mask.stride(-2) % 8 == 0
    seen = torch.arange(8) < torch.tensor([4] * 4 + [8] * 4)[:, None]
    assert torch.equal(mask[0, 0] == 0, seen.repeat(2, 1)) and mask[~(mask == 0)].unique().tolist() == [-torch.inf]


def test_deterministic_mode_is_off_around_writes_of_the_cache_on_cuda_and_nowhere_else():
    """Sorted writes are ten kernels each; the slots are all different, so that order cannot matter."""
    modes, index_copy = [], torch.Tensor.index_copy_
    torch.set_deterministic_debug_mode("error")
    try:
        with counting():
            cache = PagedKV(1, 2, 8, 2, 8, torch.empty(1, device="cuda"))
            noted = lambda *given: (modes.append(torch.get_deterministic_debug_mode()), index_copy(*given))[1]  # noqa: E731
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.Tensor, "index_copy_", noted)
                new = torch.empty(1, 2, 3, 8, device="cuda")
                cache.write(0, torch.empty(3, dtype=torch.int64, device="cuda"), new, new)
        assert modes == [0, 0] and torch.get_deterministic_debug_mode() == 2
        with pytest.raises(KeyError), unique_writes(torch.device("cuda")):
            raise KeyError
        assert torch.get_deterministic_debug_mode() == 2
        with unique_writes(torch.device("cpu")):
            assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode("default")


def test_a_cache_on_cuda_turns_cudnns_attention_off_and_one_on_the_cpu_leaves_it():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        PagedKV(1, 2, 8, 2, 8, torch.zeros(()))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        with counting():
            PagedKV(1, 2, 8, 2, 8, torch.empty(1, device="cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
