"""An algorithm of somebody else's: its own keys, its own parameters, its own log-probabilities of what was decided."""

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import Field

from lightningrl.config.describe import describe
from lightningrl.config.section import Section
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.likelihood import score_tokens
from lightningrl.rl.losses import surrogate
from lightningrl.rl.registry import ALGORITHMS
from lightningrl.utils.registry import resolve


class Planner(OnlineAlgorithm):
    """A planner with one number beside the network: each action has its log-probability too, as its rollout had.

    The planner decides with probability 1 / 2 at first, log-sigmoid(0); REINFORCE without a KL term.
    """

    class Config(Section):
        bonus: float = Field(default=0.0, ge=0)
        """Added to every advantage."""

    needs_reference = False

    def build(self, setup):
        self.logit = torch.nn.Parameter(torch.zeros((), dtype=setup.model.lm_head.weight.dtype))

    def parameters(self):
        return [self.logit]

    def advantages(self, groups):
        return groups.tpf_NG - groups.tpf_NG.mean(axis=1, keepdims=True) + self.config.bonus

    def score(self, model, trajectories, copies=slice(None)):
        found = super().score(model, trajectories, copies)
        return dataclasses.replace(found, logp_n=found.logp_n + torch.nn.functional.logsigmoid(self.logit))

    def behaviour(self, trajectories, actions):
        return super().behaviour(trajectories, actions) + np.log(0.5)

    def loss(self, scores, actions, sums):
        surrogate_n, _ = surrogate(scores.logp_n - actions.old_logp_n, actions.advantage_n, 0.2, 0.2)
        loss = -sums.all.mean(surrogate_n, actions.length_n, "tok")
        ratio = (scores.logp_n - actions.old_logp_n).detach().exp().sum() / sums.all.tokens
        return loss, {"loss": loss.detach(), "ratio": ratio, "clip_fraction": torch.zeros(())}

    def state_dict(self):
        return {"logit": self.logit.detach().clone()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.logit.copy_(state["logit"])


@pytest.fixture
def planned(trainer_of):
    return lambda **run: trainer_of(algorithm=f"{__name__}:Planner", **run)


def test_its_log_probabilities_are_what_is_compared_and_its_parameters_are_trained_with_the_policys(planned):
    """A bonus makes every advantage positive on average, so what was decided becomes more likely: the logit grows."""
    trainer = planned(method={"bonus": 1.0}, warmup_updates=0)
    metrics = trainer.step().metrics
    assert metrics["first_ratio"] == pytest.approx(1, abs=1e-4) and metrics["logp_gap_mean"] < 1e-4
    assert float(trainer.algorithm.logit.detach()) > 0
    assert metrics["groups_kept"] == metrics["groups_sampled"], "no filter of its own, none at all"
    assert not any(name.startswith("groups_dropped") for name in metrics)


def test_its_gradient_is_clipped_with_the_policys_and_the_base_is_not_scored_for_nothing(planned):
    """The norm of both together is reported: the square root of the sum of squares."""
    trainer = planned(method={"bonus": 1.0}, updates=1)
    model, algorithm = trainer.model, trainer.algorithm
    [batch], _ = trainer._batches(trainer._draw(1).kept, 1)
    losses = []
    for micro in batch.micro:
        assert torch.equal(micro.actions.ref_logp_n, micro.actions.old_logp_n)
        of_policy = score_tokens(model, micro.trajectories).logp_n.detach()
        torch.testing.assert_close(micro.actions.old_logp_n, of_policy + np.log(0.5), atol=1e-4, rtol=0)
        losses.append(algorithm.loss(algorithm.score(model, micro.trajectories), micro.actions, batch.sums)[0])
    gradients = torch.autograd.grad(sum(losses), [*model.parameters(), algorithm.logit])
    expected = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
    assert float(gradients[-1]) != 0 and trainer.forwards_a_position == 3
    assert planned(method={"bonus": 1.0}, updates=1).step().metrics["grad_norm"] == pytest.approx(expected)


def test_a_run_goes_on_from_its_state_to_the_same_bits(planned):
    whole, cut, resumed = (planned(steps=3) for _ in range(3))
    rows = [whole.step().metrics for _ in range(3)]
    cut.step()
    resumed.load_state_dict(cut.state_dict())
    assert [resumed.step().metrics for _ in range(2)] == rows[1:]
    assert torch.equal(resumed.algorithm.logit, whole.algorithm.logit) and float(whole.algorithm.logit.detach()) != 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_registered_algorithm_has_keys_that_are_documented_and_can_all_be_left_out(name):
    config = resolve(ALGORITHMS[name]).Config
    assert config() == Run(name="r", role="after", algorithm=name, benchmark="b", steps=1).method
    undocumented = {key for key, field in config.model_fields.items() if not field.description}
    assert undocumented <= {"clip_high"}


def test_help_names_the_algorithms_that_have_a_key_and_tells_what_differs_from_those_above():
    lines = list(describe(Run, "method.overlong_margin"))
    assert lines[:2] == ["With algorithm: published_code", "method.overlong_margin: int | None (>= 0), default: 5"]
    assert next(describe(Run, "method.kl")).removeprefix("With algorithm: ").split(", ") == [
        name
        for name in ALGORITHMS
        if name not in ("supervised", "dparallel", "d3llm", "d2f", "dultra", "planner_pretraining")
    ]
    with pytest.raises(ConfigError, match=r"method has no key 'x'\. It has: rewards, advantage"):
        list(describe(Run, "method.x"))
    lines = list(describe(Run, "method"))
    start = next(i for i, line in enumerate(lines) if line.startswith("With algorithm: tracerl"))
    own = [line for line in lines[start + 1 :] if line.startswith("method.")]
    assert "method.reduction: str, default: 'longest-longest-tok'" in own
    assert not any(line.startswith(("method.kl:", "method.clip_low:")) for line in own)
    assert "kl" in lines[start] and lines[-1] == "With algorithm: supervised, no keys"
