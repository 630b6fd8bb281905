"""Windows that break their contract, or do not fit a model or a training, are refused by name."""

import dataclasses

import pytest
import torch
from fixtures.decodes import STOPS
from fixtures.tiny import requests_of, tiny_model

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.schedules.multi_block import BlockBuffer, BlockPipeline, MultiBlock
from lightningrl.decoding.selectors.skip_threshold import SkipThreshold
from lightningrl.decoding.selectors.threshold import Threshold
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.rl.likelihood import check_scorable

SIZE = 4


def model_of(attention="full"):
    return tiny_model(5, torch.float64, attention=attention, block_size=SIZE)


def decode(model, policy):
    return BlockDecoder(model, STOPS).decode(requests_of((5, 2, 8, 3), 16), policy)


@dataclasses.dataclass(frozen=True)
class Broken(MultiBlock):
    """Somebody's window that breaks its contract in one way."""

    how: str = ""

    def widen(self, at, size):
        found = super().widen(at, size)
        return found + 1 if self.how == "widen" else found

    def plan(self, at, size):
        found = super().plan(at, size)
        return found._replace(last_B=found.last_B - 1) if self.how == "plan" else found

    def forced(self, at, size):
        return super().forced(at, size) & (self.how != "forced")


@pytest.mark.parametrize(("how", "said"), [("widen", "`widen` says"), ("plan", "its plan"), ("forced", "never end")])
def test_a_window_that_breaks_its_contract_is_named_and_never_spins(how, said):
    with pytest.raises(DecodeError, match=rf"Broken\(.*how='{how}'\).*{said}"):
        decode(model_of(), DecodePolicy(SkipThreshold(0.9), schedule=Broken(SIZE, how=how)))


def test_windows_that_do_not_fit_are_refused_with_what_does():
    full, blocks = model_of(), model_of("block_causal")
    for model, schedule, said in (
        (full, BlockBuffer(), "is for models with block_causal attention.*Published decoders that fit it: .*d3llm"),
        (blocks, BlockPipeline(SIZE), "is for models with full attention.*Published decoders that fit it: .*mbd"),
        (blocks, MultiBlock(SIZE), "is for models with full attention"),
    ):
        with pytest.raises(DecodeError, match=said):
            decode(model, DecodePolicy(SkipThreshold(0.9), schedule=schedule))
    with pytest.raises(DecodeError, match=r"forwards is 'turns', and BlockBuffer.*take 'spans'"):
        BlockDecoder(blocks, (), forwards="turns").decode(
            requests_of([3], 8), DecodePolicy(Threshold(0.9), schedule=BlockBuffer())
        )
    with pytest.raises(DecodeError, match=r"cfg_scale is 1\.0, which MultiBlock"):
        decode(full, DecodePolicy(Threshold(0.9), schedule=MultiBlock(SIZE), logits=Logits(cfg_scale=1.0)))
    with pytest.raises(DecodeError, match=r"16 new tokens are no whole blocks of 3.*Ask for 15 or 18"):
        decode(full, DecodePolicy(Threshold(0.9), schedule=MultiBlock(3)))
    assert len(decode(full, DecodePolicy(Threshold(0.9), schedule=BlockPipeline(3)))[0].token_ids) == 18
    for wrong in (lambda: MultiBlock(0), lambda: BlockPipeline(4, 1.5), lambda: BlockBuffer(0),
                  lambda: MultiBlock(4, cache_delay_iter=-1), lambda: BlockBuffer(2, 0.1, float("nan"))):  # fmt: skip
        with pytest.raises(DecodeError, match="expected a"):
            wrong()


def test_training_refuses_windows_and_says_why():
    for schedule, said in ((BlockBuffer(), "reveals in several blocks"), (MultiBlock(), "reveals in several blocks"),
                           (MultiBlock(cache_delay_iter=2), "stale keys and values")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=schedule)], False)
    with pytest.raises(ConfigError, match="reveals in several blocks"):
        check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=MultiBlock(cache_delay_iter=2))], True)
    check_scorable("block_causal", [DecodePolicy(Threshold(0.9), schedule=BlockBuffer(1))], False)
