"""dUltra's decoders against the official ones' outputs (fixtures/dultra_tiny): 15 decodes, token for token, forward for
forward, with the official uniforms in place of our own draws; and the laws of its selectors."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.decodes import same
from fixtures.tiny import requests_of, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lightningrl.config.decoding import DirectDecoding
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.proposals import Proposals
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.rankings import Confidence, Margin, NegEntropy, Planned, Position, Random
from lightningrl.decoding.reference import decode_one
from lightningrl.decoding.schedules.full_sequence import DualCache, FullSequence
from lightningrl.decoding.schedules.multi_block import BlockPipeline, MultiBlock
from lightningrl.decoding.selectors.bernoulli import Bernoulli, decision_log_probs
from lightningrl.decoding.selectors.quota import Quota
from lightningrl.decoding.selectors.top_sum import TopSum
from lightningrl.decoding.stops import WholeCanvas
from lightningrl.errors import DecodeError
from lightningrl.inference.policy import direct_policy
from lightningrl.models.checkpoint import load_model

FOLDER = Path(__file__).parents[1] / "fixtures" / "dultra_tiny"
CASES = json.loads((FOLDER / "golden_decode.json").read_text())
GOLDEN = load_file(FOLDER / "golden_planner.safetensors")


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER)


@dataclass(frozen=True)
class Fed(Bernoulli):
    """The published coins: uniforms of one row's forwards, (forwards, K), in place of its own."""

    uniforms: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def select(self, candidates):
        self.calls.append(len(candidates.open_BK))
        noise_BK = self.uniforms[len(self.calls) - 1][None].to(candidates.noise_BK)
        return super().select(dataclasses.replace(candidates, noise_BK=noise_BK))


