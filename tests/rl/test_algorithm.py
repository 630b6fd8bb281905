"""An algorithm of somebody else's: its own keys, its own parameters, its own log-probabilities of what was decided."""

import numpy as np
import pytest
import torch
from fixtures.tiny import make_trainer, tiny_setup
from pydantic import Field

from lightningrl.config.describe import describe
from lightningrl.config.section import Section
from lightningrl.config.train import Run
from lightningrl.errors import ConfigError
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.likelihood import TokenScores, score_tokens
from lightningrl.rl.losses import surrogate
from lightningrl.rl.registry import ALGORITHMS
from lightningrl.utils.registry import resolve

OWN = f"{__name__}:Planner"


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
        logp_n = found.logp_n + torch.nn.functional.logsigmoid(self.logit)
        return TokenScores(logp_n, found.entropy_n, found.row_n, found.position_n)

    def behaviour(self, trajectories, actions):
        return super().behaviour(trajectories, actions) + np.log(0.5)

    def loss(self, scores, actions, sums):
        surrogate_n, _ = surrogate(scores.logp_n - actions.old_logp_n, actions.advantage_n, 0.2, 0.2)
        loss = -sums.all.mean(surrogate_n, actions.length_n, "tok")
        ratio = (scores.logp_n - actions.old_logp_n).detach().exp().sum() / sums.all.tokens
        nothing = torch.zeros(())
        return loss, {"loss": loss.detach(), "ratio": ratio, "clip_fraction": nothing}

    def state_dict(self):
        return {"logit": self.logit.detach().clone()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.logit.copy_(state["logit"])


def planned(folder, **run):
    return make_trainer(tiny_setup(folder, algorithm=OWN, **run))


def test_its_log_probabilities_are_what_is_compared_and_its_parameters_are_trained_with_the_policys(tmp_path):
    """A bonus makes every advantage positive on average, so what was decided becomes more likely: the logit grows."""
    trainer = planned(tmp_path, method={"bonus": 1.0}, warmup_updates=0)
    metrics = trainer.step().metrics
    assert metrics["first_ratio"] == pytest.approx(1, abs=1e-4) and metrics["logp_gap_mean"] < 1e-4
    assert float(trainer.algorithm.logit.detach()) > 0
    assert metrics["groups_kept"] == metrics["groups_sampled"], "no filter of its own, none at all"
    assert not any(name.startswith("groups_dropped") for name in metrics)


def test_its_gradient_is_clipped_with_the_policys(tmp_path):
    """Of both together the norm is reported: the square root of the sum of squares."""
    trainer = planned(tmp_path, method={"bonus": 1.0}, updates=1)
    setup, algorithm = trainer.setup, trainer.algorithm
    [batch], _ = trainer._batches(trainer._draw(1)[0].kept, 1)
    total = sum(
        algorithm.loss(scores, micro.actions(scores), batch.sums)[0]
        for micro in batch.micro
        for scores in [algorithm.score(setup.model, micro.trajectories)]
    )
    gradients = torch.autograd.grad(total, [*setup.model.parameters(), algorithm.logit])
    expected = sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5
    assert float(gradients[-1]) != 0
    assert planned(tmp_path, method={"bonus": 1.0}, updates=1).step().metrics["grad_norm"] == pytest.approx(expected)


def test_a_run_goes_on_from_its_state_to_the_same_bits(tmp_path):
    whole, cut, resumed = (planned(tmp_path, steps=3) for _ in range(3))
    rows = [whole.step().metrics for _ in range(3)]
    cut.step()
    resumed.load_state_dict(cut.state_dict())
    assert [resumed.step().metrics for _ in range(2)] == rows[1:]
    assert torch.equal(resumed.algorithm.logit, whole.algorithm.logit) and float(whole.algorithm.logit.detach()) != 0


def test_the_base_is_not_scored_where_no_loss_asks_for_it(tmp_path):
    trainer = planned(tmp_path)
    [batch, *_], _ = trainer._batches(trainer._draw(1)[0].kept, 1)
    assert all(torch.equal(micro.ref_logp_n, micro.old_logp_n) for micro in batch.micro)
    micro = batch.micro[0]
    of_policy = score_tokens(trainer.setup.model, micro.trajectories).logp_n.detach()
    torch.testing.assert_close(micro.old_logp_n, of_policy + np.log(0.5), atol=1e-4, rtol=0)
    assert trainer.forwards_a_position == 3


def test_a_key_of_another_algorithm_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nll"):
        planned(tmp_path, method={"nll": 0.1})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_registered_algorithm_has_keys_that_are_documented_and_can_all_be_left_out(name):
    config = resolve(ALGORITHMS[name]).Config
    assert config() == Run(name="r", role="after", algorithm=name, benchmark="b", steps=1).method
    undocumented = {key for key, field in config.model_fields.items() if not field.description}
    assert undocumented <= {"clip_high"}


def test_help_names_the_algorithms_that_have_a_key():
    lines = list(describe(Run, "method.overlong_margin"))
    assert lines[:2] == ["With algorithm: published_code", "method.overlong_margin: int | None (>= 0), default: 5"]
    assert next(describe(Run, "method.kl")).removeprefix("With algorithm: ").split(", ") == [
        name for name in ALGORITHMS if name != "supervised"
    ]
    with pytest.raises(ConfigError, match=r"method has no key 'x'\. It has: rewards, advantage"):
        list(describe(Run, "method.x"))


def test_help_tells_what_differs_from_the_algorithms_above():
    lines = list(describe(Run, "method"))
    start = next(i for i, line in enumerate(lines) if line.startswith("With algorithm: tracerl"))
    own = [line for line in lines[start + 1 :] if line.startswith("method.")]
    assert "method.reduction: str, default: 'longest-longest-tok'" in own
    assert not any(line.startswith(("method.kl:", "method.clip_low:")) for line in own)
    assert "kl" in lines[start] and lines[-1] == "With algorithm: supervised, no keys"
