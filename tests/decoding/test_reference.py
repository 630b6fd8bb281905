"""The page that newcomers read first gives what the engine gives, for every schedule; and the schedules of a canvas."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from fixtures.decodes import CACHES, POLICY, STOPS, same
from fixtures.naive import Masked
from fixtures.outsider import SubBlock
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from lightningrl.decoding.canvas import Interval
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Random
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.registry import SCHEDULES
from lightningrl.decoding.scheduler import Scheduler
from lightningrl.decoding.schedules.autoregressive import Autoregressive
from lightningrl.decoding.schedules.block import FusedCommit
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence, PrefixCache, WholeSequence
from lightningrl.decoding.schedules.sub_block import SubBlocks
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.decoding.window import Window
from lightningrl.errors import DecodeError
from lightningrl.utils.registry import resolve

CANVASES = [
    FullSequence(4), FullSequence(3), FullSequence(4, 6), PrefixCache(4), PrefixCache(3, refresh_every=2),
    PrefixCache(4, 2), DualCache(4), DualCache(3, 2), DualCache(4, refresh_every=3),
]  # fmt: skip
SHIFTED = {
    "full": [PrefixCache(4, opens_first=True), DualCache(3, opens_first=True), DualCache(4, 2, opens_first=True)],
    "block_causal": [SubBlocks(1), SubBlocks(1, caches_block=True), SubBlocks(1, compat=True)],
    "causal": [Autoregressive()],
}
"""Those that need shifted logits, by the attention that they need beside."""
ALL = [*CACHES.values(), SubBlock(2), WholeSequence(), *CANVASES]
RULES = [
    Logits(), Logits(untempered=True), Logits(cfg_scale=1.5), Logits(logits_eos_inf=True, eos_id=3, bans_mask=False),
    Logits(confidence_eos_eot_inf=True, eos_id=3, eot_id=7, untempered=True),
    Logits(confidence_eos_eot_inf=True, eos_id=3, eot_id=7, compat=True, cfg_scale=0.5),
]  # fmt: skip


def test_every_schedule_of_the_registry_is_tried():
    """Those with several open blocks in tests/decoding/test_windows.py."""
    schedules = {resolve(member) for member in SCHEDULES.values()}
    tried = {type(each) for each in sum(SHIFTED.values(), ALL)}
    assert {each for each in schedules if not issubclass(each, Window)} <= tried


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("attention", ["block_causal", "full", "causal"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_decodes_like_the_reference(attention, logit_shift, data):
    """Models of every attention, their logits shifted or not, under every schedule that they can have; rows of one run
    have schedules and rules of their own, as long as their blocks are of one size."""
    size = data.draw(st.sampled_from([1, 3, 4]), "block_size")
    shape = {"block_size": size, "attention": attention, "logit_shift": logit_shift}
    model = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, **shape)
    blocks = data.draw(st.sampled_from([size, 3, 4]), "blocks")
    usable = ALL + SHIFTED[attention] * logit_shift
    schedules = [each for each in usable if (each.block_size or size) == blocks]
    schedules = [each for each in schedules if attention != "full" or each.fills_canvas] or [FullSequence(blocks)]
    requests = requests_of(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), "prompts"), 12, seed=2)
    policies = [
        dataclasses.replace(data.draw(POLICY), schedule=data.draw(st.sampled_from(schedules))) for _ in requests
    ]
    canvas = {"logits": st.sampled_from(RULES), "ranking": st.just(Random()), "stop": st.just(WholeCanvas())}
    for at in data.draw(st.sets(st.integers(0, len(requests) - 1)), "rows with what canvases have"):
        changes = {name: data.draw(of) for name, of in canvas.items() if data.draw(st.booleans())}
        if getattr(policies[at].selector, "takes_probabilities", False):
            changes.pop("ranking", None)
        policies[at] = dataclasses.replace(policies[at], **changes)
    requests = [dataclasses.replace(r, policy=p) for r, p in zip(requests, policies, strict=True)]
    found = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 4), "rows")).decode(requests, policies[0])
    same(found, [decode_one(model, request, request.policy, STOPS) for request in requests])


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [each for each in CANVASES if each.block_size == 4], ids=repr)
def test_rows_of_a_canvas_wait_for_pages_and_come_back_when_they_lost_them(schedule, cfg_scale):
    """A canvas takes its pages when it enters, so only a row of another kind makes one give them up. Here every other
    row is put off once by force, in the middle of a block: its cache is rebuilt as its last refresh had left it."""
    model = tiny_model(3, torch.float64, attention="full")
    requests, pages = requests_of([5, 2, 7, 3], 12), 1 + (cfg_scale > 0)
    policy = DecodePolicy(Threshold(0.3), 1.0, schedule=schedule, seed=3, logits=Logits(cfg_scale=cfg_scale))
    expected = [decode_one(model, request, policy, STOPS) for request in requests]
    decoder = BlockDecoder(model, STOPS, rows=4, page_tokens=4)
    decoder.memory_bytes = 8 * pages * decoder.page_bytes
    same(decoder.decode(requests, policy), expected)
    assert max(part.rows for forward in decoder.ledger.forwards for part in forward.parts) == 1, "one fits at a time"
    decoder, turns = BlockDecoder(model, STOPS, rows=4, page_tokens=4), itertools.count()

    def put_off(run):
        if next(turns) % 3 == 2 and run.rows.item:
            for slot in list(run.rows.item)[::2]:
                run.pool.cache.clear(run.rows.held[slot])
                run.waiting.appendleft(run.rows.save(slot))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "_admit", lambda run, admit=Scheduler._admit: (put_off(run), admit(run)))
        same(decoder.decode(requests, policy), expected)
    rebuilt = [part for forward in decoder.ledger.forwards for part in forward.parts if part.kind == "recompute"]
    assert bool(rebuilt) == (not schedule.is_exact)


@pytest.mark.parametrize("prompt_len", [1, 4, 6])
def test_a_full_sequence_is_decoded_block_by_block_behind_the_prompt_with_all_later_masks_in_sight(prompt_len):
    """Written out: one forward over the whole canvas a token, the surest masked position of the block first."""
    model = tiny_model(5, torch.float64, attention="full")
    [request] = requests_of([prompt_len], 12)
    found = BlockDecoder(model, ()).decode([request], DecodePolicy(Quota(4), schedule=FullSequence(4)))[0]
    length, ids = prompt_len + 12, [int(i) for i in request.prompt_ids] + [model.config.mask_token_id] * 12
    expected, everything = {}, Masked(torch.ones(1, 1, length, length, dtype=torch.bool))
    for start in range(prompt_len, length, 4):
        for _ in range(4):
            with torch.no_grad():
                hidden = model.hidden(torch.tensor([ids]), torch.arange(length)[None], everything)[0]
                table = model.log_probs(hidden)
            masked = [p for p in range(start, start + 4) if p not in expected]
            best = max(masked, key=lambda p: float(table[p].max()))
            expected[best], ids[best] = len(expected) + 1, int(table[best].argmax())
    assert found.token_ids.tolist() == ids[prompt_len:] and found.origin == prompt_len
    assert found.reveal_step.tolist() == [expected[p] for p in range(prompt_len, length)]
    assert found.stats.denoise_forwards == 12 and found.stats.prefill_forwards == found.stats.commit_forwards == 0


def test_later_masks_count_under_full_attention_and_not_under_block_causal():
    policy = DecodePolicy(Quota(4), schedule=FullSequence(4))
    for attention, differs in (("full", True), ("block_causal", False)):
        model = tiny_model(5, torch.float64, attention=attention)
        short, long = (decode_one(model, requests_of([4], new)[0], policy, ()) for new in (4, 16))
        assert bool(abs(short.behaviour_logp - long.behaviour_logp[:4]).max() > 1e-6) is differs


@dataclasses.dataclass(frozen=True)
class Changed(FusedCommit):
    """Somebody's schedule that breaks its contract in one way."""

    how: str

    def interval(self, at, size):
        first_B, last_B, denoises_B, _ = super().interval(at, size)
        half, wide = at.start_B + size // 2, np.minimum(at.start_B + 2 * size, at.end_B)
        last_B = {"half": half, "far": at.end_B + 1, "wide": wide}.get(self.how, last_B)
        return Interval(first_B, last_B, denoises_B & (self.how != "never"))

    def reach(self, start, end, size):
        return {"short": start, "long": end + size}.get(self.how, start + size)

    def open(self, masked_BK):
        return {"nothing": masked_BK & False, "everything": masked_BK | True}.get(self.how, masked_BK)


