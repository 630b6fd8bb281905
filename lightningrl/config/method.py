"""What a policy-gradient run optimises: rewards, advantages, filter, rows, loss terms, value model.

An algorithm (rl/algorithms/) is a `Method` with all of this set; a run's `method:` overrides single keys, so that every
ablation is a config of the same code.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lightningrl.config.section import Section

OWN = re.compile(r"[\w.]+:[\w.]+")
REWARDS = ("accuracy", "tpf", "tpf_true", "forwards", "length")
"""Names of our own; what they are is in rl/rewards.py."""


class Reward(Section):
    """One reward, normalised on its own in its group before the rewards are added (Eq. 5, 6)."""

    name: str
    """`accuracy` (+-1; where the judge grades, its value: the fraction of tests passed), `tpf`, `tpf_true`, `forwards`
    (minus the denoise forwards of the response), `length` (minus its tokens), or your own function of the groups as
    `module:attribute`."""
    scale: Literal["none", "z_score", "minmax"] = "none"
    """In its group: z_score (population std, 0 where the group is constant), minmax (0.5 where it is), or raw."""
    weight: float = 1.0
    only_correct: bool = False
    """Count it for correct responses only: scaled among the group's correct ones, 0 for the others."""

    @field_validator("name")
    @classmethod
    def _known(cls, found: str) -> str:
        if found not in REWARDS and not OWN.fullmatch(found):
            raise ValueError(f"found {found!r}, allowed: {', '.join(REWARDS)}, or your own as module:attribute")
        return found


class Value(Section):
    """The value model: the policy's own network with a linear head that starts at zero (TraceRL)."""

    learning_rate: float = Field(default=5e-6, gt=0)
    clip: float = Field(default=0.2, gt=0)
    """Values are clipped to their old ones +- this in the loss."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a denoise step."""
    lam: float = Field(default=1.0, ge=0, le=1)
    """lambda of the generalised advantage estimate over denoise steps."""


class Method(Section):
    """What differs between algorithms. A key that is not given has the algorithm's own value; the defaults shown are
    those of `lightningrl`."""

    rewards: list[Reward] = Field(
        default=[Reward(name="accuracy"), Reward(name="tpf", scale="z_score")], min_length=1, validate_default=True
    )
    """Added up after each is scaled and weighted."""
    advantage: Literal["none", "center", "group", "batch"] = "batch"
    """What becomes of the summed reward: normalised over the update's batch (Eq. 7) or in its group (Eq. 2), centred in
    its group, or left as it is. With a value model it is what the model's estimate is taken from."""
    filter_tpf_range: float = Field(default=0.01, ge=0)
    """Groups whose TPF spread (max - min) is below it are dropped and resampled."""
    filter_all_wrong: bool = True
    """Drop groups without a single correct response, or where the judge grades without one that passes a test, as the
    published code does."""
    filter_accuracy: tuple[float, float] = (0.0, 1.0)
    """Keep groups whose share of correct responses is within these bounds."""
    overlong_margin: int | None = Field(default=None, ge=0)
    """Responses of at least max_new_tokens minus this count as wrong, where the judge does not grade (the published
    code: 5); null: only the judge says what is wrong."""
    shrink: int = Field(default=1, ge=1)
    """Denoise steps of a block that are trained as one state (TraceRL's shrink); 1 is the trajectory that happened.
    Old log-probabilities are then the trainer's, in those states."""
    full_mask: bool = False
    """All of a block as one state with every response token masked, whatever happened (the published code's rows)."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio is clipped to [1 - clip_low, 1 + clip_high]."""
    clip_high: float = Field(default=0.2, gt=0)
    kl: float = Field(default=0.01, ge=0)
    """beta: weight of the KL term, estimator k3."""
    kl_to: Literal["base", "rollout"] = "base"
    """What the KL term holds the policy to: the frozen base, or the policy that made the rollouts (TraceRL)."""
    nll: float = Field(default=0.1, ge=0)
    """mu: weight of the NLL term (Eq. 9)."""
    nll_set: Literal["correct", "reward"] = "correct"
    """Whose NLL: responses that the judge found correct, or those whose summed reward is at least 0 (published)."""
    reduction: str = "seq-tok-tok"
    """Means of the policy, KL and NLL terms, in this order: `seq` over sequences of token means, `tok` over tokens,
    `longest` over sequences of sums over the length of the batch's longest (TraceRL). Always over the whole update."""
    value: Value | None = None
    """A value model: token advantages by generalised advantage estimation over denoise steps."""

    @field_validator("reduction")
    @classmethod
    def _three_means(cls, found: str) -> str:
        parts = found.split("-")
        if len(parts) != 3 or not set(parts) <= {"seq", "tok", "longest"}:
            raise ValueError(f"found {found!r}, allowed: three of seq, tok, longest, like seq-tok-tok")
        return found

    @field_validator("filter_accuracy")
    @classmethod
    def _in_order(cls, found: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= found[0] <= found[1] <= 1:
            raise ValueError(f"found {list(found)}, allowed: two numbers with 0 <= low <= high <= 1")
        return found

    @model_validator(mode="after")
    def _one_kind_of_states(self) -> Method:
        if self.full_mask and self.shrink > 1:
            raise ValueError("full_mask: true takes all of a block as one state; leave shrink out")
        return self

    def science(self) -> dict[str, Any]:
        """Only what is given: the rest is the algorithm's, whose source is in the key."""
        return self.model_dump(mode="json", exclude_unset=True)

    def over(self, preset: Method) -> Method:
        """The preset with the keys that are given here."""
        return preset.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})
