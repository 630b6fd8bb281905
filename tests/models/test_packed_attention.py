"""Attention over a packed row against a dense mask: values, gradients, what is computed in vain, what is held."""

import warnings

import numpy as np
import pytest
import torch
from fixtures.naive import Masked
from fixtures.tiny import MASK_ID, tiny_model

from lightningrl.models.packed_attention import PackedBlocks
from lightningrl.models.packed_flex import TILE, FlexPacked, mask_function, tile_tables
from lightningrl.models.packed_layout import PackedLayout, Segment
from lightningrl.models.packing import PackedRow, pack, token_scores

LAYOUTS = {
    "one copy a block": (4, [(8, [0, 1, 2])]),
    "several segments": (4, [(12, [1, 1, 2, 3, 3, 3]), (0, [0, 0]), (20, [5, 5]), (4, [])]),
    "any order": (3, [(9, [3, 0, 2, 2, 0]), (6, [1, 2])]),
    "block size 1": (1, [(7, [3, 4, 5, 6, 7]), (3, [1])]),
    "a short clean end": (4, [(6, [0, 1]), (11, [2, 2, 1])]),
    "alike": (4, [(8, [0, 1, 2]), (9, [1, 1]), (11, [2, 2, 1]), (8, [2, 2, 2]), (0, [0]), (4, []), (300, [1, 75])]),
    "alike, block size 1": (1, [(7, [3, 4, 5, 6, 7]), (6, [3, 4, 5]), (7, [6, 7, 7, 7]), (2, [1, 2])]),
    "long": (32, [(320, [4, 4, 4, 5, 7, 7, 10, 10]), (96, [0, 1, 1, 1, 2, 3])]),
}


def layout_of(name):
    size, segments = LAYOUTS[name]
    return PackedLayout(size, [Segment(clean, np.array(blocks, dtype=int)) for clean, blocks in segments])