@dataclasses.dataclass(frozen=True)
class Fine(FusedCommit):
    """A grid that is finer than the model's: its first block sees the second one, which is not computed yet."""

    block_size: int = 2


class Lazy:
    def select(self, candidates):
        return candidates.open_BK & False


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        *[(DecodePolicy(Quota(2), schedule=Changed(how)), rf"^Changed\(how='{how}'\) computes.* it would never end")
          for how in ("never", "half", "far")],
        (DecodePolicy(Quota(2), schedule=Changed("nothing")), r"^Changed.*nothing'\) opens nothing of a block with"),
        (DecodePolicy(Quota(2), schedule=Changed("everything")), r"^Changed.*everything'\) opens positions that are"),
        *[(DecodePolicy(Quota(2), schedule=Changed(how)), rf"^the `reach` of Changed\(how='{how}'\) is .*; expected \d")
          for how in ("short", "long")],
        (DecodePolicy(Quota(2), schedule=Changed("wide")), r"^Changed.*wide'\) computes .* has pages up to \d+ only"),
        (DecodePolicy(Lazy()), "Lazy object .* revealed nothing in a block with open positions: it would never end"),
    ],
)  # fmt: skip
def test_a_schedule_or_selector_that_breaks_its_contract_is_named_and_never_spins(policy, said):
    """Alone, among rows that do well, and in the reference."""
    model, requests = tiny_model(1), requests_of([3, 5, 4], 9)
    for asked in (
        requests,
        [dataclasses.replace(each, policy=DecodePolicy(Quota(2))) for each in requests[:2]] + requests[2:],
    ):
        with pytest.raises(DecodeError, match=said):
            BlockDecoder(model, ()).decode(asked, policy)
    with pytest.raises(DecodeError, match=said):
        decode_one(model, requests[0], policy, ())


