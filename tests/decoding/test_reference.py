"""The page that newcomers read first gives what the engine gives, for every schedule; and the schedules of a canvas."""

import dataclasses

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
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.registry import SCHEDULES
from lightningrl.decoding.schedules.autoregressive import Autoregressive
from lightningrl.decoding.schedules.block import FusedCommit
from lightningrl.decoding.schedules.full_sequence import FullSequence
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import DecodeError
from lightningrl.utils.registry import resolve

ALL = [*CACHES.values(), SubBlock(2), FullSequence(4), FullSequence(3), Autoregressive()]


def test_every_schedule_of_the_registry_is_tried():
    assert {resolve(member) for member in SCHEDULES.values()} <= {type(each) for each in ALL}


@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("attention", ["block_causal", "full", "causal"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_decodes_like_the_reference(attention, logit_shift, data):
    """Models of every attention, their logits shifted or not, under every schedule that they can have."""
    schedules = [each for each in ALL if attention != "full" or each.fills_canvas]
    schedules = [each for each in schedules if each.computes_active or (logit_shift and attention == "causal")]
    size = data.draw(st.sampled_from([1, 3, 4]), "block_size")
    shape = {"block_size": size, "attention": attention, "logit_shift": logit_shift}
    model = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, **shape)
    schedule = data.draw(st.sampled_from(schedules), "schedule")
    requests = requests_of(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), "prompts"), 9, seed=2)
    policies = [dataclasses.replace(data.draw(POLICY), schedule=schedule) for _ in requests]
    requests = [dataclasses.replace(r, policy=p) for r, p in zip(requests, policies, strict=True)]
    found = BlockDecoder(model, STOPS, rows=data.draw(st.integers(1, 4), "rows")).decode(requests, policies[0])
    same(found, [decode_one(model, request, request.policy, STOPS) for request in requests])


def test_preempted_rows_of_a_canvas_come_back():
    model = tiny_model(3, torch.float64, attention="full")
    requests = requests_of([5, 2, 7, 3], 12)
    policy = DecodePolicy(Threshold(0.3), 1.0, schedule=FullSequence(4), seed=3)
    decoder = BlockDecoder(model, STOPS, rows=4, page_tokens=4)
    decoder.memory_bytes = 8 * decoder.page_bytes
    same(decoder.decode(requests, policy), [decode_one(model, request, policy, STOPS) for request in requests])


@pytest.mark.parametrize("prompt_len", [1, 4, 6])
def test_a_full_sequence_is_decoded_block_by_block_behind_the_prompt_with_all_later_masks_in_sight(prompt_len):
    """Written out: one forward over the whole canvas a token, the surest masked position of the block first."""
    model = tiny_model(5, torch.float64, attention="full")
    [request] = requests_of([prompt_len], 10)
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

    def interval(self, start_B, pending_B, end_B, size):
        first_B, last_B, denoises_B = super().interval(start_B, pending_B, end_B, size)
        last_B = {"half": start_B + size // 2, "far": end_B + 1}.get(self.how, last_B)
        return Interval(first_B, last_B, denoises_B & (self.how != "never"))

    def open(self, masked_BK):
        return {"nothing": masked_BK & False, "everything": masked_BK | True}.get(self.how, masked_BK)


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


def test_schedules_that_do_not_fit_the_model_or_each_other_are_refused():
    for schedule in CACHES.values():
        with pytest.raises(DecodeError, match=r"attends to all later masks.*full_sequence"):
            BlockDecoder(tiny_model(1, attention="full"), ()).decode(
                requests_of([3], 4), DecodePolicy(Quota(2), schedule=schedule)
            )
    four, eight = (DecodePolicy(Quota(2), schedule=FullSequence(size)) for size in (4, 8))
    mixed = [dataclasses.replace(request, policy=eight) for request in requests_of([3], 8)] + requests_of([3], 8)
    with pytest.raises(DecodeError, match=r"blocks of \[4, 8\] positions"):
        BlockDecoder(tiny_model(1), ()).decode(mixed, four)
    with pytest.raises(DecodeError, match="full_sequence: block_size is 0"):
        FullSequence(0)
