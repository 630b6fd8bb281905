"""One post-training run: algorithm, compute, optimiser. Defaults are the paper's where it has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lightningrl.config.base import NAME, Base
from lightningrl.config.decoding import Decoding
from lightningrl.config.registries import member
from lightningrl.config.section import ChosenBy, InvalidKeys, Section
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

PLUGINS: ContextVar[Iterable[str]] = ContextVar("plugins", default=())
"""The plug-ins of the experiment whose runs are being validated."""


def algorithm_class(name: str) -> Any:
    """The class of a registered name, or of a `module:attribute`. Raises ConfigError when there is none."""
    return resolve(member("algorithm", name, "algorithm", PLUGINS.get()), "algorithm")


class Run(Section):
    """A training run from one of the base policies."""

    UNKEYED = frozenset({"role", "base", "published", "series", "seeds", "evaluate_on", "save_every", "decoding"})

    def science(self, given: bool = False) -> dict[str, Any]:
        """Returns what its key holds: of `method` the given keys, for the algorithm's source is in the key as well. The
        keys of the stages that make its answers and import its checkpoints say which these are."""
        method = self.method.science(given=True)
        if self.implementation.data is not None:
            method.pop("data", None)
        for role in self.implementation.checkpoints:
            method[role] = {key: value for key, value in method[role].items() if key not in Base.model_fields}
        return super().science(given) | {"method": method}

    _class: Any = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        self._class = algorithm_class(self.algorithm)

    @property
    def implementation(self) -> Any:
        """The algorithm (rl/algorithm.py) with the keys that this run gives it."""
        return self._class(self.method)

    def by_seed(self, spread: Collection[str] = ()) -> list[Run]:
        """A run for each of its `seeds`; itself where it has none. `spread`: the runs of the experiment that have some.

        >>> run = Run(name="ours", role="after", algorithm="lightningrl", benchmark="gsm-mini", steps=9, seeds=[3, 4])
        >>> [(each.name, each.seed, each.series) for each in run.by_seed()]
        [('ours-3', 3, 'ours'), ('ours-4', 4, 'ours')]
        """
        runs = []
        for seed in self.seeds:
            own = {key: f"{name}-{seed}" for key in ("base", "match_compute") if (name := getattr(self, key)) in spread}
            told = {"name": f"{self.name}-{seed}", "seed": seed, "seeds": [], "series": self.name} | own
            runs.append(self.model_copy(update=told))
        return runs or [self]

    name: str = Field(pattern=NAME)
    """Names its folder and its policy in tables."""
    role: str = Field(pattern="^(after|rival|control|ablation)$")
    """What it stands for in the tables: the method, a rival, the control, the method with one thing changed."""
    base: str = "base"
    """The policy it starts from: the experiment's `base`, the name of one of `bases` or `checkpoints`, or an earlier
    run, whose chosen weights it takes. Tables compare it with the policy at the beginning of such a chain."""
    published: str = ""
    """The row of the published tables that it stands for, like `LightningRL-8B-b32`; empty: none."""
    algorithm: str
    """One of those under `method`, or a class of your own as `module:attribute`."""
    method: Annotated[SerializeAsAny[Section], ChosenBy("algorithm")] = Field(default=Section(), validate_default=True)
    """Keys of the algorithm to change, for ablations and variants. Which there are depends on the algorithm; a key that
    is not given has the algorithm's own value."""
    benchmark: str
    """The benchmark it is trained on (train split) and chosen on (validation split)."""
    series: str = ""
    """Runs that differ only in their seeds, which tables over seeds pool. Default: with `seeds` the run's name, else
    it stands alone."""
    evaluate_on: list[str] = []
    """Benchmarks whose problems it is evaluated on; empty: the one it is trained on, if that has any."""
    seed: int = Field(0, ge=0, lt=100_000)
    """The key of this run's data order and draws, beside the experiment's seed."""
    seeds: list[Annotated[int, Field(ge=0, lt=100_000)]] = []
    """Instead of `seed`: a run for each of these, called `<name>-<seed>`; `base` and `match_compute` then mean the run
    of the same seed, where that has seeds too."""
    decoding: Decoding = Decoding()
    """What differs from the experiment's `decoding` in this run's rollouts and validations. How its row of the tables
    is decoded, an entry of `systems` says."""
    accept_inexact_caches: bool = False
    """Train on what a schedule with stale keys and values decodes, whose likelihood is then not exact."""
    steps: int = Field(gt=0)
    """RL steps, or the optimiser steps of the control and of distillations; `match_compute` takes its place."""
    prompts: int = Field(128, gt=0)
    """Groups an RL step trains on."""
    responses: int = Field(32, gt=1)
    """Responses a prompt: the group size G."""
    updates: int = Field(8, gt=0)
    """Optimiser updates an RL step; the kept groups are divided among them."""
    max_rounds: int = Field(4, gt=0)
    """Until `prompts` groups pass the filter, failed ones are replaced by the next prompts, those of them that fail by
    others, and so on, at most as in so many rounds (the paper resamples until full). A step prepares the
    requests of all of them, so hundreds cost seconds per step."""
    temperature: float = Field(1.0, gt=0)
    """The temperature of rollouts."""
    threshold: float = 0.9
    """The selector's parameter in rollouts and validation; for `threshold` within (0, 1]."""
    rollout_thresholds: list[float] = []
    """Roll out over a mixture of parameters instead: each prompt's group draws one of these, keyed by step and prompt;
    empty: all at `threshold`."""
    learning_rate: float = Field(1e-6, gt=0)
    warmup_updates: int = Field(10, ge=0)
    """Linear warm-up, once a run."""
    decay: bool = False
    """Linear decay of the learning rate to zero over the run."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    microbatch: int = Field(8, gt=0)
    """Trajectories (supervised: sequences) a forward; changes memory and speed, not results (beyond rounding)."""
    microbatch_positions: int | None = Field(None, gt=0)
    """Token positions per forward at most: what bounds memory where lengths differ. A longer trajectory goes through
    several forwards, its clean tokens in each (at least one noisy block a forward); changes memory and speed, and what
    is counted as computed, not results (beyond rounding)."""
    state_share: float = Field(1.0, gt=0, le=1)
    """The share of each trajectory's denoise states that an update trains on, at random; an action counts by the
    inverse of its state's probability, so the gradient is on average that of all states. 1: all. A third is some half
    of an update's positions where blocks take many forwards, for a noisier gradient (docs/benchmarks.md)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of forwards; master weights, gradients and optimiser states are float32 always."""
    max_logp_gap: float | None = Field(None, gt=0)
    """The largest mean gap between the decoder's log-probabilities and the trainer's, nats per token; measured at every
    first update. A larger one stops the run at its first update, and later is logged and noted in the step's metrics
    (`logp_gap_allowed`). Default: 0.05 in float32, 0.5 in bfloat16, where other kernels on both sides round
    differently."""
    validate_every: int = Field(10, gt=0)
    """Steps between two validations."""
    accuracy_tolerance_pct: float = Field(1.0, ge=0)
    """Checkpoint choice: the highest validation TPF among checkpoints whose validation accuracy is at most this many
    points below the base's, by the lower end of a paired 95 % interval; if there is none, the highest lower end. With N
    validation problems and a share d of them answered differently the interval alone takes 196 sqrt(d / N) points."""
    averaging: float = Field(0.0, ge=0, lt=1)
    """Decay a step of an exponential moving average of the weights, which is then what is validated and shipped while
    rollouts go on with the weights themselves; 0: the weights themselves."""
    save_every: int = Field(10, gt=0)
    """Steps between two resumable states."""
    match_compute: str | None = None
    """Instead of `steps`: train until the compute of this run is spent (token-forwards, a backward counted as two;
    rollouts and the making of data included, and on both sides what earlier runs spent on the way to the base)."""
    muon_learning_rate: float = Field(2e-3, gt=0)
    """supervised: Muon's rate for the layers' matrices; learning_rate is AdamW's for the rest."""
    sequences: int = Field(32, gt=0)
    """supervised and distillations: sequences an optimiser step."""
    copies: int = Field(2, gt=0)
    """supervised: noisy copies of each block."""

    @field_validator("algorithm")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            found = algorithm_class(name)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("algorithm: ")) from None
        if not isinstance(getattr(found, "Config", None), type):
            raise ValueError(f"{name} is not an algorithm; expected a subclass of lightningrl.rl.algorithm.Algorithm")
        return name

    @field_validator("method", mode="before")
    @classmethod
    def _of_the_algorithm(cls, keys: Any, info: ValidationInfo) -> Any:
        if "algorithm" not in info.data:
            return Section()  # its own error says what is wrong
        section = algorithm_class(info.data["algorithm"]).Config
        try:
            return section.model_validate({} if type(keys) is Section else keys)
        except ValidationError as error:
            raise InvalidKeys(f"runs.{info.data.get('name', '?')}.method", section, error) from None

    @model_validator(mode="after")
    def _weighs_states(self) -> Run:
        if self.state_share < 1 and not getattr(algorithm_class(self.algorithm)(self.method), "weighs_states", False):
            raise ValueError(
                f"state_share: found {self.state_share:g}, but {self.algorithm} does not train on a part of the "
                "states; leave it out, or give its class `weighs_states = True` once its loss heeds `Actions.weighted`"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_seed(self) -> Run:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, allowed: different numbers")
        if self.seeds and (self.series or "seed" in self.model_fields_set):
            raise ValueError("`seeds` is given, so `seed` and `series` must not be: each run has its own")
        return self


class Learners(Section):
    """The runs that train on the same answers. The stage that makes these asks first whether each can train its base,
    and names their keys in its errors; no result depends on them."""

    UNKEYED = frozenset({"runs"})

    runs: list[Run] = Field(min_length=1)
    """At least the one that the stage is named by, which is the first."""