def test_schedules_that_do_not_fit_the_model_are_refused_and_those_of_other_block_sizes_decode_in_turn():
    for schedule in CACHES.values():
        with pytest.raises(DecodeError, match=r"attends to all later masks.*full_sequence.*fast_dllm_v1_dual"):
            BlockDecoder(tiny_model(1, attention="full"), ()).decode(
                requests_of([3], 4), DecodePolicy(Quota(2), schedule=schedule)
            )
    fine, told = (
        DecodePolicy(Quota(2), schedule=Fine()),
        r"^Fine.* to position 5, which sees up to 7 in a sdar .* up to 5 only",
    )
    with pytest.raises(DecodeError, match=told):
        BlockDecoder(tiny_model(1), ()).decode(requests_of([5], 9), fine)
    with pytest.raises(DecodeError, match=told):
        decode_one(tiny_model(1), requests_of([5], 9)[0], fine, ())
    four, eight = (DecodePolicy(Quota(2), schedule=FullSequence(size)) for size in (4, 8))
    mixed = [dataclasses.replace(request, policy=eight) for request in requests_of([3], 8)] + requests_of([3], 8)
    decoder = BlockDecoder(tiny_model(1, torch.float64), ())
    found = decoder.decode(mixed, four)  # rows with blocks of one size share forwards, those of another come after them
    same(found, [decode_one(decoder.model, request, request.policy or four, ()) for request in mixed])
    assert [each.block_size for each in found] == [8, 4]
    with pytest.raises(DecodeError, match="FullSequence: block_size is 0"):
        FullSequence(0)