def dense_mask(layout):
    """(Q, Q) bool, by the rule in words, position by position."""
    size, kind = layout.block_size, []
    for number, segment in enumerate(layout.segments):
        kind += [(number, None, i // size) for i in range(segment.clean)]
        kind += [(number, copy, block) for copy, block in enumerate(segment.copy_block.tolist()) for _ in range(size)]

    def sees(query, key):
        if query[0] != key[0]:
            return False
        if key[1] is not None:
            return query[1] == key[1]
        return key[2] <= query[2] if query[1] is None else key[2] < query[2]

    return torch.tensor([[sees(query, key) for key in kind] for query in kind])


def tensors(layout, heads=4, kv_heads=2, size=8, grad=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, n, layout.num_tokens, size) for n in (heads, kv_heads, kv_heads)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(grad) for s in shapes]


def run(attend, arguments):
    """The output, and the gradients of a weighted sum of it."""
    mixed = attend(0, *arguments)
    weight = torch.linspace(-1, 1, mixed.numel(), dtype=mixed.dtype).view_as(mixed)
    return [mixed, *torch.autograd.grad((mixed * weight).sum(), arguments)]


def compare(layout, arguments, **bounds):
    """Packed attention with the dense mask's."""
    expected = run(Masked(dense_mask(layout)[None, None]), arguments)
    for one, other in zip(run(PackedBlocks(layout, **bounds), arguments), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "bounds", [{}, {"span_tokens": 0, "short_tokens": 0}, {"most_scores": 1}, {"most_scores": 1 << 12}], ids=str
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_gradients_are_those_of_the_dense_mask(name, bounds):
    compare(layout_of(name), tensors(layout_of(name)), **bounds)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_any_grouping_of_heads(kv_heads):
    layout = layout_of("several segments")
    compare(layout, tensors(layout, kv_heads=kv_heads))


def test_the_same_input_gives_the_same_bits():
    layout = layout_of("long")
    arguments = [x.detach().float().requires_grad_() for x in tensors(layout)]
    first = run(PackedBlocks(layout), arguments)
    assert all(torch.equal(one, two) for one, two in zip(first, run(PackedBlocks(layout), arguments), strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_flex_attention_is_given_the_dense_mask_as_a_function_and_its_sparse_tiles(name):
    """Touched: exactly those with a visible pair. Whole: only tiles without a hidden pair or an edge. The attention
    itself is uncompiled here, on the CPU, where it has no backward pass."""
    layout, mask = layout_of(name), dense_mask(layout_of(name))
    at = torch.arange(layout.num_tokens)
    assert torch.equal(mask_function(layout.intervals, "cpu")(at, at, at[:, None], at[None, :]), mask)
    for tile in (8, TILE):
        touched, whole = tile_tables(layout.intervals, tile)
        pad = len(touched) * tile - layout.num_tokens
        by_tile = torch.nn.functional.pad(mask, (0, pad, 0, pad)).unflatten(1, (-1, tile)).unflatten(0, (-1, tile))
        assert np.array_equal(by_tile.any(3).any(1).numpy(), touched)
        assert not (whole & ~by_tile.all(3).all(1).numpy()).any()
        assert name != "long" or tile != 8 or whole.sum() > touched.sum() // 2
    arguments = tensors(layout, grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = FlexPacked(layout, "cpu")(0, *arguments)
    torch.testing.assert_close(found, PackedBlocks(layout)(0, *arguments), rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYOUTS)
def test_flex_attention_compiled_on_cuda_gives_the_same_values_and_gradients(name):
    layout = layout_of(name)
    arguments = [x.detach().cuda().float().requires_grad_() for x in tensors(layout, size=32)]
    found = run(FlexPacked(layout, "cuda"), arguments)
    for one, other in zip(found, run(PackedBlocks(layout), arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_tiles_cover_every_query_once_and_compute_little_in_vain(name):
    layout, seen = layout_of(name), dense_mask(layout_of(name)).sum(-1).numpy()
    for span, most in ((0, 1 << 30), (64, 1 << 30), (64, 2000)):
        tiles = list(layout.tiles(span, most, layout.runs(0, 0)))
        assert [t.start for t in tiles] == [0, *(t.stop for t in tiles)][:-1] and tiles[-1].stop == layout.num_tokens
        for tile in tiles:
            computed = tile.keys + layout.block_size * tile.copies
            assert (computed - seen[tile.start : tile.stop]).max() <= max(span, layout.block_size * (not tile.copies))
            alone = tile.stop - tile.start <= layout.block_size
            assert alone or (tile.stop - tile.start) * computed <= most


@pytest.mark.parametrize("name", LAYOUTS)
def test_runs_pad_every_position_to_its_place_and_keep_their_bounds(name):
    layout = layout_of(name)
    for short, most in ((128, 1 << 30), (128, 1000), (8, 1 << 30), (0, 1 << 30)):
        runs = layout.runs(short, most)
        assert [s for run in runs for s in run.segments] == list(layout.segments)
        together = [run for run in runs if len(run.segments) > 1]
        assert all(run.clean <= short for run in together)
        tiles = list(layout.tiles(64, most, runs))
        for tile in tiles:
            pairs = tile.limit.size * (tile.keys + layout.block_size * tile.copies)
            assert len(tile.limit) == 1 or pairs <= most
        covered = [q + b * t.stride for t in tiles for b in range(len(t.limit)) for q in range(t.start, t.stop)]
        padding = layout.padding(runs)
        at_P, back_Q = padding or (np.arange(layout.num_tokens),) * 2
        assert sorted(covered) == list(range(len(at_P))) and len(at_P) <= 1.25 * layout.num_tokens
        assert at_P[back_Q].tolist() == list(range(layout.num_tokens))


def test_short_segments_alike_are_two_products():
    """A micro-batch of the autoregressive phase: eight sequences, a position masked at a time."""
    layout = PackedLayout(1, [Segment(60 + i % 3, np.arange(30, 61)) for i in range(8)])
    tiles = list(layout.tiles(64, 1 << 17, layout.runs(128, 1 << 17)))
    assert [(t.copies, t.limit.shape) for t in tiles] == [(False, (8, 62)), (True, (8, 31))]
    assert len(list(layout.tiles(64, 1 << 17, layout.runs(0, 0)))) == 16


@pytest.mark.parametrize("most", [1 << 12, 1 << 15])
def test_no_table_of_scores_passes_the_bound_or_one_key_head_of_one_copy(most, monkeypatch):
    """Sizes of all softmaxes, forward and backward; here one copy has up to 2 * 32 * (320 + 32) scores a key head."""
    sizes, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim))
    layout = layout_of("long")
    run(PackedBlocks(layout, most_scores=most), tensors(layout))
    assert 0 < max(sizes) <= max(most, 2 * 32 * (320 + 32)) and max(sizes) > most // 4


def test_copies_of_one_block_are_one_product():
    layout = PackedLayout(8, [Segment(800, np.array([20] * 10 + [90] * 5))])
    tiles = list(layout.tiles(0, 1 << 30, layout.runs(0, 0)))
    assert [(t.stop - t.start, t.keys, t.seen_by_all) for t in tiles if t.copies] == [(80, 160, 160), (40, 720, 720)]


def rows():
    """Two sequences of blocks of 4: prompts of 6 and 3, the first with two states of its block 2."""
    first, second = np.arange(1, 13), np.arange(5, 13)
    states = np.array([[MASK_ID, MASK_ID, 3, 4], [9, MASK_ID, MASK_ID, 12], [MASK_ID] * 4])
    targets = first.reshape(3, 4)[[1, 2, 2]]
    return [
        PackedRow(first[:8], np.array([1, 2, 2]), states, targets, states == MASK_ID),
        PackedRow(second[:4], np.array([1]), np.full((1, 4), MASK_ID), second[None, 4:], np.ones((1, 4), dtype=bool)),
    ]


def test_rows_stand_behind_each_other_without_padding_and_scored_positions_know_where_they_are():
    packed = pack(rows())
    assert packed.ids_1Q.shape == packed.positions_1Q.shape == (1, 8 + 12 + 4 + 4)
    own = [range(8), range(4, 8), range(8, 12), range(8, 12), range(4), range(4, 8)]
    assert packed.positions_1Q[0].tolist() == [position for part in own for position in part]
    assert (packed.ids_1Q[0, packed.at_n] == MASK_ID).all()
    assert packed.row_n.tolist() == [0] * 8 + [1] * 4
    assert packed.position_n.tolist() == [4, 5, 9, 10, 8, 9, 10, 11, 4, 5, 6, 7]
    assert torch.equal(packed.positions_1Q[0, packed.at_n], packed.position_n)
    assert packed.target_n.tolist() == [5, 6, 10, 11, 9, 10, 11, 12, 9, 10, 11, 12]


def test_recomputed_layers_give_the_same_scores_and_gradients():
    model, packed = tiny_model(3, torch.float64), pack(rows())
    found = []
    for again in (False, True):
        model.checkpoint_activations = again
        model.zero_grad(set_to_none=True)
        logp_n, entropy_n = token_scores(model, packed, 0.7)
        logp_n.square().sum().backward()
        found.append([logp_n, entropy_n, *(p.grad for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_recomputing_layers_keeps_only_their_inputs():
    """Bytes that autograd keeps of the trunk, each tensor once."""
    model, packed = tiny_model(3, num_hidden_layers=6), pack(rows())

    def kept_bytes(again):
        kept = {}

        def keep(tensor):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        model.checkpoint_activations = again
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.hidden(packed.ids_1Q, packed.positions_1Q, PackedBlocks(packed.layout))
        assert hidden.requires_grad
        return sum(kept.values())

    assert kept_bytes(True) < kept_bytes(False) / 4