def case_request(case, number, row):
    """One row of a case as a request. A row whose block is full waits in the official batch: it has no forward then."""
    factor, size = case["factor"], case["block_length"]
    commits = case["traj"][row]
    mine = [step for step, commit in enumerate(commits) if commit]
    selector = TopSum(factor)
    if case["mode"] == "bernoulli":
        uniform_SRL, prompt = GOLDEN[f"decode_{number:02}_uniform"], len(case["prompts"][row])
        starts = [(commits[step][0] - prompt) // size * size + prompt for step in mine]
        fed = [uniform_SRL[step, row, at : at + size] for step, at in zip(mine, starts, strict=True)]
        selector = Fed(factor, fed)
    policy = DecodePolicy(
        selector, ranking=Planned(case["planner_temperature"] or 1.0), schedule=FullSequence(size), stop=WholeCanvas(),
        logits=Logits(untempered=True),
    )  # fmt: skip
    [request] = requests_of([1], case["gen_length"])
    return dataclasses.replace(request, prompt_ids=np.array(case["prompts"][row]), policy=policy), mine


def test_the_official_decodes_token_for_token_and_forward_for_forward(model):
    rows = forced = 0
    for number, case in enumerate(CASES):
        for row, output in enumerate(case["output"]):
            request, mine = case_request(case, number, row)
            [found] = BlockDecoder(model, ()).decode([request], request.policy)
            prompt = len(request.prompt_ids)
            assert [*request.prompt_ids, *found.token_ids] == output, case["id"]
            assert found.stats.denoise_forwards == case["nfe"][row] == len(mine)
            for forward, step in enumerate(mine, 1):
                revealed = (prompt + np.flatnonzero(found.reveal_step == forward)).tolist()
                assert revealed == sorted(case["traj"][row][step]), (case["id"], row, step)
            rows += 1
        forced += case["forced"]
    assert (len(CASES), rows, forced) == (15, 25, 74)


def test_both_terms_of_the_official_step_log_probability(model):
    """Of Bernoulli's decodes: ln pi of the tokens, plus ln p of what was drawn and ln(1 - p) of what was not. The
    published code counts a forced pick as drawn; ours differs there alone, and never by more than that ln p."""
    differing = 0
    for number, case in enumerate(CASES[:9]):
        for row in range(len(case["output"])):
            request, mine = case_request(case, number, row)
            compat = dataclasses.replace(
                request.policy, selector=Compat(case["factor"], request.policy.selector.uniforms)
            )
            published, ours = (
                BlockDecoder(model, ()).decode([dataclasses.replace(case_request(case, number, row)[0], policy=p)], p)[
                    0
                ]
                for p in (compat, case_request(case, number, row)[0].policy)
            )
            official_S = GOLDEN[f"decode_{number:02}_logp"][row].double().sum(-1).numpy()[mine]
            for found in (published, ours):
                tokens_F = np.bincount(found.reveal_step, found.behaviour_logp, len(mine) + 1)[1:]
                found_F = tokens_F + found.decision_logp
                if found is published:
                    np.testing.assert_allclose(found_F, official_S, atol=2e-3)
                else:
                    alone_F = np.bincount(found.reveal_step, minlength=len(mine) + 1)[1:] == 1
                    assert (found_F >= official_S - 2e-3).all()
                    assert (np.abs(found_F - official_S)[~alone_F] < 2e-3).all()
                    differing += int((found_F > official_S + 2e-3).sum())
    assert differing > 10


class Compat(Fed):
    def decision(self, candidates, chosen_BK):
        p_BK = candidates.score_BK.masked_fill(~candidates.open_BK, 0.0) * self.factor
        return decision_log_probs(p_BK, candidates.open_BK, chosen_BK, forced_as_drawn=True)


def test_presets_are_the_published_decoders():
    for name, selector, size in (
        ("dultra_b32", Bernoulli(1.0), 32), ("dultra_b128", Bernoulli(1.0), 128), ("dultra_top_sum", TopSum(1.0), 32),
    ):  # fmt: skip
        policy = direct_policy(DirectDecoding(preset=name, threshold=1.0))
        assert (policy.selector, policy.ranking, policy.schedule) == (selector, Planned(), FullSequence(size))
        assert (policy.stop, policy.logits) == (WholeCanvas(), Logits(untempered=True))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_engine_plans_like_the_reference_whatever_rows_are_beside(data):
    shape = {"attention": "full", "has_planner": True, "qk_norm": False}
    planned = tiny_model(data.draw(st.integers(0, 9), "weights"), torch.float64, **shape)
    selector = st.one_of(st.builds(Bernoulli, st.sampled_from([0.4, 1.0, 1.6])), st.builds(TopSum, st.just(1.2)))
    requests = requests_of(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), "prompts"), 8, seed=2)
    policies = [
        DecodePolicy(
            data.draw(selector), data.draw(st.sampled_from([0.0, 1.0])), schedule=FullSequence(4), stop=WholeCanvas(),
            ranking=Planned(data.draw(st.sampled_from([1.0, 2.5]))), seed=data.draw(st.integers(0, 3)),
        )
        for _ in requests
    ]  # fmt: skip
    requests = [dataclasses.replace(r, policy=p) for r, p in zip(requests, policies, strict=True)]
    found = BlockDecoder(planned, (3,), rows=data.draw(st.integers(1, 4), "rows")).decode(requests, policies[0])
    same(found, [decode_one(planned, request, request.policy, (3,)) for request in requests])
    for trajectory, policy in zip(found, policies, strict=True):
        forwards = trajectory.stats.denoise_forwards
        if isinstance(policy.selector, Bernoulli):
            assert trajectory.decision_logp.shape == (forwards,) and (trajectory.decision_logp <= 0).all()
        else:
            assert trajectory.decision_logp is None


def test_decisions_have_the_worked_examples_number_and_their_sets_add_up_to_one():
    """p = (.8, .3, .6), the first and third revealed: ln .8 + ln .6 + ln .7 (the tokens' ln .9 + ln .5 apart)."""
    p_1K, everything = torch.tensor([[0.8, 0.3, 0.6]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    found = decision_log_probs(p_1K, everything, torch.tensor([[True, False, True]]))
    assert float(found) + math.log(0.9) + math.log(0.5) == pytest.approx(-1.889152, abs=1e-6)
    sets = [torch.tensor([[bool(n >> k & 1) for k in range(3)]]) for n in range(1, 8)]
    total = sum(float(decision_log_probs(p_1K, everything, chosen).exp()) for chosen in sets)
    assert total == pytest.approx(1.0), "a forced pick has the probability of no coin too"
    as_drawn = sum(float(decision_log_probs(p_1K, everything, each, forced_as_drawn=True).exp()) for each in sets)
    assert as_drawn == pytest.approx(1 - 0.2 * 0.7 * 0.4), "the published count lacks it"
    assert float(decision_log_probs(p_1K, everything, ~everything)) == 0


def test_probabilities_that_round_to_one_leave_everything_finite():
    p_1K = torch.tensor([[1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    found = decision_log_probs(p_1K, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, False]]))
    found.backward()
    assert torch.isfinite(found).all() and torch.isfinite(p_1K.grad).all()


def test_coins_fall_as_often_as_the_probabilities_say_and_a_small_factor_reveals_one():
    p_K = torch.tensor([0.9, 0.2, 0.5, 0.05], dtype=torch.float64)
    noise_BK = torch.rand(20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    open_BK = torch.ones(20_000, 4, dtype=torch.bool)
    given = Proposals(open_BK, p_K, p_K, p_K.expand(20_000, 4), torch.zeros(20_000), noise_BK=noise_BK)
    forced = 0.1 * 0.8 * 0.5 * 0.95
    shares = Bernoulli(1.0).select(given).double().mean(0)
    torch.testing.assert_close(shares, p_K + torch.tensor([forced, 0, 0, 0]), rtol=0, atol=0.012)
    assert (Bernoulli(1e-9).select(given).sum(-1) == 1).all()
    assert (TopSum(1.0).select(given).sum(-1) == 1).all() and (TopSum(1.3).select(given).sum(-1) == 2).all()
    assert (TopSum(99.0).select(given).sum(-1) == 4).all(), "never more than are open"


def test_a_model_without_a_planner_or_a_cache_of_the_canvas_is_refused(model):
    [request] = requests_of([3], 8)
    policy = DecodePolicy(Bernoulli(), ranking=Planned(), schedule=FullSequence(8), stop=WholeCanvas())
    with pytest.raises(DecodeError, match="has none"):
        BlockDecoder(tiny_model(1, attention="full"), ()).decode([request], policy)
    with pytest.raises(DecodeError, match="take the schedule full_sequence"):
        BlockDecoder(model, ()).decode([request], dataclasses.replace(policy, schedule=DualCache(8)))
    for window in (MultiBlock(8), BlockPipeline(8)):
        with pytest.raises(DecodeError, match=f"{type(window).__name__}.* several are open at once"):
            BlockDecoder(model, ()).decode([request], dataclasses.replace(policy, schedule=window))
    with pytest.raises(DecodeError, match="factor is 0"):
        Bernoulli(0)


@dataclass(frozen=True)
class Halves:
    """Somebody's ranking, which says whether its numbers are probabilities."""

    is_probability: bool

    def score(self, drawn):
        return torch.full_like(drawn.confidence_BK, 0.5)


@pytest.mark.parametrize("selector", [Bernoulli(), TopSum()])
def test_numbers_that_are_no_probabilities_are_refused(selector):
    for ranking in (NegEntropy(), Position(), Margin(), Random(), Confidence(alg_temp=0.2), Halves(False)):
        with pytest.raises(DecodeError, match="takes each position's number as a probability"):
            DecodePolicy(selector, ranking=ranking)
    for ranking in (Confidence(), Planned(), Halves(True)):
        assert DecodePolicy(selector, ranking=ranking).ranking is ranking
    DecodePolicy(Quota(2), ranking=NegEntropy())  # other selectors take any number
